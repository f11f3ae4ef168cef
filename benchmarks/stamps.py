"""Where each part of a measurement was made: machine, data, versions and load."""

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.core import InputError
from labkit.core.hardware import versions


def stamp(data: str, threads: int, *packages: str) -> dict[str, Any]:
    """When, where and with which data one part of a measurement is made. Take it before the part begins.

    load  how many programs were running, over the last minute
    """
    return {
        "day": datetime.now(UTC).date().isoformat(),
        "data": data,
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "threads": threads,
        "load": round(os.getloadavg()[0], 1),
        "versions": versions(*packages),
    }


def told(stamp: Mapping[str, Any]) -> str:
    """A stamp in words. What is None was not recorded; a `note`, where there is one, stands at the end."""
    day, cores, load, threads = (stamp[name] for name in ("day", "cores", "load", "threads"))
    where = [stamp["processor"], f"{threads} thread{'s' * (threads > 1)}"]
    if cores:
        where.insert(1, f"{cores} cores")
    where += [f"{name} {version}" for name, version in stamp["versions"].items()]
    said = f"Measured{f' on {day}' if day else ''} with {stamp['data']}: {', '.join(where)}."
    if load is not None and load >= 0.5 * cores:
        said += f" Provisional: the machine was not idle when this began (load {load})."
    return " ".join(filter(None, (said, stamp.get("note"))))


def earlier(file: Path) -> dict[str, dict]:
    """The parts of an earlier measurement, each with its stamp as "on"; {} where there is no file.

    Raises InputError when a part has no stamp of its own.
    """
    record = json.loads(file.read_text()) if file.is_file() else {}
    if old := [part for part, told in record.items() if "on" not in told]:
        raise InputError(
            f"{file} is of an earlier version: it does not say where {', '.join(old)} was measured; move it away"
        )
    return record

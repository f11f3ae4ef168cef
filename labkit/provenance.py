"""Where a result comes from: machine, versions, the commit, and digests of the files it left."""

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import labkit
from labkit.errors import InputError


def versions(*packages: str) -> dict[str, str]:
    """Versions of labkit, Python and each of `packages`, without importing them; one that is absent is left out."""
    found = {"labkit": labkit.__version__, "python": platform.python_version()}
    for name in packages:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


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


def commit(folder: Path) -> str:
    """The git commit checked out in `folder`, with a `+` when tracked files were changed since; "" if there is none."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def fingerprint(path: Path, root: Path) -> dict[str, Any]:
    """`path` relative to `root`, its size in bytes and its SHA-256."""
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"path": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": digest}


def write(path: Path, content: bytes) -> None:
    """Write a file that is seen under its name only when it is complete."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()

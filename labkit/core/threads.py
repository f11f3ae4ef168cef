"""How many threads compute and how they wait: decided once, before torch, numba and BLAS start theirs."""

import os
import re
import sys
import warnings
from collections.abc import MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_COUNTS = ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_WAITS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
# By default GNU's OpenMP spins for milliseconds at each barrier, also where others have the core (`make bench`).
_SPIN = "5000"


class Decision(NamedTuple):
    """How many threads compute, and a few words on why; how they wait, likewise."""

    number: int
    why: str
    waiting: str

    @staticmethod
    def environment(number: int) -> dict[str, str]:
        """The variables that give a child process `number` threads, which wait like this one's."""
        return dict.fromkeys(_COUNTS, str(number))


def decide(environ: MutableMapping[str, str] = os.environ, root: Path = Path("/")) -> Decision:
    """Sets the variables that torch, numba and BLAS read when they are loaded; what the user has set stays.

    As many threads as there are cores that this process may use; with torchrun's ranks, one a rank.

    environ  the environment to decide for
    root     of the file system, where the quota of a container is read
    """
    number, why = _allowed(root)
    if (environ.get("WORLD_SIZE") or "1") != "1":
        number, why = 1, "one a rank"
    with suppress(KeyError, ValueError):
        number, why = max(1, int(environ["OMP_NUM_THREADS"].split(",")[0])), "OMP_NUM_THREADS says so"
    for name in _COUNTS:
        if not environ.get(name, "").replace(",", "").isdecimal():  # numba stops at what is no number
            environ[name] = str(number)
    theirs = [f"{name}={environ[name]}" for name in _WAITS if name in environ]
    if environ is os.environ and (late := sys.modules.get("torch")):
        late.set_num_threads(min(number, late.get_num_threads()))
        theirs = theirs or [_late()]
    if not theirs:
        environ["GOMP_SPINCOUNT"] = _SPIN
    return Decision(number, why, ", ".join(theirs) or f"GOMP_SPINCOUNT={_SPIN}")


def _late() -> str:
    words = "torch was loaded before labkit, so its threads spin while they wait, which is slow where other programs"
    how = f"import labkit first, or set GOMP_SPINCOUNT={_SPIN} before Python starts"
    warnings.warn(f"{words} run; {how}", stacklevel=4)
    return "spinning (torch was loaded before labkit)"


def _allowed(root: Path) -> tuple[int, str]:
    """How many cores this process may use, and what says so."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(root)
    if quota < cores:
        return max(1, int(quota)), f"the quota is {quota:g} of {cores} cores"
    return cores, f"{cores} core{'s' * (cores > 1)} may be used"


def _quota(root: Path) -> float:
    """The least quota of processor time, in cores, among the cgroups that hold this process; without one, infinity."""
    with suppress(OSError):
        groups = re.findall(r"^\d+:(.*):(.*)$", (root / "proc/self/cgroup").read_text("utf-8", "replace"), re.M)
        cpu = [one for one in groups if one[0] == "" or "cpu" in one[0].split(",")]
        return min((_least(root, *one) for one in cpu), default=float("inf"))
    return float("inf")


def _least(root: Path, names: str, path: str) -> float:
    """The same for one line of /proc/self/cgroup: version 2 names no controllers, version 1 those of its folder."""
    found = [float("inf")]
    for mount in [root / "sys/fs/cgroup" / name for name in ({names, "cpu"} if names else ("", "unified"))]:
        # In a container, the folders above its own, and sometimes its own path, are out of sight.
        for folder in [mount / path.strip("/"), *(mount / path.strip("/")).parents]:
            files = [folder / f"cpu.cfs_{what}_us" for what in ("quota", "period")] if names else [folder / "cpu.max"]
            with suppress(OSError, ValueError):  # ValueError of "max", which is no number
                quota, period = map(int, " ".join(file.read_text("utf-8") for file in files).split())
                found += [quota / period] if quota > 0 else []
    return min(found)

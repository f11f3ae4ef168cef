"""What computes here, and where it lies: versions, folders, which arithmetic is fast, memory held, child processes."""

import ctypes
import importlib.metadata
import os
import platform
import re
import resource
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import labkit
from labkit.core.wording import typed

if TYPE_CHECKING:  # what asks for versions alone need not wait for torch
    import torch

_PATHS = ("LABKIT_STORE", "LABKIT_DATA", "NUMBA_CACHE_DIR")
_SHARED = "share/labkit"  # of a wheel's data files (pyproject.toml)
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of glibc's malloc.h


def versions(*packages: str) -> dict[str, str]:
    """Versions of labkit, Python and each of `packages`, without importing them; one that is absent is left out."""
    found = {"labkit": labkit.__version__, "python": platform.python_version()}
    for name in packages:
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def commit(folder: Path) -> str:
    """The git commit checked out in `folder`, with a `+` when tracked files were changed since; "" if there is none."""
    try:
        head = _git(folder, "rev-parse", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return ""


def shipped() -> Path:
    """The folder that holds notebooks/ and data/: the clone that labkit runs from, or else what its wheel brought."""
    clone = Path(labkit.__file__).resolve().parents[1]
    if (clone / "notebooks" / "dashboards").is_dir():
        return clone
    with suppress(importlib.metadata.PackageNotFoundError):
        for file in importlib.metadata.files("labkit") or ():
            if file.match(f"{_SHARED}/data/README.md"):
                return Path(file.locate()).resolve().parents[1]
    return clone


def own(name: str) -> Path:
    """Where what is made or downloaded is kept: data/NAME of a clone, or else ~/.cache/labkit/NAME."""
    home, cache = shipped(), Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "labkit" / name if home.as_posix().endswith(_SHARED) else home / "data" / name


def processor() -> str:
    """The model of the processor as the system names it, or its architecture."""
    with suppress(OSError, TypeError):
        return re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text("utf-8", "replace"), re.M)[1]
    return platform.processor() or platform.machine()


def has_bfloat16(device: "torch.device") -> bool:
    """Whether the hardware multiplies bfloat16 faster than float32: of processors, those with tiles (AMX).

    LABKIT_AMX=0 denies it. With AVX-512 alone, a training step of a quarter-width VGG-16 took 1.2 to 1.4 times as long.
    """
    import torch

    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return os.environ.get("LABKIT_AMX") != "0" and bool(torch.cpu.get_capabilities().get("amx_bf16"))


def autocast(device: "torch.device") -> "torch.autocast":
    """Within it, layers multiply in bfloat16 where `has_bfloat16`."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=has_bfloat16(device))


def peak() -> float:
    """The most that was in memory at once since the process began, in GiB."""
    try:
        # Not getrusage's, which a child takes over from its parent, however large that was.
        status = Path("/proc/self/status").read_text("utf-8", "replace")
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def steady() -> None:
    """From now on, arrays of a megabyte and more go back to the system when freed, so that the peak stays where it is.

    By default glibc keeps all that is smaller than the largest array ever freed, in pieces that do not always fit: the
    peak creeps up by a quarter over some thousand images. Where malloc is not glibc's, nothing changes.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 2**20)
        mallopt(_ARENA_MAX, 1)


def child(module: str, folder: str | Path = "") -> list[str]:
    """The command, without arguments, that runs a module until this process ends, and then deletes `folder`."""
    return [sys.executable, str(Path(__file__).with_name("children.py")), str(os.getpid()), str(folder), module]


def environment(threads: int) -> dict[str, str]:
    """What a child that works in another folder is told: how many threads it has, and what paths mean here."""
    paths = {name: str(typed(os.environ[name]).absolute()) for name in _PATHS if os.environ.get(name)}
    return {**labkit.THREADS.environment(threads), **paths, "PYTHONUTF8": "1"}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    told = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=20)
    return told.stdout.strip()

"""The command `labkit doctor`: what an installation is made of, and what to do about what is wrong with it."""

import argparse
import importlib
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import NamedTuple

import labkit
from labkit.cli import common
from labkit.core import InputError, hardware, wording
from labkit.core.wording import reason

_PYTHON = (3, 11)
_DISK, _MEMORY = 5 * 2**30, 4 * 2**30  # bytes below which a quick report may not come to its end
_PINS = Path(__file__).resolve().parents[2] / "constraints.txt"  # there in a clone; it is not installed
_AGAIN = "install again with `pip install -c constraints.txt -e '.[all]'`"


class Finding(NamedTuple):
    """What was looked at, and found; `advice`: what to do, or ""; `fatal`: whether labkit cannot be used until then."""

    what: str
    found: str
    advice: str = ""
    fatal: bool = False


def add(commands: common.Commands) -> None:
    """Adds `doctor` to the command line."""
    text = "Look at this installation and say what to do. Exit status 1 if labkit cannot be used as it is."
    common.command(commands, "doctor", _doctor, "what is wrong with an installation", text, "store")


def _doctor(options: argparse.Namespace) -> int:
    worst = 0
    for finding in examine(options.store):
        sign = "  " if not finding.advice else "!!" if finding.fatal else "! "
        print(f"{sign} {finding.what:<12} {finding.found}", flush=True)
        if finding.advice:
            print(f"   {'':<12} -> {finding.advice}")
        worst = max(worst, 1 + finding.fatal if finding.advice else 0)
    print(("all is well", "labkit works; what is marked ! may matter to you", "labkit cannot work like this")[worst])
    return int(worst == 2)


def examine(store: str = "", *, pins: Path = _PINS) -> Iterator[Finding]:
    """Everything worth a look, the quick things first. `store` as for `Store`; `pins` is constraints.txt."""
    old = sys.version_info < _PYTHON
    yield Finding("Python", platform.python_version(), "use Python {}.{} or newer".format(*_PYTHON) * old, old)
    yield Finding("packages", *_packages(pins))
    for what, look in (("torch", _torch), ("torchvision", _torchvision), ("numba", _numba), ("GPU", _gpu)):
        try:
            yield look()
        except Exception as error:  # a package may not even load
            yield Finding(what, f"does not work ({type(error).__name__}: {reason(error)})", _AGAIN, fatal=what != "GPU")
    number, why, waiting = labkit.THREADS
    yield Finding("threads", f"{number}: {why}; they wait with {waiting}")
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
    advice = "" if browser else "install Chromium if you mean to run the dashboards' tests; nothing else needs it"
    yield Finding("browser", browser or "none", advice)
    yield from _store(store)
    yield _memory()


def _packages(pins: Path) -> tuple[str, str, bool]:
    """Whether what labkit needs is there, in the versions that were tested together: found, advice, fatal."""
    try:
        lines = metadata.requires("labkit") or []
    except metadata.PackageNotFoundError:
        return "labkit is used without being installed", _AGAIN, False
    needed = {re.match(r"[\w.-]+", line)[0]: "extra ==" in line for line in lines}
    found = hardware.versions(*needed)
    absent = {name: extra for name, extra in needed.items() if name not in found}
    if missing := [name for name, extra in absent.items() if not extra]:
        return f"missing: {', '.join(missing)}", _AGAIN, True
    there = f"{len(needed) - len(absent)} of the {len(needed)} that labkit names"
    if not pins.is_file():
        return f"{there}; not compared with tested versions (no constraints.txt beside the package)", "", False
    tested = sorted(re.findall(r"^([\w.-]+)==([\w.!+]+)", pins.read_text("utf-8"), re.M))
    here = hardware.versions(*dict(tested))
    other = [f"{n} {here[n]} (tested: {v})" for n, v in tested if n in here and here[n].split("+")[0] != v]
    if other:
        some = ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        return f"{there}; other versions than were tested together: {some}", _AGAIN, False
    if absent:
        return f"{there}; without {', '.join(absent)}", f"for notebooks, reports and tests, {_AGAIN}", False
    return f"{there}, in the versions that were tested together", "", False


def _torch() -> Finding:
    import torch

    wrong = float(torch.ones(3).sum()) != 3
    return Finding("torch", torch.__version__, f"it cannot add: {_AGAIN}" * wrong, wrong)


def _torchvision() -> Finding:
    from labkit.core import torchvision_shim

    guarded = "; its compiled operators do not load beside this torch, and labkit does without"
    return Finding("torchvision", torchvision_shim.torchvision.__version__ + guarded * bool(torchvision_shim._schemas))


def _numba() -> Finding:
    """Whether compiled loops are kept between runs; it takes numba ten seconds to make them."""
    atoms = importlib.import_module("labkit.csc.atoms")
    compiled = next(value for value in vars(atoms).values() if hasattr(value, "py_func"))
    folder = Path(compiled._cache.cache_path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            return Finding("numba", f"keeps compiled loops in {folder}")
    except OSError as error:
        advice = "let the environment variable NUMBA_CACHE_DIR name a folder you may write to"
        return Finding("numba", f"compiles anew in every run: {folder} cannot be written ({reason(error)})", advice)


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        float(torch.ones(3, device="cuda").sum())
        return Finding("GPU", f"{properties.name}, {wording.size(properties.total_memory)}, CUDA {torch.version.cuda}")
    if shutil.which("nvidia-smi"):
        built = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
        advice = "install a torch and a torchvision for its driver (pytorch.org), or go on by the CPU"
        return Finding("GPU", f"there seems to be one, but torch ({built}) cannot use it", advice)
    return Finding("GPU", "none; everything runs on the CPU")


def _store(store: str) -> Iterator[Finding]:
    """Whether artifacts can be written and locked, and what room there is for them. Leaves nothing behind."""
    from labkit.core.store import Store, locked

    advice = "name another folder with --store or the environment variable LABKIT_STORE"
    try:
        root = Store(store).root
        near = next(folder for folder in (root, *root.parents) if folder.exists())
        with TemporaryDirectory(prefix=".labkit-", dir=near) as trial, locked(Path(trial) / "it", wait=False) as works:
            free = shutil.disk_usage(near).free
    except (InputError, OSError, NotImplementedError) as error:
        yield Finding("store", f"cannot be written ({reason(error)})", advice, fatal=True)
        return
    yield Finding("store", str(root)) if works else Finding("store", f"{root} knows no locks", advice, fatal=True)
    more = f"free some space there (`labkit artifacts prune` helps), or {advice}"
    yield Finding("disk", f"{wording.size(free)} free for it", more if free < _DISK else "")


def _memory() -> Finding:
    try:
        (free,) = re.findall(r"^MemAvailable:\s+(\d+) kB", Path("/proc/meminfo").read_text("utf-8"), re.M)
    except (OSError, ValueError):
        return Finding("memory", "this system does not say")
    advice = "close something, or stay with the profiles smoke and quick" * (int(free) * 1024 < _MEMORY)
    return Finding("memory", f"{wording.size(int(free) * 1024)} available", advice)

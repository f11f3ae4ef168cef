"""Scaling, measured: what an image, a rank and a message cost. `forecast` says what follows from it for ImageNet."""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import stamps
from benchmarks.forecast import markdown
from labkit.cli import common
from labkit.core import InputError, checkpoint, distributed
from labkit.core.recipes import DataRecipe, DictionaryRecipe
from labkit.csc import cbpdn, cdl, split
from labkit.datasets import loaders
from labkit.experiments.solvers import seconds
from labkit.models import SparseTransform

import torch
from tqdm.auto import tqdm

_PHOTOS = ("resolution", "filters", "message")  # parts that measure photographs, whatever the data set
PARTS = ("resolution", "filters", "message", "learning", "ranks", "memory")
RECORD, PAGE = "scaling.json", "SCALING.md"
_ROOT = str(Path(__file__).resolve().parents[1])

_BEGIN, _END = "<!-- measured by `make scaling` -->", "<!-- end -->"
_K, _S, _LAM, _SIDE = 64, 8, 0.2, 224
_PIXELS = 64 * 32**2  # of the images that are timed at each size
_PROJECTED = re.compile(r"(\d+) ranks, ([\d.]+) s, ([\d.]+) GiB at most")
_LEARNED = re.compile(r"^dictionary: .*\(([\d.]+) (s|min)\)", re.MULTILINE)


def run(
    out: str | Path, dataset: str, *, split: str = "all", sizes: Sequence[int] = (32, 64, 128, _SIDE),
    filters: Sequence[int] = (16, 32, 64, 128, 256), many: Sequence[int] = (1_000, 10_000, 60_000),
    ranks: Sequence[int] = (1, 2), parts: Sequence[str] = (), profile: str = "quick",
) -> dict:  # fmt: skip
    """Measures, and writes scaling.json and the tables of SCALING.md into the folder `out`; returns the record.

    resolution  ms an image of T(x) on one thread, of photographs at each of `sizes`; passes of the GPU's solver
    filters     the same at 32×32 for each K of `filters`
    message     bytes of one all-reduce of learning, its time between two ranks, and that of an update of the filters
    learning    seconds to learn the dictionary of `profile` from `dataset`, by each number of `ranks`
    ranks       seconds to project many[1] images of `dataset`, by each number of `ranks`, one thread each
    memory      peak of a rank when two project each number of `many` images

    parts  only these; the others stay as they were measured before. Each is written as soon as it is measured

    What needs several ranks is run as a user would run it, by torchrun, on a store of its own. The record holds for
    each part its "rows", and "on", where they were measured (`stamps.stamp`). Raises InputError for an unknown
    part, for a scaling.json of an earlier version, or when such a run fails.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise InputError(f"there is no part {', '.join(unknown)} of the measurement; it has {', '.join(PARTS)}")
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    record = stamps.earlier(out / RECORD)
    with distributed.threads(1), tempfile.TemporaryDirectory() as scratch:
        runs = _Runs(dataset, split, profile, Path(scratch))
        measures = {
            "resolution": lambda: _by_resolution(sizes),
            "filters": lambda: _by_filters(filters),
            "message": runs.message,
            "learning": lambda: [runs.learn(n) for n in ranks],
            "ranks": lambda: [runs.project(n, many[1]) for n in ranks],
            "memory": lambda: [runs.project(2, n) for n in many],
        }
        for part in tqdm(parts or PARTS, desc="measuring", unit="part"):
            on = stamps.stamp("photos" if part in _PHOTOS else DataRecipe(dataset).label, 1, "torch", "numba")
            record[part] = {"rows": measures[part](), "on": on}
            checkpoint.write_whole(out / RECORD, (json.dumps(record, indent=1) + "\n").encode())
            _insert(out / PAGE, markdown(record))
    return record


def _insert(page: Path, text: str) -> None:
    """Puts the tables where the page has kept a place for them, or makes a page of nothing else."""
    before = page.read_text() if page.is_file() else f"{_BEGIN}\n{_END}\n"
    head, found, rest = before.partition(_BEGIN)
    if not found or _END not in rest:
        raise InputError(f"{page} has no lines {_BEGIN} and {_END}; put them where the tables belong")
    checkpoint.write_whole(page, f"{head}{_BEGIN}\n\n{text}\n{_END}{rest.partition(_END)[2]}".encode())


def _by_resolution(sizes: Sequence[int]) -> list[dict]:
    """With one dictionary for all, learned at 64×64: how the time depends on size alone."""
    d = cdl.learn(loaders.load("photos", "train", n=100, resolution=64), _recipe(_K))
    rows = []
    for size in tqdm(sizes, desc="sizes", unit="size", leave=False):
        x = loaders.load("photos", "test", n=max(4, _PIXELS // size**2), resolution=size).x[:]
        few = split(x[:2])[1]
        passes = cbpdn.solve(few, d, _LAM, method="admm").iterations
        rows.append({"size": size, "n": len(x), "ms": _ms(d, x), "admm_passes": passes})
    return rows


def _by_filters(counts: Sequence[int]) -> list[dict]:
    train = loaders.load("photos", "train", n=100, resolution=32)
    x = loaders.load("photos", "test", n=_PIXELS // 32**2, resolution=32).x[:]
    rows = []
    for K in tqdm(counts, desc="filters", unit="K", leave=False):
        rows.append({"K": K, "n": len(x), "ms": _ms(cdl.learn(train, _recipe(K)), x)})
    return rows


def _recipe(K: int) -> DictionaryRecipe:
    return DictionaryRecipe(K=K, S=_S, lam=_LAM, images=100, passes=1, held=0)


def _ms(d: torch.Tensor, x: torch.Tensor) -> float:
    layer = SparseTransform(d, lam=_LAM)
    with torch.no_grad():
        layer(x[:2])  # warm
        return 1e3 * seconds(lambda: layer(x)) / len(x)


class _Runs:
    """Commands of labkit, run by so many ranks on one data set and a store of their own."""

    def __init__(self, dataset: str, split: str, profile: str, scratch: Path):
        self.dataset, self.split, self.profile, self.scratch = dataset, split, profile, scratch
        self.store = scratch / "store"

    def learn(self, ranks: int) -> dict:
        """The dictionary of the profile, learned afresh."""
        self.store = self.scratch / f"store-{ranks}"
        printed = self._torchrun(ranks, "labkit", "learn", *self._options())
        value, unit = _LEARNED.search(printed).groups()
        return {"ranks": ranks, "seconds": float(value) * (60 if unit == "min" else 1)}

    def project(self, ranks: int, n: int) -> dict:
        """Seconds of the projection itself, and of the whole command with its start; the largest peak of a rank."""
        if not list(self.store.glob("dictionary/*/manifest.json")):
            self._torchrun(2, "labkit", "learn", *self._options())
        out, started = self.scratch / f"out-{ranks}-{n}", time.perf_counter()
        more = ("--split", self.split, "--images", str(n), "--out", str(out))
        found = _PROJECTED.search(self._torchrun(ranks, "labkit", "project", *self._options(), *more))
        took = time.perf_counter() - started
        images = json.loads((out / "manifest.json").read_text())["images"]
        peak = float(found[3])
        return {"ranks": ranks, "images": images, "seconds": float(found[2]), "command": took, "peak_gib": peak}

    def message(self) -> dict:
        return json.loads(self._torchrun(2, "benchmarks.scaling", "--message").splitlines()[-1])

    def _options(self) -> tuple[str, ...]:
        return ("--profile", self.profile, "--dataset", self.dataset, "--store", str(self.store))

    def _torchrun(self, ranks: int, *module: str) -> str:
        line = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
        paths = os.pathsep.join(filter(None, (_ROOT, os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
        done = subprocess.run([*line, *module], env=environment, capture_output=True, text=True)
        if done.returncode:
            told = [line for line in done.stderr.splitlines() if line.startswith("labkit: ")]
            raise InputError(f"{module[0]} failed under torchrun; {(told or done.stderr.splitlines())[-1]}")
        return done.stdout


def _message() -> None:
    """What one step of learning costs beside coding, at every rank; rank 0 prints it."""
    with distributed.session():
        x = split(loaders.load("photos", "train", n=20, resolution=32).x[:])[1]
        d = cdl.patches(x, _K, _S, torch.Generator().manual_seed(0))
        stats = cdl.statistics(cbpdn.solve(x, d, _LAM).code, x, _S)
        numbers = stats.ztz.numel() + stats.ztx.numel() + 2
        flat = torch.zeros(numbers, dtype=torch.float64)
        distributed.all_reduce(flat)  # warm
        reduce = seconds(lambda: distributed.all_reduce(flat), 10)
        update = seconds(lambda: cdl.update(d, stats, max_iter=20))
        if distributed.rank() == 0:
            print(json.dumps({"bytes": 8 * numbers, "ms": 1e3 * reduce, "update_ms": 1e3 * update}))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `python -m benchmarks.scaling`; returns its exit status."""
    text = """Measure what an image, a rank and a message cost, and what that foretells for ImageNet; write scaling.json
    and the tables of SCALING.md. Takes about ten minutes on two idle cores."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=text)
    common.add_options(parser, "dataset", "parts")
    parser.add_argument("--out", type=Path, default="docs", metavar="DIR", help="of the files (default: %(default)s)")
    what = "only print what a step of learning costs beside coding; for ranks that torchrun has started"
    parser.add_argument("--message", action="store_true", help=what)
    parser.set_defaults(run=_scaling)
    return common.run(parser, arguments)


def _scaling(options: argparse.Namespace) -> int:
    if options.message:
        _message()
        return 0
    run(options.out, options.dataset, parts=common.listed(options.parts))
    print(f"scaling: {options.out / PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

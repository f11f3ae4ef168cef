"""A report: the numbered notebooks run in order on one profile and one data set."""

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import labkit
from labkit.core import InputError, hardware, profiles, store
from labkit.core.wording import duration, to_set, typed
from labkit.reporting import runner
from labkit.reporting.report_folder import ReportFolder, Settings

import nbformat
from tqdm import tqdm

_FILTERS = {"02", "08"}  # notebooks about filters alone, which need no classes
NOTEBOOKS = hardware.shipped() / "notebooks"


def check(
    settings: Settings, out: Path, *, notebooks: Path = NOTEBOOKS, only: Iterable[str] = (), images: bool = True
) -> dict[Path, nbformat.NotebookNode]:
    """The notebooks to run, in order, after looking at everything that could only fail later; writes nothing.

    `only` are numbers ("02") or names ("02_filters"). With `images`, the profile's own selection of the data set is
    loaded once, so that a damaged file is met here. Raises InputError: unknown profile or data set, bad images, an
    `out` that is not ours to write, no such notebook, a parameter the notebook does not know.
    """
    profile = profiles.profile(settings.profile, dataset=settings.dataset, resolution=settings.resolution)
    for place in (out, notebooks, settings.store or out, settings.data_root or out):
        typed(place)
    choose = f"choose another folder, as with {to_set('out', 'DIR')}"
    near = next(folder for folder in (out, *out.absolute().parents) if folder.exists())
    if not near.is_dir():
        raise InputError(f"{near} is a file; {choose}")
    if (out / "index.html").exists() and not (out / "manifest.json").exists():
        raise InputError(f"{out} holds an index.html that no report wrote; {choose}")
    if not os.access(near, os.W_OK):
        raise InputError(f"cannot write to {near}; {choose}")
    parameters = {**dataclasses.asdict(settings), "out": ""}
    plan = {path: runner.inspect(path, parameters) for path in _select(notebooks, only)}
    if images:
        from labkit.evaluation import Workbench  # brings torch: two seconds that a misspelled profile need not wait
        from labkit.models import networks

        # Damaged images, and those too small for the network or all alike, cost a second here and minutes later.
        bench = Workbench(settings.store, data_root=settings.data_root)
        bench.digest(profile.data)
        networks.of(profile.classifier, bench.images(profile.data, "train"))
        if {path.stem[:2] for path in plan} - _FILTERS:
            bench.sound(profile.data)
    return plan


def run(
    settings: Settings, out: Path, plan: Mapping[Path, nbformat.NotebookNode], *,
    jobs: int | None = None, cell_timeout: int | None = None, say: Callable[[str], object] = tqdm.write,
) -> list[dict[str, Any]]:  # fmt: skip
    """Run the notebooks of `plan` (from `check`) and write the report into folder `out`.

    `jobs` of them run at once and share the threads that labkit may use; what two of them need is built by one, while
    the other waits. By default two do, where there are two threads: one thread each does more than two in one.

    A failing notebook does not stop the ones after it. Notebooks of an earlier report in `out` that are not in the
    plan keep their pages. Every file appears under its name only when complete.

    Returns the manifest's entries of the notebooks run, each with `name`, `status` ("finished" or "failed"),
    `seconds`, `error` (None, or the fields of a runner.Failure and its `sentence`) and `files` with SHA-256.
    """
    out, jobs = out.absolute(), jobs or min(2, labkit.THREADS.number)
    report, kernels, turn = ReportFolder(out, settings, next(iter(plan)).parent), [], threading.Lock()
    out.mkdir(parents=True, exist_ok=True)

    def one(path: Path) -> None:
        name, begun = path.stem, datetime.now(UTC)
        partial, root = out / "executed" / f".{name}.partial.ipynb", path.resolve().parent.parent
        with turn:
            folder = report.prepare(name)
            bar.set_postfix_str(name)
            if bar.disable:
                say(f"{name}: running")
        try:
            outcome = runner.execute(
                path.resolve(), partial, _parameters(settings, folder, root), cwd=root, cell_timeout=cell_timeout,
                progress_bar={"desc": f"  {name}", "leave": False, "disable": None},
                environment=hardware.environment(max(1, labkit.THREADS.number // jobs)), kernels=kernels,
            )  # fmt: skip
        finally:
            partial.unlink(missing_ok=True)
        with turn:
            if not stopped.is_set():
                report.finish(name, outcome, begun)
                end = f"failed in {outcome.failure.sentence}" if outcome.failure else "finished"
                say(f"{name}: {end} ({duration(outcome.seconds)})")
                bar.update()

    stopped = threading.Event()
    bar = tqdm(total=len(plan), desc="report", unit="notebook", disable=None)
    with store.locked(out / "report", doing=f"writes into {out}"), bar, ThreadPoolExecutor(jobs) as pool:
        report.begin(plan)
        try:
            # The longest first: it trains what others need, while the first pages are written. 11 must not come last.
            runs = [pool.submit(one, p) for p in sorted(plan, key=lambda p: (p.stem[:2] != "05", "05" < p.stem < "11"))]
            for done in as_completed(runs):
                done.result()
        except BaseException:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)
            while not all(run.done() for run in runs):
                for kernel in kernels:  # also those that are only being started
                    with suppress(ProcessLookupError, AttributeError):
                        kernel.provisioner.process.kill()
                time.sleep(0.1)
            raise
    return [report.entries[path.stem] for path in plan]


def _select(folder: Path, only: Iterable[str]) -> list[Path]:
    found = sorted(folder.glob("[0-9][0-9]_*.ipynb"))
    if not found:
        none = f"no numbered notebooks (NN_name.ipynb) in {folder.name}"
        raise InputError(f"{none}; `labkit notebooks DIR` copies those of the lab")
    chosen = set()
    for item in (item.strip().removesuffix(".ipynb") for item in only if item.strip()):
        match = {path for path in found if item in (path.stem, path.stem[:2], path.stem[:2].lstrip("0"))}
        if not match:
            raise InputError(f"no notebook {item!r}; there are {', '.join(path.stem for path in found)}")
        chosen |= match
    return sorted(chosen) or found


def _parameters(settings: Settings, folder: Path, root: Path) -> dict[str, Any]:
    """The scalars for the parameters cell, with paths that mean the same from `root`, where the kernel works."""
    values = dataclasses.asdict(settings)
    kind, _, place = settings.dataset.partition(":")
    if kind == "folder":
        values["dataset"] = f"folder:{_seen_from(root, place)}"
    for key in ("data_root", "store"):
        values[key] = _seen_from(root, values[key]) if values[key] else ""
    inside = folder.resolve().is_relative_to(root)
    values["out"] = (folder.resolve().relative_to(root) if inside else folder.resolve()).as_posix()
    return values


def _seen_from(root: Path, place: str) -> str:
    """A path typed in the working directory, unchanged where it already holds at `root`."""
    same = Path.cwd().resolve() == root
    return place if same or Path(place).expanduser().is_absolute() else str(Path(place).absolute())

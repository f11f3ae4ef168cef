"""Speed, measured: every number is a ratio of two things timed in one process on the same threads."""

import argparse
import json
import multiprocessing
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import busy, goals, stamps, throughput
from labkit.cli import common
from labkit.core import InputError, checkpoint, hardware
from labkit.core.recipes import DataRecipe, DictionaryRecipe
from labkit.csc import cbpdn, cdl, conv, split
from labkit.datasets import loaders
from labkit.experiments.solvers import arrays, seconds, sporco, timed
from labkit.models import stl

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

LAM, K, S = 0.2, 64, 8
PARTS = ("coding", "attacking", "training", "learning", "projecting", "learning_many", "defending")
_PASSES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)
_AT_ONCE = 500


def run(
    out: str | Path, *, dataset: str = "photos", data_root: str | None = None, sizes=(32, 64, 224), images: int = 256,
    learned: int = 200, iterations: int = 200, many: tuple[int, int] = (60_000, 10_000), defended=(32, 64),
    names: Sequence[str] | None = None, parts: Sequence[str] = (),
) -> dict:  # fmt: skip
    """Times coding and learning with K = 64, S = 8, λ = 0.2 and writes bench.json and bench.md into `out`.

    Coding, per image size: sporco's `ConvBPDN` at its usual stopping rule (200 iterations, 5e-3), on a few images
    because it takes them one by one; ours at `gap_tol=1e-2`; and the least that a solver must do by torch's
    convolutions, one analysis and one synthesis, in whichever memory layout is faster. Objectives are compared on
    sporco's images. The exact backward pass of T is timed beside its forward pass on the same batch.

    Learning: sporco's `ConvBPDNDictLearn` from `learned` images of 32×32, and ours until the held-out objective is no
    higher than that. Two measurements in a process each, for their memory: projecting up to many[0] images of 32×32,
    and learning from up to many[1].

    Attacking and training: `busy`. Above all stands what was asked of the lab's speed (`goals`).

    Defenses, at the sizes of `defended`, by their `names` in `labkit.defenses` (None for all): `throughput.table`.

    parts  of PARTS, the ones to measure; all others are taken from an earlier bench.json in `out`. () for all. Every
           part is written as soon as it is measured, so that a run that was stopped can be completed by its others

    Returns what bench.json holds: for each part its "rows", and "on", where they were measured (`stamps.stamp`).
    Raises InputError for an unknown part, and for a bench.json of an earlier version.
    """
    if unknown := sorted(set(parts) - set(PARTS)):
        raise InputError(f"there is no part {', '.join(unknown)} of the bench; it has {', '.join(PARTS)}")
    cbpdn.prepare()
    source = {"dataset": dataset, "data_root": data_root}
    measures = {
        "coding": lambda: [_coded(source, size, images) for size in tqdm(sizes, desc="timing coding", unit="size")],
        "attacking": lambda: busy.attack(dataset, data_root),
        "training": busy.training,
        "learning": lambda: _learning(source, learned, iterations),
        "projecting": lambda: _alone(_project_all, source, many[0]),
        "learning_many": lambda: _alone(_learn_many, source, many[1]),
        "defending": lambda: throughput.table(
            dataset, sizes=defended, data_root=data_root, names=names
        ).to_dict("records"),
    }  # fmt: skip
    file = Path(out) / "bench.json"
    record = stamps.earlier(file) if parts else {}
    file.parent.mkdir(parents=True, exist_ok=True)
    for part in parts or PARTS:
        on = stamps.stamp(DataRecipe(dataset).label, torch.get_num_threads(), "torch", "numba", "sporco")
        record[part] = {"rows": measures[part](), "on": on}
        checkpoint.write_whole(file, (json.dumps(record, indent=1) + "\n").encode())
        checkpoint.write_whole(file.with_suffix(".md"), markdown(record).encode())
    return record


def _coded(source: dict, size: int, images: int) -> dict:
    """One line on coding: filters are learned from training images of this size, test images are coded."""
    load = {"resolution": size, "data_root": source["data_root"]}
    train = loaders.load(source["dataset"], "train", n=400, **load)
    test = loaders.load(source["dataset"], "test", n=max(8, images * 32**2 // size**2), **load)
    d = cdl.learn(train, DictionaryRecipe(K=K, S=S, lam=LAM, images=200, passes=2))
    return {**_coding(split(test.x[:])[1], d, size), "backward_ratio": _backward(test.x[:], d)}


def markdown(record: dict) -> str:
    """The record as tables for people; parts that were not measured have none."""
    sections = {
        "coding": ("Coding {}", _about_coding),
        "attacking": ("PGD on {}, one thread", _about_attacking),
        "training": ("Training steps, idle and on a busy machine", _about_training),
        "learning": ("Learning from {}", _about_learning),
        "projecting": ("T(x) of many images of {}, gap 1e-2", _about_many),
        "learning_many": ("Learning from many images of {}, one pass", _about_many),
        "defending": ("Defenses: images of {} a second", _defending),
    }
    lines = [f"# Speed: K = {K}, S = {S}, λ = {LAM}", "", _table(goals.table(goals.goals(record)))]
    lines += [line for told in goals.profile() for line in ("", told)]
    for part, (title, table) in sections.items():
        if part in record:
            rows, on = record[part]["rows"], record[part]["on"]
            lines += ["", f"## {title.format(on['data'])}", *table(rows), "", stamps.told(on)]
    return "\n".join([*lines, "", "Ratios were taken in one process.", ""])


def _about_coding(rows: list[dict]) -> list[str]:
    lines = [
        {
            "size": f"{r['size']}×{r['size']}×{r['channels']}",
            "n": f"{r['n']} (sporco {r['n_sporco']})",
            "ours, ms an image": f"{r['ours_ms']:.2f}",
            "sporco, ms an image": f"{r['sporco_ms']:.0f}",
            "sporco / ours": f"{r['sporco_ms'] / r['ours_ms']:.0f}×",
            "least, ms an image": f"{r['least_ms']:.2f}",
            "ours / least": f"{r['ours_ms'] / r['least_ms']:.1f}×",
            "objective, ours / sporco's": f"{r['objective_ratio']:.4f}",
            "backward / forward of T": f"{r['backward_ratio']:.2f}",
        }
        for r in rows
    ]
    return [
        "",
        _table(lines),
        "",
        "Least: one analysis and one synthesis by torch's dense convolutions in float32. Ours can take less: all but "
        "its last passes are in bfloat16 where the processor has the instructions, and its synthesis is of the few "
        "coefficients that are not zero.",
    ]


def _about_attacking(rows: list[dict]) -> list[str]:
    lines = [
        {"through": r["through"], "ms an image and step": f"{r['ms']:.2f}", "ratio": f"{r['ratio']:.2f}"} for r in rows
    ]
    return ["", _table(lines)]


def _about_training(rows: list[dict]) -> list[str]:
    idle = {r["threads"]: r["ms"] for r in rows if r["beside"] == "nothing"}
    lines = [
        {"threads wait": r["threads"], "beside": r["beside"], "median ms a step": f"{r['ms']:.0f}",
         "times idle": f"{r['ms'] / idle[r['threads']]:.2f}"}
        for r in rows
    ]  # fmt: skip
    return ["", _table(lines), "", "Quarter-width VGG-16, batches of 128 images of 32×32."]


def _about_learning(learning: dict) -> list[str]:
    lines = [
        {
            "filters learned by": r["by"],
            "seconds": f"{r['seconds']:.1f}",
            "held-out objective an image": f"{r['held']:.3f}",
            "sporco's seconds / ours": f"{r['ratio']:.0f}×" if r["ratio"] else "",
        }
        for r in learning["runs"]
    ]
    return [
        "",
        _table(lines),
        "",
        f"From {learning['images']} images of 32×32, {learning['iterations']} iterations of sporco; held out: "
        f"{learning['n_held']} test images. All start from the same patches, with objective {learning['start']:.3f}. "
        "Ours is measured against the better of sporco's; its time is that of the whole run with so many passes, "
        "without the shorter runs that were tried first.",
    ]


def _about_many(found: dict) -> list[str]:
    line = {
        "images": f"{found['n']:,}",
        "seconds": f"{found['seconds']:.0f}",
        "peak memory of the process, GiB": f"{found['peak_gib']:.2f}",
    }
    return ["", _table([line])]


def _defending(rows: list[dict]) -> list[str]:
    """One line per defense, one column per size: images a second, and how many there were at once."""
    lines = {r["defense"]: {"defense": r["defense"]} for r in rows}
    for r in rows:
        lines[r["defense"]][f"{r['size']}×{r['size']}"] = f"{_rounded(r['per_second'])} (n = {r['images']})"
    return [
        "",
        _table(list(lines.values())),
        "",
        "n images at once, of 4, 16, 64 and 256 the number at which it was fastest. SAP, PD-Ens (deflection), Crop-Ens "
        "(crops), TVM+quilt and the detectors are timed with the network that they wrap; the others alone.",
    ]


def _table(rows: list[dict]) -> str:
    return pd.DataFrame(rows).to_markdown(index=False, disable_numparse=True)


def _rounded(rate: float) -> str:
    """Two digits: that much another run would give again."""
    return f"{float(f'{rate:.2g}'):,.0f}" if rate >= 10 else f"{rate:.2g}"


def _coding(high: Tensor, d: Tensor, size: int, repeat: int = 3) -> dict:
    cbpdn.solve(high[:2], d, LAM)  # warm
    ours = seconds(lambda: cbpdn.solve(high, d, LAM))
    z = cbpdn.solve(high, d, LAM).z
    last, other = (t.to(memory_format=torch.channels_last) for t in (high, z))
    least = min(
        seconds(lambda: (conv.analyze(high, d), conv.synthesize(z, d))),
        seconds(lambda: (conv.analyze(last, d), conv.synthesize(other, d))),
    )
    n = min(len(high), max(2, 8 * 32**2 // size**2))
    sporco(high[:1], d, LAM)  # warm, too
    theirs, codes = min((sporco(high[:n], d, LAM) for _ in range(repeat)), key=lambda run: run[0])
    mine = cbpdn.objective(z[:n], high[:n], d, LAM).sum()
    return {
        "size": size, "channels": high.shape[1], "n": len(high), "n_sporco": n,
        "ours_ms": 1e3 * ours / len(high), "least_ms": 1e3 * least / len(high), "sporco_ms": 1e3 * theirs / n,
        "objective_ratio": float(mine / cbpdn.objective(codes, high[:n], d, LAM).sum()),
    }  # fmt: skip


def _backward(x: Tensor, d: Tensor) -> float:
    """Seconds of the exact backward pass of T over those of its forward pass."""
    T = stl.SparseTransform(d, lam=LAM)
    x = x.clone().requires_grad_()
    total = T(x).sum()
    torch.autograd.grad(total, x, retain_graph=True)  # warm
    back = seconds(lambda: torch.autograd.grad(total, x, retain_graph=True))
    return back / seconds(lambda: T(x))


def learn_by_sporco(
    x: Tensor, d: Tensor, lam: float, *, iterations: int = 200, consensus: bool = True
) -> tuple[float, Tensor]:
    """Seconds taken and filters by sporco's `ConvBPDNDictLearn` from images x (B, C, H, W), started from d.

    With `consensus`, filters are updated by consensus ADMM with the penalties of sporco's own colour example;
    without, by the default proximal gradient steps.
    """
    from sporco.dictlrn.cbpdndl import ConvBPDNDictLearn

    penalties = {"CBPDN": {"rho": 50.0 * lam + 0.5}, "CCMOD": {"rho": 10.0}} if consensus else {}
    settings, how = {"Verbose": False, "MaxMainIter": iterations, **penalties}, "cns" if consensus else "pgm"

    def run():
        options = ConvBPDNDictLearn.Options(settings, dmethod=how)
        return ConvBPDNDictLearn(*arrays(d, x), lam, options, dmethod=how, dimK=1).solve()

    seconds, found = timed(run)
    S, (K, C) = d.shape[-1], d.shape[:2]
    return seconds, torch.from_numpy(np.ascontiguousarray(found.reshape(S, S, C, K).transpose(3, 2, 0, 1)))


def _learning(source: dict, count: int, iterations: int) -> dict:
    """sporco's two ways of learning, and ours until it has reached the better of them on images held out."""
    train = loaders.load(source["dataset"], "train", n=count, resolution=32, data_root=source["data_root"])
    test = loaders.load(source["dataset"], "test", n=count, resolution=32, data_root=source["data_root"])
    high, held = split(train.x[:])[1], split(test.x[:])[1]
    recipe = DictionaryRecipe(K=K, S=S, lam=LAM, images=len(train), held=0)
    start = cdl.start(train, recipe)

    def reached(d):
        return float(cbpdn.solve(held, d, LAM, gap_tol=1e-3).objective(held, LAM).mean())

    runs = []
    for name, consensus in (("sporco, consensus", True), ("sporco, its defaults", False)):
        took, d = learn_by_sporco(high, start, LAM, iterations=iterations, consensus=consensus)
        runs.append({"by": name, "seconds": took, "held": reached(d), "ratio": None})
    goal = min(runs, key=lambda r: r["held"])
    for passes in _PASSES:
        started = time.perf_counter()
        d = cdl.learn(train, DictionaryRecipe(K=K, S=S, lam=LAM, images=len(train), passes=passes, held=0))
        took = time.perf_counter() - started
        mine = {"by": f"ours, {passes} passes", "seconds": took, "held": reached(d), "ratio": goal["seconds"] / took}
        if mine["held"] <= goal["held"]:
            break
    return {
        "images": len(train), "n_held": len(test), "iterations": iterations, "start": reached(start),
        "runs": [*runs, mine],
    }  # fmt: skip


def _alone(work, source: dict, n: int) -> dict:
    """The record of `work(source, n)` in a process of its own, with its peak memory."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(_measured, (work, source, n, torch.get_num_threads()))
        pool.close()
        pool.join()  # let it tidy up after itself, where leaving the block would kill it
        return found


def _measured(work, source: dict, n: int, threads: int) -> dict:
    torch.set_num_threads(threads)
    count, took = work(source, n)
    return {"n": count, "seconds": took, "peak_gib": hardware.peak()}


def _project_all(source: dict, n: int) -> tuple[int, float]:
    """T(x) of training images, then of test images, kept in half precision as `Workbench.projected` does."""
    load = {"resolution": 32, "data_root": source["data_root"]}
    train = loaders.load(source["dataset"], "train", **load)
    T = stl.SparseTransform(cdl.learn(train, DictionaryRecipe(K=K, S=S, lam=LAM, images=200, passes=2)), lam=LAM)
    kept, took = [], 0.0
    for part in (train, loaders.load(source["dataset"], "test", **load)):
        left = min(n - sum(map(len, kept)), len(part))
        started = time.perf_counter()
        with torch.no_grad():
            for first in tqdm(range(0, left, _AT_ONCE), desc="projecting", unit="batch", delay=2):
                kept.append(T(part.x[first : min(first + _AT_ONCE, left)]).half())
        took += time.perf_counter() - started
    return sum(map(len, kept)), took


def _learn_many(source: dict, n: int) -> tuple[int, float]:
    train = loaders.load(source["dataset"], "train", n=n, resolution=32, data_root=source["data_root"])
    started = time.perf_counter()
    cdl.learn(train, DictionaryRecipe(K=K, S=S, lam=LAM, images=len(train), passes=1, held=0))
    return len(train), time.perf_counter() - started


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `python -m benchmarks.bench`; returns its exit status."""
    text = """Time coding and learning beside sporco's and the least any solver must do, and every defense beside STL;
    write bench.json and bench.md. Takes about half an hour, most of it sporco's."""
    parser = argparse.ArgumentParser(prog="benchmarks.bench", description=text)
    common.add_options(parser, "dataset", "data-root", "parts")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the two files")
    parser.set_defaults(run=_bench, dataset="photos")
    return common.run(parser, arguments)


def _bench(options: argparse.Namespace) -> int:
    parts = common.listed(options.parts)
    print(markdown(run(options.out, dataset=options.dataset, data_root=options.data_root or None, parts=parts)))
    print(f"bench: {options.out / 'bench.md'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

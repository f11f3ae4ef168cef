"""Speed, measured: every number is a ratio of two things timed in one process on the same threads."""

import json
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from labkit import cbpdn, cdl, conv, data, provenance, stl
from labkit.recipes import DictionaryRecipe
from labkit.split import split

LAM, K, S = 0.2, 64, 8


def run(
    out: str | Path, *, dataset: str = "photos", data_root: str | None = None, sizes=(32, 64, 224), images: int = 256
) -> dict:
    """Times coding with K = 64, S = 8, λ = 0.2 and writes bench.json and bench.md into `out`.

    Per image size: sporco's `ConvBPDN` at its usual stopping rule (200 iterations, 5e-3), on a few images because it
    takes them one by one; ours at `gap_tol=1e-2`; and the least that any solver must do, one analysis and one
    synthesis by torch's convolutions. Objectives are compared on sporco's images. The exact backward pass of T is
    timed beside its forward pass on the same batch.
    """
    rows = []
    for size in tqdm(sizes, desc="measuring", unit="size"):
        train = data.load(dataset, "train", n=400, resolution=size, data_root=data_root)
        test = data.load(dataset, "test", n=max(8, images * 32**2 // size**2), resolution=size, data_root=data_root)
        d = cdl.learn(train, DictionaryRecipe(K=K, S=S, lam=LAM, images=200, passes=2))
        rows.append({**_coding(split(test.x[:])[1], d, size), "backward_ratio": _backward(test.x[:], d)})
    record = {
        "rows": rows,
        "settings": {"K": K, "S": S, "lambda": LAM, "data": dataset, "threads": torch.get_num_threads()},
        "machine": {"processor": platform.machine(), **provenance.versions("torch", "numba", "sporco")},
    }
    Path(out).mkdir(parents=True, exist_ok=True)
    provenance.write(Path(out) / "bench.json", (json.dumps(record, indent=1) + "\n").encode())
    provenance.write(Path(out) / "bench.md", markdown(record).encode())
    return record


def markdown(record: dict) -> str:
    """The record as a table for people."""
    s = record["settings"]
    lines = [
        f"# Coding speed: {s['data']}, K = {s['K']}, S = {s['S']}, λ = {s['lambda']}, {s['threads']} threads",
        "",
        "| size | n | ours, ms an image | sporco, ms an image | sporco / ours | least, ms an image | ours / least "
        "| objective, ours / sporco's | backward / forward of T |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in record["rows"]:
        lines.append(
            f"| {r['size']}×{r['size']}×{r['channels']} | {r['n']} (sporco {r['n_sporco']}) | {r['ours_ms']:.2f} "
            f"| {r['sporco_ms']:.0f} | {r['sporco_ms'] / r['ours_ms']:.0f}× | {r['least_ms']:.2f} "
            f"| {r['ours_ms'] / r['least_ms']:.1f}× | {r['objective_ratio']:.4f} "
            f"| {r['backward_ratio']:.2f} |"
        )
    lines += [
        "",
        "Least: one analysis and one synthesis by dense convolution. Ratios were taken in one process; "
        "milliseconds are those of the machine at hand.",
        "",
    ]
    return "\n".join(lines)


def _coding(high: Tensor, d: Tensor, size: int) -> dict:
    cbpdn.solve(high[:2], d, LAM)  # compiled and warm
    ours = _seconds(lambda: cbpdn.solve(high, d, LAM))
    z = cbpdn.solve(high, d, LAM).z
    least = _seconds(lambda: (conv.analyze(high, d), conv.synthesize(z, d)))
    n = min(len(high), max(2, 8 * 32**2 // size**2))
    theirs, codes = _sporco(high[:n], d)
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
    torch.autograd.grad(total, x, retain_graph=True)  # compiled and warm
    back = _seconds(lambda: torch.autograd.grad(total, x, retain_graph=True))
    return back / _seconds(lambda: T(x))


def _sporco(high: Tensor, d: Tensor) -> tuple[float, Tensor]:
    """Seconds and codes of sporco's solver, image by image."""
    from sporco.admm.cbpdn import ConvBPDN

    options = ConvBPDN.Options({"MaxMainIter": 200, "RelStopTol": 5e-3, "Verbose": False})
    dictionary = d.numpy().transpose(2, 3, 1, 0)
    codes, seconds = [], 0.0
    for image in high.numpy():
        pixels = image.transpose(1, 2, 0)
        grey = pixels.shape[2] == 1
        started = time.perf_counter()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            solver = ConvBPDN(
                dictionary[:, :, 0] if grey else dictionary, pixels[..., 0] if grey else pixels, LAM, options, dimK=0
            )
            z = solver.solve()
        seconds += time.perf_counter() - started
        codes.append(torch.from_numpy(np.ascontiguousarray(np.squeeze(z).transpose(2, 0, 1))))
    return seconds, torch.stack(codes)


def _seconds(call: Callable[[], object], repeat: int = 3) -> float:
    """The shortest of a few runs: the one that other programs disturbed least."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return min(times)

"""How solvers of CBPDN compare: gap against seconds, cost against the problem's size, and what a gap does to T(x)."""

import time
import timeit
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from labkit.core import hardware, metrics
from labkit.csc import cbpdn, cdl, split
from labkit.evaluation import Workbench
from labkit.models import SparseTransform

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm.auto import tqdm

TOLERANCES = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)
_PEERS, _GAP = 2, 1e-2  # images that sporco solves for, and the gap at which costs are measured
ITERATIONS = (5, 10, 20, 50, 100, 200, 500)


def seconds(call: Callable[[], object], repeat: int = 3) -> float:
    """The shortest of a few runs: the one that other programs disturbed least."""
    return min(timeit.repeat(call, number=1, repeat=repeat))


def kept(bench: Workbench, measure: Callable[..., pd.DataFrame], *given: Any, **how: Any) -> pd.DataFrame:
    """`measure(*given, **how)`, one of the measurements below, made once on this machine and then kept in the store.

    Another processor, number of threads or version measures anew. The table's `attrs["day"]` says when it was made.
    """
    where = [hardware.processor(), torch.get_num_threads(), hardware.versions("torch", "numba", "sporco")]
    hashed = [sha256(a.numpy().tobytes()).hexdigest() if isinstance(a, Tensor) else a for a in given]
    recipe = {"measure": measure.__name__, "given": hashed, "how": how, "where": where}

    def build(_):
        return {}, {"rows": measure(*given, **how).to_dict("list"), "day": datetime.now(UTC).date().isoformat()}

    facts = bench.store.fetch("timing", recipe, build).facts
    table = pd.DataFrame(facts["rows"])
    table.attrs["day"] = facts["day"]
    return table


def race(x: Tensor, d: Tensor, lam: float, *, tolerances=TOLERANCES, iterations=ITERATIONS, progress=True):
    """Seconds an image, and the gap reached, of every solver on the same high-pass images x, in one process.

    Ours run to each of `tolerances`, all images at once; sporco for each of `iterations`, on the first two
    images, one at a time. Each setting starts afresh. Columns: solver, seconds (an image), gap (largest of gap / ½‖x‖²,
    computed alike for all), n.
    """
    half, rows = 0.5 * x.square().flatten(1).sum(1).clamp_min(1e-12), []

    def row(solver, took, z, n):
        gap = cbpdn.duality_gap(z.double(), x[:n].double(), d.double(), lam) / half[:n]
        rows.append({"solver": solver, "seconds": took / n, "gap": float(gap.max()), "n": n})

    sporco(x[:1], d, lam, iterations=1, stop=0.0)  # imported and warm
    runs = [("cd", t) for t in tolerances] + [("admm", t) for t in tolerances] + [("sporco", i) for i in iterations]
    for solver, setting in tqdm(runs, desc="racing", unit="run", disable=not progress, delay=2):
        if solver == "sporco":
            few = x[:_PEERS]
            row(solver, *sporco(few, d, lam, iterations=setting, stop=0.0), len(few))
            continue
        call = lambda: cbpdn.solve(x, d, lam, method=solver, gap_tol=setting, max_iter=3000)  # noqa: B023, E731
        found = call()  # compiled and warm
        row(solver, seconds(call, 2), found.z, len(x))
    return pd.DataFrame(rows)


def first(rows: pd.DataFrame, gap: float) -> pd.DataFrame:
    """Of a race, the fastest setting of each solver that reaches `gap`: solver, ms an image, ratio to the fastest."""
    ready = rows[rows.gap <= gap].sort_values("seconds").groupby("solver").head(1)
    ready = ready.assign(ms=1e3 * ready.seconds, ratio=ready.seconds / ready.seconds.min())
    return ready[["solver", "ms", "ratio", "gap", "n"]].reset_index(drop=True)


def costs(x: Tensor, sweeps: Mapping[str, Sequence[float]], *, K=64, S=8, lam=0.2, progress=True) -> pd.DataFrame:
    """Milliseconds an image to code x (B, C, H, W) in [0, 1] when one of K, S, λ or resolution changes.

    sweeps  values to try, by name: "K", "S", "lam", "resolution" (images resized); the others stay as given
    Filters are patches of the images, not learned ones. Columns: what, value, ms, active, n.
    """
    rows, runs = [], [(name, value) for name, values in sweeps.items() for value in values]
    for name, value in tqdm(runs, desc="measuring", unit="size", disable=not progress, delay=2):
        at = {"K": K, "S": S, "lam": lam, "resolution": x.shape[-1], name: value}
        size = (at["resolution"], at["resolution"])
        seen = x if size == x.shape[-2:] else F.interpolate(x, size, mode="bilinear", antialias=True).clamp(0, 1)
        high = split(seen)[1]
        d = cdl.patches(high, at["K"], at["S"], torch.Generator().manual_seed(0))
        solve = lambda: cbpdn.solve(high, d, at["lam"], gap_tol=_GAP)  # noqa: B023, E731
        active, took = float(metrics.sparsity(solve().z).float().mean()), seconds(solve, 2)
        rows.append({"what": name, "value": value, "ms": 1e3 * took / len(x), "active": active, "n": len(x)})
    return pd.DataFrame(rows)


def exactness(x: Tensor, d: Tensor, lam: float, *, tolerances=(*TOLERANCES, 1e-4)) -> pd.DataFrame:
    """How close T(x) is to its converged self at each gap: columns tolerance, psnr (mean, dB), worst (dB), n."""
    exact, rows = SparseTransform(d.double(), lam=lam, gap_tol=1e-6)(x.double()), []
    for tolerance in tolerances:
        found = metrics.psnr(SparseTransform(d, lam=lam, gap_tol=tolerance)(x).double(), exact)
        rows.append((tolerance, float(found.mean()), float(found.min()), len(x)))
    return pd.DataFrame(rows, columns=["tolerance", "psnr", "worst", "n"])


def sporco(x: Tensor, d: Tensor, lam: float, *, iterations: int = 200, stop: float = 5e-3) -> tuple[float, Tensor]:
    """Seconds taken and codes (B, K, H, W) by sporco's `ConvBPDN`, image by image, stopped as in the paper's code."""
    from sporco.admm.cbpdn import ConvBPDN

    options = ConvBPDN.Options({"MaxMainIter": iterations, "RelStopTol": stop, "Verbose": False})
    codes, seconds = [], 0.0
    for image in x.split(1):
        filters, pixels = arrays(d, image)
        took, z = timed(lambda: ConvBPDN(filters, pixels[..., 0], lam, options, dimK=0).solve())  # noqa: B023
        seconds += took
        codes.append(torch.from_numpy(np.ascontiguousarray(z.reshape(*x.shape[2:], -1).transpose(2, 0, 1))))
    return seconds, torch.stack(codes)


def arrays(*batches: Tensor) -> list[np.ndarray]:
    """Batches (B, C, H, W) as sporco takes them: (H, W, C, B), and (H, W, B) where they are grey."""
    arrays = [batch.numpy().transpose(2, 3, 1, 0) for batch in batches]
    return [array[:, :, 0] if array.shape[2] == 1 else array for array in arrays]


def timed(call: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Seconds taken and the answer; sporco's warnings are not shown."""
    started = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = call()
    return time.perf_counter() - started, found

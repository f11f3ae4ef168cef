"""Codes of a batch of images on the CPU: dense passes by torch between steps of compiled coordinate descent.

Only the last pass over an image, which certifies, must be exact. On processors with bfloat16 matrices (AMX), passes
that only look for coefficients to enter use it, for a tenth of the time.
"""

import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from labkit.core.hardware import has_bfloat16
from labkit.csc import atoms, descent
from labkit.csc.codes import Code, Codes

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

_PATIENCE = 10  # exact passes without a smaller gap after which an image is left as it is
_WINDOW_BYTES = 64 * 2**20  # correlations held at once: enough images to fill the cores
_CALL_BYTES = 8 * 2**20  # correlations computed at once: what the caches hold
_ROUGH_GAP = 5e-3  # above it, correlations in bfloat16 do: they err by about 0.3 %, and blur the relative gap as much
_HAS_ROUGH = has_bfloat16(torch.device("cpu"))


def solve(x: Tensor, d: Tensor, lam: Tensor, start: Codes | None, gap_tol: float, max_iter: int):
    """Codes of x (B, C, H, W) for filters d (K, C, S, S) of any norm and λ (B,); see `cbpdn.solve`.

    Returns Codes, what they synthesize (B, C, H, W), duality gaps (B,) in float64, and the most passes of an image.
    """
    _announce()
    batch = _Batch(x, d, lam, start, gap_tol, max_iter)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        while batch.refill(pool):
            found, live = batch.correlations(), list(batch.slot)
            pieces = min(len(live), 4 * torch.get_num_threads())  # handing over one by one costs more than it balances

            def work(first, found=found, live=live, pieces=pieces):
                for b in live[first::pieces]:
                    batch.step(b, found[b])

            list(pool.map(work, range(pieces)))
            batch.retire()
    codes = Codes(batch.codes, (len(x), len(d), *x.shape[2:]), x.dtype)
    return codes, x - batch.rest, torch.from_numpy(batch.gap).clamp_min(0), int(batch.passes.max(initial=0))


def _announce() -> None:
    """Say so when the loops will be compiled first: numba does it silently, and keeps the result on disk."""
    kept = Path(descent.advance.stats.cache_path).glob("descent.advance-*.nbi")
    fresh = (file.stat().st_mtime > Path(descent.__file__).stat().st_mtime for file in kept)
    if not descent.advance.signatures and not any(fresh):
        print("labkit: compiling its loops for this machine (about ten seconds, once)", file=sys.stderr, flush=True)


class _Batch:
    """Where the images of a batch stand; as many are worked on at once as there are slots."""

    def __init__(self, x, d, lam, start, gap_tol, max_iter):
        B, C, H, W = x.shape
        K, S = len(d), d.shape[-1]
        norms = d.flatten(1).norm(dim=1)
        alive, longest = torch.where(norms > 0, norms, 1.0), float(norms.max()) or 1.0
        # Filters of unit norm, with λ over the norm for each, are the same problem in rescaled codes.
        self.pixels, self.weights = x.numpy(), (1 / alive).numpy()
        self.frame, self.filters = atoms.frame(C, H, W, S), atoms.layout(d / alive[:, None, None, None])
        # For the dense passes scaled the other way, so that one threshold does for all filters.
        self.dense = (d / longest).contiguous(memory_format=torch.channels_last)
        self.lam, self.level = lam.numpy(), (lam / longest).numpy()
        self.half = 0.5 * x.double().square().flatten(1).sum(1).numpy()
        self.target, self.max_iter = gap_tol * self.half, max_iter
        none, self.rest = np.empty(0, np.int32), torch.empty_like(x)
        self.codes = [Code(none, none, none, np.empty(0, self.pixels.dtype))] * B
        self.gap, self.best = np.zeros(B), np.full(B, np.inf)
        self.passes, self.stuck, self.done = np.zeros(B, int), np.zeros(B, int), np.zeros(B, bool)
        self.rough = np.full(B, _HAS_ROUGH and x.dtype == torch.float32 and max_iter > 0)
        if start is not None:
            scale = alive.numpy()
            self.codes = [code._replace(v=code.v * scale[code.k]) for code in start.codes]
        slots = min(B, max(2 * torch.get_num_threads(), _WINDOW_BYTES // (K * H * W * x.element_size())))
        self.frames = np.zeros((slots, H * self.frame.row), self.pixels.dtype)
        self.shown = np.zeros((slots, H + S - 1, W + S - 1, C), self.pixels.dtype)
        self.waiting, self.free, self.slot = iter(range(B)), list(range(slots)), {}

    def refill(self, pool) -> bool:
        """Put waiting images into free slots; False when there is nothing left to do."""
        fresh = list(itertools.islice(self.waiting, len(self.free)))
        self.slot.update({b: self.free.pop() for b in fresh})
        list(pool.map(self._begin, fresh))
        return bool(self.slot)

    def _begin(self, b):
        descent.subtract(self.pixels[b], self.filters, *self.codes[b], self.frames[self.slot[b]], self.frame)
        self._show(b)

    def _show(self, b):
        """Put the residual where the next pass reads it, with its borders wrapped."""
        C, H, _, S, row, _ = self.frame
        shown, first = self.shown[self.slot[b]].reshape(H + S - 1, -1), (S - 1) * C
        shown[:H] = self.frames[self.slot[b]].reshape(H, row)[:, first : first + shown.shape[1]]
        shown[H:] = shown[: S - 1]

    def correlations(self) -> dict[int, np.ndarray]:
        """Dᵀr for all images in slots, as numbers or as the bits of bfloat16: (H · W · K,) each."""
        found, K = {}, len(self.weights)
        per_call = max(1, _CALL_BYTES // (4 * K * self.frame.H * self.frame.W))
        for rough in (True, False):
            images = [b for b in self.slot if self.rough[b] == rough]
            for first in range(0, len(images), per_call):
                part = images[first : first + per_call]
                shown = torch.from_numpy(self.shown[[self.slot[b] for b in part]])
                shown = (shown.bfloat16() if rough else shown).permute(0, 3, 1, 2)
                c = F.conv2d(shown, self.dense.to(shown.dtype)).permute(0, 2, 3, 1).contiguous()
                c = c.view(torch.int16).numpy().view(np.uint16) if rough else c.numpy()
                found.update(zip(part, c.reshape(len(part), -1), strict=True))
        return found

    def step(self, b: int, c: np.ndarray) -> None:
        """Certify the code of an image, given its Dᵀr; if its gap is not small enough, improve it."""
        residual = self.frames[self.slot[b]]
        top, arg = _largest(c, len(self.weights), self.level[b])
        worst = float(top.max()) / float(self.level[b]) + 1
        last = self.passes[b] >= self.max_iter
        target = -1.0 if self.rough[b] else np.inf if last else self.target[b]
        self.gap[b], *code = descent.advance(
            self.pixels[b], residual, *self.codes[b], top, arg, worst, self.filters, self.weights * self.lam[b],
            self.frame, target, self.passes[b] < 2,
        )  # fmt: skip
        self.codes[b] = Code(*code)
        self.passes[b] += 1
        if self.rough[b]:
            near = self.gap[b] <= max(2 * self.target[b], _ROUGH_GAP * self.half[b])
            self.rough[b] = not near and self.passes[b] < self.max_iter
        else:
            # At the limit of the number format nothing improves any more; the gap says how far that got.
            self.stuck[b] = 0 if self.gap[b] < self.best[b] else self.stuck[b] + 1
            self.best[b] = min(self.best[b], self.gap[b])
            self.done[b] = self.gap[b] <= target or self.stuck[b] >= _PATIENCE
        if self.done[b]:
            atoms.take(residual, self.rest.numpy()[b], self.frame)
            code = self.codes[b]
            self.codes[b] = code._replace(v=code.v * self.weights[code.k])
        else:
            self._show(b)

    def retire(self) -> None:
        """Free the slots of images that are done: in order, so that who shares a pass is not left to chance."""
        for b in [b for b in self.slot if self.done[b]]:
            self.free.append(self.slot.pop(b))


def _largest(c: np.ndarray, K: int, level: np.floating) -> tuple[np.ndarray, np.ndarray]:
    """Per pixel of c (pixels · K,), floats or bits of bfloat16, the largest |c| less `level`, and its filter."""
    kind = np.dtype(f"u{c.itemsize}").type
    peak, arg = np.empty(len(c) // K, kind), np.empty(len(c) // K, np.int32)
    short = c.itemsize == 2
    bound = level.view(np.uint32) >> 16 if short else level.view(kind)  # rounded down, a few filters more are named
    descent.scan(c.view(kind), K, kind(np.iinfo(kind).max // 2), kind(bound), peak, arg)
    return (peak.astype(np.uint32) << 16 if short else peak).view(level.dtype) - level, arg

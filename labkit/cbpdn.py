"""Convolutional basis pursuit denoising (CBPDN): sparse codes for a fixed dictionary, with a certificate."""

import itertools
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from labkit import conv, descent
from labkit.errors import InputError

_CHUNK_BYTES = 32 * 2**20  # codes worked on at once on the CPU: enough to fill the cores, little enough for the caches

_PATIENCE = 10  # passes without a smaller gap after which an image is left as it is


@dataclass(frozen=True)
class Solution:
    """Codes z (B, K, H, W), their duality gap (B,), and how they were reached.

    gap         upper bound on objective(z) − optimum, per image, in the objective's own unit
    iterations  passes over the dictionary that the slowest image took
    trace       largest relative gap, gap / ½‖x‖², after each pass
    """

    z: Tensor
    gap: Tensor
    iterations: int
    trace: tuple[float, ...]


def objective(z: Tensor, x: Tensor, d: Tensor, lam: float | Tensor) -> Tensor:
    """½‖x − Σₖ dₖ ∗ zₖ‖² + λ‖z‖₁ for each image: (B,). Shapes as in `solve`."""
    residual = x - conv.synthesize(z, d)
    return 0.5 * residual.square().flatten(1).sum(1) + lam * z.abs().flatten(1).sum(1)


def duality_gap(z: Tensor, x: Tensor, d: Tensor, lam: float | Tensor) -> Tensor:
    """An upper bound, per image, on how far objective(z) is above its minimum: (B,).

    The dual of CBPDN is  max ⟨x, θ⟩ − ½‖θ‖²  over ‖Dᵀθ‖∞ ≤ λ; θ is the residual, scaled into that set.
    """
    lam = torch.as_tensor(lam, dtype=x.dtype, device=x.device).expand(len(x))
    return _gap(z, x, d, lam[:, None].expand(-1, len(d)))


def lambda_max(x: Tensor, d: Tensor) -> Tensor:
    """The smallest λ at which an image's code is all zero: ‖Dᵀx‖∞, (B,)."""
    return conv.analyze(x, d).abs().flatten(1).amax(1)


def solve(
    x: Tensor,
    d: Tensor,
    lam: float | Tensor,
    *,
    method: str = "auto",
    max_iter: int = 1000,
    gap_tol: float = 1e-2,
    z0: Tensor | None = None,
) -> Solution:
    """Sparse codes of a batch of images.

    Minimises  ½‖x − Σₖ dₖ ∗ zₖ‖² + λ‖z‖₁  over z, separately for each image, with circular boundaries, until the
    duality gap is at most `gap_tol` · ½‖x‖².

    x       (B, C, H, W)  high-pass images, float32 or float64, pixel range one
    d       (K, C, S, S)  filters, of any norm, same dtype
    lam     float or (B,) λ in pixel units, positive; `lambda_max(x, d)` is where z becomes 0
    method  "cd", coordinate descent over a working set (CPU; see `descent`); "admm", batched ADMM with one C×C solve
            per frequency (Wohlberg, "Efficient convolutional sparse coding", ICASSP 2014; CPU and CUDA); "auto" is cd
            on CPU and admm on CUDA
    z0      (B, K, H, W)  a code to start from

    Returns a Solution whose `gap` (B,) bounds the distance to the optimum. No gradient flows through `solve`; see
    `stl.SparseTransform` for that. Raises InputError on wrong shapes, NaN, λ ≤ 0 or a filter larger than the image.
    """
    lam = _checked(x, d, lam, z0)
    if method == "auto":
        method = "admm" if x.is_cuda else "cd"
    solvers = {"cd": _descent, "admm": _admm}
    if method not in solvers:
        raise InputError(f"unknown method {method!r}; use 'cd', 'admm' or 'auto'")
    with torch.no_grad():
        # With unit-norm filters, and λ over the norm for each, the same problem in rescaled codes: one code path.
        norms = d.flatten(1).norm(dim=1)
        alive = norms > 0
        unit = d / torch.where(alive, norms, 1.0)[:, None, None, None]
        weights = torch.where(alive, 1 / norms, torch.inf)
        start = None if z0 is None else (z0 * norms[:, None, None]).contiguous()
        found = solvers[method](x.contiguous(), unit.contiguous(), lam, weights, start, gap_tol, max_iter)
        scale = torch.where(alive, 1 / norms, 0.0)
        z = found.z if torch.all(scale == 1) else found.z.mul_(scale[:, None, None])
    return Solution(z, found.gap, found.iterations, found.trace)


def _checked(x, d, lam, z0) -> Tensor:
    if x.ndim != 4:
        raise InputError(f"x must be (B, C, H, W), got {tuple(x.shape)}; a single image needs x[None]")
    if x.dtype not in (torch.float32, torch.float64) or x.dtype != d.dtype:
        raise InputError(f"x and d must both be float32 or both float64, got {x.dtype} and {d.dtype}; use .float()")
    conv.check(d, x.shape[-2:], x.shape[1])
    if not torch.isfinite(x).all():
        raise InputError("x holds NaN or infinite values; check how the images were made")
    lam = torch.as_tensor(lam, dtype=x.dtype, device=x.device).expand(len(x))
    if not (torch.isfinite(lam).all() and (lam > 0).all()):
        raise InputError("λ must be positive and finite; λ = 0 would reproduce the image as it is")
    if z0 is not None and z0.shape != (len(x), len(d), *x.shape[-2:]):
        raise InputError(f"z0 must be {(len(x), len(d), *x.shape[-2:])}, got {tuple(z0.shape)}")
    return lam


def _descent(x, d, lam, weights, z0, gap_tol, max_iter) -> Solution:
    """Working-set coordinate descent: dense correlations by torch for a chunk of images, the rest by compiled code."""
    if x.is_cuda:
        raise InputError("method 'cd' runs on the CPU only; use 'admm' on a GPU")
    gram = conv.gram(d).permute(0, 2, 3, 1).contiguous().numpy()
    z = x.new_zeros(len(x), len(d), *x.shape[-2:]) if z0 is None else z0.clone()
    gap = x.new_zeros(len(x), dtype=torch.float64)
    targets = gap_tol * 0.5 * x.double().square().flatten(1).sum(1).numpy()
    chunk = max(1, _CHUNK_BYTES // (z[0].numel() * z.element_size()))
    trace = []
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for first in range(0, len(x), chunk):
            part = slice(first, first + chunk)
            thresholds = (lam[part, None] * weights).numpy()
            seen = _descend(x[part], d, thresholds, gram, z[part], gap[part], targets[part], max_iter, pool)
            trace = [max(pair) for pair in itertools.zip_longest(trace, seen, fillvalue=0.0)]
    return Solution(z, gap.clamp_min(0).to(x.dtype), len(trace) - 1, tuple(trace))


def _descend(x, d, thresholds, gram, z, gap, targets, max_iter, pool) -> list[float]:
    """Bring the codes z of a chunk of images, and their gaps, to the targets, in place; returns the trace."""
    pixels, codes, filters, gaps = x.numpy(), z.numpy(), d.numpy(), gap.numpy()
    r = torch.empty_like(x)
    rests = r.numpy()
    links = list(pool.map(lambda i: descent.begin(pixels[i], codes[i], gram, filters, rests[i]), range(len(x))))
    best, stuck = np.full(len(x), np.inf), np.zeros(len(x), int)
    half = 0.5 * x.double().square().flatten(1).sum(1).clamp_min(1e-300).numpy()
    live, trace = np.arange(len(x)), []
    for step in range(max_iter + 1):
        c = conv.analyze(r[live], d).numpy()
        # A few pieces for each thread balance the load; handing images over one by one costs more than it gains.
        pieces = min(len(live), 4 * torch.get_num_threads())

        def work(first, live=live, c=c, step=step, pieces=pieces):
            for q in range(first, len(live), pieces):
                i = live[q]
                target = targets[i] if step < max_iter else np.inf
                gaps[i], links[i] = descent.advance(
                    pixels[i], rests[i], c[q], codes[i], links[i], gram, filters, thresholds[i], target, step < 2
                )

        list(pool.map(work, range(pieces)))
        trace.append(float((gaps[live] / half[live]).max()))
        # At the limit of the number format nothing improves any more; the gap says how far that got.
        stuck[live] = np.where(gaps[live] < best[live], 0, stuck[live] + 1)
        best[live] = np.minimum(best[live], gaps[live])
        live = live[(gaps[live] > targets[live]) & (stuck[live] < _PATIENCE)]
        if not len(live):
            break
    return trace


def _admm(x, d, lam, weights, z0, gap_tol, max_iter) -> Solution:
    """Batched ADMM, over-relaxed, with a penalty ρ per image balanced by its residuals (Boyd et al. 2011, §3.4)."""
    H, W = x.shape[-2:]
    threshold = lam[:, None] * weights
    df = torch.fft.rfft2(d, s=(H, W)).permute(2, 3, 1, 0).contiguous()  # (H, F, C, K)
    values, vectors = torch.linalg.eigh(df @ df.mH)
    dx = _apply(df.mH, torch.fft.rfft2(x))
    z = x.new_zeros(len(x), len(d), H, W) if z0 is None else z0
    u = torch.zeros_like(z)
    rho = _per_image(5 * lam + 0.5)
    half = 0.5 * x.square().flatten(1).sum(1)
    best, best_gap, trace, step = z, _gap(z, x, d, threshold), [], 0
    for step in range(1, max_iter + 1):
        # (DᴴD + ρ)⁻¹ v = (v − Dᴴ (DDᴴ + ρ)⁻¹ D v) / ρ: DᴴD has rank ≤ C, so Woodbury beats inverting K×K.
        v = dx + rho * torch.fft.rfft2(z - u)
        inner = _apply(vectors.mH, _apply(df, v)) / (values.permute(2, 0, 1) + rho)
        y = torch.fft.irfft2((v - _apply(df.mH, _apply(vectors, inner))) / rho, s=(H, W))
        relaxed, before = 1.8 * y - 0.8 * z, z
        moved = relaxed + u
        limit = threshold[:, :, None, None] / rho
        z = moved - torch.clamp(moved, -limit, limit)
        u = moved - z
        if step % 10 and step < max_iter:
            continue
        gap = _gap(z, x, d, threshold)
        best = torch.where(_per_image(gap < best_gap), z, best)
        best_gap = torch.minimum(gap, best_gap)
        trace.append(float((best_gap / half.clamp_min(1e-30)).max()))
        if (best_gap <= gap_tol * half).all():
            break
        primal = _size(y - z) / torch.maximum(_size(y), _size(z)).clamp_min(1e-12)
        dual = _size(z - before) / _size(u).clamp_min(1e-12)
        factor = _per_image((primal / dual.clamp_min(1e-12)).sqrt().clamp(0.5, 2.0))
        rho, u = rho * factor, u / factor
    return Solution(best.clone(), best_gap.clamp_min(0), step, tuple(trace))


def _gap(z, x, d, threshold) -> Tensor:
    """The duality gap with a threshold (B, K) of its own for every filter; an infinite one forbids its filter."""
    residual = x - conv.synthesize(z, d)
    worst = (conv.analyze(residual, d).abs().flatten(2).amax(2) / threshold).amax(1)
    rr = residual.square().flatten(1).sum(1)
    xr = (x * residual).flatten(1).sum(1)
    tiny = torch.finfo(x.dtype).tiny
    scale = torch.clamp(xr / rr.clamp_min(tiny), min=-1 / worst.clamp_min(tiny), max=1 / worst.clamp_min(tiny))
    penalty = (torch.where(torch.isinf(threshold), 0.0, threshold) * z.abs().flatten(2).sum(2)).sum(1)
    return 0.5 * rr + penalty - (scale * xr - 0.5 * scale**2 * rr)


def _size(a: Tensor) -> Tensor:
    return a.flatten(1).norm(dim=1)


def _per_image(a: Tensor) -> Tensor:
    return a[:, None, None, None]


def _apply(m: Tensor, v: Tensor) -> Tensor:
    """A matrix per frequency, m (H, F, A, B), applied to v (batch, B, H, F): (batch, A, H, F)."""
    return (m @ v.permute(2, 3, 1, 0)).permute(3, 2, 0, 1)

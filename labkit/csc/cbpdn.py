"""Convolutional basis pursuit denoising (CBPDN): sparse codes for a fixed dictionary, with a certificate."""

from dataclasses import dataclass
from functools import cached_property

from labkit.core import InputError
from labkit.csc import batch_solver, conv
from labkit.csc.codes import Codes

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """Codes of a batch of images, their duality gaps, and how they were reached.

    code        the codes as the solver leaves them: `codes.Codes` on the CPU, dense (B, K, H, W) from ADMM
    synthesis   (B, C, H, W)  D z
    gap         (B,) upper bound on objective(z) − optimum, per image, in the objective's own unit
    iterations  passes over the dictionary that the slowest image took
    """

    code: Codes | Tensor
    synthesis: Tensor
    gap: Tensor
    iterations: int

    @cached_property
    def z(self) -> Tensor:
        """The codes, dense: (B, K, H, W)."""
        return self.code.dense() if isinstance(self.code, Codes) else self.code

    def objective(self, x: Tensor, lam: float | Tensor) -> Tensor:
        """`objective` of these codes for the images x they are of: (B,)."""
        l1 = self.code.l1() if isinstance(self.code, Codes) else self.code.abs().flatten(1).sum(1)
        return 0.5 * (x - self.synthesis).square().flatten(1).sum(1) + lam * l1


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
    x: Tensor, d: Tensor, lam: float | Tensor, *,
    method: str = "auto", max_iter: int = 1000, gap_tol: float = 1e-2, z0: Tensor | Codes | None = None,
) -> Solution:  # fmt: skip
    """Sparse codes of a batch of images.

    Minimises  ½‖x − Σₖ dₖ ∗ zₖ‖² + λ‖z‖₁  over z, separately for each image, with circular boundaries, until the
    duality gap is at most `gap_tol` · ½‖x‖².

    x       (B, C, H, W)  high-pass images, float32 or float64, pixel range one
    d       (K, C, S, S)  filters, of any norm, same dtype
    lam     float or (B,) λ in pixel units, positive; `lambda_max(x, d)` is where z becomes 0
    method  "cd", coordinate descent over a working set (CPU; see `descent`); "admm", batched ADMM with one C×C solve
            per frequency (Wohlberg, "Efficient convolutional sparse coding", ICASSP 2014; CPU and CUDA); "auto" is cd
            on CPU and admm on CUDA
    z0      (B, K, H, W)  a code to start from, dense or as `Codes`

    Returns a Solution whose `gap` (B,) bounds the distance to the optimum. No gradient flows through it (but through
    `stl.SparseTransform`). Raises InputError on wrong shapes, NaN, λ ≤ 0 or a filter larger than the image.
    """
    lam = _checked(x, d, lam, z0)
    if method == "auto":
        method = "admm" if x.is_cuda else "cd"
    if method not in ("cd", "admm"):
        raise InputError(f"unknown method {method!r}; use 'cd', 'admm' or 'auto'")
    with torch.no_grad():
        if method == "admm":
            z0 = z0.dense().to(x) if isinstance(z0, Codes) else z0
            return _admm(x.contiguous(), d, lam, z0, gap_tol, max_iter)
        if x.is_cuda:
            raise InputError("method 'cd' runs on the CPU only; use 'admm' on a GPU")
        start = z0 if z0 is None or isinstance(z0, Codes) else Codes.of(z0)
        codes, synthesis, gap, passes = batch_solver.solve(x.contiguous(), d, lam, start, gap_tol, max_iter)
        return Solution(codes, synthesis, gap.to(x.dtype), passes - 1)


def prepare() -> None:
    """Have the solver's loops compiled now (and announced), rather than in the middle of something."""
    pixel = torch.zeros([1] * 4)
    solve(pixel, pixel, 1.0, method="cd")


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
        raise InputError("λ must be positive and finite; choose another, as λ = 0 would reproduce the image as it is")
    if z0 is not None and tuple(z0.shape) != (len(x), len(d), *x.shape[2:]):
        raise InputError(f"z0 must be {(len(x), len(d), *x.shape[2:])}, got {tuple(z0.shape)}")
    return lam


def _admm(x, d, lam, z0, gap_tol, max_iter) -> Solution:
    """Batched ADMM, over-relaxed, with a penalty ρ per image balanced by its residuals (Boyd et al. 2011, §3.4)."""
    H, W = x.shape[-2:]
    # With unit-norm filters, and λ over the norm for each, the same problem in rescaled codes.
    norms = d.flatten(1).norm(dim=1)
    scale = torch.where(norms > 0, 1 / norms, 0.0)[:, None, None]
    original, d = d, d * scale[:, None]
    threshold = lam[:, None] * torch.where(norms > 0, 1 / norms, torch.inf)
    df = torch.fft.rfft2(d, s=(H, W)).permute(2, 3, 1, 0).contiguous()  # (H, F, C, K)
    values, vectors = torch.linalg.eigh(df @ df.mH)
    dx = _apply(df.mH, torch.fft.rfft2(x))
    z = x.new_zeros(len(x), len(d), H, W) if z0 is None else z0 * norms[:, None, None]
    u = torch.zeros_like(z)
    rho, half = _per_image(5 * lam + 0.5), 0.5 * x.square().flatten(1).sum(1)
    best, best_gap, step = z, _gap(z, x, d, threshold), 0
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
        if (best_gap <= gap_tol * half).all():
            break
        primal = _size(y - z) / torch.maximum(_size(y), _size(z)).clamp_min(1e-12)
        dual = _size(z - before) / _size(u).clamp_min(1e-12)
        factor = _per_image((primal / dual.clamp_min(1e-12)).sqrt().clamp(0.5, 2.0))
        rho, u = rho * factor, u / factor
    best = best * scale
    return Solution(best, conv.synthesize(best, original), best_gap.clamp_min(0), step)


def _gap(z, x, d, threshold) -> Tensor:
    """The duality gap with a threshold (B, K) of its own for every filter; an infinite one forbids its filter."""
    residual = x - conv.synthesize(z, d)
    worst = (conv.analyze(residual, d).abs().flatten(2).amax(2) / threshold).amax(1)
    rr, xr = residual.square().flatten(1).sum(1), (x * residual).flatten(1).sum(1)
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

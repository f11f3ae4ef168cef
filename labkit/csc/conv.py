"""Circular convolution of codes with a dictionary, and its adjoint.

Filters have their origin at the top-left corner, as in sporco: x[u] = Σₖ Σₛ dₖ[s] zₖ[u − s], indices modulo (H, W).
"""

from labkit.core import InputError
from labkit.csc import codes

import torch
import torch.nn.functional as F
from torch import Tensor


def check(d: Tensor, size: tuple[int, int] | torch.Size | None = None, channels: int | None = None) -> None:
    """Raise InputError unless `d` is a (K, C, S, S) dictionary for images of this size and channel number."""
    if d.ndim != 4 or d.shape[2] != d.shape[3]:
        raise InputError(f"d must be (K, C, S, S), got {tuple(d.shape)}; a grey one needs a channel axis: d[:, None]")
    if not torch.is_floating_point(d) or d.dtype in (torch.float16, torch.bfloat16):
        raise InputError(f"d must be float32 or float64, got {d.dtype}; convert with d.float()")
    if not torch.isfinite(d).all():
        raise InputError("the dictionary holds NaN or infinite values; learn it again or load another file")
    if channels is not None and d.shape[1] != channels:
        raise InputError(f"the dictionary has {d.shape[1]} channel(s), the image {channels}; learn one on such images")
    if size is not None and d.shape[-1] > min(size):
        S, h, w = d.shape[-1], *size
        raise InputError(f"filters of {S}×{S} are larger than the image of {h}×{w}; use a smaller S or larger images")


def synthesize(z: Tensor, d: Tensor) -> Tensor:
    """Images from codes: Σₖ dₖ ∗ zₖ (paper, the constraint of Eq. 2).

    z (B, K, H, W) and d (K, C, S, S) give (B, C, H, W). Differentiable in both.
    """
    pad = d.shape[-1] - 1
    return F.conv2d(F.pad(z, (pad, 0, pad, 0), mode="circular"), d.flip(2, 3).transpose(0, 1))


def analyze(x: Tensor, d: Tensor) -> Tensor:
    """The adjoint of `synthesize` in z: correlations of x with every filter at every place.

    x (B, C, H, W) and d (K, C, S, S) give (B, K, H, W). Differentiable in both.
    """
    pad = d.shape[-1] - 1
    return F.conv2d(F.pad(x, (0, pad, 0, pad), mode="circular"), d)


def correlations(z: Tensor | codes.Codes, x: Tensor, S: int) -> tuple[Tensor, Tensor]:
    """Correlations of codes with each other and with images x (B, C, H, W), summed over the batch, in float64.

    ztz (K, K, 2S−1, 2S−1): entry (k, l, δ + S − 1) is Σᵤ zₖ[u] z_l[u + δ], so that ‖D z‖² = Σ dₖ[s] d_l[t] · entry at
    δ = s − t. ztx (K, C, S, S): entry (k, c, s) is Σᵤ zₖ[u] x_c[u + s].

    On the CPU only the few non-zero coefficients are visited.
    """
    if x.is_cuda:
        return _dense_correlations(z, x, S)
    return codes.correlations(codes.Codes.of(z) if isinstance(z, Tensor) else z, x, S)


def _dense_correlations(z: Tensor, x: Tensor, S: int) -> tuple[Tensor, Tensor]:
    """The same as one matrix product per lag: much more arithmetic, but the kind that a GPU does well."""
    K, C = z.shape[1], x.shape[1]
    ztz = z.new_zeros(K, K, 2 * S - 1, 2 * S - 1, dtype=torch.float64)
    ztx = z.new_zeros(K, C, S, S, dtype=torch.float64)
    flat = z.transpose(0, 1).flatten(1)
    for p in range(2 * S - 1):
        for q in range(2 * S - 1):
            moved = z.roll((S - 1 - p, S - 1 - q), dims=(2, 3)).transpose(0, 1).flatten(1)
            ztz[:, :, p, q] = flat @ moved.T
    for p in range(S):
        for q in range(S):
            ztx[:, :, p, q] = flat @ x.roll((-p, -q), dims=(2, 3)).transpose(0, 1).flatten(1).T
    return ztz, ztx

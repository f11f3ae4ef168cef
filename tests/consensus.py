"""Consensus ADMM for filters with fixed codes, in the Fourier domain: the paper's own filter update, to compare with.

Each image has filters of its own, as large as the image, and all must agree on small ones (Choudhury et al., ICCV 2017;
Boyd et al. 2011, Section 7.1). `cdl.update` solves the same problem from statistics that do not grow with the images.
"""

import torch
from torch import Tensor


def update(d: Tensor, z: Tensor, x: Tensor, *, max_iter: int = 50, rho: float | None = None) -> Tensor:
    """Filters that minimise ½ Σ‖x − Σₖ dₖ ∗ zₖ‖² subject to ‖dₖ‖ ≤ 1, started from d (K, C, S, S).

    z (B, K, H, W) and x (B, C, H, W) as in `cdl.statistics`. `rho` is the penalty at the start, by default the mean
    energy of a code's map; residual balancing adapts it.
    """
    (_, K, H, W), (C, S) = z.shape, (x.shape[1], d.shape[-1])
    zf = torch.fft.rfft2(z)[:, None]  # (B, 1, K, H, F)
    xf = torch.fft.rfft2(x)[:, :, None]  # (B, C, 1, H, F)
    energy = zf.abs().square().sum(2, keepdim=True)
    rho = rho or float(energy.mean()) / K + 1e-12
    wide = d.new_zeros(C, K, H, W)
    wide[..., :S, :S] = d.transpose(0, 1)
    u = wide.new_zeros(len(x), C, K, H, W)
    for _ in range(max_iter):
        # Per image, channel and frequency (conj(z) zᵀ + ρ) g = conj(z) x + ρ v, a rank-one system.
        v = torch.fft.rfft2(wide - u)
        g = zf.conj() * xf + rho * v
        g = (g - zf.conj() * (zf * g).sum(2, keepdim=True) / (energy + rho)) / rho
        own = torch.fft.irfft2(g, s=(H, W))
        before, agreed = wide, (own + u).mean(0)
        wide = torch.zeros_like(agreed)
        inside = agreed[..., :S, :S]
        wide[..., :S, :S] = inside / inside.square().sum((0, 2, 3), keepdim=True).sqrt().clamp_min(1)
        u = u + own - wide
        primal = float((own - wide).norm()) / max(float(own.norm()), 1e-12)
        dual = rho * float((wide - before).norm()) * len(x) ** 0.5 / max(rho * float(u.norm()), 1e-12)
        factor = min(max((primal / max(dual, 1e-12)) ** 0.5, 0.5), 2.0)
        rho, u = rho * factor, u / factor
    return wide[..., :S, :S].transpose(0, 1).contiguous()

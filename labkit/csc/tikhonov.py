"""The low-pass / high-pass split of an image by a quadratic (Tikhonov) filter.

The paper does not mention it; the authors' released code does it before coding, by sporco's `tikhonov_filter` with
weight 5 and a padding of 16. This is the same filter in torch, batched and differentiable.
"""

import torch
from torch import Tensor


def extend(x: Tensor, pad: int) -> Tensor:
    """Images (..., H, W) extended by `pad` mirrored pixels on every side, the edge repeated (numpy's "symmetric")."""
    for axis in (-2, -1):
        size = x.shape[axis]
        i = torch.arange(-pad, size + pad, device=x.device) % (2 * size)
        x = x.index_select(axis, torch.where(i < size, i, 2 * size - 1 - i))
    return x


def split(x: Tensor, weight: float = 5.0, pad: int = 16) -> tuple[Tensor, Tensor]:
    """Low-pass and high-pass parts of images; low + high is x, to the last bit of rounding.

    low minimises ½‖low − x‖² + (weight / 2)‖∇low‖² on the image extended by `pad` mirrored pixels.

    x       (B, C, H, W)  images, any range
    weight  0 gives low = x and high = 0; `inf` gives low = 0, so that everything is coded
    """
    if weight == float("inf"):
        return torch.zeros_like(x), x
    H, W = x.shape[-2:]
    wide = extend(x, pad)
    h, w = wide.shape[-2:]
    fy = 2 - 2 * torch.cos(2 * torch.pi * torch.arange(h, device=x.device, dtype=torch.float64) / h)
    fx = 2 - 2 * torch.cos(2 * torch.pi * torch.arange(w // 2 + 1, device=x.device, dtype=torch.float64) / w)
    gain = (1 / (1 + weight * (fy[:, None] + fx))).to(x.dtype)
    low = torch.fft.irfft2(torch.fft.rfft2(wide) * gain, s=(h, w))[..., pad : pad + H, pad : pad + W]
    return low, x - low

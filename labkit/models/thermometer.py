"""Thermometer encoding: a pixel as the row of levels that it does not exceed, with a gradient to attack it by."""

from labkit.core.wording import check

import torch
from torch import Tensor, nn

_LIMITS = "levels in [2, inf)"


def encode(x: Tensor, levels: int = 16) -> Tensor:
    """Images (B, C, H, W) in [0, 1] as zeros and ones (B, C · levels, H, W), channel by channel.

    Level k = 1 … l of a pixel is 1 where x ≤ k / l: the cumulative sum of the one-hot code of x among l equal bins
    (Buckman, Roy, Raffel & Goodfellow, "Thermometer encoding: one hot way to resist adversarial examples", ICLR 2018,
    Section 3 and Table 1, where 0.13 is 0111111111 in ten levels). Raises InputError for fewer than 2 levels.
    """
    return (~_above(x, levels)).to(x.dtype).flatten(1, 2)


class Thermometer(nn.Module):
    """`encode`, with the gradient of a surrogate, the true one being zero wherever there is one.

    It is min(max(x − k / l, 0), 1) for the complement of the code (Athalye, Carlini & Wagner, "Obfuscated gradients
    give a false sense of security", ICML 2018, Section 5.1.1). Buckman et al. train and evaluate with 16 levels.
    """

    def __init__(self, levels: int = 16):
        super().__init__()
        check("a thermometer encoding", {"levels": levels}, _LIMITS)
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        above = _above(x, self.levels)
        # x − x is nothing but its gradient, which a pixel has through each level below it.
        return (~above + above * (x.detach() - x)[:, :, None]).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"


def _above(x: Tensor, levels: int) -> Tensor:
    """(B, C, levels, H, W): whether a pixel exceeds each level."""
    check("a thermometer encoding", {"levels": levels}, _LIMITS)
    tops = torch.arange(1, levels + 1, device=x.device, dtype=x.dtype) / levels
    return x[:, :, None] > tops[:, None, None]

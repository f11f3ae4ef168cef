"""Thermometer encoding: a pixel as the row of levels that it does not exceed, with a gradient to attack it by."""

from labkit.core.wording import check

import torch
from torch import Tensor, nn


class Thermometer(nn.Module):
    """Images (B, C, H, W) in [0, 1] as zeros and ones (B, C · levels, H, W), channel by channel.

    Level k = 1 … l of a pixel is 1 where x ≤ k / l: the cumulative sum of the one-hot code of x among l equal bins
    (Buckman, Roy, Raffel & Goodfellow, "Thermometer encoding: one hot way to resist adversarial examples", ICLR 2018,
    Section 3 and Table 1, where 0.13 is 0111111111 in ten levels; they train and evaluate with 16).

    The gradient, which is zero wherever there is one, is that of a surrogate: min(max(x − k / l, 0), 1) for the
    complement of the code (Athalye, Carlini & Wagner, "Obfuscated gradients give a false sense of security", ICML 2018,
    Section 5.1.1). Raises InputError for fewer than 2 levels.
    """

    def __init__(self, levels: int = 16):
        super().__init__()
        check("a thermometer encoding", {"levels": levels}, "levels in [2, inf)")
        self.levels = levels

    def forward(self, x: Tensor) -> Tensor:
        tops = torch.arange(1, self.levels + 1, device=x.device, dtype=x.dtype) / self.levels
        above = x[:, :, None] > tops[:, None, None]  # (B, C, levels, H, W)
        # x − x is nothing but its gradient, which a pixel has through each level below it.
        return (~above + above * (x.detach() - x)[:, :, None]).flatten(1, 2)

    def extra_repr(self) -> str:
        return f"levels={self.levels}"

"""How far an attack may go: a norm, a size, and whether the size is relative to the image."""

from dataclasses import dataclass

from labkit.core import InputError

import torch
from torch import Tensor

_LEVELS = 255
# Rounding of float32: a norm over a few thousand pixels, and a difference of two numbers in [0, 1].
_RELATIVE, _ABSOLUTE = 1e-5, 1e-6


@dataclass(frozen=True)
class Budget:
    """A bound on x_adv − x for each image, besides pixels staying in [0, 1].

    Made by `Budget.dissimilarity(0.08)`, `Budget.l2(0.5)`, `Budget.linf(8 / 255)` or `Budget.average(0.06, x)`.
    """

    norm: str
    size: float
    relative: bool = False

    def __post_init__(self):
        if self.norm not in ("l2", "linf"):
            raise InputError(f"unknown norm {self.norm!r}; use 'l2' or 'linf'")
        if not 0 <= self.size < float("inf"):
            raise InputError(f"a budget must be a finite number of at least 0, got {self.size}")

    @classmethod
    def dissimilarity(cls, size: float) -> "Budget":
        """‖x_adv − x‖₂ ≤ size · ‖x‖₂, the paper's measure (Section 5.1)."""
        return cls("l2", size, relative=True)

    @classmethod
    def l2(cls, size: float) -> "Budget":
        """‖x_adv − x‖₂ ≤ size, pixels in [0, 1]."""
        return cls("l2", size)

    @classmethod
    def linf(cls, size: float) -> "Budget":
        """|x_adv − x| ≤ size in every pixel, pixels in [0, 1]."""
        return cls("linf", size)

    @classmethod
    def average(cls, size: float, x: Tensor) -> "Budget":
        """One bound ‖x_adv − x‖₂ ≤ r for the whole set x (N, C, H, W), with r such that the mean of r / ‖x‖₂ is `size`.

        For the attacks of the paper's Table 3 ("an average normalized L2-dissimilarity of 0.06") that use all they are
        given: FGSM, BIM, PGD, universal; `at_average` gives back what clipping takes. Black images do not count.
        """
        length = x.flatten(1).norm(dim=1)
        if not length.any():
            raise InputError("an average dissimilarity needs images that are not all black; leave those out")
        return cls("l2", float(size / (1 / length[length > 0].double()).mean()))

    def radius(self, x: Tensor) -> Tensor:
        """The bound for each image of x (B, C, H, W), in pixel units: (B,)."""
        return self.size * x.flatten(1).norm(dim=1) if self.relative else x.new_full((len(x),), self.size)

    def length(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Size of x_adv − x in the budget's norm, in pixel units: (B,)."""
        return (x_adv - x).flatten(1).norm(dim=1, p=2 if self.norm == "l2" else torch.inf)

    def holds(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Which images x_adv are finite, in [0, 1] and within the bound around x, up to float32's rounding: (B,)."""
        inside = ((x_adv >= 0) & (x_adv <= 1)).flatten(1).all(1)  # false for NaN
        return inside & (self.length(x_adv, x) <= self.radius(x) * (1 + _RELATIVE) + _ABSOLUTE)

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """The images x_adv brought within the bound around x, and into [0, 1]."""
        radius = self.radius(x)[:, None, None, None]
        change = x_adv - x
        if self.norm == "linf":
            return (x + change.clamp(-radius, radius)).clamp(0, 1)
        length = change.flatten(1).norm(dim=1)[:, None, None, None]
        # Clipping to [0, 1] moves every pixel towards x, so it cannot leave the ball again.
        return (x + change * (radius / length.clamp_min(1e-30)).clamp_max(1)).clamp(0, 1)

    def reach(self, direction: Tensor, x: Tensor) -> Tensor:
        """x moved along `direction` (B, C, H, W) and clipped to [0, 1], as far as the bound lets it.

        Where `project` clips last and so falls short of the bound, this goes on until the clipped change has the
        bound's length, or every pixel that moves is at the end of the range.
        """
        unit = direction / self.length(direction, torch.zeros_like(x)).clamp_min(1e-30)[:, None, None, None]
        radius = self.radius(x)
        # Unclipped, the length is the scale, so it is at least the radius; a pixel that moves is at the end of the
        # range once its own share of the scale is 1.
        end = 1 / torch.where(unit == 0, torch.inf, unit.abs()).flatten(1).amin(1)
        low, high = radius, torch.maximum(radius, end.clamp_max(1e30))
        for _ in range(50):
            # Halving the exponent while the bounds are far apart, the interval when they are near.
            middle = torch.where(high > 4 * low, (low.clamp_min(1e-12) * high).sqrt(), (low + high) / 2)
            within = self.length((x + middle[:, None, None, None] * unit).clamp(0, 1), x) <= radius
            low, high = torch.where(within, middle, low), torch.where(within, high, middle)
        return self.project((x + low[:, None, None, None] * unit).clamp(0, 1), x)


def at_average(x_adv: Tensor, x: Tensor, size: float) -> Tensor:
    """All changes x_adv − x (N, C, H, W) stretched by one factor, such that their mean dissimilarity is `size`.

    The mode of the paper's Table 3 (`Budget.average`). Needs the whole set at once, and measures after clipping to
    [0, 1]. Unchanged images stay, and count; black ones do not. Raises InputError when no factor reaches `size`.
    """
    change, length = x_adv - x, x.flatten(1).norm(dim=1)
    lit = length > 0

    def at(factor: float) -> Tensor:
        return (x + factor * change).clamp(0, 1)

    def mean(factor: float) -> float:
        moved = (at(factor) - x).flatten(1).norm(dim=1)
        return float((moved[lit] / length[lit]).double().mean()) if lit.any() else 0.0

    low, high = 0.0, 1.0
    while mean(high) < size:
        low, high = high, 2 * high
        if high > 1e6:
            raise InputError(f"stretching reaches {mean(high):.3g}, not {size:g}; ask for less, or attack more images")
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(middle) < size else (low, middle)
    return at(low)


def quantize(x_adv: Tensor, x: Tensor, budget: Budget | None) -> Tensor:
    """x_adv in 8 bits, as an image file would store it, and still within the budget around x.

    In L∞ each pixel takes the nearest of the 256 levels within the bound; in L2 the change is shortened a little
    where rounding has made it too long. An image for which no levels fit comes back as x.
    """

    def rounded(images: Tensor) -> Tensor:
        return (images * _LEVELS).round().clamp(0, _LEVELS) / _LEVELS

    if budget is None:
        return rounded(x_adv)
    if budget.norm == "linf":
        radius, slack = budget.radius(x)[:, None, None, None], _LEVELS * _ABSOLUTE
        low = ((x - radius).clamp_min(0) * _LEVELS - slack).ceil() / _LEVELS
        high = ((x + radius).clamp_max(1) * _LEVELS + slack).floor() / _LEVELS
        near = rounded(x_adv).clamp(low, high)
        return torch.where((low <= high).flatten(1).all(1)[:, None, None, None], near, x)

    best, low, high = x.clone(), x.new_zeros(len(x)), x.new_ones(len(x))
    share = high
    for _ in range(14):
        tried = rounded(x + share[:, None, None, None] * (x_adv - x))
        fits = budget.holds(tried, x)
        best = torch.where(fits[:, None, None, None], tried, best)
        low, high = torch.where(fits, share, low), torch.where(fits, high, share)
        share = (low + high) / 2
        if (low == 1).all():
            break
    return best

"""Measures of images and of decisions with their 95 % intervals: by how much two differ, and whether significantly.

A difference is significant when its interval leaves out 0. The two numbers count as unpaired: where both are of the
same images, a paired test would find more.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import torch
from torch import Tensor

MOST = 100.0  # dB with which an image that was not changed counts in a mean


class Accuracy(NamedTuple):
    """A share of correct decisions with its Wilson interval: value, low, high in [0, 1], and the count n."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n:,}"


def accuracy(right: Tensor | int, n: int | None = None, *, z: float = 1.959964) -> Accuracy:
    """Accuracy and Wilson's score interval (1927), at 95 % by default.

    right  bool tensor of decisions, or the number of right ones out of `n`
    """
    if isinstance(right, Tensor):
        right, n = int(right.sum()), right.numel()
    if not n:
        raise ValueError("accuracy needs at least one decision")
    p = right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low = 0.0 if right == 0 else max(0.0, middle - half)
    high = 1.0 if right == n else min(1.0, middle + half)
    return Accuracy(p, low, high, n)


def dissimilarity(x_adv: Tensor, x: Tensor) -> Tensor:
    """‖x_adv − x‖₂ / ‖x‖₂ per image (paper, Section 5.1): (B,). A black image has none: infinite if it was changed."""
    size, change = x.flatten(1).norm(dim=1), (x_adv - x).flatten(1).norm(dim=1)
    return torch.where(size > 0, change / size, torch.where(change > 0, torch.inf, 0.0))


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB per image, for pixels in [0, 1]: (B,). Equal images give infinity."""
    return -10 * torch.log10((x - reference).square().flatten(1).mean(1))


def sparsity(z: Tensor) -> Tensor:
    """Number of non-zero coefficients per image: (B,)."""
    return (z != 0).flatten(1).sum(1)


def mean(values: Tensor, *, z: float = 1.959964) -> tuple[float, float, float]:
    """The mean of values (n,) and the ends of its interval, at 95 % by default, as if it were normally distributed."""
    middle, half = float(values.mean()), z * float(values.std(correction=0)) / max(len(values) - 1, 1) ** 0.5
    return middle, middle - half, middle + half


def characteristic_interval(clean: float, adversarial: float) -> tuple[float, float]:
    """[min, max] of the accuracies on T(x₀) and T(x_adv) (paper, Section 5.5): short and high is good."""
    return min(clean, adversarial), max(clean, adversarial)


class Point(NamedTuple):
    """A number, its interval, and the value of the setting it was measured at."""

    at: Any
    number: float
    low: float
    high: float


def difference(a: Point, b: Point) -> Point:
    """a − b of two shares, with Newcombe's hybrid score interval (1998, method 10), as if they were independent."""
    number = a.number - b.number
    down = ((a.number - a.low) ** 2 + (b.high - b.number) ** 2) ** 0.5
    up = ((a.high - a.number) ** 2 + (b.number - b.low) ** 2) ** 0.5
    return Point(a.at, number, number - down, number + up)


def moved(a: Point, b: Point) -> int:
    """1 when b is significantly higher than a, -1 when it is significantly lower, 0 when neither."""
    gap = difference(b, a)
    return 1 if gap.low > 0 else -1 if gap.high < 0 else 0


def alike(points: Sequence[Point], margin: float) -> bool | None:
    """Whether any two shares lie within `margin` of each other: True and False when sure, None when neither is.

    Not the same as no significant difference: two that differ may still be this near, and two that do not, farther.
    """
    gaps = [difference(a, b) for a, b in combinations(points, 2)]
    if any(gap.low > margin or gap.high < -margin for gap in gaps):
        return False
    return True if all(-margin < gap.low and gap.high < margin for gap in gaps) else None


def farthest(points: Sequence[Point]) -> tuple[Point, Point] | None:
    """The two, in their order, whose difference is surest; None when no two differ significantly."""
    least = {pair: max(difference(*pair).low, -difference(*pair).high) for pair in combinations(points, 2)}
    return max((pair for pair in least if least[pair] > 0), key=least.get, default=None)


def told(point: Point, unit: str = "") -> str:
    """A number with its interval; numbers with a unit to one digit."""
    digits = 1 if unit else 3
    return f"{point.number:.{digits}f} [{point.low:.{digits}f}, {point.high:.{digits}f}]{unit}"


def said(value) -> str:
    """A setting's value as tables and sentences give it."""
    return f"{value:g}".replace("inf", "∞") if isinstance(value, (int, float)) else str(value)

"""Measures of images and of decisions with their 95 % intervals: by how much two differ, and whether significantly.

Two systems that decided the same images are told apart by those that only one has right (`compared`). Numbers of which
no more is known count as unpaired: their difference is significant when its interval leaves out 0.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
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


class Paired(NamedTuple):
    """How much more often one system is right than another, on the same images.

    number, low, high  difference of the two shares and its 95 % interval (Newcombe 1998, paired, method 10)
    p                  of the exact test (McNemar): how likely chance splits the discordant images so unevenly
    ours, other        discordant images: right by the first system alone, and by the second alone
    """

    number: float
    low: float
    high: float
    p: float
    ours: int
    other: int


def packed(right: Tensor, images: str) -> str:
    """Decisions (n,) as files of rows keep them: the first digits of the images' digest, n, and eight images a byte."""
    return f"{images[:12]}:{len(right)}:{np.packbits(right.bool().numpy()).tobytes().hex()}"


def compared(ours: str, other: str) -> Paired | None:
    """Two systems by their `packed` decisions; None where they are not of the same images."""
    (images, n, mine), (others, m, theirs) = (text.split(":") for text in (ours, other))
    if (images, n) != (others, m):
        return None
    rights = (np.unpackbits(np.frombuffer(bytes.fromhex(part), np.uint8), count=int(n)) for part in (mine, theirs))
    return paired(*(right.astype(bool) for right in rights))


def paired(ours: np.ndarray, other: np.ndarray) -> Paired:
    """Two systems' right decisions, bool (n,) each, on the same n images in the same order."""
    from scipy.stats import binomtest  # a tenth of a second, which pages without a verdict are spared

    n, alone = len(ours), (int((ours & ~other).sum()), int((other & ~ours).sum()))
    a, b = accuracy(int(ours.sum()), n), accuracy(int(other.sum()), n)
    phi = _correlation(int((ours & other).sum()), *alone, int((~ours & ~other).sum()))

    def half(one: float, two: float) -> float:
        return (one * one - 2 * phi * one * two + two * two) ** 0.5

    number = a.value - b.value
    low, high = number - half(a.value - a.low, b.high - b.value), number + half(a.high - a.value, b.value - b.low)
    return Paired(number, low, high, binomtest(alone[0], sum(alone)).pvalue if any(alone) else 1.0, *alone)


def _correlation(both: int, ours: int, other: int, neither: int) -> float:
    """Of the two systems' decisions, Newcombe's correction for continuity made; 0 where one always says the same."""
    among = (both + ours) * (other + neither) * (both + other) * (ours + neither)
    excess = both * neither - ours * other
    return (max(excess - (both + ours + other + neither) / 2, 0) if excess > 0 else excess) / (among**0.5 or 1)


def holm(p: Sequence[float]) -> list[float]:
    """p-values of several questions, corrected for their number (Holm 1979): below 0.05 is significant at 5 %.

    At most one table in twenty then calls any difference significant that is not.
    """
    adjusted, least = [1.0] * len(p), 0.0
    for rank, at in enumerate(sorted(range(len(p)), key=lambda i: p[i])):
        least = max(least, min(1.0, (len(p) - rank) * p[at]))
        adjusted[at] = least
    return adjusted


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

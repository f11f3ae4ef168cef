"""Paired comparison: two systems that decided the same images, told apart by the images that only one has right."""

from collections.abc import Sequence
from typing import NamedTuple

from labkit.core.metrics import accuracy

import numpy as np
from torch import Tensor


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

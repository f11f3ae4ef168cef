"""Numbers with their 95 % intervals: by how much two differ, and whether that is significant.

A difference is significant when its interval leaves out 0. The two numbers count as unpaired: where both are of the
same images, a paired test would find more.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple


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
    pairs = [pair for pair in combinations(points, 2) if moved(*pair)]
    return max(pairs, key=lambda pair: max(_least(*pair), _least(*pair[::-1])), default=None)


def _least(a: Point, b: Point) -> float:
    return difference(a, b).low


def told(point: Point, unit: str = "") -> str:
    """A number with its interval; numbers with a unit to one digit."""
    digits = 1 if unit else 3
    return f"{point.number:.{digits}f} [{point.low:.{digits}f}, {point.high:.{digits}f}]{unit}"


def said(value) -> str:
    """A setting's value as tables and sentences give it."""
    return f"{value:g}".replace("inf", "∞") if isinstance(value, (int, float)) else str(value)

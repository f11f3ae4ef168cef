"""Numbers with their 95 % intervals: which can be told apart, and how a sentence says so.

Two are told apart when their intervals do not meet; where both are of the same images, a stricter test than need be.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any, NamedTuple

VERBS = {-1: "falls", 0: "stays", 1: "rises"}


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
    """1 when b's interval lies above a's, -1 when below, 0 when the two meet."""
    return 1 if b.low > a.high else -1 if b.high < a.low else 0


def alike(points: Sequence[Point], margin: float) -> bool | None:
    """Whether any two shares lie within `margin` of each other: True and False when sure, None when neither is.

    Not the same as not being told apart: two that are may still be this near, and two that are not need not be.
    """
    gaps = [difference(a, b) for a, b in combinations(points, 2)]
    if any(gap.low > margin or gap.high < -margin for gap in gaps):
        return False
    return True if all(-margin < gap.low and gap.high < margin for gap in gaps) else None


def farthest(points: Sequence[Point]) -> tuple[Point, Point] | None:
    """The two whose intervals lie farthest apart, in their order, or None when all meet."""
    top, bottom = max(points, key=lambda p: p.low), min(points, key=lambda p: p.high)
    if not moved(bottom, top):
        return None
    return (bottom, top) if points.index(bottom) < points.index(top) else (top, bottom)


def course(points: Sequence[Point], name: str, unit: str = "") -> str:
    """How a number moves from the first of its points to the last, or between others where these two meet."""
    ends, apart = (points[0], points[-1]), farthest(points)
    a, b = ends if moved(*ends) else apart or ends
    at = [f"{told(p, unit)} at {name} = {said(p.at)}" for p in (a, b)]
    if not moved(a, b):
        return f"is not told apart at any two values: {at[0]}, {at[1]}"
    between = "" if moved(*ends) else ", but its ends are not told apart"
    return f"{VERBS[moved(a, b)]} from {at[0]} to {at[1]}{between}"


def told(point: Point, unit: str = "") -> str:
    """A number with its interval; numbers with a unit to one digit."""
    digits = 1 if unit else 3
    return f"{point.number:.{digits}f} [{point.low:.{digits}f}, {point.high:.{digits}f}]{unit}"


def said(value) -> str:
    """A setting's value as tables and sentences give it."""
    return f"{value:g}".replace("inf", "∞") if isinstance(value, (int, float)) else str(value)

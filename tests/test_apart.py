"""Numbers with intervals: what differs significantly, and how a number is written."""

import pytest

from labkit import apart
from labkit.apart import Point
from labkit.metrics import accuracy


def point(at, number, half=0.05):
    return Point(at, number, number - half, number + half)


def test_a_difference_is_significant_where_its_interval_leaves_out_0():
    """Of two intervals of ± 0.05, that of the difference is ± 0.0707."""
    assert apart.moved(point(1, 0.3), point(2, 0.375)) == 1 == -apart.moved(point(2, 0.375), point(1, 0.3))
    assert apart.moved(point(1, 0.3), point(2, 0.365)) == 0


def test_the_difference_of_two_shares_is_newcombes():
    """Newcombe 1998, Table II, example (a): 56/70 − 48/80, method 10: 0.0524 to 0.3339."""
    a, b = (Point(0, found.value, found.low, found.high) for found in (accuracy(56, 70), accuracy(48, 80)))
    gap = apart.difference(a, b)
    assert gap.number == pytest.approx(0.2)
    assert (gap.low, gap.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


def test_the_farthest_two_keep_their_order():
    points = [point(1, 0.5), point(2, 0.9), point(3, 0.1)]
    assert apart.farthest(points) == (points[1], points[2])
    assert apart.farthest([point(1, 0.5), point(2, 0.52)]) is None
    assert apart.farthest([point(1, 0.5)]) is None


def test_numbers_with_a_unit_have_one_digit():
    assert apart.told(point(1, 25.04, 1.0), " dB") == "25.0 [24.0, 26.0] dB"
    assert [apart.said(value) for value in (0.2, 64, float("inf"), "reflect")] == ["0.2", "64", "∞", "reflect"]


def test_no_significant_difference_need_not_be_alike():
    few, many = ([point(at, number, half) for at, number in ((1, 0.5), (2, 0.52))] for half in (0.08, 0.02))
    assert apart.farthest(few) is None and apart.alike(few, 0.1) is None
    assert apart.farthest(many) is None and apart.alike(many, 0.1) is True and apart.alike(many, 0.04) is None


def test_a_significant_difference_may_still_be_small():
    points = [point(1, 0.5, 0.02), point(2, 0.58, 0.02)]
    assert apart.farthest(points) and apart.alike(points, 0.1) is None and apart.alike(points, 0.2) is True
    assert apart.alike(points, 0.04) is False and apart.alike(points[::-1], 0.04) is False

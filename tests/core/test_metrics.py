from labkit.core import metrics
from labkit.core.metrics import Point, accuracy

import pytest
import torch
from torch.testing import assert_close


def test_wilson_interval_matches_published_values():
    """Newcombe (1998), Table I: 81/263, 15/148, 0/20 and 1/29."""
    published = [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
    for right, n, low, high in published:
        found = metrics.accuracy(right, n)
        assert (round(found.low, 4), round(found.high, 4)) == (low, high)
        assert found.value == right / n and found.n == n


def test_accuracy_counts_decisions():
    found = metrics.accuracy(torch.tensor([True, False, True, True]))
    assert found.value == 0.75 and found.low < 0.75 < found.high
    assert str(found).startswith("0.750 [")
    assert metrics.accuracy(10, 10).high == 1.0
    with pytest.raises(ValueError, match="at least one"):
        metrics.accuracy(torch.zeros(0, dtype=torch.bool))


def test_dissimilarity():
    x = torch.zeros(3, 1, 2, 2)
    x[0] = 1
    x[1] = 0.5
    other = x.clone()
    other[0, 0, 0, 0] = 0
    other[2, 0, 0, 0] = 0.1
    assert_close(metrics.dissimilarity(other, x), torch.tensor([0.5, 0.0, torch.inf]))


def test_psnr_of_a_uniform_error():
    x = torch.full((2, 3, 4, 5), 0.5)
    assert_close(metrics.psnr(x + 0.1, x), torch.full((2,), 20.0))
    assert torch.isinf(metrics.psnr(x, x)).all()


def test_sparsity():
    z = torch.zeros(2, 3, 4, 5)
    z[1, :, 0, 0] = torch.tensor([1.0, -1e-9, 0])
    assert metrics.sparsity(z).tolist() == [0, 2]


def point(at, number, half=0.05):
    return Point(at, number, number - half, number + half)


def test_a_difference_is_significant_where_its_interval_leaves_out_0():
    """Of two intervals of ± 0.05, that of the difference is ± 0.0707."""
    assert metrics.moved(point(1, 0.3), point(2, 0.375)) == 1 == -metrics.moved(point(2, 0.375), point(1, 0.3))
    assert metrics.moved(point(1, 0.3), point(2, 0.365)) == 0


def test_the_difference_of_two_shares_is_newcombes():
    """Newcombe 1998, Table II, example (a): 56/70 − 48/80, method 10: 0.0524 to 0.3339."""
    a, b = (Point(0, found.value, found.low, found.high) for found in (accuracy(56, 70), accuracy(48, 80)))
    gap = metrics.difference(a, b)
    assert gap.number == pytest.approx(0.2)
    assert (gap.low, gap.high) == (pytest.approx(0.0524, abs=1e-4), pytest.approx(0.3339, abs=1e-4))


def test_the_farthest_two_keep_their_order():
    points = [point(1, 0.5), point(2, 0.9), point(3, 0.1)]
    assert metrics.farthest(points) == (points[1], points[2])
    assert metrics.farthest([point(1, 0.5), point(2, 0.52)]) is None
    assert metrics.farthest([point(1, 0.5)]) is None


def test_numbers_with_a_unit_have_one_digit():
    assert metrics.told(point(1, 25.04, 1.0), " dB") == "25.0 [24.0, 26.0] dB"
    assert [metrics.said(value) for value in (0.2, 64, float("inf"), "reflect")] == ["0.2", "64", "∞", "reflect"]


def test_no_significant_difference_need_not_be_alike():
    few, many = ([point(at, number, half) for at, number in ((1, 0.5), (2, 0.52))] for half in (0.08, 0.02))
    assert metrics.farthest(few) is None and metrics.alike(few, 0.1) is None
    assert metrics.farthest(many) is None and metrics.alike(many, 0.1) is True and metrics.alike(many, 0.04) is None


def test_a_significant_difference_may_still_be_small():
    points = [point(1, 0.5, 0.02), point(2, 0.58, 0.02)]
    assert metrics.farthest(points) and metrics.alike(points, 0.1) is None and metrics.alike(points, 0.2) is True
    assert metrics.alike(points, 0.04) is False and metrics.alike(points[::-1], 0.04) is False

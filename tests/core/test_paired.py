"""Paired comparison: Newcombe's interval, the exact test, and Holm's correction."""

from labkit.core import metrics

import numpy as np
import pytest
import torch
from scipy.stats import binom


def systems(both, ours, other, neither):
    """Right decisions of two systems with these counts."""
    a = np.repeat([True, True, False, False], [both, ours, other, neither])
    return a, np.repeat([True, False, True, False], [both, ours, other, neither])


def test_newcombes_published_example():
    """Newcombe (1998), Statistics in Medicine 17:2635, table of examples: 20, 12, 2, 16 by method 10."""
    found = metrics.paired(*systems(20, 12, 2, 16))
    assert found.number == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.0562, 0.3290), abs=2e-3)


def test_the_exact_test_is_the_binomial_one_on_the_discordant_images():
    found = metrics.paired(*systems(100, 9, 1, 40))
    assert found.p == pytest.approx(2 * binom.cdf(1, 10, 0.5)) and (found.ours, found.other) == (9, 1)
    assert metrics.paired(*systems(50, 0, 0, 50)).p == 1.0


def test_the_other_way_round_is_the_same_with_another_sign():
    a, b = systems(60, 25, 10, 105)
    one, two = metrics.paired(a, b), metrics.paired(b, a)
    assert (one.number, one.low, one.high) == pytest.approx((-two.number, -two.high, -two.low)) and one.p == two.p


def test_of_unrelated_systems_it_is_the_unpaired_interval():
    a, b = systems(40, 40, 10, 10)  # right 0.8 and 0.5, independently
    ours, other = (metrics.Point(None, *metrics.accuracy(torch.from_numpy(right))[:3]) for right in (a, b))
    assert metrics.paired(a, b)[:3] == pytest.approx(metrics.difference(ours, other)[1:])


def test_what_goes_together_is_told_apart_sooner():
    a, b = systems(90, 10, 1, 99)
    ours, other = (metrics.Point(None, *metrics.accuracy(torch.from_numpy(right))[:3]) for right in (a, b))
    assert metrics.moved(other, ours) == 0 and metrics.paired(a, b).low > 0 and metrics.paired(a, b).p < 0.05


@pytest.mark.parametrize("counts", [(0, 0, 0, 30), (30, 0, 0, 0), (0, 30, 0, 0), (0, 0, 30, 0), (1, 0, 0, 0)])
def test_one_sided_counts_have_an_interval_around_the_number(counts):
    found = metrics.paired(*systems(*counts))
    assert -1 <= found.low <= found.number <= found.high <= 1 and 0 < found.p <= 1


def test_the_interval_covers_what_is_true():
    """Of 2,000 draws of 120 images with known shares, about 95 % of the intervals hold the true difference."""
    draw, held = np.random.default_rng(0), 0
    for _ in range(2000):
        counts = draw.multinomial(120, (0.55, 0.12, 0.05, 0.28))
        found = metrics.paired(*systems(*counts))
        held += found.low <= 0.07 <= found.high
    assert 0.93 <= held / 2000 <= 0.98


@pytest.mark.parametrize("n", [1, 7, 8, 9, 1000])
def test_decisions_survive_being_packed(n):
    ours, other = torch.rand(2, n, generator=torch.Generator().manual_seed(n)) < 0.5
    texts = [metrics.packed(right, "0123456789abcdef") for right in (ours, other)]
    assert metrics.compared(*texts) == metrics.paired(ours.numpy(), other.numpy())


def test_decisions_on_other_images_are_not_compared():
    right = torch.ones(8, dtype=torch.bool)
    mine = metrics.packed(right, "a" * 64)
    assert metrics.compared(mine, metrics.packed(right, "b" * 64)) is None
    assert metrics.compared(mine, metrics.packed(right[:5], "a" * 64)) is None


def test_holm_is_bonferronis_for_the_smallest_and_never_falls():
    assert metrics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert metrics.holm([]) == [] and metrics.holm([0.9, 0.8]) == [1.0, 1.0]

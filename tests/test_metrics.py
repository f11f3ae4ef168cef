import pytest
import torch
from torch.testing import assert_close

from labkit import metrics


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


def test_sparsity_and_interval():
    z = torch.zeros(2, 3, 4, 5)
    z[1, :, 0, 0] = torch.tensor([1.0, -1e-9, 0])
    assert metrics.sparsity(z).tolist() == [0, 2]
    assert metrics.characteristic_interval(0.8, 0.6) == metrics.characteristic_interval(0.6, 0.8) == (0.6, 0.8)

"""Thermometer encoding: the published examples, the way back, and the published surrogate of its gradient."""

from labkit.core.errors import InputError
from labkit.models.thermometer import Thermometer

import pytest
import torch
from torch.nn.functional import one_hot
from torch.testing import assert_close


def encode(x, levels):
    return Thermometer(levels)(x)


def images(B=2, C=3, H=5, W=4):
    return torch.rand(B, C, H, W, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def decode(code, levels):
    """The middles of the bins that a code names: (B, C · levels, H, W) -> (B, C, H, W)."""
    return (levels + 0.5 - code.unflatten(1, (-1, levels)).sum(2)) / levels


@pytest.mark.parametrize(
    ("value", "quantised", "code"),
    [(0.13, 0.15, "0111111111"), (0.66, 0.65, "0000001111"), (0.92, 0.95, "0000000001")],
)
def test_the_publications_examples(value, quantised, code):
    found = encode(torch.full((1, 1, 1, 1), value), 10)
    assert "".join(str(int(k)) for k in found.flatten()) == code
    assert_close(decode(found, 10).item(), quantised)


@pytest.mark.parametrize("levels", [2, 10, 16])
def test_it_is_the_cumulative_sum_of_a_one_hot_code(levels):
    x = images()
    bins = (x * levels).long()
    code = one_hot(bins, levels).cumsum(-1)  # (B, C, H, W, levels)
    assert torch.equal(encode(x, levels).unflatten(1, (3, levels)), code.movedim(-1, 2).double())


@pytest.mark.parametrize("levels", [2, 10, 16])
def test_round_trip(levels):
    x = torch.cat([images().float(), torch.zeros(1, 3, 5, 4), torch.ones(1, 3, 5, 4)])
    code = encode(x, levels)
    assert code.shape == (4, 3 * levels, 5, 4) and code.dtype == x.dtype and set(code.unique().tolist()) == {0, 1}
    back = decode(code, levels)
    assert (back - x).abs().max() <= 0.5 / levels + 1e-6
    assert torch.equal(encode(back, levels), code)


def test_the_gradient_is_the_published_surrogates():
    """τ̂ₖ(x) = min(max(x − k / l, 0), 1) stands for "x > k / l" (Athalye et al. 2018), the complement of the code."""
    levels, x = 16, images().requires_grad_()
    weights = torch.randn(2, 3 * levels, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (ours,) = torch.autograd.grad((encode(x, levels) * weights).sum(), x)
    k = torch.arange(1, levels + 1, dtype=torch.float64)[:, None, None]
    surrogate = 1 - (x[:, :, None] - k / levels).clamp(min=0).clamp(max=1)
    (theirs,) = torch.autograd.grad((surrogate.flatten(1, 2) * weights).sum(), x)
    assert ours.any()
    assert_close(ours, theirs)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Thermometer(1), "levels ≥ 2"),
    ],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(InputError, match=message):
        call()

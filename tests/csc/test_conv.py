from labkit.core.errors import InputError
from labkit.csc import conv

import numpy as np
import oracles
import pytest
import torch
from torch.testing import assert_close

B, C, H, W, K, S = 2, 3, 12, 10, 5, 4


@pytest.fixture
def case():
    g = torch.Generator().manual_seed(1)
    shapes = {"z": (B, K, H, W), "d": (K, C, S, S), "x": (B, C, H, W)}
    return {name: torch.randn(shape, generator=g, dtype=torch.float64) for name, shape in shapes.items()}


def test_synthesize_is_its_definition(case):
    slow = np.stack([oracles.synthesize(z, case["d"].numpy()) for z in case["z"].numpy()])
    assert_close(conv.synthesize(case["z"], case["d"]), torch.tensor(slow))


def test_synthesize_and_analyze_are_adjoint(case):
    left = (conv.synthesize(case["z"], case["d"]) * case["x"]).sum()
    assert_close(left, (case["z"] * conv.analyze(case["x"], case["d"])).sum())


def test_correlations_of_codes_give_the_energy_of_a_synthesis(case):
    R, d = conv.correlations(case["z"], case["x"], S)[0], case["d"]
    energy = sum(
        d[k, :, s // S, s % S] @ d[m, :, t // S, t % S] * R[k, m, s // S - t // S + S - 1, s % S - t % S + S - 1]
        for k in range(K)
        for m in range(K)
        for s in range(S * S)
        for t in range(S * S)
    )
    assert_close(energy, conv.synthesize(case["z"], d).square().sum())


def test_correlations_with_an_image_give_the_inner_product_with_an_image(case):
    inner = (conv.correlations(case["z"], case["x"], S)[1] * case["d"]).sum()
    assert_close(inner, (conv.synthesize(case["z"], case["d"]) * case["x"]).sum())


def test_dense_and_sparse_correlations_are_the_same(case):
    """The dense ones are for a GPU, and so would never be seen by a machine without."""
    dense, few = (how(case["z"], case["x"], S) for how in (conv._dense_correlations, conv.correlations))
    assert_close(dense, few)
    assert conv._dense_correlations(case["z"].float(), case["x"].float(), S)[0].dtype == torch.float64


@pytest.mark.parametrize(
    "d, size, channels, words",
    [
        (torch.zeros(4, 3, 3), None, None, "needs a channel axis"),
        (torch.zeros(4, 5, 5, 3), None, None, "must be"),
        (torch.zeros(4, 3, 3, 3), (12, 10), 1, "3 channel"),
        (torch.zeros(4, 3, 9, 9), (12, 8), 3, "larger than the image"),
        (torch.full((4, 3, 3, 3), torch.nan), None, None, "NaN"),
        (torch.zeros(4, 3, 3, 3, dtype=torch.float16), None, None, "float16"),
    ],
)
def test_a_wrong_dictionary_is_explained(d, size, channels, words):
    with pytest.raises(InputError, match=words):
        conv.check(d, size, channels)

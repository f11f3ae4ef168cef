"""PixelDefend: the incremental evaluation against the full network, the greedy search against brute force."""

import copy

from labkit.core.errors import InputError
from labkit.datasets import loaders
from labkit.defenses import pixelcnn
from labkit.defenses.pixeldefend import PixelDefend, Walk

import pytest
import torch
from conditionals import log_probabilities
from torch.testing import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"width": 12, "blocks": 3, "mixtures": 3, "epochs": 1}


@pytest.fixture(scope="module")
def grey():
    return loaders.load("fashion", "train", n=100)


@pytest.fixture(scope="module")
def fitted(grey):
    return PixelDefend(**SMALL).fit(grey)


@pytest.fixture(scope="module")
def colour():
    """Fitted to colour, then shaken so that nothing in it is zero or small."""
    defense = PixelDefend(**SMALL).fit(loaders.load("photos", "train", n=30))
    generator = torch.Generator().manual_seed(0)
    for p in defense.network.parameters():
        p.add_(0.05 * torch.randn(p.shape, generator=generator))
    return defense


def pixels(*shape, seed=0):
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    levels.view(-1)[:4] = torch.tensor([0, 255, 3, 250])
    return levels.float() / 255


def noisy(x, strength=0.05):
    return (x + strength * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def test_incremental_evaluation_equals_the_network_along_the_greedy_path(colour):
    out = colour(pixels(2, 3, 7, 6))
    expected = colour.network(out)
    walk = Walk(colour.network, 2, 7, 6)
    for (i, j), theta in walk:
        assert_close(theta.float(), expected[:, i, j], rtol=0, atol=1e-4)
        walk.put((255 * out[:, :, i, j]).round().double())


@pytest.mark.parametrize("epsilon", [5 / 255, 16 / 255, 1.0])
def test_greedy_search_equals_brute_force(colour, epsilon):
    x = pixels(2, 3, 4, 5)
    defense = copy.deepcopy(colour)
    defense.epsilon = epsilon
    network, image, reach = copy.deepcopy(colour.network).double(), x.double(), round(255 * epsilon)
    for i in range(4):
        for j in range(5):
            for c in range(3):
                logs = log_probabilities(network, image)[:, c, i, j]  # the whole image, each time
                for n in range(2):
                    level = round(255 * x[n, c, i, j].item())
                    low, high = max(level - reach, 0), min(level + reach, 255)
                    image[n, c, i, j] = (low + logs[n, low : high + 1].argmax()) / 255
    assert torch.equal(255 * defense(x).double().mul(255).round(), 255 * image.mul(255).round())


def test_it_stays_within_epsilon_and_on_8_bits(colour):
    x = pixels(3, 3, 9, 8)
    out = colour(x)
    assert out.dtype == x.dtype and out.shape == x.shape
    steps = 255 * (out - x)
    assert_close(steps, steps.round(), rtol=0, atol=1e-4)
    assert 10 < steps.abs().max() <= 16.001 and out.min() >= 0 and out.max() <= 1
    between = noisy(x)
    out = colour(between)
    assert out.min() >= 0 and out.max() <= 1
    assert (out - between).abs().max() <= 16.5001 / 255


def test_epsilon_zero_is_the_identity_and_epsilon_one_forgets_the_image(colour):
    x = pixels(2, 3, 6, 5)
    defense = copy.deepcopy(colour)
    defense.epsilon = 0.0
    assert_close(defense(x), x, rtol=0, atol=1e-6)
    defense.epsilon = 1.0
    out = defense(x)
    assert torch.equal(out[0], out[1])


def test_a_noisy_image_becomes_likelier(fitted):
    x = noisy(loaders.load("fashion", "test", n=10).x)
    out = fitted(x)
    bits = [pixelcnn.bits_per_dimension(fitted.network, image).mean() for image in (x, out)]
    assert bits[1] < bits[0] - 1


def test_result_does_not_depend_on_the_batch(fitted, grey):
    x = noisy(grey.x[:5, :, :12, :])
    together = fitted(x)
    assert torch.equal(torch.cat([fitted(one) for one in x.split(1)]), together)
    assert torch.equal(fitted(x), together)


def test_same_seed_same_defense(fitted, grey):
    few = grey[:16]
    one, two, other = (PixelDefend(**SMALL).seeded(seed).fit(few) for seed in (0, 0, 1))
    x = noisy(grey.x[:2, :, 8:18, 8:20])
    assert torch.equal(one(x), two(x)) and not torch.equal(one(x), other(x))


def test_state_dict_is_all_of_it(fitted, colour, grey):
    x = noisy(grey.x[:2, :, 8:18, 8:20])
    for again in (PixelDefend(**SMALL), copy.deepcopy(colour)):
        again.load_state_dict(fitted.state_dict())
        assert torch.equal(again(x), fitted(x))
    empty = copy.deepcopy(colour)
    empty.load_state_dict(PixelDefend(**SMALL).state_dict())
    with pytest.raises(InputError, match="not fitted"):
        empty(x)


def test_it_works_under_grad_and_says_that_no_gradient_passes(fitted, grey):
    x = grey.x[:1, :, :4, :4].clone().requires_grad_()
    assert not PixelDefend.differentiable and not PixelDefend.stochastic
    assert not fitted(x).requires_grad


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (4, 1)])
def test_the_smallest_images(fitted, size):
    assert fitted(torch.full((2, 1, *size), 0.5)).shape == (2, 1, *size)


def test_fit_goes_on_from_a_checkpoint(grey, tmp_path):
    few = grey[:16]
    one = PixelDefend(**SMALL).fit(few, checkpoint=tmp_path)
    assert list(tmp_path.iterdir())
    two = PixelDefend(**SMALL).fit(few, checkpoint=tmp_path)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())


def test_errors(fitted):
    x = torch.rand(2, 3, 8, 8)
    with pytest.raises(InputError, match="not fitted yet"):
        PixelDefend()(x)
    with pytest.raises(InputError, match="fitted to 1 channels and got 3"):
        fitted(x)
    with pytest.raises(InputError, match="epsilon in"):
        PixelDefend(epsilon=16)

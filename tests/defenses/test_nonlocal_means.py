"""Non-local means: what the library is asked for, and that it removes noise."""

from labkit.core import metrics
from labkit.core.errors import InputError
from labkit.datasets import loaders
from labkit.defenses.filters import NonLocalMeans

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_nl_means
from torch.testing import assert_close


def noisy(x, sigma):
    return (x + sigma * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


@pytest.mark.parametrize("name", ["fashion", "photos"])
def test_noise_is_removed(name):
    x = loaders.load(name, "test", n=6).x
    attacked = noisy(x, 0.05)
    before, after = (metrics.psnr(a, x).mean() for a in (attacked, NonLocalMeans()(attacked)))
    assert after > before + 1.5


def test_the_noise_of_a_flat_image_is_estimated_right():
    # The only noise there is has a known σ: then h=None must be what h = .8σ is, but for the error of the estimate.
    x = noisy(torch.full((1, 3, 96, 96), 0.5), 0.04)
    assert_close(NonLocalMeans()(x), NonLocalMeans(h=0.8 * 0.04)(x), rtol=0, atol=2e-3)


def test_a_given_h_is_handed_to_the_library():
    x = noisy(loaders.load("photos", "test", n=2).x, 0.05)[..., :40]
    theirs = [denoise_nl_means(image.numpy(), 7, 4, 0.1, channel_axis=0) for image in x]
    assert_close(NonLocalMeans(7, 4, 0.1)(x), torch.from_numpy(np.stack(theirs)), rtol=0, atol=1e-5)


def test_an_image_without_noise_stays_as_it_is():
    for channels in (1, 3):
        x = torch.full((2, channels, 9, 7), 0.3)
        assert torch.equal(NonLocalMeans()(x), x)


def test_an_image_does_not_depend_on_its_batch():
    x = noisy(loaders.load("photos", "test", n=3).x, 0.05)
    layer = NonLocalMeans()
    assert torch.equal(layer(x), torch.cat([layer(one) for one in x.split(1)]))
    assert not layer.stochastic and not layer.differentiable
    assert not layer(x.requires_grad_()).requires_grad


def test_errors():
    for wrong in (dict(patch_size=0), dict(patch_distance=0), dict(h=0.0)):
        with pytest.raises(InputError, match="NonLocalMeans needs"):
            NonLocalMeans(**wrong)
    with pytest.raises(InputError, match="at least 5 pixels a side"):
        NonLocalMeans()(torch.rand(1, 3, 4, 9))
    with pytest.raises(InputError, match="at least 9 pixels a side"):
        NonLocalMeans(patch_size=9)(torch.rand(1, 3, 8, 9))

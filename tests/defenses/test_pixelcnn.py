"""The PixelCNN: never looks ahead, adds up to one, learns; against scipy, numpy and brute force."""

import copy

from labkit.core import checkpoint
from labkit.core.errors import InputError
from labkit.datasets import loaders
from labkit.datasets.loaders import Images
from labkit.defenses import pixelcnn

import numpy as np
import pytest
import scipy.stats
import torch
from conditionals import log_probabilities
from torch.testing import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {"width": 12, "blocks": 2, "mixtures": 3}


@pytest.fixture(scope="module")
def fashion():
    return loaders.load("fashion", "train", n=240)


def scrambled(channels, seed=0, **settings):
    """A network in double precision in which nothing is zero or small."""
    model = pixelcnn.build(channels, **{**SMALL, **settings}).double()
    generator = torch.Generator().manual_seed(seed)
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.2, generator=generator)
    return model


def pixels(*shape, seed=0):
    levels = torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed))
    levels.view(-1)[:2] = torch.tensor([0, 255])
    return levels.double() / 255


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_a_sub_pixel_depends_on_all_that_come_before_it_and_on_nothing_else(channels):
    H, W = 5, 4
    model = scrambled(channels, blocks=4)
    x = pixels(1, channels, H, W).requires_grad_()
    logs = log_probabilities(model, x)
    direction = torch.randn(256, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for i in range(H):
        for j in range(W):
            for c in range(channels):
                (gradient,) = torch.autograd.grad((logs[0, c, i, j] * direction).sum(), x, retain_graph=True)
                order = gradient[0].permute(1, 2, 0).flatten()  # raster order, channel by channel
                place = (i * W + j) * channels + c
                assert not order[place:].any()
                # The reach covers the image: no blind spot, not even in the wedge above right.
                assert order[:place].all()


def test_probabilities_of_the_values_sum_to_one():
    x = pixels(2, 3, 5, 6)
    for model in (scrambled(3), pixelcnn.build(3, **SMALL).double()):
        assert_close(
            log_probabilities(model, x).exp().sum(-1),
            torch.ones(2, 3, 5, 6, dtype=x.dtype),
            rtol=0,
            atol=1e-10,
        )


def test_likelihood_is_the_product_of_the_conditionals():
    model, x = scrambled(3), pixels(2, 3, 5, 6)
    logs = log_probabilities(model, x).gather(-1, (255 * x).round().long()[..., None])
    expected = -logs.flatten(1).sum(1) / (3 * 5 * 6 * np.log(2))
    assert_close(pixelcnn.bits_per_dimension(model, x), expected.detach(), rtol=1e-9, atol=0)


def test_a_pixel_is_the_mixture_of_logistics_that_scipy_gives():
    C, M, R = 2, 3, 77
    generator = torch.Generator().manual_seed(3)
    theta = torch.randn(M * 6 + C, dtype=torch.float64, generator=generator)
    weight, means, log_scales, coefficient = (t.numpy() for t in theta[:-C].view(6, M).split([1, 2, 2, 1]))
    base = theta[-C:].numpy()
    p = np.exp(weight[0]) / np.exp(weight[0]).sum()

    def component(m, c, shift, value):
        there = scipy.stats.logistic(base[c] + means[c, m] + shift, np.exp(log_scales[c, m]))
        low = -np.inf if value == 0 else (value - 0.5) * 2 / 255 - 1
        high = np.inf if value == 255 else (value + 0.5) * 2 / 255 - 1
        return there.cdf(high) - there.cdf(low)

    first = [[component(m, 0, 0, v) for m in range(M)] for v in range(256)]
    shift = [coefficient[0, m] * (R * 2 / 255 - 1 - base[0]) for m in range(M)]
    second = [sum(p[m] * first[R][m] * component(m, 1, shift[m], v) for m in range(M)) for v in range(256)]
    values = torch.arange(256.0, dtype=torch.float64)
    known = pixelcnn.mixture_weights(theta, C)
    logs = pixelcnn.channel_logs(theta, values, [], C)
    assert_close(logs.exp(), torch.tensor(first), rtol=1e-7, atol=1e-13)
    known = known + logs[R]
    given = pixelcnn.channel_logs(theta, values, [torch.tensor(float(R), dtype=torch.float64)], C)
    assert_close((known + given).exp().sum(-1), torch.tensor(second), rtol=1e-7, atol=1e-13)


def test_value_far_from_the_mean_is_unlikely_but_possible():
    theta = torch.tensor([0.0, 0.0, -8.0, -1.0])  # one component: weight, mean, log scale, base: all black
    logs = pixelcnn.channel_logs(theta, torch.arange(256.0), [], 1)[:, 0]
    assert logs.isfinite().all() and (logs.diff() < 0).all() and logs[255] < -1000


def test_training_starts_from_the_least_squares_linear_prediction(fashion):
    x = fashion.x[:20, :, :16, :16]
    images = Images(x, fashion.y[:20], fashion.classes, "part")
    model = pixelcnn.build(1, **SMALL)
    pixelcnn.train(model, images, epochs=1, lr=1e-12, progress=False)
    found = model(x)[..., -1].detach().double().numpy()
    padded = np.pad(2.0 * x[:, 0].numpy() - 1, ((0, 0), (2, 0), (2, 2)))
    inside = np.pad(np.ones(x[:, 0].shape), ((0, 0), (2, 0), (2, 2)))
    seen = [(a, b) for a in (0, 1) for b in range(5)] + [(2, 0), (2, 1)]
    A = np.stack([part[:, a : a + 16, b : b + 16] for part in (padded, inside) for a, b in seen], -1).reshape(-1, 24)
    y = 2.0 * x[:, 0].double().numpy().ravel() - 1
    best = np.square(A @ np.linalg.lstsq(A, y, rcond=None)[0] - y).mean()
    assert np.square(found.ravel() - y).mean() == pytest.approx(best, rel=1e-3)


@pytest.mark.parametrize(("name", "n"), [("fashion", 160), ("photos", 120)])
def test_training_lowers_the_bits_of_images_it_has_not_seen(name, n):
    images = loaders.load(name, "train", n=n + 20)
    seen, unseen = images[:n], images[n:]
    before = pixelcnn.build(seen.x.shape[1], **SMALL)
    after = copy.deepcopy(before)
    pixelcnn.train(before, seen, epochs=1, lr=1e-12, progress=False)
    course = pixelcnn.train(after, seen, epochs=3, progress=False)
    untrained, trained = (pixelcnn.bits_per_dimension(model, unseen.x) for model in (before, after))
    assert trained.shape == (20,) and trained.mean() < untrained.mean() - 0.2
    assert len(course) == 3 and course[2] < course[0]
    # Far below what the frequencies of the values alone give, by as much as neighbours tell.
    levels = (255 * unseen.x).round().long().flatten()
    assert trained.mean() < 0.8 * scipy.stats.entropy(np.bincount(levels), base=2)


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.equal(one[name], other[name]) for name in one)


def test_seeds_reproduce(fashion):
    few = fashion[:24]
    models = []
    for seed in (0, 0, 1):
        models.append(pixelcnn.build(1, **SMALL, seed=seed))
        pixelcnn.train(models[-1], few, epochs=1, crop=20, seed=seed, progress=False)
    assert same(models[0], models[1]) and not same(models[0], models[2])


def test_a_killed_training_ends_as_if_it_had_not_been_killed(fashion, tmp_path, monkeypatch):
    few, settings = fashion[:24], {"epochs": 3, "crop": 16, "progress": False}
    whole = pixelcnn.build(1, **SMALL)
    course = pixelcnn.train(whole, few, **settings)

    write = checkpoint.write

    def write_and_die(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(checkpoint, "write", write_and_die)
        pixelcnn.train(pixelcnn.build(1, **SMALL), few, checkpoint=tmp_path, **settings)
    again = pixelcnn.build(1, **SMALL)
    assert pixelcnn.train(again, few, checkpoint=tmp_path, **settings) == course
    assert same(whole, again)
    with pytest.warns(UserWarning, match="another recipe"):
        pixelcnn.train(again, few, checkpoint=tmp_path, **{**settings, "epochs": 1})


def test_errors(fashion):
    model = pixelcnn.build(3, **SMALL)
    with pytest.raises(InputError, match="built for 3 channels, not 1; train another"):
        pixelcnn.bits_per_dimension(model, fashion.x[:2])
    with pytest.raises(InputError, match="built for 3 channels, not 1; train another"):
        pixelcnn.train(model, fashion, progress=False)
    with pytest.raises(InputError, match="a PixelCNN needs"):
        pixelcnn.build(3, width=0)
    with pytest.raises(InputError, match="lr in"):
        pixelcnn.train(pixelcnn.build(1, **SMALL), fashion, lr=0, progress=False)
    with pytest.raises(InputError, match="diverged"):
        pixelcnn.train(pixelcnn.build(1, **SMALL), fashion[:8], lr=float("inf"), batch=1, progress=False)

"""JPEG, bit depth, median and blur against Pillow, numpy and scipy."""

import io
import sys

from labkit.core import metrics
from labkit.core.errors import InputError
from labkit.datasets import loaders
from labkit.datasets.loaders import Images
from labkit.defenses.filters import JPEG, BitDepth, LowPass, Median

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter, median_filter
from torch.testing import assert_close

LAYERS = [JPEG(), BitDepth(), Median(), Median(2), LowPass(sigma=0.8)]
names = [str(layer) for layer in LAYERS]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def noise(*shape, dtype=torch.float64):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("layer", LAYERS, ids=names)
@pytest.mark.parametrize("name", ["fashion", "photos"])
def test_every_layer_keeps_shape_range_and_batch(layer, name):
    x = loaders.load(name, "test", n=4).x[..., :29, :]
    out = layer(x)
    assert out.shape == x.shape and out.dtype == x.dtype and 0 <= out.min() and out.max() <= 1
    assert 10 < metrics.psnr(out, x).min() and not torch.equal(out, x)
    assert_close(out, torch.cat([layer(one) for one in x.split(1)]), rtol=0, atol=1e-6)
    assert not layer.stochastic and layer.fit(None) is layer
    assert layer(x.double().requires_grad_()).requires_grad == layer.differentiable


@pytest.mark.parametrize("quality", [20, 75])
def test_jpeg_reads_what_pillow_wrote(quality):
    for x in (loaders.load("photos", "test", n=1).x, loaders.load("fashion", "test", n=1).x):
        file = io.BytesIO()
        pixels = (x[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8).squeeze()
        Image.fromarray(pixels).save(file, format="jpeg", quality=quality)
        read = np.array(Image.open(file)).reshape(x[0].permute(1, 2, 0).shape)
        assert_close(JPEG(quality)(x)[0], torch.from_numpy(read).permute(2, 0, 1) / 255)


def test_more_quality_costs_less():
    x = loaders.load("photos", "test", n=4).x
    cost = [metrics.psnr(JPEG(q)(x), x).mean() for q in (10, 50, 75, 95)]
    assert cost == sorted(cost)


@pytest.mark.parametrize(("name", "size"), [("photos", (64, 64)), ("photos", (45, 50)), ("fashion", (32, 32))])
@pytest.mark.parametrize("quality", [30, 75, 95])
def test_the_stand_in_of_jpeg_is_within_two_grey_levels(name, size, quality):
    x = loaders.load(name, "test", n=10, resolution=size[1]).x[..., : size[0], :]
    layer = JPEG(quality)
    off = 255 * (layer.smooth(x) - layer(x)).abs().mean()
    assert off < 2 and off < 0.7 * 255 * (layer(x) - x).abs().mean()


def test_smoothed_jpeg_answers_as_pillow_and_no_gradient_vanishes():
    for name in ("photos", "fashion"):
        x = loaders.load(name, "test", n=3).x[..., :30, :].requires_grad_()
        out = JPEG().smoothed()(x)
        assert_close(out, JPEG()(x), rtol=0, atol=1e-6)
        upstream = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
        (slope,) = torch.autograd.grad(out, x, upstream)
        assert (slope.flatten(1).norm(dim=1) > 0.09 * upstream.flatten(1).norm(dim=1)).all()


def test_without_kornia_jpeg_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "kornia.enhance", None)
    with pytest.raises(InputError, match=r"install labkit\[attacks\]"):
        JPEG().smoothed()(noise(1, 3, 8, 8))
    assert JPEG()(noise(1, 3, 8, 8)).shape == (1, 3, 8, 8)


@pytest.mark.parametrize("bits", [1, 3])
def test_the_stand_in_of_bit_depth_is_a_staircase_with_round_steps(bits):
    layer, steps = BitDepth(bits), 2**bits - 1
    levels = (torch.arange(steps + 1).double() / steps).requires_grad_()
    between = ((torch.arange(steps).double() + 0.5) / steps).requires_grad_()
    for at, slope in ((levels, 0), (between, 2)):
        assert_close(layer.smooth(at), at)
        assert_close(*torch.autograd.grad(layer.smooth(at).sum(), at), torch.full_like(at, slope))
    x = noise(2, 3, 12, 10)
    assert (layer.smooth(x) - layer(x)).abs().mean() < 0.7 * (x - layer(x)).abs().mean()
    assert_close(layer.smoothed()(x), layer(x))


@pytest.mark.parametrize("bits", [1, 3, 8])
def test_bit_depth_takes_the_nearest_level(bits):
    x, levels = noise(2, 3, 12, 10), np.linspace(0, 1, 2**bits)
    nearest = levels[np.abs(x.numpy()[..., None] - levels).argmin(-1)]
    assert_close(BitDepth(bits)(x), torch.from_numpy(nearest))


def test_eight_bits_lose_nothing():
    x = loaders.load("photos", "test", n=2).x
    assert_close(BitDepth(8)(x), x)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_median_is_scipys(size):
    x = noise(2, 3, 7, 4)
    assert_close(Median(size)(x), torch.from_numpy(median_filter(x.numpy(), (1, 1, size, size), mode="reflect")))


def test_median_gradient():
    assert torch.autograd.gradcheck(Median(), noise(2, 2, 5, 4).requires_grad_())


@pytest.mark.parametrize("sigma", [0.1, 0.5, 1.3, 6.0])
def test_blur_is_scipys(sigma):
    x = noise(2, 3, 7, 10)
    theirs = gaussian_filter(x.numpy(), (0, 0, sigma, sigma), mode="reflect", truncate=4.0)
    assert_close(LowPass(sigma=sigma)(x), torch.from_numpy(theirs))


def test_blur_gradient():
    assert torch.autograd.gradcheck(LowPass(sigma=0.7), noise(2, 2, 5, 4).requires_grad_())


@pytest.mark.parametrize("name", ["fashion", "photos"])
@pytest.mark.parametrize("psnr", [22.0, 30.0, 60.0])
def test_the_blur_reaches_the_psnr_asked_for(name, psnr):
    images = loaders.load(name, "train", n=300)
    layer = LowPass(psnr=psnr).fit(images)
    assert abs(metrics.psnr(layer(images.x), images.x).mean() - psnr) < 0.01
    restored = LowPass(psnr=psnr)
    restored.load_state_dict(layer.state_dict())
    assert torch.equal(restored(images.x[:2]), layer(images.x[:2]))


def test_images_that_no_blur_changes_do_not_count():
    images = loaders.load("photos", "train", n=20)
    flat = Images(
        torch.cat([images.x, torch.full_like(images.x, 0.5)]), images.y.repeat(2), images.classes, images.digest
    )
    assert_close(LowPass(psnr=25.0).fit(flat).sigma, LowPass(psnr=25.0).fit(images).sigma)
    with pytest.raises(InputError, match="one colour"):
        LowPass(psnr=25.0).fit(flat[20:])


def test_errors():
    for make in (
        lambda: JPEG(0),
        lambda: JPEG(100),
        lambda: BitDepth(0),
        lambda: BitDepth(2.5),
        lambda: Median(0),
        lambda: LowPass(),
        lambda: LowPass(sigma=1.0, psnr=30.0),
        lambda: LowPass(sigma=0.0),
        lambda: LowPass(psnr=100.0),
    ):
        with pytest.raises(InputError, match=r"JPEG|BitDepth|Median|LowPass"):
            make()
    with pytest.raises(InputError, match="1 or 3 channels, got 2"):
        JPEG()(torch.rand(1, 2, 8, 8))
    with pytest.raises(InputError, match="not fitted yet"):
        LowPass(psnr=30.0)(torch.rand(1, 3, 8, 8))
    with pytest.raises(InputError, match="no blur brings"):
        LowPass(psnr=2.0).fit(loaders.load("photos", "train", n=10))
    for layer in LAYERS:
        with pytest.raises(InputError, match=r"\[0, 1\]"):
            layer(torch.full((1, 3, 8, 8), 2.0))

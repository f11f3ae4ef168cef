"""Pixel deflection: activation maps taken apart by hand, draws counted, and wavelets beside scikit-image's."""

from labkit.core.errors import InputError
from labkit.core.recipes import ClassifierRecipe
from labkit.datasets import loaders
from labkit.defenses.deflection import PixelDeflection, robust_activation, shrunk, smooth
from labkit.models import networks

import numpy as np
import pytest
import torch
from skimage.restoration import denoise_wavelet
from torch import nn
from torch.nn import functional
from torch.testing import assert_close


def network(name, channels=3, resolution=64, classes=7):
    recipe = ClassifierRecipe(network=name, width=0.125, seed=1)
    model = networks.build(recipe, classes, channels, resolution).eval()
    # As drawn, the last layer is too faint for classes to differ.
    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.weight.data *= 100
    return model


@pytest.fixture(scope="module")
def photos():
    return loaders.load("photos", "test", n=4, resolution=64).x


@pytest.fixture(scope="module")
def vgg():
    return network("vgg11")


def maps(n, size):
    return torch.zeros(n, size, size)


@pytest.mark.parametrize("name", ["vgg11", "resnet50"])
def test_the_map_is_the_weighted_sum_of_the_classes_maps(name, photos):
    model = network(name)
    seen = (photos - model.mean) / model.std
    if name == "vgg11":
        features, linear = model.network.features(seen), model.network.classifier
    else:
        n = model.network
        features, linear = n.layer4(n.layer3(n.layer2(n.layer1(n.maxpool(n.relu(n.bn1(n.conv1(seen)))))))), n.fc
    logits = model(photos)
    for image, found in enumerate(robust_activation(model, photos)):
        total = 0
        for rank, k in enumerate(logits[image].argsort(descending=True)[:5].tolist(), 1):
            total = total + torch.einsum("f,fhw->hw", linear.weight[k], features[image]) / 2**rank
        wide = functional.interpolate(total[None, None], photos.shape[2:], mode="bilinear")[0, 0].detach()
        assert_close(found, (wide - wide.min()) / (wide.max() - wide.min()), rtol=0, atol=1e-4)


def test_the_map_of_a_class_averages_to_its_logit(vgg, photos):
    # What makes the map exact: the mean over its pixels and the bias are the logit.
    features = vgg.network.features((photos - vgg.mean) / vgg.std)
    maps = torch.einsum("kf,bfhw->bkhw", vgg.network.classifier.weight, features)
    assert_close(maps.mean((2, 3)) + vgg.network.classifier.bias, vgg(photos))


def test_the_map_of_one_pixel_of_features_is_level():
    x = loaders.load("fashion", "test", n=3).x
    assert not robust_activation(network("vgg16", channels=1, resolution=32), x).any()


def test_the_map_is_found_inside_other_modules(vgg, photos):
    assert torch.equal(robust_activation(nn.Sequential(nn.Identity(), vgg), photos), robust_activation(vgg, photos))


def test_before_a_deeper_head_features_are_weighted_by_the_gradient(photos):
    class Deep(nn.Module):
        """As torchvision's own VGG ends."""

        def __init__(self):
            super().__init__()
            self.features, self.avgpool = nn.Conv2d(3, 6, 5, stride=4), nn.AdaptiveAvgPool2d(3)
            self.classifier = nn.Sequential(nn.Linear(6 * 9, 8), nn.Tanh(), nn.Linear(8, 2))

        def forward(self, x):
            return self.classifier(torch.flatten(self.avgpool(self.features(x)), 1))

    torch.manual_seed(0)
    model = networks.Classifier(Deep(), 3)
    features = model.network.features(photos[:1])
    logits = model.network.classifier(model.network.avgpool(features).flatten(1))[0]
    total = 0
    for rank, k in enumerate(logits.argsort(descending=True).tolist(), 1):
        (slope,) = torch.autograd.grad(logits[k], features, retain_graph=True)
        total = total + (slope.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True) / 2**rank
    wide = functional.interpolate(total, photos.shape[2:], mode="bilinear")[0].detach()
    assert_close(robust_activation(model, photos[:1]), (wide - wide.min()) / (wide.max() - wide.min()))


def test_looking_for_the_map_changes_nothing(vgg, photos):
    before = {name: value.clone() for name, value in vgg.state_dict().items()}
    with torch.no_grad():
        robust_activation(vgg, photos)
    assert all(torch.equal(before[name], value) for name, value in vgg.state_dict().items())
    assert all(parameter.grad is None for parameter in vgg.parameters())
    assert not vgg.network.avgpool._forward_pre_hooks


def test_deflected_values_come_from_the_window():
    # Every pixel holds its own place.
    H, W, r = 9, 14, 3
    places = torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")).float()
    defense = PixelDeflection(deflections=60, window=r)
    moved = defense.deflect(places[None].expand(200, -1, -1, -1), torch.zeros(200, H, W)) - places
    assert moved.abs().max() == r
    changed = moved.any(1)
    assert 0 < changed.sum((1, 2)).min() and changed.sum((1, 2)).max() <= 60
    # All offsets of an inner pixel are alike: 49, of which (0, 0) changes nothing.
    inner = moved[:, :, r : H - r, r : W - r]
    offsets = inner.permute(0, 2, 3, 1)[changed[:, r : H - r, r : W - r]]
    counts = torch.bincount(((offsets[:, 0] + r) * 7 + offsets[:, 1] + r).long(), minlength=49)
    expected = counts.sum() / 48
    assert counts[24] == 0
    assert (counts[counts > 0] - expected).abs().max() < 5 * expected.sqrt() and (counts > 0).sum() == 48


def test_pixels_are_drawn_against_the_map():
    activation = torch.tensor([1.0, 0.75, 0.5, 0.0]).repeat_interleave(4)[None, None].expand(500, 16, 16)
    noise = torch.rand(500, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    changed = PixelDeflection(deflections=10).deflect(noise, activation) != noise
    shares = changed[:, 0].float().mean((0, 1)).reshape(4, 4).sum(1)
    assert shares[0] == 0
    assert_close(shares / shares.sum(), torch.tensor([0, 1, 2, 4]) / 7, rtol=0, atol=0.04)
    # Where everything is important, everything is alike.
    assert (PixelDeflection().deflect(noise, torch.ones(500, 16, 16)) != noise).any((1, 2, 3)).all()


@pytest.mark.parametrize("name", ["photos", "fashion"])
@pytest.mark.parametrize("size", [(32, 32), (20, 13), (2, 2)])
def test_wavelets_are_scikit_images(name, size):
    x = loaders.load(name, "test", n=3).x[..., : size[0], : size[1]]
    x = (x + 0.04 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    for image, smoothed in zip(x.numpy().astype(float), smooth(x, 0.04), strict=True):
        if name == "photos":
            pixels, options = image.transpose(1, 2, 0), {"convert2ycbcr": True, "channel_axis": -1}
        else:
            pixels, options = image[0], {}
        peer = denoise_wavelet(pixels, sigma=0.04, method="BayesShrink", mode="soft", **options)
        peer = np.atleast_3d(peer).transpose(2, 0, 1).clip(0, 1)
        assert_close(smoothed.double(), torch.from_numpy(peer), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["photos", "fashion"])
@pytest.mark.parametrize("size", [(64, 40), (31, 29), (2, 2)])
def test_the_stand_in_of_the_wavelets_is_the_wavelets(name, size):
    x = loaders.load(name, "test", n=3, resolution=64).x[..., : size[0], : size[1]].double()
    x = (x + 0.04 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert_close(shrunk(x, 0.04).clamp(0, 1), smooth(x, 0.04), rtol=0, atol=1e-9)


@pytest.mark.parametrize("channels", [1, 3])
def test_flat_images_stay(channels):
    for level in (0.0, 0.3, 1.0):
        x = torch.full((2, channels, 16, 16), level)
        assert_close(PixelDeflection().sample(x), x, rtol=0, atol=1e-5)


def test_wavelets_bring_a_noisy_image_nearer():
    x = loaders.load("photos", "test", n=4).x
    noisy = (x + 0.04 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    assert ((smooth(noisy, 0.04) - x).norm() < 0.9 * (noisy - x).norm()).all()


def test_the_answer_is_the_log_of_the_mean_probability(vgg, photos):
    defense = PixelDeflection(draws=3)
    answer = defense.seeded(2).around(vgg)(photos)
    activation, mean = robust_activation(vgg, photos), 0
    defense.seeded(2)
    for _ in range(3):
        deflected = defense.deflect(photos, activation)
        mean = mean + vgg(smooth(deflected, defense.sigma)).softmax(1) / 3
    assert_close(answer.exp(), mean)
    assert (answer.isfinite()).all()


def test_seeds_reproduce(vgg, photos):
    defense = PixelDeflection(draws=1)
    answers = [defense.seeded(seed).around(vgg)(photos[:2]) for seed in (1, 1, 2)]
    assert defense.stochastic and torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])
    samples = [defense.seeded(seed).sample(photos[:2]) for seed in (1, 1, 2)]
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])


def test_gradients_follow_deflected_values_to_where_they_came_from(photos):
    x = photos[:2, :, :16, :16].clone().requires_grad_()
    defense = PixelDeflection(deflections=40)
    cleaned = defense.seeded(0).clean(x, maps(2, 16))
    assert torch.equal(cleaned.detach(), smooth(defense.seeded(0).deflect(x, maps(2, 16)), 0.04))
    upstream = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad(cleaned, x, upstream)
    (known,) = torch.autograd.grad(defense.seeded(0).deflect(x, maps(2, 16)), x, upstream)
    assert not defense.differentiable
    assert torch.equal(found, known)
    assert_close(found.sum(), upstream.sum())
    (passed,) = torch.autograd.grad(PixelDeflection(deflections=0).clean(x, maps(2, 16)), x, upstream)
    assert torch.equal(passed, upstream)


@pytest.mark.parametrize("channels", [1, 3])
def test_smoothed_it_differentiates_the_wavelets_with_their_thresholds_held(photos, channels):
    x = photos[:2, :channels, :16, :16].clone().requires_grad_()
    defense = PixelDeflection(deflections=0)
    twin, upstream = defense.smoothed(), torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    cleaned = twin.clean(x, maps(2, 16))
    assert torch.equal(cleaned, smooth(x, 0.04)) and defense.has_smooth
    (found,) = torch.autograd.grad(cleaned, x, upstream)
    # A Haar threshold removes: what remains of a direction is its projection on the coefficients that are left.
    assert 0 < found.norm() < 0.99 * upstream.norm()
    (again,) = torch.autograd.grad(twin.clean(x, maps(2, 16)), x, found)
    if channels == 1:
        assert_close(again, found)
    (passed,) = torch.autograd.grad(defense.clean(x, maps(2, 16)), x, upstream)
    assert torch.equal(passed, upstream) and twin.generator is defense.generator


def test_the_system_has_a_gradient(vgg, photos):
    x = photos[:2].clone().requires_grad_()
    vgg_system = PixelDeflection(draws=2).around(vgg)
    (found,) = torch.autograd.grad(vgg_system(x)[:, 0].sum(), x)
    assert found.isfinite().all() and found.any()


def test_errors_say_what_to_do(vgg, photos):
    with pytest.raises(InputError, match="features of a Classifier"):
        PixelDeflection().around(nn.Flatten())(photos)
    with pytest.raises(InputError, match="at least 2 pixels a side"):
        PixelDeflection().sample(photos[..., :1])
    with pytest.raises(InputError, match="around"):
        PixelDeflection()(photos)
    with pytest.raises(InputError, match="window ≥ 1"):
        PixelDeflection(window=0)


def test_below_one_the_number_of_deflections_is_a_share_of_the_pixels():
    """0.4 %, as 200 of 224×224; one at least."""
    noise, flat = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 32, 32)
    for share, most in ((0.004, 4), (0.1, 102), (1e-6, 1)):
        changed = (PixelDeflection(deflections=share).deflect(noise, flat) != noise).any(1).flatten(1).sum(1)
        assert changed.max() <= most and changed.min() >= max(1, 0.8 * most)

"""MagNet: what its autoencoder learns, and that its detector rejects as many clean images as it was asked to."""

from labkit.core.errors import InputError
from labkit.datasets import loaders
from labkit.datasets.loaders import Lazy
from labkit.defenses.magnet import MagNet, MagNetDetector

import pytest
import torch
from oracles import rejects
from scipy.stats import betabinom
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = dict(width=4, epochs=2, batch=16)


@pytest.fixture(scope="module")
def fashion():
    return loaders.load("fashion", "train", n=1600)


@pytest.fixture(scope="module")
def photos():
    return loaders.load("photos", "train", n=60, resolution=24)


@pytest.fixture(scope="module")
def detector(fashion):
    return MagNetDetector(rate=0.1, held=0.4, reformer=MagNet(epochs=5, batch=16)).fit(fashion[:1000])


def error(defense, x):
    return float((defense(x) - x).square().mean())


def test_training_teaches_to_rebuild_unseen_images(photos):
    x = loaders.load("photos", "test", n=20, resolution=24).x
    short, long = (error(MagNet(epochs=epochs, batch=8).fit(photos), x) for epochs in (2, 30))
    mean = float((x - photos.x.mean((0, 2, 3), keepdim=True)).square().mean())
    assert long < 0.2 * mean and long < 0.25 * short


def test_it_is_three_convolutions_with_sigmoids(photos):
    defense = MagNet(**QUICK).fit(photos)
    x, weights = photos.x[:2], defense.state_dict()
    seen = x
    for layer, (inputs, outputs) in zip((0, 2, 4), ((3, 4), (4, 4), (4, 3)), strict=True):
        weight = weights[f"autoencoder.{layer}.weight"]
        assert weight.shape == (outputs, inputs, 3, 3) and weight.dtype == torch.float32
        seen = 1 / (1 + torch.exp(-functional.conv2d(seen, weight, weights[f"autoencoder.{layer}.bias"], padding=1)))
    assert_close(defense(x), seen)
    assert len(weights) == 6 and not any(p.requires_grad for p in defense.parameters())


def test_default_training_is_of_the_same_length_for_any_number_of_images(photos, monkeypatch):
    monkeypatch.setattr("labkit.defenses.magnet._BATCHES", 6)
    assert_same(MagNet(batch=20).fit(photos), MagNet(batch=20, epochs=2).fit(photos))
    assert_same(MagNet(batch=60).fit(photos), MagNet(batch=60, epochs=6).fit(photos))


def test_strong_regularisation_holds_activations_down(photos):
    x = photos.x[:5]
    free, held = (MagNet(width=4, epochs=10, batch=8, regularisation=r).fit(photos) for r in (0.0, 1e-3))
    assert held(x).mean() < 0.7 * free(x).mean()


def assert_same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []


def test_fit_reproduces_leaves_the_global_random_state_alone_and_is_stored(photos):
    before = torch.get_rng_state()
    one = MagNet(**QUICK).seeded(3).fit(photos)
    assert torch.equal(before, torch.get_rng_state())
    assert_same(one, MagNet(**QUICK).seeded(3).fit(photos))
    assert not torch.equal(one(photos.x), MagNet(**QUICK).seeded(4).fit(photos)(photos.x))
    pixels = (photos.x * 255).round().byte()
    lazy = type(photos)(Lazy(pixels.shape, pixels.__getitem__), photos.y, photos.classes, photos.digest)
    assert_same(one, MagNet(**QUICK).seeded(3).fit(lazy))
    loaded = MagNet()
    loaded.load_state_dict(one.state_dict())
    assert torch.equal(loaded(photos.x), one(photos.x))


def test_one_image_does_not_depend_on_its_batch_and_the_gradient_is_right(photos):
    defense = MagNet(**QUICK).fit(photos).double()
    x = photos.x[:4, :, :7, :9].double()
    assert_close(defense(x)[2:3], defense(x[2:3]), rtol=0, atol=1e-12)
    assert torch.autograd.gradcheck(defense, x[:1].clone().requires_grad_())
    assert not defense.stochastic and defense.differentiable


def test_the_false_positive_rate_is_the_one_asked_for(fashion, detector):
    new, n = fashion[1000:], 400
    rejected = int(rejects(detector, new.x).sum())
    # The threshold lies between the 40th and the 41st largest of 400 held-out scores. How many of other images exceed
    # it follows, whatever the distribution of the scores, a beta-binomial distribution.
    low = betabinom.ppf(0.001, len(new), 40, n - 39)
    high = betabinom.ppf(0.999, len(new), 41, n - 40)
    assert low <= rejected <= high
    assert 0 < low and high < 0.2 * len(new)


def test_noise_is_rejected(fashion, detector):
    x = fashion.x[1000:1200]
    noise = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    assert rejects(detector, noise).all()
    faint, strong = (detector.score((x + a * (noise - 0.5)).clamp(0, 1)) for a in (0.1, 0.6))
    assert detector.score(x).mean() < faint.mean() < strong.mean() and (strong > detector.threshold).all()


def test_score_is_the_mean_power_of_the_error(fashion, detector):
    x = fashion.x[:3]
    difference = (x - detector.reformer(x)).abs()
    assert_close(detector.score(x), difference.mean((1, 2, 3)))
    squares = MagNetDetector(0.5, p=2, reformer=detector.reformer)
    assert_close(squares.score(x), difference.square().mean((1, 2, 3)))


def test_held_out_images_do_not_train(fashion):
    def fitted(images):
        return MagNetDetector(rate=0.1, held=0.5, reformer=MagNet(**QUICK)).fit(images)

    images = fashion[:60]
    held = torch.randperm(60, generator=torch.Generator().manual_seed(0))[:30]
    x = images.x.clone()
    x[held] = 1 - x[held]
    one, other = fitted(images), fitted(type(images)(x, images.y, images.classes, "changed"))
    assert_same(one.reformer, other.reformer)
    assert one.threshold != other.threshold


def test_around_a_classifier_it_has_one_more_class(fashion, detector):
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(32 * 32, 10)).requires_grad_(False)
    x = torch.cat([fashion.x[1000:1050], torch.rand(5, 1, 32, 32, generator=torch.Generator().manual_seed(0))])
    system = detector.around(nn.Sequential(detector.reformer, classifier))
    logits = system(x)
    assert torch.equal(logits.argmax(1) == 10, rejects(detector, x))
    assert_close(logits[:, :10], classifier(detector.reformer(x)))


def test_the_detector_is_stored_and_reproduces(fashion):
    images = fashion[:60]
    make = lambda: MagNetDetector(rate=0.1, held=0.5, reformer=MagNet(**QUICK))  # noqa: E731
    one, two, other = make().fit(images), make().fit(images), make().seeded(1).fit(images)
    assert_same(one, two)
    assert one.threshold != other.threshold
    loaded = make()
    loaded.load_state_dict(one.state_dict())
    assert torch.equal(loaded.score(images.x), one.score(images.x)) and loaded.threshold == one.threshold


def test_errors(photos, detector):
    with pytest.raises(InputError, match="MagNet is not fitted yet"):
        MagNet()(photos.x)
    with pytest.raises(InputError, match="not fitted yet"):
        MagNetDetector().score(photos.x)
    with pytest.raises(InputError, match="fitted to 1 channels and got 3"):
        detector.score(photos.x)
    with pytest.raises(InputError, match="needs at least 1000 held-out images, got 6"):
        MagNetDetector().fit(photos)
    with pytest.raises(InputError, match=r"rate in \(0, 1\)"):
        MagNetDetector(rate=0)
    for wrong in (dict(width=0), dict(epochs=0), dict(lr=0), dict(noise=-1), dict(batch=0)):
        with pytest.raises(InputError, match="MagNet needs"):
            MagNet(**wrong)
    with pytest.raises(InputError, match="wraps a classifier"):
        detector(photos.x)

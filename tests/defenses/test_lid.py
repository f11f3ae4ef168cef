"""LID: the estimate against known dimensions and a slow loop, and the detector on images it has not seen."""

import math
from copy import deepcopy

from labkit import attacks
from labkit.attacks.budget import Budget
from labkit.core.errors import InputError
from labkit.core.recipes import ClassifierRecipe
from labkit.datasets import loaders
from labkit.defenses.lid import LID, dimension, layers
from labkit.models import networks

import pytest
import torch
from oracles import rejects
from scipy.stats import betabinom
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

BUDGET = Budget.dissimilarity(0.25)


def fgsm(model, x, y):
    return attacks.fgsm(model, x, y, budget=BUDGET)


@pytest.fixture(scope="module")
def fashion():
    return loaders.load("fashion", "train", n=1800)


@pytest.fixture(scope="module")
def classifier(fashion):
    """A small network that knows what it sees: 12 quick epochs on images of half the size."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.AvgPool2d(2), nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 16, 3, stride=2), nn.ReLU(),
            nn.Flatten(), nn.Linear(144, 10),
        )  # fmt: skip
    optimizer = torch.optim.Adam(net.parameters(), lr=5e-3)
    for epoch in range(12):
        for at in torch.randperm(1000, generator=torch.Generator().manual_seed(epoch)).split(50):
            loss = functional.cross_entropy(net(fashion.x[at]), fashion.y[at])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return net.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def detector(fashion, classifier):
    return LID(rate=0.1).fit(fashion[:1000], classifier=classifier, attack=fgsm)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("d", [2, 5, 10])
def test_the_dimension_of_a_ball(d):
    N, k, trials = 2000, 20, 400
    points = normal(N, d)
    radius = torch.rand(N, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** (1 / d)
    points = points / points.norm(dim=1, keepdim=True) * radius
    # In a space of another dimension, where it lies askew.
    points = points @ torch.linalg.qr(normal(12, 12))[0][:d]
    centres = 0.1 * points[:trials]  # well inside
    found = dimension(torch.cdist(centres, points), k)
    # log rᵢ/rₖ are −1/d times k − 1 exponential variables, so the mean of the estimate is d k / (k − 2), and its
    # standard deviation about d k / (k − 2) / √(k − 3). Neighbourhoods overlap: say 2,000 / 20 of them are independent.
    expected = d * k / (k - 2)
    assert abs(found.mean() - expected) < 4 * expected / math.sqrt((k - 3) * N / k)


def test_dimension_is_the_slow_loop():
    a, b = normal(7, 30, seed=2), normal(25, 30, seed=3)
    a[4] = b[11]
    own = torch.zeros(7, 25, dtype=torch.bool)
    own[4, 11] = True
    found = dimension(torch.cdist(a, b), 6, own)
    for i in range(7):
        apart = sorted(math.dist(a[i].tolist(), other.tolist()) for other in b)
        apart = [r for r in apart if r > 0][:6]
        expected = -1 / (sum(math.log(r / apart[-1]) for r in apart) / 6)
        assert math.isclose(found[i], expected, rel_tol=1e-10)


def test_where_all_is_alike_the_dimension_is_finite():
    found = dimension(torch.zeros(3, 30), 20)
    assert found.isfinite().all()
    assert dimension(torch.full((1, 30), 2.0), 20).isfinite().all()


def test_layers_of_a_network(classifier, fashion):
    x = fashion.x[:3]
    found = layers(classifier, x)
    assert [tuple(layer.shape) for layer in found] == [(3, 8 * 49), (3, 16 * 9), (3, 10)]
    assert_close(found[0], classifier[:3](x).flatten(1))
    assert_close(found[2], classifier(x))
    assert not any(module._forward_hooks for module in classifier.modules())


@pytest.mark.parametrize("network, count", [("vgg11", 8), ("resnet50", 4)])
def test_layers_of_the_labs_networks(network, count):
    model = networks.build(ClassifierRecipe(network=network, width=0.0625), 5, 3, 32).eval()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = layers(model, x)
    assert len(found) == count + 1
    assert_close(found[-1], model(x))
    assert len({layer.shape for layer in found}) > count // 2


def test_dimensions_are_estimated_from_the_minibatch(fashion, classifier, detector):
    x = fashion.x[1000:1004]
    theirs, mine = layers(classifier, detector.reference), layers(classifier, x)
    slow = [dimension(torch.cdist(a.double(), b.double()), 20) for a, b in zip(mine, theirs, strict=True)]
    assert_close(detector.dimensions(x), torch.stack(slow, 1).float(), rtol=1e-4, atol=1e-4)
    assert detector.reference.shape == (100, 1, 32, 32)


def test_an_image_is_not_its_own_neighbour(classifier, detector):
    at = layers(classifier, detector.reference)[0].double()
    r = torch.cdist(at[5:6], at)[0].sort().values[1:21]
    expected = -1 / (r / r[-1]).log().mean()
    assert_close(detector.dimensions(detector.reference[5:6])[0, 0].double(), expected, rtol=1e-4, atol=0)
    x = detector.reference[5:7].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(detector.score(x).sum(), x)
    assert gradient.isfinite().all() and gradient.any()


def test_attacked_images_that_it_has_not_seen_stand_out(fashion, classifier, detector):
    x, y = fashion.x[1000:], fashion.y[1000:]
    x_adv = fgsm(classifier, x, y)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    length = (x_adv - x).flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
    noisy = (x + length[:, None, None, None] * noise).clamp(0, 1)
    with torch.no_grad():
        clean, noisy, attacked = (detector.score(a) for a in (x, noisy, x_adv))
    for other in (clean, noisy):
        truth = [0] * len(x) + [1] * len(x)
        assert roc_auc_score(truth, torch.cat([other, attacked])) > 0.65


def test_the_false_positive_rate_is_the_one_asked_for(fashion, detector):
    new, n = fashion[1000:], 270  # of the 900 that are not in the minibatch, three in ten are held out
    rejected = int(rejects(detector, new.x).sum())
    # The threshold lies between the 27th and the 28th largest of the held-out scores; how many of other images exceed
    # it then follows, whatever the distribution of the scores, a beta-binomial distribution.
    low, high = betabinom.ppf(0.001, len(new), 27, n - 26), betabinom.ppf(0.999, len(new), 28, n - 27)
    assert 0 < low <= rejected <= high < 0.25 * len(new)


def test_the_gradient_is_that_of_finite_differences(fashion, classifier, detector):
    double = LID(rate=0.1).double()
    double.load_state_dict(detector.state_dict())
    double.around(deepcopy(classifier).double())
    x = fashion.x[1000:1003].double().mul(0.9).add(0.05).requires_grad_()
    direction = normal(*x.shape)
    (gradient,) = torch.autograd.grad(double.score(x).sum(), x)
    h = 1e-7
    with torch.no_grad():
        difference = (double.score(x + h * direction) - double.score(x - h * direction)).sum() / (2 * h)
    assert_close((gradient * direction).sum(), difference, rtol=1e-5, atol=1e-6)
    assert gradient.flatten(1).norm(dim=1).min() > 0
    assert_close(double.score(x)[1:2], double.score(x[1:2]), rtol=0, atol=1e-9)


def test_around_a_classifier_it_has_one_more_class(fashion, classifier, detector):
    x = torch.cat([fashion.x[1000:1040], fgsm(classifier, fashion.x[1040:1080], fashion.y[1040:1080])])
    system = detector.around(classifier)
    logits = system(x)
    assert torch.equal(logits.argmax(1) == 10, rejects(detector, x))
    assert_close(logits[:, :10], classifier(x))


def test_it_is_stored_without_the_classifier_and_reproduces(fashion, classifier, detector):
    again = LID(rate=0.1).fit(fashion[:1000], classifier=classifier, attack=fgsm)
    other = LID(rate=0.1).seeded(1).fit(fashion[:1000], classifier=classifier, attack=fgsm)
    state = detector.state_dict()
    assert set(state) == {"threshold", "spread", "reference", "answers", "weight", "bias"}
    assert not list(detector.parameters())
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in state.items())
    assert not torch.equal(other.reference, detector.reference)

    loaded, x = LID(rate=0.1), fashion.x[1000:1010]
    loaded.load_state_dict(state)
    with pytest.raises(InputError, match="call around"):
        loaded.score(x)
    loaded.around(classifier)
    assert torch.equal(loaded.score(x), detector.score(x))
    stranger = nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)).requires_grad_(False)
    with pytest.raises(InputError, match="another classifier"):
        loaded.around(stranger)


def test_held_out_images_are_neither_attacked_nor_neighbours(fashion, classifier):
    seen = []

    def spy(model, x, y):
        seen.append(x)
        return fgsm(model, x, y)

    images = fashion[:400]
    detector = LID(rate=0.1).fit(images, classifier=classifier, attack=spy)
    used = {image.numpy().tobytes() for image in torch.cat([*seen, detector.reference])}
    left = [image for image in images.x if image.numpy().tobytes() not in used]
    assert 90 <= len(left) < 300  # the held-out ones, and those that the classifier gets wrong


def test_errors(fashion, classifier, detector):
    with pytest.raises(InputError, match="LID is not fitted yet"):
        LID().score(fashion.x[:2])
    with pytest.raises(InputError, match="fitted to 1 channels and got 3"):
        detector.score(torch.rand(2, 3, 32, 32))
    with pytest.raises(InputError, match="fit it to such images"):
        detector.score(fashion.x[:2, :, :30])
    with pytest.raises(InputError, match="at least 200 images"):
        LID().fit(fashion[:150], classifier=classifier, attack=fgsm)
    with pytest.raises(InputError, match="gets none right"):
        wrong = type(fashion)(fashion.x, torch.full_like(fashion.y, 10), fashion.classes, "wrong")
        LID().fit(wrong[:300], classifier=classifier, attack=fgsm)
    for wrong in (dict(neighbours=1), dict(neighbours=100), dict(held=0)):
        with pytest.raises(InputError, match=r"LID (needs|got batch)"):
            LID(**wrong)

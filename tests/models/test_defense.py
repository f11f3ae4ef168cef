"""The rules of the game for defenses that reject, that draw, and that have no gradient."""

from labkit.attacks import pgd
from labkit.attacks.budget import Budget
from labkit.core.errors import InputError
from labkit.evaluation import threat_models
from labkit.models.defense import Around, Defense, Detector

import pytest
import torch
from oracles import rejects
from torch import nn
from torch.testing import assert_close


class Bright(Detector):
    """Rejects what is brighter than the images it was calibrated on."""

    def score(self, x):
        return x.flatten(1).mean(1)


class Rounded(Defense):
    differentiable = False

    def forward(self, x):
        self._check(x, 1)
        return (4 * x).round() / 4


@pytest.fixture
def classifier():
    """Class 1 where the right half of an image is brighter than its left."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
    sides = torch.tensor([-1.0, -1.0, 1.0, 1.0]).repeat(4)
    network[1].weight.data = torch.stack([-sides, sides])
    return network.eval()


@pytest.fixture
def images():
    x = torch.full((8, 1, 4, 4), 0.3)
    x[::2, ..., :2] = 0.4
    x[1::2, ..., 2:] = 0.4
    return x, torch.tensor([0, 1] * 4)


@pytest.fixture
def detector():
    bright = Bright(0.1)
    bright.calibrate(torch.linspace(0.30, 0.40, 101))
    return bright


def test_the_threshold_rejects_the_share_asked_for(detector):
    x = torch.linspace(0.30, 0.40, 101)[:, None, None, None].expand(-1, 1, 4, 4)
    assert int(rejects(detector, x).sum()) == 10
    assert_close(float(detector.threshold), 0.39, atol=1e-6, rtol=0)


def test_the_last_logit_wins_exactly_where_the_detector_rejects(detector, classifier):
    x = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    logits = threat_models.judged(classifier, detector)(x)
    assert logits.shape == (200, 3)
    assert torch.equal(logits.argmax(1) == 2, rejects(detector, x)) and 0 < rejects(detector, x).sum() < 200
    assert_close(logits[:, :2], classifier(x))


def test_a_rejected_image_is_withstood_when_attacked_and_a_mistake_when_clean(detector):
    logits, y = torch.tensor([[0.0, 1, 2], [3, 1, 2], [0, 3, 2]]), torch.tensor([0, 0, 0])
    assert threat_models.correct(logits, y, detector).tolist() == [True, True, False]
    assert threat_models.correct(logits, y, detector, attacked=False).tolist() == [False, True, False]
    assert threat_models.correct(logits[:, :2], y, None).tolist() == [False, True, False]


def test_the_joint_objective_fools_classifier_and_detector_where_one_alone_is_caught(detector, classifier, images):
    x, y = images
    mine, budget = y == 0, Budget.linf(0.12)
    alone = classifier(x[mine])
    assert alone.argmax(1).tolist() == [0] * 4
    joint = threat_models.view(classifier, detector, "exact", label=0)
    made = pgd(joint, x[mine], y[mine], budget=budget, steps=40)
    judged = threat_models.judged(classifier, detector)(made)
    assert not threat_models.correct(judged, y[mine], detector).any()
    # Turning the class by brightening the right side alone is seen.
    brighter = x[mine].clone()
    brighter[..., 2:] += 0.24
    assert classifier(brighter).argmax(1).tolist() == [1] * 4
    assert threat_models.correct(threat_models.judged(classifier, detector)(brighter), y[mine], detector).all()


def test_a_detector_is_attacked_class_by_class(detector, classifier, images):
    with pytest.raises(InputError, match="class by class"):
        threat_models.view(classifier, detector, "exact")


def test_a_defense_without_gradient_says_so_and_can_be_attacked_by_bpda(classifier, images):
    x, y = images
    with pytest.raises(InputError, match="no gradient of its own"):
        threat_models.view(classifier, Rounded(), "exact")
    made = pgd(threat_models.view(classifier, Rounded(), "identity"), x, y, budget=Budget.linf(0.3), steps=20)
    assert not threat_models.correct(threat_models.judged(classifier, Rounded())(made), y, None).any()


def test_wrong_use_is_told_in_a_sentence(classifier):
    with pytest.raises(InputError, match="1 channels and got 3"):
        Rounded()(torch.rand(1, 3, 4, 4))
    with pytest.raises(InputError, match="not fitted yet"):
        threat_models.judged(classifier, Bright(0.1))(torch.rand(1, 1, 4, 4))
    with pytest.raises(InputError, match="at least 1000 held-out"):
        Bright(0.001).calibrate(torch.rand(100))
    with pytest.raises(InputError, match=r"rate in \(0, 1\), got 0"):
        Bright(0)
    with pytest.raises(InputError, match="around"):
        Around()(torch.rand(1, 1, 4, 4))

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from labkit import threat
from labkit.errors import InputError


class Halve(nn.Module):
    stochastic = False

    def forward(self, x):
        return x / 2


@pytest.fixture
def parts():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), Halve(), torch.rand(2, 3, 2, 2)


def slope(model, x):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(model(x)[:, 0].sum(), x)[0]


def test_what_is_judged_includes_the_defense(parts):
    classifier, defense, x = parts
    assert_close(threat.judged(classifier, defense)(x), classifier(x / 2))
    assert_close(threat.judged(classifier, None)(x), classifier(x))


@pytest.mark.parametrize(
    "knowledge, input_scale, slope_scale",
    [("classifier", 1, 1), ("transfer", 1, 1), ("identity", 0.5, 1), ("exact", 0.5, 0.5)],
)
def test_what_each_attacker_sees_and_differentiates(parts, knowledge, input_scale, slope_scale):
    classifier, defense, x = parts
    model = threat.view(classifier, defense, knowledge)
    assert_close(model(x), classifier(input_scale * x))
    assert_close(slope(model, x), slope_scale * slope(classifier, x))
    assert not model.training


def test_unknown_knowledge_is_named(parts):
    with pytest.raises(InputError, match="known kinds are transfer, classifier"):
        threat.view(*parts[:2], "psychic")

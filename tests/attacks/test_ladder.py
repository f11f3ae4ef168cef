"""The ladder: as far as a bound allows, and not deceived by a model that answers by chance."""

from labkit.attacks import ATTACKS, Budget

import linear_models
import pytest
import torch
from torch import nn

ladder = ATTACKS["ladder"]


@pytest.mark.parametrize("classes", [2, 5])
def test_a_linear_model_falls_just_beyond_its_distance_and_not_before(classes):
    model, x, y = linear_models.setting(classes)
    for share, falls in ((1.03, True), (0.97, False)):
        distance = share * model.distance(x, y)
        for at in range(len(x)):
            one = slice(at, at + 1)
            found = ladder(model, x[one], y[one], budget=Budget.l2(float(distance[at])), steps=20)
            assert (model(found).argmax(1) != y[one]).item() is falls


class Lucky(nn.Module):
    """A linear model that answers wrongly now and then, wherever the image is."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        logits = self.model(x)
        return torch.where(torch.rand(len(x), 1) < 0.3, -logits, logits)


def test_a_lucky_draw_is_no_success():
    model, x, y = linear_models.setting()
    near = Budget.l2(float(2 * model.distance(x, y).max()))
    found = ladder(Lucky(model), x, y, budget=near, steps=50)
    assert (model(found).argmax(1) != y).all()  # most draws are wrong, and not one that was seen
    stopped = ATTACKS["pgd"](Lucky(model), x, y, budget=near, steps=50, loss="margin", stop=True)
    assert (model(stopped).argmax(1) == y).any()  # as who stops at the first


def test_what_is_wrong_already_comes_back_as_it_was():
    model, x, y = linear_models.setting(5)
    other = (y + 1) % 5
    assert torch.equal(ladder(model, x, other, budget=Budget.linf(0.03), steps=5), x)

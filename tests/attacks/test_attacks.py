"""What every attack keeps: its signature, its budget, its draws, and images that are not its business."""

import inspect

from labkit import attacks
from labkit.attacks import ATTACKS, MINIMAL
from labkit.attacks.budget import Budget, quantize
from labkit.core.errors import InputError

import pytest
import torch
from linear_models import BUDGETS, SHAPE, setting
from torch.testing import assert_close

AIMED = [name for name in ATTACKS if name not in ("noise", "universal")]
GRADIENT = [name for name in AIMED if name not in ("square", "hopskipjump")]
QUICK = {
    "cw": dict(searches=3, steps=60),
    "autoattack": dict(steps=10, queries=40),
    "square": dict(queries=60),
    "hopskipjump": dict(queries=150),
    "universal": dict(pattern=torch.linspace(-1, 1, 3 * 8 * 7).reshape(SHAPE)),
}


def run(name, model, x, y, budget, **options):
    return ATTACKS[name](model, x, y, budget=budget, **{**QUICK.get(name, {}), **options})


def test_all_have_one_signature():
    for name, attack in ATTACKS.items():
        assert attack.__name__ == name and getattr(attacks, name) is attack
        parameters = inspect.signature(attack).parameters
        assert list(parameters)[:3] == ["model", "x", "y"]
        assert all(p.kind is p.KEYWORD_ONLY for p in list(parameters.values())[3:])
        default = parameters["budget"].default
        assert default is None if name in MINIMAL else default is inspect.Parameter.empty


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", ATTACKS)
def test_within_budget_range_and_finite(name, budget):
    model, x, y = setting()
    x[0] = 0  # black: a relative budget leaves it nothing
    x[1, :, :4] = 0
    x[2, :, 4:] = 1
    y = model(x).argmax(1)
    found = run(name, model, x, y, budget)
    assert budget.holds(found, x).all() and not found.requires_grad and found.shape == x.shape
    stored = quantize(found, x, budget)
    assert budget.holds(stored, x).all()
    assert model.normals.grad is None


@pytest.mark.parametrize("name", ATTACKS)
def test_no_budget_is_the_image(name):
    model, x, y = setting()
    for budget in (Budget.l2(0.0), Budget.linf(0.0)):
        assert torch.equal(run(name, model, x, y, budget), x)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", ATTACKS)
def test_one_at_a_time_or_all_together(name, budget):
    model, x, y = setting(classes=5)
    together = run(name, model, x, y, budget)
    alone = torch.cat([run(name, model, x[i : i + 1], y[i : i + 1], budget) for i in range(len(x))])
    assert_close(together, alone, atol=1e-5, rtol=0)
    assert torch.equal(model(together).argmax(1), model(alone).argmax(1))


@pytest.mark.parametrize("name", ATTACKS)
def test_the_same_again_whatever_the_global_random_state(name):
    model, x, y = setting(classes=5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = run(name, model, x, y, BUDGETS[2])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(run(name, model, x, y, BUDGETS[2]), first)


@pytest.mark.parametrize("name", ["pgd", "noise", "lowfreq", "square", "hopskipjump"])
def test_another_seed_draws_anew(name):
    model, x, y = setting(classes=5)
    options = dict(steps=1) if name in ("pgd", "lowfreq") else dict(queries=3) if name == "square" else {}
    budget = Budget.linf(0.2)
    one, other = (run(name, model, x, y, budget, seed=seed, **options) for seed in (0, 1))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("name", AIMED)
def test_what_cannot_be_attacked_comes_back_unchanged(name):
    model, x, y = setting()
    flat = lambda images: images.flatten(1)[:, :2] * 0 + torch.tensor([1.0, 0.0])  # noqa: E731
    broken = lambda images: images.flatten(1)[:, :2] * torch.nan  # noqa: E731
    for answer in (flat, broken):
        assert torch.equal(run(name, answer, x, torch.zeros_like(y), BUDGETS[0]), x)
        if name in MINIMAL:
            assert torch.equal(run(name, answer, x, torch.zeros_like(y), None), x)
    black = torch.zeros_like(x)
    assert torch.equal(run(name, model, black, y, BUDGETS[0]), black)


@pytest.mark.parametrize("name", [*MINIMAL, "square", "autoattack"])
def test_wrong_to_begin_with_comes_back_unchanged(name):
    model, x, y = setting()
    assert torch.equal(run(name, model, x, 1 - y, Budget.l2(0.4)), x)


@pytest.mark.parametrize("name", ATTACKS)
def test_budget_pixels_and_classes_are_checked(name):
    model, x, y = setting()
    if name not in MINIMAL:
        with pytest.raises(InputError, match=f"{name} needs a budget"):
            run(name, model, x, y, None)
    with pytest.raises(InputError, match="divide 8-bit"):
        run(name, model, x * 255, y, BUDGETS[0])
    with pytest.raises(InputError, match="one class index"):
        run(name, model, x, y[:2], BUDGETS[0])


@pytest.mark.parametrize("name", GRADIENT)
def test_a_view_without_gradients_is_said_to_have_none(name):
    model, x, y = setting()
    with pytest.raises(InputError, match="no gradient"):
        run(name, lambda images: model(images).detach(), x, y, BUDGETS[0])

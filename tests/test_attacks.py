import pytest
import torch
from torch import nn
from torch.testing import assert_close

from labkit import attacks
from labkit.attacks import ATTACKS
from labkit.budget import Budget

BUDGETS = [Budget.dissimilarity(0.08), Budget.l2(0.4), Budget.linf(8 / 255)]


class Linear(nn.Module):
    """Two classes split by a hyperplane whose normal is known; clean inputs lie far from the range's ends."""

    def __init__(self, normal):
        super().__init__()
        self.normal = normal

    def forward(self, x):
        score = ((x - 0.5) * self.normal).flatten(1).sum(1)
        return torch.stack([score, -score], 1)


@pytest.fixture
def setting():
    g = torch.Generator().manual_seed(0)
    x = 0.5 + 0.2 * (torch.rand(6, 3, 8, 7, generator=g) - 0.5)
    normal = torch.randn(3, 8, 7, generator=g)
    model = Linear(normal)
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", ATTACKS)
def test_within_budget_range_and_finite(name, budget, setting):
    model, x, y = setting
    found = ATTACKS[name](model, x, y, budget=budget)
    change = (found - x).flatten(1)
    size = change.abs().amax(1) if budget.norm == "linf" else change.norm(dim=1)
    assert torch.isfinite(found).all() and found.min() >= 0 and found.max() <= 1
    assert (size <= budget.radius(x) * (1 + 1e-5)).all()
    assert not found.requires_grad


@pytest.mark.parametrize("name", ATTACKS)
def test_linf_reaches_the_analytic_worst_case(name, setting):
    """On a linear model the worst perturbation in the max norm is ε·sign(normal): score falls by ε‖normal‖₁."""
    model, x, y = setting
    budget = Budget.linf(0.03)
    found = ATTACKS[name](model, x, y, budget=budget)
    margin = lambda images: (model(images).gather(1, y[:, None]) - model(images).gather(1, 1 - y[:, None]))[:, 0] / 2  # noqa: E731
    assert_close(margin(x) - margin(found), torch.full((6,), 0.03 * float(model.normal.abs().sum())), rtol=0.01, atol=0)


def test_fgsm_is_the_scaled_sign_pattern(setting):
    model, x, y = setting
    found = attacks.fgsm(model, x, y, budget=Budget.dissimilarity(0.05))
    expected = -torch.where(y == 0, 1.0, -1.0)[:, None, None, None] * model.normal.sign()
    length = 0.05 * x.flatten(1).norm(dim=1) / (3 * 8 * 7) ** 0.5
    assert_close(found - x, expected * length[:, None, None, None], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ATTACKS)
def test_no_budget_is_the_image(name, setting):
    model, x, y = setting
    assert torch.equal(ATTACKS[name](model, x, y, budget=Budget.l2(0.0)), x)


@pytest.mark.parametrize("name", ATTACKS)
def test_one_at_a_time_or_all_together(name, setting):
    model, x, y = setting
    budget = BUDGETS[0]
    together = ATTACKS[name](model, x, y, budget=budget)
    alone = torch.cat([ATTACKS[name](model, x[i : i + 1], y[i : i + 1], budget=budget) for i in range(6)])
    assert_close(together, alone)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_has_no_gradient_comes_back_unchanged(name, setting):
    _, x, y = setting
    flat = lambda images: images.flatten(1)[:, :2] * 0  # noqa: E731
    broken = lambda images: images.flatten(1)[:, :2] * torch.nan  # noqa: E731
    for model in (flat, broken):
        assert torch.equal(ATTACKS[name](model, x, y, budget=BUDGETS[0]), x)
    black = torch.zeros_like(x)
    assert torch.equal(ATTACKS[name](setting[0], black, y, budget=BUDGETS[0]), black)


def test_more_steps_do_more_on_a_curved_loss():
    """A loss whose gradient turns: one big step overshoots, small ones follow."""
    g = torch.Generator().manual_seed(1)
    x, y = torch.rand(16, 1, 6, 6, generator=g), torch.zeros(16, dtype=torch.long)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.Tanh(), nn.Linear(32, 2)).requires_grad_(False)
    for p in network.parameters():
        p.copy_(torch.randn(p.shape, generator=g))
    loss = lambda images: nn.functional.cross_entropy(network(images), y)  # noqa: E731
    budget = Budget.l2(1.5)
    one, many = (loss(attacks.bim(network, x, y, budget=budget, steps=s)) for s in (1, 40))
    assert loss(x) < one < many

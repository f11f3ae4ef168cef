from labkit.attacks.budget import Budget, at_average, quantize
from labkit.core.errors import InputError

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close


def pair(seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(4, 3, 5, 6, generator=g), torch.rand(4, 3, 5, 6, generator=g) * 3 - 1


def test_radii():
    x, _ = pair()
    assert_close(Budget.dissimilarity(0.08).radius(x), 0.08 * x.flatten(1).norm(dim=1))
    assert_close(Budget.l2(0.5).radius(x), torch.full((4,), 0.5))
    assert_close(Budget.linf(8 / 255).radius(x), torch.full((4,), 8 / 255))


BUDGETS = [Budget.dissimilarity(0.1), Budget.l2(0.3), Budget.linf(0.05), Budget.l2(0.0)]


@given(st.sampled_from(BUDGETS), st.integers(0, 50))
def test_project_meets_budget_and_range_and_is_idempotent(budget, seed):
    x, far = pair(seed)
    near = budget.project(far, x)
    change = (near - x).flatten(1)
    size = change.abs().amax(1) if budget.norm == "linf" else change.norm(dim=1)
    assert (size <= budget.radius(x) * (1 + 1e-5) + 1e-7).all()
    assert near.min() >= 0 and near.max() <= 1
    assert_close(budget.project(near, x), near)


def test_project_keeps_what_is_inside():
    x = torch.full((1, 1, 2, 2), 0.5)
    near = x + 0.01
    assert_close(Budget.l2(1.0).project(near, x), near)


@pytest.mark.parametrize("norm, size", [("l1", 1.0), ("l2", -1.0), ("l2", float("nan")), ("linf", float("inf"))])
def test_nonsense_is_refused(norm, size):
    with pytest.raises(InputError):
        Budget(norm, size)


def test_holds_tells_what_breaks_a_bound():
    x, _ = pair()
    x = 0.3 + 0.4 * x
    for budget in (Budget.dissimilarity(0.1), Budget.l2(0.3), Budget.linf(0.05)):
        edge = budget.reach(torch.ones_like(x), x)
        assert budget.holds(edge, x).all() and budget.holds(x, x).all()
        assert not budget.holds(x + 1.001 * (edge - x), x).any()
    for bad in (torch.nan, -0.01, 1.01):
        spoilt = x.clone()
        spoilt[1, 0, 0, 0] = bad
        assert Budget.l2(9.0).holds(spoilt, x).tolist() == [True, False, True, True]


@given(st.sampled_from(BUDGETS), st.integers(0, 50))
def test_reach_goes_to_the_bound_or_to_the_end_of_the_range(budget, seed):
    x, far = pair(seed)
    x[0] = x[0].round()  # half of these pixels have nowhere to go
    direction = far - 0.5
    reached = budget.reach(direction, x)
    assert budget.holds(reached, x).all()
    assert_close(budget.length(reached, x), budget.radius(x), rtol=1e-4, atol=1e-6)
    assert ((reached - x) * direction >= 0).all()


def test_reach_stops_where_every_pixel_is_at_its_end():
    x = torch.full((1, 1, 2, 2), 0.9)
    up = torch.tensor([[[[1.0, 0.01], [0.5, 0.0]]]])
    assert_close(Budget.l2(5.0).reach(up, x), torch.tensor([[[[1.0, 1.0], [1.0, 0.9]]]]))
    assert_close(Budget.l2(5.0).reach(0 * up, x), x)


def test_average_is_one_radius_whose_mean_share_is_the_size():
    x, _ = pair()
    x = x * torch.tensor([0.1, 0.5, 1.0, 0.0])[:, None, None, None]  # the last is black
    budget = Budget.average(0.06, x)
    assert budget.norm == "l2" and not budget.relative
    assert_close((budget.radius(x)[:3] / x[:3].flatten(1).norm(dim=1)).mean(), torch.tensor(0.06))
    with pytest.raises(InputError, match="not all black"):
        Budget.average(0.06, 0 * x)


@given(st.floats(0.0, 0.3), st.integers(0, 50))
def test_one_factor_brings_a_set_to_its_average(size, seed):
    x, far = pair(seed)
    x = 0.4 + 0.2 * x
    change = 0.01 * (far - 0.5) * torch.tensor([1.0, 2.0, 0.0, 5.0])[:, None, None, None]
    found = at_average(x + change, x, size)
    share = (found - x).flatten(1).norm(dim=1) / x.flatten(1).norm(dim=1)
    assert_close(share.mean(), torch.tensor(size), atol=1e-5, rtol=1e-4)
    assert found.min() >= 0 and found.max() <= 1 and torch.equal(found[2], x[2])
    inside = (found > 0) & (found < 1) & (change.abs() > 1e-3)
    if inside.any() and size > 0.01:  # where nothing was clipped, all were stretched alike
        factor = ((found - x) / change)[inside]
        assert_close(factor, factor[:1].expand_as(factor), rtol=1e-2, atol=1e-3)
        assert factor[0] > 0  # the way that the change goes, not the opposite one


def test_dark_images_count_for_an_average_and_black_ones_do_not():
    x = torch.zeros(3, 1, 4, 4)
    x[0], x[1] = 0.5, 0.05  # of length 2 and 0.2
    found = at_average(x + 0.01 * (x > 0), x, 0.06)
    share = (found[:2] - x[:2]).flatten(1).norm(dim=1) / x[:2].flatten(1).norm(dim=1)
    assert_close(share.mean(), torch.tensor(0.06), atol=1e-5, rtol=1e-4)


def test_no_factor_reaches_an_average_without_changes():
    x, _ = pair()
    for images in (x, 0 * x):
        with pytest.raises(InputError, match="ask for less"):
            at_average(images, images, 0.06)


def eighths(images):
    return (images * 255).round() / 255


@pytest.mark.parametrize(
    "budget", [Budget.dissimilarity(0.03), Budget.l2(0.3), Budget.linf(8 / 255), Budget.linf(0.031)]
)
def test_eight_bits_stay_within_the_bound_and_lose_little(budget):
    g = torch.Generator().manual_seed(0)
    x = eighths(torch.rand(5, 3, 16, 17, generator=g))
    x_adv = budget.reach(torch.randn(x.shape, generator=g), x)
    stored = quantize(x_adv, x, budget)
    assert torch.equal(eighths(stored), stored) and budget.holds(stored, x).all()
    assert ((stored - x_adv).abs() <= 1.02 / 255).all()
    lost = 1 - budget.length(stored, x) / budget.radius(x)
    assert (lost <= (0.01 if budget.norm == "l2" else 1 / 7.905)).all()


def test_a_bound_of_whole_levels_is_used_to_the_last():
    levels = torch.arange(8, 248).reshape(1, 1, 20, 12).float()
    for sign in (8, -8):
        stored = quantize((levels + sign) / 255, levels / 255, Budget.linf(8 / 255))
        assert_close(stored * 255, levels + sign)


def test_a_bound_between_two_levels_takes_the_lower():
    x = torch.full((1, 1, 1, 3), 100 / 255)
    x_adv = x + torch.tensor([0.031, -0.031, 0.0])
    assert_close(quantize(x_adv, x, Budget.linf(0.031)) * 255, torch.tensor([[[[107.0, 93.0, 100.0]]]]))
    assert_close(quantize(x_adv, x, None) * 255, torch.tensor([[[[108.0, 92.0, 100.0]]]]))


@pytest.mark.parametrize("budget", [Budget.l2(1e-3), Budget.linf(1e-3), Budget.l2(0.0), Budget.linf(0.0)])
def test_an_image_between_levels_that_cannot_be_stored_comes_back(budget):
    x = torch.full((2, 1, 4, 4), 100.5 / 255)
    x[1] = 100 / 255
    assert torch.equal(quantize(budget.project(x + 1e-3, x), x, budget), x)

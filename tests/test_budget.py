import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from labkit.budget import Budget
from labkit.errors import InputError


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

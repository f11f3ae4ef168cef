"""Certificates: checked where the true radius is known, and never broken by an attack inside of it."""

import math

from labkit.attacks import Budget, pgd
from labkit.core.errors import InputError
from labkit.csc import split
from labkit.experiments import certificates, smoothing
from labkit.models import SparseTransform

import pytest
import torch
from torch import nn
from torch.testing import assert_close


class Linear(nn.Module):
    """Two classes that a plane separates: the distance to it is the true radius, smoothed or not."""

    def __init__(self, normal, offset=0.0):
        super().__init__()
        self.normal, self.offset = normal, offset

    def forward(self, x):
        at = x.flatten(1) @ self.normal - self.offset
        return torch.stack([at, -at], 1)


def filters(K=8, C=1, S=4, seed=0):
    d = torch.randn(K, C, S, S, generator=torch.Generator().manual_seed(seed))
    return d / d.flatten(1).norm(dim=1)[:, None, None, None]


def pictures(n, seed=0, size=12):
    return torch.rand(n, 1, size, size, generator=torch.Generator().manual_seed(seed))


def test_the_radius_of_two_classes_in_two_dimensions_is_below_the_true_one_and_near():
    points = torch.rand(40, 1, 1, 2, generator=torch.Generator().manual_seed(0))
    normal = torch.tensor([0.6, 0.8])
    model = Linear(normal, 0.7)
    true = (points.flatten(1) @ normal - 0.7).abs()
    found, radii = smoothing.certify(model, points, sigma=0.3, first=100, draws=4000, progress=False)
    sure = found != smoothing.ABSTAINED
    assert torch.equal(found[sure], model(points).argmax(1)[sure])
    assert (radii <= true + 1e-6).all()  # α = 0.001 for each of 40
    assert sure.sum() > 30 and (radii[sure & (true < 0.5)] > true[sure & (true < 0.5)] - 0.06).all()
    assert (true[~sure] < 0.03).all()


def test_who_is_not_sure_abstains():
    generator = torch.Generator().manual_seed(0)
    guess = lambda x: torch.randn(len(x), 3, generator=generator)  # noqa: E731
    found, radii = smoothing.certify(_Called(guess), pictures(20), sigma=0.2, first=20, draws=100, progress=False)
    assert (found == smoothing.ABSTAINED).all() and (radii == 0).all()


class _Called(nn.Module):
    def __init__(self, called):
        super().__init__()
        self.called = called

    def forward(self, x):
        return self.called(x)


def test_the_bound_of_a_probability_fails_as_often_as_it_may():
    """Of a coin that falls on one side with 0.7, the radius is too long in at most the share α of all trials."""
    draws, alpha, generator = 100, 0.1, torch.Generator().manual_seed(0)
    true = smoothing.radius_of(10**9 * 7, 10**10, 1.0, 0.5)
    hits = (torch.rand(2000, draws, generator=generator) < 0.7).sum(1).tolist()
    wrong = sum(smoothing.radius_of(count, draws, 1.0, alpha) > true for count in hits)
    assert 0.02 * 2000 < wrong <= 0.12 * 2000
    assert_close(true, 0.5244, atol=1e-3, rtol=0)


def test_smoothing_refuses_what_it_cannot_use():
    for how in ({"sigma": 0.0}, {"sigma": 0.1, "alpha": 1.0}):
        with pytest.raises(InputError, match="choose others"):
            smoothing.certify(Linear(torch.ones(4)), pictures(1, size=2), progress=False, **how)


def test_where_only_the_low_pass_part_counts_the_radius_is_the_true_one():
    layer, x = SparseTransform(filters(), lam=0.1, gap_tol=1e-6), pictures(20)
    a = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    head = certificates.Head(a, torch.zeros_like(a), torch.zeros(2))
    found, radii = certificates.radii(layer, head, x)
    # What the head asks of the image itself: the gradient of its linear answer.
    asked = x.clone().requires_grad_(True)
    logits = split(asked)[0].flatten(1) @ a.flatten(1).T
    slope = torch.autograd.grad((logits[:, 0] - logits[:, 1]).sum(), asked)[0].flatten(1).norm(dim=1)
    assert_close(radii, (logits[:, 0] - logits[:, 1]).abs().detach() / slope, rtol=1e-3, atol=1e-5)
    assert torch.equal(found, logits.argmax(1))


def test_no_attack_inside_a_certified_radius_moves_the_class():
    """By T's exact gradient, at nine tenths of a radius; at four times that, one wins."""
    layer = SparseTransform(filters(), lam=0.1, gap_tol=1e-4)
    x, many = pictures(60, seed=2), pictures(200, seed=3)
    brighter = (many[:, :, :6].mean((1, 2, 3)) > many[:, :, 6:].mean((1, 2, 3))).long()
    head = certificates.fit(layer, many, brighter, 2, decay=1e-3)
    found, radii = certificates.radii(layer, head, x)
    assert torch.equal(found, head.logits(layer, x).argmax(1)) and (radii > 0).float().mean() > 0.5

    for share, holds in ((0.9, True), (4.0, False)):
        radius = float(radii.quantile(0.5))
        mine = radii >= radius
        x_adv = pgd(
            certificates.Headed(layer, head),
            x[mine],
            found[mine],
            budget=Budget.l2(share * radius),
            steps=5,
            loss="margin",
        )
        assert bool((head.logits(layer, x_adv).argmax(1) != found[mine]).any()) != holds


def test_only_the_papers_T_is_certified():
    head = certificates.Head(*(torch.zeros(2, 1, 12, 12),) * 2, torch.zeros(2))
    for how in ({"dim": 0.5}, {"top": 3}, {"shaken": 0.1}, {"boundary": "reflect"}, {"relative": True}):
        layer = SparseTransform(filters(), **how)
        for asked in (lambda x, T=layer: certificates.radii(T, head, x), lambda x, T=layer: certificates.support(T, x)):
            with pytest.raises(InputError, match="paper's T"):
                asked(pictures(1))


def test_a_support_stays_within_its_radius():
    layer, x = SparseTransform(filters(K=3), lam=0.5, gap_tol=1e-9), pictures(6).double()
    found = certificates.support(layer, x)
    _, high, code = layer.parts(x)
    assert found.active.tolist() == [len(one.v) for one in code.code.codes]
    assert (found.radius > 0).any()
    generator = torch.Generator().manual_seed(5)
    for at in torch.nonzero(found.radius > 1e-4)[:, 0].tolist():
        for _ in range(5):
            change = torch.randn(high[at].shape, dtype=torch.float64, generator=generator)
            moved = high[at] + 0.9 * found.radius[at] * change / change.norm()
            z = layer._solve(moved[None], gap_tol=1e-10).z[0]
            assert torch.equal(z.sign(), code.z[at].sign())
    assert all(math.isfinite(value) for value in found.radius.tolist())

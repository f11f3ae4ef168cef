"""Stochastic activation pruning: its expectation, its draws, and that the classifier stays what it was."""

from labkit.attacks import fgsm
from labkit.attacks.budget import Budget
from labkit.core.errors import InputError
from labkit.core.recipes import ClassifierRecipe
from labkit.defenses.sap import SAP
from labkit.models import networks

import pytest
import torch
from torch import nn
from torch.testing import assert_close

VGG = ClassifierRecipe(width=1 / 16)
RESNET = ClassifierRecipe(network="resnet50", width=1 / 16)
both = pytest.mark.parametrize("recipe", [VGG, RESNET], ids=["vgg16", "resnet50"])


def activations(B=2, C=3, H=5, W=4, seed=0):
    return torch.randn(B, C, H, W, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).relu()


def images(B=3, C=3):
    return torch.rand(B, C, 32, 32, generator=torch.Generator().manual_seed(5))


def model(recipe, C=3):
    return networks.build(recipe, 4, C, 32).eval()


def test_the_expectation_is_the_unpruned_activation():
    h, sap, n = activations(), SAP(), 8000
    pruned = torch.stack([sap.prune(h) for _ in range(n)])
    error = pruned.std(0) / n**0.5
    assert not pruned[:, h == 0].any() and (pruned == 0).any(0)[h > 0].any()
    sure = (pruned != 0).all(0)  # in these 8,000 draws, so that they show no spread
    assert sure.sum() < 5
    assert_close(pruned.mean(0)[sure], h[sure], rtol=1e-3, atol=0)
    distance = ((pruned.mean(0) - h) / error)[(h > 0) & ~sure]
    assert distance.abs().max() < 4.5  # standard errors, of about sixty units
    assert abs(distance.square().mean() - 1) < 0.5  # and on the whole as far as chance has it


def test_units_stay_as_often_as_draws_with_replacement_hit_them():
    """Against the publication's own procedure: N draws of a unit, those hit at least once."""
    h, n = activations(1), 4000
    N, p = 2 * h[0].numel(), (h / h.sum()).flatten()
    generator = torch.Generator().manual_seed(1)
    drawn = torch.multinomial(p.expand(n, -1), N, replacement=True, generator=generator)
    theirs = torch.zeros(n, len(p)).scatter(1, drawn, 1.0).mean(0)
    sap = SAP().seeded(2)
    ours = torch.stack([sap.prune(h).flatten() != 0 for _ in range(n)]).float().mean(0)
    spread = (2 * theirs * (1 - theirs) / n).sqrt()
    assert ((ours - theirs).abs() <= 0.3 / N + 4 * spread + 1e-6).all()


def test_each_image_is_pruned_by_its_own_sum():
    h = torch.cat([activations(1), 1e6 * activations(1)])
    shares = torch.stack([(SAP().seeded(seed).prune(h) != 0).flatten(1).sum(1) for seed in range(200)]).double().mean(0)
    assert_close(shares[0], shares[1], rtol=0.03, atol=0)


def test_gradients_take_the_draw_as_given():
    h = activations().requires_grad_()
    pruned = SAP().prune(h)
    (gradient,) = torch.autograd.grad(pruned.sum(), h)
    assert_close(gradient * h, pruned)


@both
def test_with_very_many_draws_nothing_is_pruned(recipe):
    classifier, x = model(recipe), images()
    assert_close(SAP(draws=1e12).around(classifier)(x), classifier(x))


@pytest.mark.parametrize(("recipe", "maps"), [(VGG, 13), (RESNET, 49)], ids=["vgg16", "resnet50"])
def test_every_map_is_pruned(recipe, maps, monkeypatch):
    seen, real = [], SAP.prune
    monkeypatch.setattr(SAP, "prune", lambda self, h: seen.append(h.shape) or real(self, h))
    SAP().around(model(recipe))(images())
    assert len(seen) == maps and all(len(shape) == 4 for shape in seen)


@both
def test_seeds_reproduce_and_draws_differ(recipe):
    sap, x = SAP(), images(C=1)
    system = sap.around(model(recipe, C=1))
    first, second = system(x), system(x)
    sap.seeded(0)
    assert torch.equal(system(x), first) and not torch.equal(first, second)
    sap.seeded(1)
    assert not torch.equal(system(x), first)
    state = torch.get_rng_state()
    system(x)
    assert torch.equal(torch.get_rng_state(), state)


@both
def test_it_can_be_attacked_by_its_gradient(recipe):
    system, x = SAP().around(model(recipe)), images()
    x_adv = fgsm(system, x, torch.tensor([0, 1, 2]), budget=Budget.linf(0.1))
    assert ((x_adv - x).abs().flatten(1).amax(1) > 0.05).all()


@both
def test_the_classifier_stays_as_it_was(recipe):
    classifier, x = model(recipe), images()
    before, state = classifier(x), {name: t.clone() for name, t in classifier.state_dict().items()}
    system = SAP().around(classifier)
    assert not torch.equal(system(x), before)
    assert torch.equal(classifier(x), before)
    with pytest.raises(RuntimeError):
        system(images(C=2))  # with the hooks in place
    assert torch.equal(classifier(x), before)
    assert all(torch.equal(state[name], t) for name, t in classifier.state_dict().items())
    assert not system.train().eval().classifier.training  # the one and only classifier, in whatever mode


def test_a_map_of_zeros_stays_zero():
    assert not SAP().prune(torch.zeros(2, 3, 4, 4)).any()
    tiny = torch.full((1, 3, 4, 4), 1e-39)
    assert SAP().prune(tiny).isfinite().all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: SAP()(images()), "wraps a classifier"),
        (lambda: SAP(draws=0), "SAP needs draws"),
        (lambda: SAP().around(nn.Sequential(nn.Flatten(), nn.Linear(4, 2))), "ReLU modules"),
        (lambda: SAP().around(model(VGG))(255 * images()), "divide 8-bit values"),
    ],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(InputError, match=message):
        call()

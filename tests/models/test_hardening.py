"""Adversarial training: what it trains on, its losses, and that the most robust epoch is the one that is kept."""

from dataclasses import replace

from labkit.attacks import Budget, climb
from labkit.core import metrics
from labkit.core.errors import InputError
from labkit.core.recipes import AdversarialTraining
from labkit.datasets import loaders
from labkit.models import SparseTransform, classifiers, hardening, networks

import pytest
import torch
from striped import TINY, assert_same, stripes, trained
from torch.nn import functional
from torch.testing import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

ONE_STEP = AdversarialTraining("pgd", 0.5, "l2", share=1.0)
TRADES = AdversarialTraining("pgd", 0.5, "l2", steps=2, share=1.0, beta=6.0)


@pytest.fixture(scope="module")
def model():
    return trained(stripes(), replace(TINY, epochs=12))


@pytest.mark.parametrize("budget", [Budget.l2(0.5), Budget.linf(0.03), Budget.dissimilarity(0.05)])
def test_a_climb_stays_in_the_budget_and_gains_with_its_steps(model, budget):
    images = stripes(60, seed=2)
    losses = []
    for steps in (0, 1, 5):
        found = climb(model, images.x, images.y, budget=budget, steps=steps, seed=1)
        assert budget.holds(found, images.x).all()
        losses.append(functional.cross_entropy(model(found), images.y).item())
    assert losses[0] < losses[1] and losses[0] < losses[2]
    again = climb(model, images.x, images.y, budget=budget, steps=5, seed=1)
    assert torch.equal(again, found)


def test_trades_climbs_away_from_the_clean_answers_whatever_the_classes(model):
    images, budget = stripes(30, seed=2), Budget.l2(0.5)
    wrong = (images.y + 1) % 3
    seen = [climb(model, images.x, y, budget=budget, steps=3, seed=1, kept=True) for y in (images.y, wrong)]
    assert torch.equal(*seen)
    clean, moved = (model(x).log_softmax(1) for x in (images.x, seen[0]))
    random = climb(model, images.x, images.y, budget=budget, steps=0, seed=1)
    assert _divergence(clean, moved) > _divergence(clean, model(random).log_softmax(1)) >= 0


def _divergence(clean, attacked) -> float:
    return (clean.exp() * (clean - attacked)).sum(1).mean().item()


def test_the_loss_of_trades_is_its_equation():
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(8, 3, generator=generator), torch.tensor([0, 2, 1, 1])
    clean, attacked = logits.log_softmax(1).split(4)
    expected = functional.nll_loss(clean, y) + 6 * _divergence(clean, attacked)
    assert_close(hardening.loss(logits, y, None, 6.0), expected)


@pytest.mark.parametrize("how", [ONE_STEP, TRADES], ids=["one step", "TRADES"])
def test_it_makes_a_network_more_robust(how):
    """By more than the 95 % interval, on a few hundred photographs of clothes."""
    train, test = (loaders.load("fashion", split, n=n, resolution=32) for split, n in (("train", 500), ("test", 400)))
    plain = replace(TINY, network="vgg11", epochs=8, augment=False)
    how, found = replace(how, size=2.0), []
    for recipe in (plain, replace(plain, adversarial=how)):
        network = trained(train, recipe)
        x_adv = climb(network, test.x, test.y, budget=Budget.l2(2.0), steps=10, seed=5)
        found.append(metrics.accuracy(classifiers.predict(network, x_adv).argmax(1) == test.y))
    assert found[1].low > found[0].high


def test_the_epoch_most_robust_on_images_kept_out_is_kept(tmp_path, monkeypatch):
    robust, states, shown = [0.2, 0.7, 0.1], [], set()

    def watched(model, x, y, how, layer):
        states.append({name: t.clone() for name, t in model.state_dict().items()})
        shown.add(tuple(x.flatten(1).sum(1).tolist()))
        return {hardening.WATCHED: robust[len(states) - 1]}

    monkeypatch.setattr(hardening, "watched", watched)
    images, recipe = stripes(40), replace(TINY, adversarial=replace(ONE_STEP, held=9))
    model = trained(images, recipe, checkpoint=tmp_path)
    assert all(torch.equal(states[1][name], t) for name, t in model.state_dict().items())
    assert model.history[hardening.WATCHED] == robust
    (held,) = shown
    assert len(held) == 9 and len(states) == 3
    again = trained(images, recipe, checkpoint=tmp_path)  # goes on from its end: from the file
    assert_same(again, model)
    assert len(states) == 3


def test_images_kept_out_are_not_trained_on(monkeypatch):
    seen = []
    monkeypatch.setattr(classifiers, "augment", lambda x, g: seen.extend(x.flatten(1).sum(1).tolist()) or x)
    images = stripes(40)
    trained(images, replace(TINY, epochs=2, adversarial=replace(ONE_STEP, held=9)))
    assert len(set(seen)) == 31
    with pytest.raises(InputError, match="choose fewer"):
        trained(images, replace(TINY, adversarial=replace(ONE_STEP, held=21)))


def test_what_is_watched_tells_a_collapse_from_robustness(model):
    images = stripes(60, seed=2)
    told = hardening.watched(model, images.x, images.y, replace(ONE_STEP, size=6.0))
    assert told["clean, held out"] == 1.0
    assert told[hardening.WATCHED] <= told["under one step, held out"] <= 1.0
    assert not model.training


def test_through_T_the_attack_passes_T_and_the_network_sees_T_of_it():
    d = torch.randn(6, 1, 5, 5, generator=torch.Generator().manual_seed(0))
    layer = SparseTransform(d / d.flatten(1).norm(dim=1)[:, None, None, None], lam=0.1)
    images = stripes(24)
    model = networks.build(TINY, 3, 1, 32).eval()
    how = replace(ONE_STEP, through=True)
    x, _ = hardening.mixed(model, images.x, images.y, how, 3, layer)
    model.eval()
    made = climb(lambda x: model(layer(x)), images.x, images.y, budget=Budget.l2(0.5), steps=1, seed=3)
    assert_close(x, layer(made), atol=1e-4, rtol=0)
    assert classifiers.train(model, images, replace(TINY, epochs=1, adversarial=how), layer=layer, progress=False)

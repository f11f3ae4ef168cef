from functools import partial

from labkit import attacks, defenses
from labkit.core.errors import InputError
from labkit.core.recipes import ClassifierRecipe
from labkit.defenses.crops import CropEnsemble
from labkit.defenses.deflection import PixelDeflection
from labkit.evaluation import threat_models
from labkit.models import networks
from labkit.models.defense import Around, Defense

import pytest
import torch
from torch import nn
from torch.testing import assert_close


class Halve(Defense):
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
    assert_close(threat_models.judged(classifier, defense)(x), classifier(x / 2))
    assert_close(threat_models.judged(classifier, None)(x), classifier(x))


@pytest.mark.parametrize(
    "knowledge, input_scale, slope_scale",
    [("classifier", 1, 1), ("transfer", 1, 1), ("identity", 0.5, 1), ("exact", 0.5, 0.5)],
)
def test_what_each_attacker_sees_and_differentiates(parts, knowledge, input_scale, slope_scale):
    classifier, defense, x = parts
    model = threat_models.view(classifier, defense, knowledge)
    assert_close(model(x), classifier(input_scale * x))
    assert_close(slope(model, x), slope_scale * slope(classifier, x))
    assert not model.training


def test_unknown_knowledge_is_named(parts):
    with pytest.raises(InputError, match="known kinds are transfer, classifier"):
        threat_models.view(*parts[:2], "psychic")


def test_an_attacker_with_queries_gets_answers_and_no_gradient(parts):
    classifier, defense, x = parts
    model = threat_models.view(classifier, defense, "queries")
    assert_close(model(x), classifier(x / 2))
    assert not model(x.requires_grad_()).requires_grad


@pytest.mark.parametrize("defended", [True, False])
def test_an_attacker_with_decisions_gets_no_more_than_the_class(parts, defended):
    classifier, defense, x = parts
    model = threat_models.view(classifier, defense if defended else None, "decisions")
    scores = classifier(x / 2 if defended else x)
    assert torch.equal(model(x), torch.eye(3)[scores.argmax(1)])
    for knowledge in ("queries", "decisions"):
        asked = threat_models.view(classifier, defense if defended else None, knowledge)
        assert not asked(x.clone().requires_grad_()).requires_grad


class Coin(Defense):
    """Doubles an image or leaves it black, each time it is asked."""

    stochastic = True

    def __init__(self):
        super().__init__()
        self.heads = False

    def forward(self, x):
        self.heads = not self.heads
        return 2 * x if self.heads else 0 * x


def test_a_random_defense_is_expected_over_its_draws(parts):
    classifier, _, x = parts
    model = threat_models.view(classifier, Coin(), "exact", draws=4)
    mean = (classifier(2 * x).softmax(1) + classifier(0 * x).softmax(1)) / 2
    assert_close(model(x).softmax(1), mean)
    assert_close(model(x).exp().sum(1), torch.ones(2))
    x = x.clone().requires_grad_()
    (seen,) = torch.autograd.grad(model(x)[:, 0].exp().sum(), x)
    y = x.detach().clone().requires_grad_()
    (half,) = torch.autograd.grad(classifier(2 * y).softmax(1)[:, 0].sum() / 2, y)
    assert_close(seen, half)


def kept_for_the_way_back(model, x):
    """Bytes that autograd holds between a model's answer and its gradient, and that gradient."""
    held, x = {}, x.clone().requires_grad_()

    def pack(tensor):
        held[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        total = model(x).log_softmax(1)[:, 0].sum()
    (gradient,) = torch.autograd.grad(total, x)
    return sum(held.values()), gradient


@pytest.mark.parametrize(
    ("defense", "draws"), [(Coin(), 8), (CropEnsemble(crops=8), 1), (PixelDeflection(draws=8), 1)], ids=repr
)
def test_an_average_over_draws_holds_less_than_one_network_would(monkeypatch, defense, draws):
    torch.manual_seed(0)
    x, network = torch.rand(2, 3, 32, 32), networks.build(ClassifierRecipe(network="vgg11", width=0.25), 4, 3, 32)
    network.eval().requires_grad_(False)

    def asked():
        defense.heads = False
        defense.seeded(1)
        return kept_for_the_way_back(threat_models.view(network, defense, "identity", draws=draws), x)

    held, gradient = asked()
    assert held < kept_for_the_way_back(network, x)[0]
    monkeypatch.setattr(networks.Recomputed, "forward", lambda self, x: self.network(x))
    more, same = asked()
    assert more > 6 * held
    assert_close(gradient, same)


def test_a_vote_can_be_held(lab, bench):
    T, network = bench.transform(lab.stratified), bench.classifier(lab.classifier)
    x = bench.images(lab.data, "test").x[:6]
    for stratum in (0, 1):
        model = threat_models.view(network, T, "fixed-stratum", stratum=stratum)
        assert_close(model(x), network(T.transforms[stratum](x)))
    with pytest.raises(InputError, match="stratum="):
        threat_models.view(network, T, "fixed-stratum")
    one = bench.transform(lab.transform)
    assert_close(threat_models.view(network, one, "fixed-stratum")(x), threat_models.view(network, one, "exact")(x))


class Shaken(Defense):
    """Adds noise drawn anew each time it is asked."""

    stochastic = True

    def forward(self, x):
        return x + torch.rand(x.shape, generator=self.generator)


class Doubled(Around):
    def around(self, classifier):
        return nn.Sequential(classifier, nn.Hardtanh(-9, 9))


def test_a_decision_tells_what_the_classifier_got(parts):
    classifier, defense, x = parts
    for kind, got in ((None, x), (defense, x / 2), (Doubled(), x)):
        seen, logits = threat_models.decide(classifier, kind, x)
        assert_close(seen, got)
        assert_close(logits, threat_models.judged(classifier, kind)(x))
    assert threat_models.turned(classifier, Doubled(), x) is x


def test_a_random_defense_is_judged_on_the_same_draws_whatever_was_drawn_before(parts):
    classifier, _, x = parts
    defense = Shaken()
    first = threat_models.decide(classifier, defense, x)[0]
    defense.seeded(7)(x)
    assert torch.equal(threat_models.decide(classifier, defense, x)[0], first)
    assert not torch.equal(defense.seeded(threat_models.JUDGED_SEED + 1)(x), first)


def test_T_says_what_every_defense_says(lab, bench):
    for T in map(bench.transform, lab.defenses):
        assert isinstance(T, Defense) and T.maps and T.differentiable and not T.stochastic and not T.learns
        x = bench.images(lab.data, "test").x[:3]
        assert_close(T.seeded(3).sample(x), T(x))
        assert_close(T.around(nn.Flatten())(x), T(x).flatten(1))
        x.requires_grad_()
        (slope,) = torch.autograd.grad(T.straight_through()(x).sum(), x)
        assert torch.equal(slope, torch.ones_like(x))


TINY = {
    "lowpass": {"psnr": 25.0}, "tvm": {"outer": 3}, "quilting": {"patches": 3000}, "tvm-quilting": {"patches": 3000},
    "crops": {"patches": 3000, "crops": 4}, "deflection": {"deflections": 40, "draws": 2},
    "magnet": {"epochs": 1}, "magnet-detector": {"epochs": 1, "rate": 0.1}, "lid": {"rate": 0.1},
    "pixeldefend": {"epochs": 1, "width": 8, "blocks": 1}, "d3": {"atoms": 100, "sparsity": 2},
}  # fmt: skip
SMOOTH = {"jpeg", "bits", "quilting", "tvm-quilting", "crops", "deflection"}


def fitted(name, lab, bench):
    train, network = bench.images(lab.data, "train")[:300], bench.classifier(lab.classifier)
    defense = defenses.build(name, **TINY.get(name, {}))
    attack = partial(attacks.fgsm, budget=attacks.Budget.dissimilarity(0.1))
    return network, defense.fit(train, **({"classifier": network, "attack": attack} if name == "lid" else {}))


@pytest.mark.parametrize("name", defenses.DEFENSES)
def test_every_defense_has_a_smooth_view(lab, bench, name):
    network, defense = fitted(name, lab, bench)
    test = bench.images(lab.data, "test")
    x, label = test.x[:2].clone().requires_grad_(), int(test.y[0])
    known = "exact" if defense.differentiable else "identity"
    answer = threat_models.view(network, defense.seeded(3), "smooth", label=label)(x)
    assert_close(answer, threat_models.view(network, defense.seeded(3), known, label=label)(x), rtol=1e-3, atol=1e-4)
    (slope,) = torch.autograd.grad(answer[:, 0].sum(), x)
    assert slope.isfinite().all() and slope.any()
    assert defense.has_smooth == (name in SMOOTH)
    assert not (defense.has_smooth and defense.differentiable)
    assert not defense.differentiable or defense.smoothed() is defense or not defense.maps


@pytest.mark.parametrize("name", ["jpeg", "bits", "quilting"])
def test_a_smooth_stand_in_attacks_no_worse_than_the_identity(lab, bench, name):
    network, defense = fitted(name, lab, bench)
    test = bench.images(lab.data, "test")
    x, y = test.x[:60], test.y[:60]
    right = {}
    for knowledge in ("identity", "smooth"):
        model = threat_models.view(network, defense.seeded(0), knowledge)
        budget = attacks.Budget.dissimilarity(0.05)
        x_adv = attacks.pgd(model, x, y, budget=budget, steps=20, loss="margin")
        right[knowledge] = int((threat_models.decide(network, defense, x_adv)[1].argmax(1) == y).sum())
    assert right["smooth"] <= right["identity"]

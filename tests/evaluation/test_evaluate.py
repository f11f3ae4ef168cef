"""Judge your own: what is masked on purpose is measured rightly or called out, and what cannot be judged is refused."""

import json
from dataclasses import replace

from labkit.attacks import Budget, bim
from labkit.core.errors import InputError
from labkit.core.recipes import AttackRecipe, ClassifierRecipe, DataRecipe, DictionaryRecipe, TransformRecipe, rebase
from labkit.evaluation import Case, Workbench, evaluate, measurement, own

import pandas as pd
import pytest
import torch
from somebodys import Linear, images
from torch import nn

FAR = Budget.linf(0.4)  # from where every image of `images` can be fooled


@pytest.fixture(autouse=True)
def small(monkeypatch, one_thread):
    monkeypatch.setattr(own, "EFFORTS", own.EFFORTS | {"fast": own.Effort(6, 2, 4, 10, ladder=False)})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Workbench(tmp_path_factory.mktemp("store"), progress=False, device="cpu")


def judged(store, model=None, defense=None, **how):
    how = {"budgets": [FAR], "effort": "fast", **how}
    return evaluate(model or Linear(), images(), defense=defense, store=store, **how)


def failed(found):
    return set(found.checks.check[found.checks.verdict == "failed"])


class Counting:
    calls = 0

    def __call__(self, x):
        self.calls += 1
        return (x + 0.1 * (self.calls % 3)).clamp(0, 1)


class Training(nn.Module):
    """A batch normalisation that cannot be put to rest."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)

    def train(self, mode=True):
        return super().train(True)

    def forward(self, x):
        return (0.5 + 0.2 * self.norm(x)).clamp(0, 1)


def same_noise(x):
    torch.manual_seed(0)
    return (x + 0.02 * torch.randn_like(x)).clamp(0, 1)


def its_own_noise(generator):
    return lambda x: (x + 0.02 * torch.randn(x.shape, generator=generator)).clamp(0, 1)


MASKED = {
    "rounding": (lambda x: (x * 8).round() / 8, "the defense has a gradient", 0.0),
    "detached": (lambda x: 0.05 + 0.9 * x.detach(), "the defense has a gradient", 0.0),
    "lying": (lambda x: 1.5 * x.detach() - 0.5 * x, "the defense has the gradient that it says", 0.0),
    "same noise": (same_noise, "the defense looks at one image at a time", 0.0),
    "its own noise": (its_own_noise(torch.Generator()), "the defense keeps no state between calls", 0.0),
    "state": (Counting(), "the defense keeps no state between calls", None),
    "training": (Training(), "Training goes into evaluation mode when told to", 0.5),
    "outside": (lambda x: 3 * x - 1, "the defense answers images in [0, 1]", 0.0),
    "crowd": (lambda x: (x - x.mean() + 0.5).clamp(0, 1), "the defense looks at one image at a time", None),
}


@pytest.mark.parametrize("name", MASKED)
def test_a_masked_defense_is_broken_or_called_by_name(name, store):
    defense, check, left = MASKED[name]
    found = judged(store, defense=defense)
    assert check in failed(found), found.checks
    assert left is None or found.worst.accuracy.tolist() == [left]
    if name == "same noise":
        assert any("fixed seed" in note for note in found.notes)


def test_an_honest_defense_is_not_accused(store):
    found = judged(store, defense=lambda x: 0.05 + 0.9 * x)
    assert failed(found) <= {"knowing T beats not knowing it", "the exact gradient beats BPDA"}, found.checks
    assert {"identity", "exact", "classifier", "queries"} <= set(found.rows.knowledge)


def test_a_random_defense_is_asked_for_fresh_draws(store):
    found = judged(store, defense=lambda x: (x + 0.02 * torch.randn_like(x)).clamp(0, 1))
    assert not {check for check in failed(found) if "defense" in check}
    assert found.rows.majority.notna().all() and any("is random" in note for note in found.notes)
    assert found.worst.accuracy.tolist() == [0.0]


def test_saturated_answers_are_attacked_or_called_by_name(store):
    loud = judged(store, Linear(4e5))
    assert loud.worst.accuracy.tolist() == [0.0]
    sure = judged(store, nn.Sequential(Linear(4e5), nn.Softmax(1)))
    assert "the network has a gradient" in failed(sure) and any("probabilities" in note for note in sure.notes)
    odds = judged(store, nn.Sequential(Linear(), nn.Softmax(1)))
    assert odds.worst.accuracy.tolist() == [0.0] and not failed(odds), odds.checks


def test_a_network_without_a_gradient_is_asked_alone(store):
    class Table(Linear):
        def forward(self, x):
            return super().forward(x.detach())

    found = judged(store, Table())
    assert set(found.rows.attack) == {"Clean", "Square-L∞-0.400"}
    assert "the network has a gradient" in failed(found) and any("no gradient" in note for note in found.notes)


def test_what_has_been_measured_is_fetched_and_another_closure_is_another_defense(store):
    def dim(by):
        return lambda x: by * x

    first, again, other = (judged(store, defense=dim(by)) for by in (0.9, 0.9, 0.8))
    pd.testing.assert_frame_equal(first.rows, again.rows)
    assert not set(first.rows.recipe) & set(other.rows.recipe)
    told = json.loads(first.to_json())
    assert told["version"] == own.VERSION and told["effort"] == "fast" and told["images"]["digest"]
    assert [row["recipe"] for row in told["rows"]] == [*first.rows.recipe]
    assert told["worst"][0]["right"] == first.worst.right[0] and told["worst"][0]["accuracy"] == 0
    assert {"network", "defense", "seconds", "checks", "notes"} <= set(told)


def test_the_smallest_success_bounds_what_is_left_at_every_size(store):
    found, x = judged(store), images()[0]
    away = (x.flatten(1).mean(1) - 0.5).abs() * x[0].numel() ** 0.5 / x.flatten(1).norm(dim=1)  # to the boundary
    assert (found.smallest >= 0.999 * away).all() and (found.smallest <= 1.05 * away).all()
    wrong = judged(store, classes=[1, 0], model=Linear(-40.0)).smallest
    torch.testing.assert_close(wrong, found.smallest)  # the same network, its outputs exchanged
    told = json.loads(found.to_json())
    assert told["smallest"] == pytest.approx(found.smallest.tolist(), abs=1e-6)


def test_costs_are_counted_and_tell_what_more_effort_takes(store, monkeypatch):
    more = own.Effort(6, 2, 4, 1000, ladder=False)
    monkeypatch.setattr(own, "EFFORTS", {"fast": own.EFFORTS["fast"], "standard": more, "full": more._replace(n=None)})
    found = judged(store, defense=lambda x: 0.05 + 0.9 * x)
    costs = found.costs.set_index("what")
    assert {"the network", "the defense", "Clean", "DDN"} <= set(costs.index) and (costs.seconds > 0).all()
    assert costs.loc["BIM-L∞-0.400", ["forward", "backward"]].tolist() == [2, 2]
    assert 0 < costs.forward["Square-L∞-0.400"] <= 12 and costs.backward["Square-L∞-0.400"] == 0
    assert found.efforts["fast"] < found.efforts["standard"] == found.efforts["full"]


def test_own_attacks_are_tried_and_held_to_their_budget(store):
    def mine(model, x, y, *, budget):
        return bim(model, x, y, budget=budget, steps=3)

    found = judged(store, attacks=[mine], threat_models=["white-box"])
    mine_alone = found.rows[found.rows.attack.str.contains("mine")]
    assert mine_alone.accuracy.tolist() == [0.0] and set(found.rows.knowledge) == {"–", "classifier"}
    with pytest.raises(InputError, match="leaves its budget on"):
        judged(store, attacks=[lambda model, x, y, *, budget: 1 - x])
    with pytest.raises(InputError, match=r"ZeroDivisionError.*test_evaluate\.py line"):
        judged(store, attacks=[lambda model, x, y, *, budget: 1 / 0])


def test_transfer_needs_a_surrogate(store):
    found = judged(store, surrogate=Linear(20.0))
    assert "transfer" in set(found.rows.knowledge) and not any("surrogate=" in note for note in found.notes)
    assert any("surrogate=" in note for note in judged(store).notes)


def test_what_cannot_be_judged_is_refused_in_a_sentence(store):
    for how, said in (
        ({"defense": lambda x: x[:, :, 1:]}, "images of the same size"),
        ({"effort": "some"}, "unknown effort"),
        ({"threat_models": ["all"]}, "unknown threat model"),
        ({"defense": lambda x: x / 0 - x / 0}, "NaN"),
        ({"defense": lambda x: x.detach(), "differentiable": True}, "no gradient"),
        ({"defense": "magnet"}, "fitted to training images"),
        ({"defense": "lowpass"}, "like="),
    ):
        with pytest.raises(InputError, match=said):
            judged(store, **how)
    with pytest.raises(InputError, match=r"none of 6 images right.*classes="):
        judged(store, classes=[1, 0])


def test_our_own_layer_gives_the_rows_of_its_cases(store):
    data = DataRecipe("fashion", train=100, test=6)
    network = ClassifierRecipe(data, width=1 / 16, epochs=1)
    T = TransformRecipe(DictionaryRecipe(data, K=2, S=3, images=10, passes=1, batch=10, held=5), gap_tol=0.1)
    few = replace(data, test=12)  # of which the effort takes six
    found = evaluate(rebase(network, few), few, defense=rebase(T, few), store=store, effort="fast", budgets=[FAR])
    attacks = AttackRecipe("clean", 0.0, 0), AttackRecipe("bim", 0.4, 2, "linf")
    rows = measurement.run([Case(network, T, attack) for attack in attacks], store)
    pd.testing.assert_frame_equal(found.rows[:2], rows)
    assert set(found.rows.knowledge) == {"–", "classifier", "identity", "exact", "queries"}


def test_a_named_defense_needs_no_more_than_images(store):
    found = judged(store, defense="bits")
    assert set(found.rows.defense) == {"Bit depth"} and len(found.rows) == 5

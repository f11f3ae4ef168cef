"""A learned surrogate is nearer to the defense than the image is, and only its gradient is the attacker's."""

from dataclasses import replace

from labkit.core import checkpoint, recipes
from labkit.core.errors import InputError
from labkit.core.recipes import AttackRecipe, DataRecipe, DefenseRecipe, SurrogateRecipe
from labkit.core.store import key, parsed
from labkit.evaluation import Workbench, measurement, surrogate, threat_models
from labkit.evaluation.adversarial_examples import adversarial
from labkit.experiments import cost_estimate

import kept_recipes
import pytest
import torch
from torch.testing import assert_close


@pytest.fixture(scope="module")
def asked(lab):
    quilting = DefenseRecipe("quilting", lab.data, (("patches", 500),))
    return SurrogateRecipe(quilting, images=150, width=8, epochs=6, batch=16, lr=5e-3)


def test_before_any_training_it_changes_nothing():
    x = torch.rand(2, 3, 9, 7)
    assert torch.equal(surrogate.Surrogate(3, 5)(x), x)


def test_it_is_nearer_to_the_defense_than_the_image_is(asked, bench):
    jpeg = replace(asked, defense=DefenseRecipe("jpeg", asked.data), images=300, width=16, epochs=8)
    for recipe, more in ((asked, 0.5), (jpeg, 0.2)):
        defense, (network, facts) = recipe.defense, bench.surrogate(recipe)
        assert facts["psnr"] > facts["unlearned"] + more and len(facts["loss"]) == recipe.epochs
        # Of images that it has not learned from either, and no noise.
        x, T = bench.images(asked.data, "test").x[:], bench.transform(defense)
        assert (network(x) - T(x)).square().mean() < (x - T(x)).square().mean()


def test_the_forward_pass_is_the_defenses_and_the_gradient_the_surrogates(asked, lab, bench):
    defense, near = bench.transform(asked.defense), bench.surrogate(asked)[0]
    network = bench.classifier(lab.classifier)
    x = bench.images(lab.data, "test").x[:4].clone().requires_grad_()
    system = threat_models.view(network, defense, "learned", stand_in=near)
    assert_close(system(x), network(defense(x)), atol=1e-4, rtol=1e-4)
    (seen,) = torch.autograd.grad(system(x)[:, 0].sum(), x)
    between = defense(x).detach().requires_grad_()
    (behind,) = torch.autograd.grad(network(between)[:, 0].sum(), between)
    (expected,) = torch.autograd.grad((near(x) * behind).sum(), x)
    assert_close(seen, expected, atol=1e-4, rtol=1e-3)
    other = threat_models.view(network, defense, "identity", stand_in=near)
    assert_close(torch.autograd.grad(other(x)[:, 0].sum(), x)[0], behind, atol=1e-4, rtol=1e-3)


def test_rows_of_it_are_measured_and_say_how_it_was_trained(asked, lab, bench):
    case = measurement.Case(lab.classifier, asked.defense, AttackRecipe("bim", 0.1, 3), "learned", surrogate=asked)
    rows = measurement.run([replace(case, knowledge="identity"), case], bench)
    assert list(rows.knowledge) == ["identity", "learned"] and rows.accuracy.between(0, 1).all()
    kept = measurement.recipes_of(rows, bench)
    assert kept_recipes.flaws(rows, kept) == []
    before, learned = (kept[row] for row in rows.recipe)
    assert "surrogate" not in before
    assert kept_recipes.built(learned) == recipes.rebase(case, DataRecipe(kept_recipes.images(kept)[rows.recipe[1]]))
    assert (
        adversarial(replace(case, knowledge="identity").attempt(), bench).ne(adversarial(case.attempt(), bench)).any()
    )


def test_the_recipe_comes_back_from_the_store(asked, bench):
    bench.surrogate(asked)
    digest = bench.images(asked.data, "train").digest
    name = key(asked, digest)
    plain = parsed(bench.store.root / "surrogate" / name / "recipe.json")
    again = kept_recipes.built(plain)
    assert again == recipes.rebase(asked, DataRecipe(digest)) and key(again, digest) == name == key(plain)


def test_what_a_case_does_not_say_of_it_is_the_default(asked, lab):
    case = measurement.Case(lab.classifier, asked.defense, AttackRecipe("bim"), "learned")
    assert case.surrogate == case.attempt().surrogate == SurrogateRecipe(asked.defense)
    jpeg = DefenseRecipe("jpeg", lab.data)
    assert replace(case, surrogate=asked, defense=jpeg).surrogate == replace(asked, defense=jpeg)
    assert replace(case, knowledge="identity").surrogate is None
    none = replace(case, defense=None)
    assert none.surrogate is None and none.attempt().knowledge == "classifier"


def test_a_plan_counts_it(asked, lab, bench, tmp_path):
    case = measurement.Case(lab.classifier, asked.defense, AttackRecipe("bim"), "learned", surrogate=asked)
    planned = cost_estimate.steps([case], Workbench(tmp_path, progress=False))
    assert [step.kind for step in planned] == ["classifier", "defense", "surrogate", "attack", "row"]
    (learning,) = (step for step in planned if step.what == "surrogate of Quilting")
    assert learning.seconds > 0


def test_a_run_that_was_cut_goes_on_and_ends_the_same(asked, bench, tmp_path, monkeypatch):
    other, write, made = Workbench(tmp_path, progress=False), checkpoint.write, surrogate.corrupt

    def cut(file, run, tensors, facts):
        write(file, run, tensors, facts)
        if len(facts.get("loss", ())) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write", cut)
    with pytest.raises(KeyboardInterrupt):
        other.surrogate(asked)
    monkeypatch.setattr(checkpoint, "write", write)
    drawn = []
    monkeypatch.setattr(surrogate, "corrupt", lambda *given: drawn.append(given) or made(*given))
    (network, facts), (whole, expected) = other.surrogate(asked), bench.surrogate(asked)
    assert facts == expected and not drawn
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), whole.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "words"), [("median", "a gradient of its own"), ("crops", "no map of images"), ("stl", "of its own")]
)
def test_a_defense_that_has_no_use_for_one_is_refused(name, words, lab, bench):
    options = (("patches", 100), ("crops", 2)) if name == "crops" else ()
    defense = lab.transform if name == "stl" else DefenseRecipe(name, lab.data, options)
    with pytest.raises(InputError, match=f"{words}.*; attack it as"):
        bench.surrogate(SurrogateRecipe(defense, images=10))
    with pytest.raises(InputError, match=words):
        threat_models.view(torch.nn.Flatten(), bench.transform(defense), "learned")


def test_a_stand_in_that_is_missing_is_asked_for(asked, bench):
    with pytest.raises(InputError, match="pass stand_in="):
        threat_models.view(torch.nn.Flatten(), bench.transform(asked.defense), "learned")

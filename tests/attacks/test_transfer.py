"""Attacks on networks that the attacker does not have: what is drawn for whom, and what passes over."""

from dataclasses import replace

from labkit.attacks import ATTACKS, Budget
from labkit.core.profiles import LAB
from labkit.core.recipes import AttackRecipe, DefenseRecipe
from labkit.core.store import key
from labkit.evaluation import adversarial_examples, measurement
from labkit.evaluation.workbench import needs
from labkit.models import networks, predict

import linear_models
import pytest
import torch
from torch.testing import assert_close


@pytest.fixture(scope="module")
def others(lab):
    """Two networks of an attacker that the judged one is not."""
    return replace(lab.classifier, network="vgg11", seed=1), replace(lab.classifier, network="vgg13", seed=2)


def accuracy(case, bench):
    return measurement.run([case], bench).accuracy[0]


def test_it_passes_over_better_than_bim_of_its_size_and_several_better_than_one(lab, bench, others):
    def left(name, copy):
        attack = AttackRecipe(name, 0.15, 20)
        return accuracy(measurement.Case(lab.classifier, None, attack, "transfer", copy=copy), bench)

    bim, ours, together = left("bim", others[0]), left("mi_di", others[0]), left("mi_di", others)
    assert together <= ours <= bim and together < bim - 0.05


def test_images_that_are_not_attacked_do_not_shift_the_draws_of_others():
    model, x, y = linear_models.setting(5)
    x[1] = 0  # within a relative bound, there is nowhere to go from black
    seen = []
    watched = lambda images: (seen.append(images.detach().clone()), model(images))[1]  # noqa: E731
    ATTACKS["mi_di"](watched, x, y, budget=Budget.dissimilarity(0.08), steps=3)
    together, seen[:] = seen[1:], []
    ATTACKS["mi_di"](watched, x[2:3], y[2:3], budget=Budget.dissimilarity(0.08), steps=3)
    for many, one in zip(together, seen[1:], strict=True):
        assert_close(many[1:2], one, atol=1e-5, rtol=0)


def test_half_of_what_the_model_sees_is_smaller_and_on_black():
    x, seen = torch.full((200, 1, 20, 20), 0.5), []
    x += torch.linspace(0, 0.3, 200)[:, None, None, None]  # as each draws by its pixels
    slope = torch.randn(400, 2, generator=torch.Generator().manual_seed(0))

    def model(images):
        seen.append(images.detach())
        return images.flatten(1) @ slope

    ATTACKS["mi_di"](model, x, torch.zeros(200, dtype=torch.long), budget=Budget.l2(1e-6), steps=1)
    area = seen[0].sum((1, 2, 3)) / x.sum((1, 2, 3))
    moved = area < 0.999
    assert 70 < moved.sum() < 130 and area.min() > 0.9**2 - 0.02 and area.max() < 1.001
    assert (seen[0].amin((1, 2, 3)) < 0.4)[area < 0.9].all()  # its border is darker


def test_several_answer_with_the_mean_of_their_logits_and_are_built_each(lab, bench, others):
    case = measurement.Case(lab.classifier, None, AttackRecipe("mi_di", 0.1, 2), "transfer", copy=others)
    together = bench.classifier(others)
    x = bench.images(lab.data, "test").x[:5]
    assert_close(predict(together, x), sum(predict(bench.classifier(one), x) for one in others) / 2)
    assert not together.training and not any(p.requires_grad for p in together.parameters())
    assert needs("attack", case.attempt()) == [("classifier", one) for one in others]
    made = adversarial_examples.adversarial(case.attempt(), bench)
    test = bench.images(lab.data, "test")
    again = ATTACKS["mi_di"](together, test.x[:], test.y, budget=Budget.dissimilarity(0.1), steps=2)
    assert_close(made, again, atol=1e-5, rtol=0)


def test_one_of_several_may_be_trained_on_what_the_defense_outputs(lab, bench, others):
    jpeg = DefenseRecipe("jpeg", lab.data)
    retrained = replace(lab.classifier, transform=jpeg, epochs=1)
    case = measurement.Case(
        lab.classifier, jpeg, AttackRecipe("mi_di", 0.1, 2), "transfer", copy=(others[0], retrained)
    )
    assert 0 <= accuracy(case, bench) <= 1 and case.attempt().defense is None
    assert isinstance(bench.classifier(case.copy), networks.Several)


def test_the_names_of_rows_with_one_copy_are_what_they_were():
    case = measurement.Case(LAB.retrained(), LAB.transform, LAB.strongest, "transfer", copy=LAB.classifier)
    assert (key(case, "abc"), key(case.attempt(), "abc")) == ("f22c257a0f06ef9a", "a50f52861ec99e02")
    known = measurement.Case(LAB.classifier, DefenseRecipe("jpeg"), AttackRecipe("pgd"), "identity")
    assert key(known, "abc") == "fbe301fb1fb0d083"

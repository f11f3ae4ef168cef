import functools
from dataclasses import replace

from labkit import defenses
from labkit.attacks import ATTACKS, TrainingMode, fgsm, pgd, quantize
from labkit.attacks.budget import Budget
from labkit.core import metrics
from labkit.core.errors import InputError
from labkit.core.recipes import AttackRecipe
from labkit.evaluation import adversarial_examples, threat_models
from labkit.evaluation.adversarial_examples import Attempt, adversarial
from labkit.evaluation.workbench import Workbench
from labkit.models import predict

import pytest
import torch
from torch.testing import assert_close


def test_a_held_vote_is_attacked_cluster_by_cluster(lab, bench):
    recipe = AttackRecipe("pgd", 0.05, steps=2)
    x_adv = adversarial(Attempt(lab.classifier, lab.stratified, recipe, "fixed-stratum"), bench)
    test, T, network = bench.images(lab.data, "test"), bench.transform(lab.stratified), bench.classifier(lab.classifier)
    home = T.strata.vote(test.x[:])
    for stratum in (0, 1):
        mine = home == stratum
        model = threat_models.view(network, T, "fixed-stratum", stratum=stratum)
        expected = pgd(model, test.x[mine], test.y[mine], budget=Budget.dissimilarity(0.05), steps=2)
        assert (x_adv[mine] - expected).abs().max() < 0.05 and (x_adv[mine] - expected).abs().mean() < 1e-3


@pytest.mark.parametrize(
    "recipe, holds",
    [
        (AttackRecipe("fgsm", 8 / 255, norm="linf"), lambda a, x: (a - x).abs().amax() <= 8 / 255 + 1e-6),
        (AttackRecipe("fgsm", 0.5, norm="l2"), lambda a, x: (a - x).flatten(1).norm(dim=1).max() <= 0.5 + 1e-5),
        (
            AttackRecipe("fgsm", 0.06, norm="average"),
            lambda a, x: abs(float(metrics.dissimilarity(a, x).mean()) - 0.06) < 1e-3,
        ),
        (
            AttackRecipe("deepfool", 0.06, norm="average", steps=5),
            lambda a, x: abs(float(metrics.dissimilarity(a, x).mean()) - 0.06) < 1e-3,
        ),
        (AttackRecipe("fgsm", 8.0, norm="levels", stored=True), lambda a, x: (255 * (a - x)).abs().round().amax() == 8),
        (AttackRecipe("universal", 4.0, norm="levels"), lambda a, x: (a - x).abs().amax() <= 4 / 255 + 1e-6),
        (
            AttackRecipe("deepfool", 8.0, norm="levels", steps=5),
            lambda a, x: (
                metrics.dissimilarity(a, x).amax()
                <= (8 / 255 * x[0].numel() ** 0.5 / x.flatten(1).norm(dim=1)).mean() + 1e-5
            ),
        ),
        (AttackRecipe("universal", 0.05), lambda a, x: (metrics.dissimilarity(a, x) <= 0.05 + 1e-5).all()),
        (AttackRecipe("square", 0.05, steps=5), lambda a, x: (metrics.dissimilarity(a, x) <= 0.05 + 1e-5).all()),
        (AttackRecipe("lowfreq", 0.05, steps=2), lambda a, x: (metrics.dissimilarity(a, x) <= 0.05 + 1e-5).all()),
    ],
    ids=lambda value: value.label if isinstance(value, AttackRecipe) else "",
)
def test_every_norm_is_kept(lab, bench, recipe, holds):
    x = bench.images(lab.data, "test").x[:]
    x_adv = adversarial(Attempt(lab.classifier, None, recipe, "classifier"), bench)
    assert x_adv.shape == x.shape and not torch.equal(x_adv, x)
    assert holds(x_adv, x)


def test_pgd_may_start_from_what_another_attack_made(lab, bench):
    """Against T, from what was made of the network alone; of a gap, images that only it fooled start there again."""
    begun = AttackRecipe("pgd", 0.05, steps=2, loss="margin", after="bim")
    attempt = Attempt(lab.classifier, lab.transform, begun, "exact")
    assert attempt.before == Attempt(lab.classifier, None, AttackRecipe("bim", 0.05, 2), "classifier")
    test, T, network = bench.images(lab.data, "test"), bench.transform(lab.transform), bench.classifier(lab.classifier)
    start, model = adversarial(attempt.before, bench), threat_models.view(network, T, "exact")
    how = {"budget": Budget.dissimilarity(0.05), "steps": 2, "loss": "margin"}
    expected = pgd(model, test.x[:], test.y, begin=start, **how)
    x_adv = adversarial(attempt, bench)
    assert (x_adv - expected).abs().mean() < 1e-3 < (x_adv - pgd(model, test.x[:], test.y, **how)).abs().mean()
    near = adversarial(replace(attempt, attack=replace(begun, gap=0.002)), bench)
    assert (near - expected).abs().mean() < 5e-3
    with pytest.raises(InputError, match="bim cannot start from what 'pgd' made"):
        AttackRecipe("bim", 0.05, after="pgd")
    with pytest.raises(InputError, match="use pgd, after a known attack"):
        AttackRecipe("pgd", 0.05, after="bmi")


def test_faults_are_what_they_say(lab, bench):
    test, network = bench.images(lab.data, "test"), bench.classifier(lab.classifier)

    def made(*faults):
        recipe = AttackRecipe("fgsm", 8.0, norm="levels", stored=True, faults=faults)
        return adversarial(Attempt(lab.classifier, None, recipe, "classifier"), bench)

    budget = Budget.linf(8 / 255)
    trained = TrainingMode(network, batch=8)
    assert_close(made("batch-8"), quantize(fgsm(trained, test.x[:], test.y, budget=budget), test.x[:], budget))
    guessed = predict(network, test.x[:]).argmax(1)
    assert_close(made("predicted"), quantize(fgsm(network, test.x[:], guessed, budget=budget), test.x[:], budget))
    assert_close(made("jpeg"), defenses.build("jpeg")(made()))
    assert_close(made("dropout"), made())  # of a network that has none
    assert not torch.equal(made("batch-100"), made())
    assert AttackRecipe("fgsm", 8.0, norm="levels", faults=("jpeg",)).label == "FGSM-8/255 (saved as JPEG)"
    with pytest.raises(InputError, match="unknown faults typo; the known ones are batch-100"):
        AttackRecipe(faults=("typo",))


def test_an_attack_cut_in_the_middle_goes_on(lab, bench, tmp_path, monkeypatch):
    monkeypatch.setattr(adversarial_examples, "_BATCH", 30)
    attempt = Attempt(lab.classifier, None, AttackRecipe("noise", 0.1), "classifier")
    other = Workbench(tmp_path, progress=False)
    other.classifier = bench.classifier
    calls, whole = [], adversarial_examples.ATTACKS["noise"]

    @functools.wraps(whole)
    def breaking(model, x, y, **options):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(model, x, y, **options)

    monkeypatch.setitem(adversarial_examples.ATTACKS, "noise", breaking)
    with pytest.raises(KeyboardInterrupt):
        adversarial(attempt, other)
    seen = adversarial(attempt, other)
    assert calls == [30, 30, 30, 30, 10]
    assert adversarial_examples.timed(attempt, other)[1]["seconds"] is None  # the time before it was cut is not known
    monkeypatch.setattr(adversarial_examples, "_BATCH", 250)
    assert_close(adversarial(attempt, Workbench(bench.store.root, progress=False)), seen)


def test_unknown_attacks_and_norms_are_named(lab, bench):
    attempt = Attempt(lab.classifier, None, AttackRecipe("magic"), "classifier")
    with pytest.raises(InputError, match="clean, fgsm, bim"):
        adversarial(attempt, bench)
    with pytest.raises(InputError, match="dissimilarity, average"):
        adversarial(replace(attempt, attack=AttackRecipe("fgsm", norm="l3")), bench)


def test_stored_images_have_8_bits_and_stay_within_the_size(lab, bench):
    test = bench.images(lab.data, "test")
    for attack in (AttackRecipe("fgsm", 0.08, stored=True), AttackRecipe("pgd", 0.031, 2, "linf", stored=True)):
        x_adv = adversarial(Attempt(lab.classifier, None, attack, "classifier"), bench)
        assert attack.label.endswith(" 8 bits") and not torch.equal(x_adv, test.x)
        assert_close(x_adv * 255, (x_adv * 255).round(), atol=1e-4, rtol=0)
        budget = Budget.dissimilarity(0.08) if attack.norm == "dissimilarity" else Budget.linf(0.031)
        assert budget.holds(x_adv, test.x).all()


def test_where_the_approximation_alone_was_fooled_the_attack_is_made_again_without_it(lab, bench, monkeypatch):
    test, asked = bench.images(lab.data, "test"), []
    attack = AttackRecipe("bim", 0.03, 3, gap=0.5)
    system = adversarial_examples._System(Attempt(lab.classifier, lab.transform, attack, "exact"), bench)
    exact, wrong = system.view(), torch.nn.functional.one_hot((test.y + 1) % 10, 10)
    with torch.no_grad():
        right = exact(test.x[:]).argmax(1) == test.y
    assert 0 < right.sum() < len(test)
    monkeypatch.setattr(system, "view", lambda gap=0.0: (lambda x: wrong) if gap else exact)
    monkeypatch.setitem(ATTACKS, "bim", lambda model, x, y, **how: asked.append((model is exact, y)) or x.clone())
    system.attack(0, test.x[:], test.y, None, {})
    (first, everyone), (again, misled) = asked
    assert (first, again) == (False, True) and torch.equal(everyone, test.y) and torch.equal(misled, test.y[right])

from dataclasses import replace

from labkit.core import metrics, recipes
from labkit.dashboards import live
from labkit.evaluation import adversarial_examples, measurement
from labkit.evaluation.measurement import Case

import pytest
import torch


@pytest.fixture(scope="module")
def setting(lab, bench):
    test = bench.images(lab.data, "test")
    return bench.classifier(lab.classifier), test.x[:4], test.y[:4]


@pytest.mark.parametrize("stratified", [False, True])
def test_a_look_is_what_T_does(lab, bench, setting, stratified):
    T, x = bench.transform(lab.stratified if stratified else lab.transform), setting[1]
    seen = live.look(T, x)
    assert torch.allclose(seen.seen, T(x), atol=1e-6)
    assert torch.equal(seen.low + seen.high, x) or torch.allclose(seen.low + seen.high, x, atol=1e-6)
    assert (seen.gap <= lab.transform.gap_tol).all()
    assert torch.equal(seen.active, metrics.sparsity(seen.fires))
    if stratified:
        assert torch.equal(seen.stratum, T.strata.vote(x))


def test_another_lambda_leaves_the_layer_and_shares_its_filters(lab, bench):
    for recipe in lab.defenses:
        T = bench.transform(recipe)
        other = live.at(T, 0.7)
        mine, theirs = (list(layer.transforms) if hasattr(layer, "transforms") else [layer] for layer in (T, other))
        for a, b in zip(mine, theirs, strict=True):
            assert (a.lam, b.lam) == (lab.transform.lam, 0.7) and a.d.data_ptr() == b.d.data_ptr()


@pytest.mark.parametrize("stratified", [False, True])
def test_a_look_that_starts_from_another_lambda_ends_where_a_fresh_one_does(lab, bench, setting, stratified):
    T, x = bench.transform(lab.stratified if stratified else lab.transform), setting[1]
    before = live.look(live.at(T, 0.1), x)
    near = live.at(T, 0.15)
    for layer in near.transforms if stratified else [near]:
        layer.gap_tol = 1e-6
    warm, cold = live.look(near, x, start=before), live.look(near, x)
    assert torch.allclose(warm.seen, cold.seen, atol=2e-3)
    assert (warm.gap <= 1e-6).all()


def test_every_step_of_the_slider_moves_the_picture(lab, bench, setting):
    """A code within the layer's tolerance of the next λ would be left as it is, and what is seen depend on the way."""
    T, x = bench.transform(lab.transform), setting[1]
    seen = live.look(live.at(T, 0.1), x)
    for step in (*range(1, 6), *range(4, -1, -1)):
        near = live.at(T, 0.1 * 10 ** (0.05 * step))
        before, seen = seen, live.look(near, x, start=seen)
        assert not torch.equal(seen.seen, before.seen) and (seen.gap <= T.gap_tol / 10).all()


def test_a_rough_look_is_rough_and_starts_the_exact_one(lab, bench, setting):
    T, x = live.at(bench.transform(lab.transform), 0.05), setting[1]
    rough = live.look(T, x, gap_tol=0.5)
    assert rough.gap.max() > T.gap_tol
    assert (live.look(T, x, start=rough).gap <= T.gap_tol).all()


def test_a_start_of_another_cluster_is_not_used(lab, bench, setting):
    T, x = bench.transform(lab.stratified), setting[1][:1]
    seen = live.look(T, x)
    elsewhere = replace(seen, stratum=1 - seen.stratum)
    assert torch.equal(live.look(T, x, start=elsewhere).seen, seen.seen)


def test_the_filters_add_up_to_T(lab, bench, setting):
    T, x = bench.transform(lab.transform), setting[1]
    seen = live.look(T, x)
    total = sum(live.of_filter(T, seen, k) for k in range(len(T.d)))
    assert torch.allclose((seen.low + total).clamp(0, 1), seen.seen, atol=1e-5)


def test_a_mirrored_boundary_is_looked_at_as_well(lab, bench, setting):
    T = bench.transform(replace(lab.transform, boundary="reflect"))
    T.gap_tol = 1e-6
    seen = live.look(T, setting[1])
    assert torch.allclose(seen.seen, T(setting[1]), atol=1e-3) and seen.fires.shape[-2:] == setting[1].shape[-2:]
    assert torch.allclose(live.look(T, setting[1], start=seen).seen, seen.seen, atol=1e-3)


def test_a_live_attack_is_the_experiments_attack(lab, bench, setting):
    network, x, y = setting
    fgsm = lab.attack("FGSM-0.08")
    for knowledge, T in (("classifier", None), ("exact", lab.transform)):
        made = adversarial_examples.adversarial(Case(lab.classifier, T, fgsm, knowledge).attempt(), bench)[:4]
        layer = bench.transform(lab.transform)
        assert torch.allclose(live.attack("FGSM", network, layer, x, y, 0.08, knowledge), made, atol=1e-6)


def test_no_attack_changes_nothing(setting):
    network, x, y = setting
    for name, size in (("none", 0.1), ("FGSM", 0.0)):
        assert torch.equal(live.attack(name, network, None, x, y, size, "classifier"), x)


def test_accuracies_grow_to_those_of_the_experiments_and_can_be_stopped(lab, bench):
    few = recipes.rebase(lab, replace(lab.data, test=60))
    test, network, T = bench.images(few.data, "test"), bench.classifier(lab.classifier), bench.transform(lab.transform)

    def attacker(layer, x, y):
        return live.attack("FGSM", network, layer, x, y, 0.08, "classifier" if layer is None else "exact")

    found = list(live.accuracies(network, T, test.x, test.y, attacker=attacker))
    assert [part["clean"].n for part in found] == [25, 50, 60]
    rows = measurement.run(
        [
            Case(few.classifier, None, few.attack("Clean")),
            Case(few.classifier, None, few.attack("FGSM-0.08")),
            Case(few.classifier, few.transform, few.attack("Clean")),
            Case(few.classifier, few.transform, few.attack("FGSM-0.08"), "exact"),
        ],
        bench,
    )
    assert [a.value for a in found[-1].values()] == rows.accuracy.tolist()

    def enough():
        raise StopAsking

    with pytest.raises(StopAsking):
        next(live.accuracies(network, T, test.x, test.y, attacker=attacker, stop=enough))


class StopAsking(Exception):
    pass

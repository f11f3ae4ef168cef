"""What is varied, and what is measured."""

import dataclasses
from dataclasses import replace

from labkit.core import metrics, profiles, recipes
from labkit.core.errors import InputError
from labkit.core.recipes import StratifiedRecipe, TransformRecipe
from labkit.core.store import key
from labkit.evaluation import measurement
from labkit.experiments import ablations
from labkit.reporting import captions, questions, tables, verdicts

import pytest
import torch
from torch.testing import assert_close


def leaves(recipe, path=""):
    """Every scalar of a nested recipe by its path."""
    if not dataclasses.is_dataclass(recipe):
        return {path: recipe}
    found = {}
    for field in dataclasses.fields(recipe):
        found |= leaves(getattr(recipe, field.name), f"{path}.{field.name}".lstrip("."))
    return found


def changed(before, after):
    old, new = leaves(before), leaves(after)
    return {path: new[path] for path in new if new[path] != old[path]}


VALUES = {
    "lam": (0.1, {"lam", "dictionary.lam"}),
    "K": (16, {"dictionary.K"}),
    "S": (4, {"dictionary.S"}),
    "lowpass": (1.0, {"lowpass", "dictionary.lowpass"}),
    "pad": (0, {"pad", "dictionary.pad"}),
    "boundary": ("reflect", {"boundary", "dictionary.boundary"}),
    "norm": ("channel", {"dictionary.norm"}),
    "gap_tol": (0.1, {"gap_tol"}),
    "bits": (8, {"bits"}),
    "dim": (0.5, {"dim"}),
}


def test_one_choice_is_changed_and_nothing_else():
    assert set(VALUES) == set(ablations.CHOICES) - {"M"}
    plain, stratified = TransformRecipe(), StratifiedRecipe()
    for what, (value, places) in VALUES.items():
        assert changed(plain, ablations.varied(plain, what, value)) == dict.fromkeys(places, value)
        both = changed(stratified, ablations.varied(stratified, what, value))
        assert both == {f"transform.{place}": value for place in places}
    assert changed(stratified, ablations.varied(stratified, "M", 7)) == {"strata.clusters": 7}
    assert ablations.varied(stratified, "M", 1) == stratified.transform


def test_the_labs_own_values_change_nothing_and_keep_their_names():
    lab = profiles.QUICK
    for what in ablations.CHOICES:
        T = lab.stratified if what == "M" else lab.transform
        same = ablations.varied(T, what, ablations.own(lab, what))
        assert same == T and key(same, "abc") == key(T, "abc")
    names = {key(ablations.varied(lab.transform, what, value), "abc") for what, (value, _) in VALUES.items()}
    assert len(names | {key(lab.transform, "abc")}) == len(VALUES) + 1


def test_no_such_choice():
    with pytest.raises(InputError, match="choose from lam, K"):
        ablations.varied(TransformRecipe(), "lamda", 0.1)
    with pytest.raises(InputError, match="a TransformRecipe has none"):
        ablations.varied(TransformRecipe(), "M", 2)


@pytest.fixture(scope="module")
def swept(lab, bench):
    return ablations.sweep(lab, bench, "lam", (0.01, 0.2, 20.0))


def test_a_sweep_has_three_rows_for_every_value(swept, lab):
    assert list(swept.value) == [0.01] * 3 + [0.2] * 3 + [20.0] * 3 and (swept.what == "lam").all()
    assert list(swept.asked) == ["clean", "attacked", "aware"] * 3
    assert list(swept[swept.own].value) == [0.2] * 3
    assert list(swept.attack[:3]) == ["Clean", "FGSM-0.08", "BIM-0.08"]
    assert list(swept.knowledge[:3]) == ["–", "classifier", "exact"]
    assert (swept.n == lab.tradeoff.n).all() and not swept.retrained.any()
    assert set(measurement.COLUMNS) < set(swept)


def test_small_lambda_keeps_the_image_and_large_ones_lose_it(swept, lab, bench):
    clean = swept[swept.asked == "clean"]
    little, middle, much = clean.fidelity
    assert little > 38 and little > middle + 10 and middle > much
    assert clean.fidelity.tolist() == pytest.approx(clean.psnr.tolist(), rel=1e-5)
    assert (clean.fidelity_low < clean.fidelity).all() and (clean.fidelity < clean.fidelity_high).all()
    assert clean.active.is_monotonic_decreasing and clean.active.iloc[-1] == 0
    small = recipes.rebase(lab, replace(lab.data, test=lab.tradeoff.n))
    cases = [measurement.Case(small.classifier, None, lab.attack(name)) for name in ("Clean", "FGSM-0.08")]
    bare = measurement.run(cases, bench)
    first = swept.set_index("value").loc[0.01].set_index("asked")
    for asked, accuracy in zip(("clean", "attacked"), bare.accuracy, strict=True):
        assert abs(first.accuracy[asked] - accuracy) <= 0.101  # of 20 images, two


def test_a_sweep_can_be_asked_of_retrained_networks(lab, bench):
    rows = ablations.sweep(lab, bench, "K", (lab.transform.dictionary.K,), retrained=True, aware=False)
    assert rows.retrained.all() and list(rows.asked) == ["clean", "attacked"] and rows.own.all()
    small = recipes.rebase(lab, replace(lab.data, test=lab.tradeoff.n))
    network = small.retrained(small.transform)
    assert list(rows.recipe) == list(
        measurement.run(
            [measurement.Case(network, small.transform, lab.attack(name)) for name in ("Clean", "FGSM-0.08")], bench
        ).recipe
    )


def test_clusters_are_counted_in_their_own_codes(lab, bench):
    rows = ablations.sweep(lab, bench, "M", (1, 2), aware=False)
    assert list(rows.defense) == ["STL"] * 2 + ["STL (cluster)"] * 2
    T, x = bench.transform(lab.stratified), bench.images(lab.data, "test").x[: lab.tradeoff.n]
    home, active = T.strata.vote(x), 0
    for m, layer in enumerate(T.transforms):
        active += int((layer.parts(x[home == m])[2].z != 0).sum())
    K = lab.transform.dictionary.K
    assert rows.active.iloc[-1] == pytest.approx(active / (K * x[:, 0].numel()))
    with torch.no_grad():
        assert rows.fidelity.iloc[-1] == pytest.approx(float(metrics.psnr(T(x), x).mean()), rel=1e-5)


def test_what_the_paper_does_not_say_begins_with_the_labs_own(lab, bench):
    few = replace(
        lab, tradeoff=replace(lab.tradeoff, silent=(("norm", ("channel",)), ("gap_tol", (0.1,)), ("bits", (1,))))
    )
    rows = ablations.silent(few, bench)
    assert list(dict.fromkeys(rows.what)) == ["gap_tol", "bits"]  # of grey images, the norms are one
    assert list(dict.fromkeys(zip(rows.value, rows.own, strict=True))) == [
        (0.01, True),
        (0.1, False),
        (0, True),
        (1, False),
    ]
    table = tables.sweep(rows)
    assert list(table.value) == ["0.01 (the lab’s)", "0.1", "0 (the lab’s)", "1"]
    assert table["clean accuracy"][3] == f"{rows.accuracy[6]:.3f} [{rows.low[6]:.3f}, {rows.high[6]:.3f}]"
    found = questions.sweep(rows, "bits")
    assert set(found.question) == {"Bits T(x) is rounded to, 0 for none: 1 instead of 0?"}
    assert found.verdict[0] == verdicts.LOWER and found["where"][0] == "PSNR of T(x)"
    said = captions.sweep(rows)
    assert f"n = {lab.tradeoff.n} test" in said and "vanilla" in said and "grey box (weights)" in said


def test_a_strip_has_a_column_for_every_value(lab, bench):
    # The gap is measured against ½‖x‖²: at the profile's, even λ → 0 leaves up to a tenth of the high-pass part.
    exact = replace(lab, transform=replace(lab.transform, gap_tol=1e-5))
    columns, notes, codes = ablations.strip(exact, bench, "lam", (0.0005, 20.0))
    assert list(columns) == list(notes) == ["image", "λ = 0.0005", "λ = 20"]
    x, x_adv = columns["image"]
    assert float(metrics.dissimilarity(x_adv[None], x[None])) <= 0.08 * (1 + 1e-5)
    assert_close(columns["λ = 0.0005"], columns["image"], atol=0.01, rtol=0)
    assert metrics.psnr(columns["λ = 20"], columns["image"]).max() < 35
    assert codes["λ = 0.0005"].shape == (2, *x.shape[-2:]) and not codes["λ = 20"].any()
    assert notes["image"][0].endswith("\n") and all(note.endswith(" dB") for note in notes["λ = 20"])

"""What is said beforehand, against what is then built."""

import shutil
from dataclasses import replace

from labkit.core.recipes import AttackRecipe, DataRecipe, DefenseRecipe, DictionaryRecipe, TransformRecipe, rebase
from labkit.evaluation import measurement
from labkit.evaluation.workbench import Workbench
from labkit.experiments import cost_estimate, paper_tables

import pytest


@pytest.fixture(scope="module")
def cases(lab):
    small = rebase(lab, DataRecipe("fashion", train=200, test=10))
    small = replace(small, classifier=replace(small.classifier, epochs=1), adaptive=replace(small.adaptive, n=6))
    wanted = {"defense": ["STL (cluster)", "MagNet"], "attack": ["Clean", "FGSM-0.08", "BIM-0.03"]}
    asked = paper_tables.select(paper_tables.table(small, "1"), wanted)
    return [*asked.blind, *asked.aware]


def test_a_plan_names_all_that_is_built_and_nothing_else(cases, tmp_path):
    bench = Workbench(tmp_path, progress=False)
    before = cost_estimate.steps(cases, bench)
    assert not any(step.kept for step in before)
    measurement.run(cases, bench)
    assert sorted(step.kind for step in before) == built(tmp_path)
    after = cost_estimate.steps(cases, bench)
    assert {step.kind for step in after} == {"row"} and all(step.kept and step.seconds == 0 for step in after)
    assert cost_estimate.hours(after) == "0 minutes"


def test_an_attack_that_starts_where_another_ends_needs_it(cases, tmp_path):
    bench, begun = Workbench(tmp_path, progress=False), AttackRecipe("pgd", 0.05, 2, loss="margin", after="bim")
    case = replace(cases[0], classifier=replace(cases[0].classifier, transform=None), attack=begun, knowledge="exact")
    before = cost_estimate.steps([case], bench)
    assert [step.what.partition(" on ")[0] for step in before if step.kind == "attack"] == [
        "BIM-0.05", "PGD-0.05 margin after BIM",
    ]  # fmt: skip
    measurement.run([case], bench)
    assert sorted(step.kind for step in before) == built(tmp_path)


def built(root):
    return sorted(path.parent.parent.name for path in root.glob("*/*/manifest.json"))


def test_a_blur_as_strong_as_stl_needs_its_dictionary(cases, tmp_path):
    mine, bench = replace(cases[0].classifier, transform=None), Workbench(tmp_path, progress=False)
    layer = TransformRecipe(DictionaryRecipe(mine.data, K=12, images=60, passes=1, batch=30))
    case = measurement.Case(mine, DefenseRecipe("lowpass", mine.data, like=layer), AttackRecipe("clean", 0.0, 0))
    before = cost_estimate.steps([case], bench)
    assert built(tmp_path) == []
    measurement.run([case], bench)
    assert sorted(step.kind for step in before) == built(tmp_path) == ["classifier", "defense", "dictionary", "row"]
    # A defense that is kept cannot be used without the dictionary, and a plan learns none.
    shutil.rmtree(tmp_path / "dictionary")
    again = replace(case, attack=AttackRecipe("fgsm", 0.08))
    assert {step.kind for step in cost_estimate.steps([again], bench) if not step.kept} == {
        "row",
        "attack",
        "dictionary",
    }
    assert built(tmp_path) == ["classifier", "defense", "row"]


def test_what_is_not_known_is_not_made_up(cases, tmp_path):
    steps = cost_estimate.steps(cases, Workbench(tmp_path, progress=False))
    assert [step.what for step in steps if step.seconds is None] == ["MagNet"]  # fitting it
    assert all(step.seconds > 0 for step in steps if step.seconds is not None)
    table = cost_estimate.table(steps).set_index("kind")
    assert table.loc["defense", "minutes"] == "0.0, and 1 not estimated" and table.kept.sum() == 0
    assert "and the time to fit 1 competitors" in cost_estimate.hours(steps)


def test_more_steps_take_longer(cases, tmp_path):
    bench = Workbench(tmp_path, progress=False)
    mine = next(c for c in cases if c.attack.name == "pgd" and c.knowledge == "exact" and c.label == "STL (cluster)")

    def seconds(case):
        return next(step.seconds for step in cost_estimate.steps([case], bench) if step.kind == "attack")

    assert seconds(replace(mine, attack=replace(mine.attack, steps=100))) > 5 * seconds(mine)


def test_draws_take_longer_where_a_defense_is_random(cases, tmp_path):
    mine = next(c for c in cases if c.attack.name == "pgd" and c.knowledge == "exact" and c.label == "MagNet")
    plain = replace(mine, classifier=replace(mine.classifier, transform=None))

    def seconds(defense):
        """Of an attack with one draw and with fifty, everything else timed once for both."""
        case = replace(plain, defense=replace(mine.defense, name=defense, options=()))
        both = [replace(case, attack=replace(mine.attack, draws=n)) for n in (1, 50)]
        planned = cost_estimate.steps(both, Workbench(tmp_path, progress=False))
        return [step.seconds for step in planned if step.kind == "attack"]

    few, many = seconds("tvm")
    assert many > 5 * few
    few, many = seconds("magnet")
    assert many == few


def test_parts_are_what_a_network_and_a_transform_rest_on(lab, tmp_path):
    bench = Workbench(tmp_path, progress=False)
    found = cost_estimate.parts([lab.classifier, lab.transform], bench)
    assert [(step.kind, step.kept) for step in found] == [("classifier", False), ("dictionary", False)]
    assert all(step.seconds > 0 for step in found)
    bench.transform(lab.transform)
    assert [step.kept for step in cost_estimate.parts([lab.classifier, lab.transform], bench)] == [False, True]


def test_a_blur_as_strong_as_T_needs_T_and_a_detector_its_network(lab, tmp_path):
    bench = Workbench(tmp_path, progress=False)
    blur = DefenseRecipe("lowpass", lab.data, like=lab.transform)
    detector = DefenseRecipe("lid", lab.data, victim=lab.classifier)
    assert [step.kind for step in cost_estimate.parts([blur], bench)] == ["dictionary", "defense"]
    assert [step.kind for step in cost_estimate.parts([detector], bench)] == ["classifier", "defense"]
    bench.transform(blur)
    built = [path.parent.parent.name for path in tmp_path.glob("*/*/manifest.json")]
    assert sorted(built) == ["defense", "dictionary"]


def test_what_wraps_a_network_is_timed_with_it_once_it_is_fitted(lab, tmp_path):
    """An ensemble asks its network about many crops, each quilted: hours, where it was taken for nothing."""
    bench = Workbench(tmp_path, progress=False)
    data = replace(lab.data, train=60, test=10)
    crops = DefenseRecipe("crops", data, (("crops", 8), ("patches", 500)))
    bench.defense(crops)
    rates = cost_estimate._Rates(bench, bench.images(data, "train"))
    assert rates.defense(crops) > 4 * rates.forward(lab.classifier)

"""Which cases make a table of the paper."""

from dataclasses import replace

from labkit.core import profiles
from labkit.core.errors import InputError
from labkit.core.recipes import DataRecipe, DefenseRecipe, rebase, reseed
from labkit.evaluation.threat_models import ThreatModel
from labkit.experiments import baselines, paper_tables, published_numbers

import numpy as np
import pandas as pd
import pytest

AWARE = [model.value for model in ThreatModel if model.knows_defense]

PAPER = profiles.PAPER
LAB = rebase(profiles.LAB, DataRecipe("fashion", train=1000, test=300))


def labels(cases, what=lambda case: case.attack.label):
    return list(dict.fromkeys(what(case) for case in cases))


@pytest.mark.parametrize("name", published_numbers.names())
def test_every_table_has_the_papers_columns_and_defenses(name):
    asked = paper_tables.table(PAPER, name)
    printed = published_numbers.table(name)
    assert labels(asked.blind) == (["Clean"] if name == "4" else []) + list(printed.columns)
    ours = set(labels(asked.blind, lambda case: case.label))
    theirs = {"quilt": "Quilting"}
    assert {theirs.get(row, row) for row in printed.index} - {"No Defense"} <= ours
    assert ours - set(printed.index) <= {"No Defense", "STL", "Quilting"} and not asked.missing


@pytest.mark.parametrize("name", published_numbers.names())
def test_by_the_released_convention_every_table_has_the_same_columns_in_levels(name):
    asked, stated = paper_tables.table(PAPER, f"{name}_released"), paper_tables.table(PAPER, name)
    printed = published_numbers.table(f"{name}_released")
    assert labels(asked.blind) == (["Clean"] if name == "4" else []) + list(printed.columns)
    np.testing.assert_array_equal(printed, published_numbers.table(name))
    assert [case.label for case in asked.blind] == [case.label for case in stated.blind]
    assert name == "4" or {case.attack.norm for case in asked.blind + asked.aware if case.attack.size} == {"levels"}
    layers = {case.defense for case in asked.blind + asked.aware if case.label.startswith("STL")}
    assert layers == set(PAPER.released.defenses)


def test_another_convention_is_refused():
    with pytest.raises(InputError, match="unknown convention 'guessed'; use stated or released"):
        paper_tables.table(PAPER, "1_guessed")
    assert (
        published_numbers.called("1_released") == "1 (sizes and T as released)" and published_numbers.called("5") == "5"
    )


def test_baselines_by_the_released_convention_have_one_size():
    cases = paper_tables.table(LAB, "baselines_released").aware
    assert {(case.attack.norm, case.attack.size) for case in cases if case.attack.size} == {("levels", 3.0)}
    assert all(case.attack.stored for case in cases if case.attack.size)


@pytest.mark.parametrize("name", published_numbers.names())
def test_attackers_know_what_the_paper_lets_them_know(name):
    asked = paper_tables.table(PAPER, name)
    kinds = {case.knowledge for case in asked.blind if case.defense and case.attack.name != "clean"}
    expected = {"4": {"identity"}}.get(
        name, {"classifier"} if name in ("5", "6a", "6b", "7") else {"transfer", "classifier"}
    )
    assert kinds == expected
    for case in asked.blind:
        own = case.label.startswith("STL") or name not in ("4", "5", "6a", "6b", "7")
        vanilla = case.defense is None or name in ("5", "6a", "6b", "7") or not own
        assert case.classifier.transform == (None if vanilla else case.defense)


def grey_there(cases, data):
    return {rebase(case, data) for case in cases}


def test_the_worst_case_has_the_papers_attackers_and_stronger_ones_on_the_same_images():
    asked = paper_tables.table(LAB, "5")
    count = min(LAB.adaptive.n, 300)
    for system in {(case.classifier, case.defense) for case in asked.aware}:
        mine = [case for case in asked.aware if (case.classifier, case.defense) == system]
        few = replace(LAB.data, test=min(count, 50 if mine[0].label == "PixelDefend" else count))
        assert {case.data for case in mine} == {few}
        grey = [case for case in asked.blind if case.label == mine[0].label]
        assert grey_there(grey, few) <= set(mine)
        for size in {case.attack.size for case in grey} - {0}:
            hard = [case for case in mine if case.attack.size == size and case not in grey_there(grey, few)]
            slow = mine[0].label == "PixelDefend"
            expected = {"pgd"} if slow else {"pgd", "ladder"}
            assert {case.attack.name for case in hard} == expected
            assert all((case.knowledge in AWARE) == (mine[0].defense is not None) for case in hard)
    deepest = paper_tables.table(LAB, "4").aware
    assert {"pgd", "square", "lowfreq", "autoattack"} <= {c.attack.name for c in deepest if c.label == "STL (cluster)"}
    assert {c.knowledge for c in deepest if c.label == "LID"} > {"classifier"}


def test_table_4_takes_thermometer_encoding_as_the_papers_source_does():
    """Athalye et al., from whom its 0.00 is, give the encoding without the adversarial training it can be joined to."""
    networks = {case.label: case.classifier for case in paper_tables.table(PAPER, "4").blind}
    assert networks["TE"].levels == 16 and networks["TE"].adversarial is None and "TE + Adv Training" not in networks
    joined = baselines.hardened(PAPER, "thermometer-adversarial").network
    assert joined.label == "TE + Adv Training" and joined.levels == 16 and joined.adversarial.steps == 7


def test_what_takes_long_is_asked_less_and_the_networks_of_a_table_train_as_long_as_the_profile_affords():
    assert LAB.retraining < LAB.classifier.epochs
    asked = paper_tables.table(LAB, "1")
    assert {(c.attack.name == "cw", c.data.test) for c in asked.blind if c.label == "STL"} == {
        (True, 200),
        (False, 300),
    }
    everyone = [*asked.blind, *asked.aware, *paper_tables.table(LAB, "8a").blind]
    assert {c.classifier.epochs for c in everyone if c.classifier == LAB.classifier} == {60}
    others = [c.classifier for c in everyone if c.classifier.transform or c.classifier.adversarial]
    assert {network.epochs for network in others} == {LAB.retraining}
    assert {T.label for T in {network.transform for network in others} - {None}} == {"STL", "STL (cluster)", "MagNet"}
    copies = {c.attempt().victim.epochs for c in everyone if c.knowledge == "transfer"}
    assert copies == {LAB.classifier.epochs}  # who owns an undefended copy owns the one that the first row judges
    draws = {c.label: c.attack.draws for c in paper_tables.table(LAB, "6a").aware if c.knowledge in AWARE}
    assert draws["TVM"] == draws["Crop-Ens"] == 1  # steps before draws


def test_what_a_profile_cannot_afford_is_named_with_the_reason():
    small = replace(LAB, baselines=replace(LAB.baselines, retrained=("magnet",), trained=()))
    asked = paper_tables.table(small, "1")
    assert [name for name, _ in asked.missing] == ["PixelDefend"]
    assert "MagNet" in labels(asked.blind, lambda case: case.label)
    ((name, why),) = paper_tables.table(small, "8a").missing
    assert name == "Adv Training" and "longer than this profile affords" in why
    networks = {c.classifier.transform for c in asked.blind if isinstance(c.defense, DefenseRecipe)}
    assert {T.name for T in networks} == {"magnet"}


def test_cells_are_chosen_by_what_they_are():
    asked = paper_tables.table(LAB, "1")
    found = paper_tables.select(
        asked, {"defense": ["stl"], "attack": ["FGSM-0.08", "clean"], "knowledge": ["transfer"]}
    )
    (case,) = found.blind
    assert not found.aware  # a worst case over attackers of one knowledge would be none
    assert (case.label, case.attack.label, case.knowledge) == ("STL", "FGSM-0.08", "transfer")
    assert len(paper_tables.select(asked, {"retrained": ["no"]}).blind) == 6  # the undefended network's
    assert paper_tables.select(asked, {"network": ["VGG16 ×0.25"], "seed": ["0"]}).blind == asked.blind
    assert found.missing[-3:] == tuple((name, "not asked for") for name in ("No Defense", "STL (cluster)", "MagNet"))
    with pytest.raises(InputError, match=r"there are attack: BIM-0\.03, CW-0\.03, Clean"):
        paper_tables.select(asked, {"attack": ["FGSM"]})
    with pytest.raises(
        InputError, match="cannot be chosen by size; use defense, attack, knowledge, seed, retrained, network"
    ):
        paper_tables.select(asked, {"size": ["1"]})
    with pytest.raises(InputError, match="no table '9'; it has 1, 2a"):
        paper_tables.table(LAB, "9")


def test_the_worst_case_of_a_chosen_attack_is_over_all_of_its_size():
    asked = paper_tables.table(LAB, "5")
    found = paper_tables.select(asked, {"defense": ["STL"], "attack": ["FGSM-0.04"]})
    assert {case.attack.label for case in found.blind} == {"FGSM-0.04"}
    of_one = [case for case in asked.aware if case.attack.size in (0, 0.04) and case.label == "STL"]
    tried = {(case.attack.label, case.knowledge) for case in of_one}
    assert {(case.attack.label, case.knowledge) for case in found.aware} == tried
    assert {"exact"} < {knowledge for _, knowledge in tried} and len(tried) > 2


def test_a_defense_that_no_attack_of_a_size_was_tried_on_has_no_worst_case_of_it(monkeypatch):
    """Clean images alone are none: only for size 0, the clean images themselves."""
    together = {}
    for case in paper_tables.table(LAB, paper_tables.BASELINES).aware:
        together.setdefault(case.label, []).append(case)
    (clean, *attacked), (alone, *_) = together["JPEG"], together["Median"]
    assert clean.attack.name == alone.attack.name == "clean" and {case.attack.size for case in attacked} == {0.03}
    seen = lambda cases, _: pd.DataFrame([(case.label, case.attack.label) for case in cases])  # noqa: E731
    monkeypatch.setattr(paper_tables.measurement, "worst_case", seen)
    found = paper_tables.worst([clean, *attacked, alone], bench=None)
    assert set(found[0][found["size"] == 0.03]) == {"JPEG"} and set(found[0][found["size"] == 0]) == {"JPEG", "Median"}
    assert found[1][found["size"] == 0.03].tolist() == [case.attack.label for case in (clean, *attacked)]


def test_another_seed_trains_all_anew_on_the_same_images():
    other = reseed(LAB, 3)
    assert other.data == LAB.data and other != LAB
    assert other.classifier.seed == other.transform.dictionary.seed == other.stratified.strata.dae.seed == 3
    assert reseed(other, 0) == LAB


def test_the_adaptive_attackers_know_everything_in_turn(lab):
    cases = paper_tables.adaptive(lab)
    for T in lab.defenses:
        mine = {(c.attack.name, c.knowledge) for c in cases if c.defense and c.defense.label == T.label}
        asked = {("pgd", k) for k in ("transfer", "classifier", "identity", "exact")}
        assert asked | {("square", "queries"), ("lowfreq", "exact")} <= mine
        assert (("pgd", "fixed-stratum") in mine) == (T is lab.stratified)
    assert {c.attack.norm for c in cases if c.attack.name == "pgd"} == {"linf"}
    assert {c.data.test for c in cases} == {30}
    assert any(c.attack.name == "autoattack" for c in paper_tables.adaptive(profiles.LAB))

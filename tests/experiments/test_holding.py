"""What holds: who is judged and attacked by whom, what is compared, the map's front, and what is certain."""

from dataclasses import replace

from labkit.core import metrics, profiles, recipes
from labkit.evaluation import measurement
from labkit.experiments import certified, holding
from labkit.experiments.smoothing import ABSTAINED
from labkit.reporting import holding_page, table_page

import pandas as pd
import pytest
import torch

ONE_STEP = "Adv Training (one step)"
RIGHT = {"No Defense": "0000000000", "STL": "1000000000", ONE_STEP: "1111110000", f"STL + {ONE_STEP}": "1111100000"}


def frames():
    """Rows and worst cases of ten images, by which of them stay right; clean, all but one are."""
    rows, worst = [], []
    for name, bits in RIGHT.items():
        for attack, told in (("Clean", "1111111110"), ("PGD", bits)):
            right = torch.tensor([bit == "1" for bit in told])
            line = dict(zip(("accuracy", "low", "high"), metrics.accuracy(right), strict=False))
            line |= {"defense": name, "attack": attack, "n": 10, "right": metrics.packed(right, "0" * 12)}
            line["norm"] = "linf" if attack == "PGD" else ""
            line["knowledge"] = "–" if attack == "Clean" else "exact" if name.startswith("STL") else "classifier"
            rows.append({**line, "data": "fashion, 32×32", "classifier": "vgg16 ×0.25"})
        for norm, size in holding.BUDGETS:
            worst.append({**line, "norm": norm, "size": size, "attacks": 3, "hardest": "PGD, white box"})
    return pd.DataFrame(rows), pd.DataFrame(worst)


@pytest.mark.parametrize("lab", profiles.PROFILES.values(), ids=profiles.PROFILES)
def test_everyone_is_attacked_by_who_knows_it_within_each_budget(lab):
    found = holding.cases(lab)
    assert len({*map(tuple, found.values())}) == len(found)
    for name, mine in found.items():
        assert [case.attack.name for case in mine].count("clean") == 1 and len({case.classifier for case in mine}) == 1
        for norm, size in holding.BUDGETS:
            tried = [c for c in mine if (c.attack.norm, c.attack.size) == (norm, size) and c.attack.name != "clean"]
            behind = tried[0].defense is not None
            assert {c.knowledge for c in tried} & ({"exact"} if behind else {"classifier"}), name
            if lab.adaptive.autoattack:
                assert {c.attack.name for c in tried} >= {"ladder", "square" if behind else "autoattack"}
        assert {case.data.test for case in mine} == {lab.holding.n}


def test_ways_of_training_have_the_same_images_and_epochs_and_their_own_names():
    found = holding.everyone(profiles.LAB)
    few = [baseline.network for name, baseline in found.items() if name.endswith(holding.FEW)]
    assert len({(network.data, network.epochs) for network in few}) == 1 and len(set(few)) == len(few) == 6
    assert few[0].data.train == profiles.LAB.holding.images
    trained = {b.network for b in found.values() if b.network.adversarial}
    assert all(network.adversarial.held for network in trained)
    # Who compares T's networks with its filters learns these from the same images.
    assert all(b.defense.data == b.network.data for b in found.values() if b.defense)


def test_through_T_the_network_is_trained_on_images_not_on_what_T_makes_of_them(lab, bench):
    from labkit.evaluation.workbench import needs

    found = holding.everyone(lab)
    name = next(name for name in found if "through T" in name)
    assert [kind for kind, _ in needs("classifier", found[name].network)] == ["dictionary"]
    behind = replace(found[name].network, adversarial=recipes.AdversarialTraining())
    assert [kind for kind, _ in needs("classifier", behind)] == ["projected"]


def test_the_worst_case_waits_for_all_attacks_of_its_budget(lab, bench, monkeypatch):
    every = holding.cases(lab)["No Defense"]
    seen = []
    monkeypatch.setattr(measurement, "worst_case", lambda mine, bench: seen.append(mine) or frames()[1][:1])
    found = holding.worst(lab, bench, every[:2])
    assert [(row.defense, row.norm, row.size) for row in found.itertuples()] == [("No Defense", *holding.BUDGETS[0])]
    assert seen[-1] == every[:2]


def test_questions_are_paired_and_answered():
    _, worst = frames()
    found = holding_page.questions(worst)
    asked = {(row.ours, row.other): row for row in found.itertuples()}
    assert set(asked) == {("STL", "No Defense"), (ONE_STEP, "No Defense"), (f"STL + {ONE_STEP}", ONE_STEP)}
    assert asked[ONE_STEP, "No Defense"].difference == pytest.approx(0.6)
    assert asked[ONE_STEP, "No Defense"].p == pytest.approx(2 * 0.5**6)  # six images, all on one side
    assert asked[f"STL + {ONE_STEP}", ONE_STEP].p == 1.0


def test_the_front_is_what_nothing_beats_in_both():
    _, worst = frames()
    clean = {"No Defense": 0.9, "STL": 0.8, ONE_STEP: 0.7, f"STL + {ONE_STEP}": 0.6}
    first = worst[worst.norm == "l2"]
    assert holding.front(first, clean) == ["No Defense", "STL", ONE_STEP]
    assert holding.front(first, {**clean, ONE_STEP: 0.95}) == [ONE_STEP]


def test_page_and_figures_show_what_is_measured():
    rows, worst = frames()
    certain = pd.DataFrame([("STL + linear head", size, 10, 0.6 - size, 0.1, 0.6, 0.4, 0.0) for size in (0.0, 0.5)],
                           columns=certified.COLUMNS)  # fmt: skip
    partly = worst[(worst.defense != "STL") | (worst.norm == "l2")]
    table = holding_page.table(rows, partly).set_index("defense")
    assert table.loc["STL", "worst case, L∞ 4/255"] == "at most 0.100, so far (1 attacks)"
    assert table.loc["STL", "worst case, relative L2 0.03"] == "not measured"
    assert table.loc[ONE_STEP, "worst case, L2 0.5"].startswith("0.600 [0.313, 0.832] (3 attacks)")
    (ax,) = holding_page.figure(rows, worst, certain, "title").axes
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "certified: STL + linear head" in told and "nothing is better in both" in told
    within, less = rows.assign(norm=rows.norm.replace("linf", "l2")), worst[worst.defense != "STL"]
    (ax,) = holding_page.figure(within, less, certain, "title").axes
    told = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "T before a vanilla network (some attacks so far)" in told
    some = holding.partly(within, less)
    assert list(some.defense) == ["STL"] and some.accuracy.item() == 0.1
    assert len(holding.partly(within.assign(knowledge="classifier"), less)) == 0  # nobody knew T
    page = table_page.Published(
        holding.HOLDS, rows, worst, pd.DataFrame(), (), "note", "", {}, {}, certain, pd.DataFrame()
    )
    text = page.text("command")
    told = holding_page._certain(certain)
    assert told["L2 0"][0] == "0.600 [0.100, 0.600] > 0.400 (check failed)"
    assert told["L2 0.5"][0] == "0.100 [0.100, 0.600] ≤ 0.400"
    assert "## What is certain?" in text and "Does a T before it add" in text
    first, alone, together, proved = holding_page.advice(rows, worst, certain)
    assert ONE_STEP in first and "0.600 [0.313, 0.832]" in first and "0.900 on clean images" in first
    assert "STL before an undefended network is left with 0.100" in alone and "No Defense with 0.000" in alone
    assert together.startswith("T adds nothing to it that is significant") and "-0.100" in together
    assert "0.100 [0.100, 0.600] at L2 0.5" in proved
    history = {
        name: [0.5, 0.6] for name in ("clean, held out", "under one step, held out", "under ten steps, held out")
    }
    assert len(holding_page.collapse({"a" + holding.FEW: history, "b": history}).axes) == 2


def test_a_linear_head_is_certain_of_no_more_than_it_keeps_under_attack(lab, bench):
    few = replace(lab, holding=replace(lab.holding, n=20))
    recipe = replace(certified.asked(few)["STL + linear head"], fitted=200)
    lines = certified._lines("head", recipe, few, bench)
    sizes, shares, attacked = ([line[at] for line in lines] for at in (1, 3, 6))
    assert tuple(sizes) == certified.SIZES and shares == sorted(shares, reverse=True) and shares[1] > 0
    assert all(sure <= left for sure, left in zip(shares, attacked, strict=True))
    assert certified._known(recipe, few, bench)
    assert certified.rows(few, bench, kept=True).empty  # no system of the lab's own is measured yet


def test_a_smoothed_network_is_certain_of_no_more_than_it_keeps_under_attack(lab, bench, monkeypatch):
    """A network that sees nothing but brightness, so that no training is needed."""

    class Bright(torch.nn.Module):
        def forward(self, x):
            at = 20 * (x.mean((1, 2, 3)) - 0.3)
            return torch.nn.functional.pad(torch.stack([at, -at], 1), (0, 8), value=-9.0)

    monkeypatch.setattr(type(bench), "classifier", lambda self, recipe: Bright())
    test = bench.images(lab.data, "test")[:8]
    network = lab.trained(noise=0.25)
    recipe = certified.CertificateRecipe(None, network, 8, 200)
    found, radii, attacked = certified._smoothed(recipe, lab, bench, test)
    assert ((found == ABSTAINED) == (radii == 0)).all()
    sure = radii >= 0.25
    assert sure.any() and (attacked[3][sure] == found[sure]).all()

import math

from labkit import attacks
from labkit.core.recipes import AttackRecipe
from labkit.experiments import attack_curves

import pytest
import torch
from linear_models import setting


def test_a_wave_lies_at_its_frequency():
    j = torch.arange(32.0)
    wave = torch.cos(2 * math.pi * 6 * j / 32)[None, None, None, :].expand(2, 3, 32, 32)
    rows = attack_curves.spectrum({"wave": wave, "half": wave / 2})
    best = rows[rows.what == "wave"].set_index("frequency").energy
    assert abs(best.idxmax() - 6 / 32) < 0.5 / 16 and best.max() == pytest.approx(1)
    assert rows[rows.what == "half"].energy.sum() == pytest.approx(0.25)


def test_white_noise_is_spread_and_unchanged_images_do_not_count():
    noise = torch.randn(4, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    noise[2] = 0
    rows = attack_curves.spectrum({"noise": noise})
    assert rows.energy.sum() == pytest.approx(1) and rows.energy.max() < 0.4


def test_a_curve_has_a_row_for_every_value(lab, bench):
    rows = attack_curves.curve(
        lab.classifier,
        [(None, "classifier"), (lab.transform, "classifier")],
        AttackRecipe("fgsm"),
        bench,
        size=(0.02, 0.2),
    )
    assert list(rows.value) == [0.02, 0.2, 0.02, 0.2] == list(rows.budget)
    assert list(rows.defense) == ["No Defense"] * 2 + ["STL"] * 2
    assert rows.accuracy[0] > rows.accuracy[1]


def test_rounding_undoes_what_stops_at_the_boundary_and_not_what_fills_a_size(lab, bench):
    rows = attack_curves.rounding(lab.classifier, [AttackRecipe("fgsm", 0.2)], bench, steps=100)
    accuracy = rows.set_index("attack").accuracy
    assert len(rows) == 6 and accuracy["DDN"] <= 0.01 and accuracy["DeepFool"] <= 0.01
    assert accuracy["DDN 8 bits"] > accuracy["DDN"] + 0.05
    assert abs(accuracy["FGSM-0.20 8 bits"] - accuracy["FGSM-0.20"]) <= 0.03


# --- how near to the best

INF = math.inf
# Of five images: one wrong at first, one that no attack fools.
LENGTHS = {"a": torch.tensor([0.0, 1.0, 2.0, INF, INF]), "b": torch.tensor([0.5, 2.0, 1.0, 4.0, INF])}


def test_optimality_is_the_best_length_by_ones_own():
    rows = attack_curves.optimality(LENGTHS, {"a": [3.0, 2.0], "b": [7.0, 0.0]}).set_index("attack")
    assert rows.optimality["a"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert rows.optimality["b"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert list(rows.n) == [3, 3] and list(rows.forward) == [3, 7] and list(rows.backward) == [2, 0]
    assert (rows.low < rows.optimality).all() and (rows.optimality < rows.high).all()
    alone = attack_curves.optimality({"b": LENGTHS["b"]}, {"b": [7.0, 0.0]})
    assert alone.optimality[0] == alone.low[0] == alone.high[0] == 1 and alone.n[0] == 4


def test_a_security_curve_falls_at_each_success_and_knows_its_area():
    rows = attack_curves.security(LENGTHS["b"], 3.0)
    assert list(rows["size"]) == [0, 0.5, 1, 2, 3]
    assert list(rows.accuracy) == pytest.approx([1, 0.8, 0.6, 0.4, 0.4])
    assert (rows.low < rows.accuracy).all() and (rows.accuracy <= rows.high).all()
    steps = (rows.accuracy * rows["size"].diff().shift(-1)).cumsum().shift(fill_value=0)
    assert list(rows.area) == pytest.approx(list(steps)) and rows.area[4] == pytest.approx(1.9)
    wrong = attack_curves.security(LENGTHS["a"], 1.5)
    assert wrong.accuracy[0] == pytest.approx(0.8)  # one is wrong at first
    assert list(attack_curves.security(torch.full((4,), INF), 2.0).area) == [0, 2]


def test_passes_are_counted_forward_and_backward():
    model, x, y = setting(classes=5)
    counted = attack_curves.Counted(model)
    attacks.fgsm(counted, x, y, budget=attacks.Budget.l2(0.1))
    assert counted.passes == {"forward": len(x), "backward": len(x)}
    attacks.noise(counted, x, y, budget=attacks.Budget.l2(0.1), draws=3)
    assert counted.passes == {"forward": 4 * len(x), "backward": len(x)}
    deepfool = attack_curves.Counted(model)
    attacks.deepfool(deepfool, x, y)
    assert deepfool.passes["backward"] >= 4 * len(x) > deepfool.passes["forward"]  # one for each other class


def test_attacks_side_by_side_on_a_linear_model():
    model, x, y = setting(classes=5)
    y[0] = (y[0] + 1) % 5  # wrong at first
    tried = {
        "ddn": attacks.ddn,
        "hopskipjump": lambda *given: attacks.hopskipjump(*given, queries=500),
        "none": lambda model, x, y: x,
    }
    lengths, passes = attack_curves.reached(model, x, y, tried)
    rows = attack_curves.optimality(lengths, passes).set_index("attack")
    assert list(rows.n) == [len(x) - 1] * 3 and rows.optimality["none"] == 0 == rows.forward["none"]
    assert rows.optimality["ddn"] == 1 > rows.optimality["hopskipjump"] > 0.5
    assert rows.backward["hopskipjump"] == 0 < rows.forward["hopskipjump"] <= 500 and 0 < rows.backward["ddn"] <= 100
    curve = attack_curves.security(lengths["ddn"], float(model.distance(x, y).max()) * 1.1)
    assert curve.accuracy[0] == pytest.approx(1 - 1 / len(x)) and curve.accuracy.iloc[-1] == 0

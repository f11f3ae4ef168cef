import math

from benchmarks import nearness
from labkit import attacks

import pytest
import torch
from linear_models import setting

INF = math.inf
# Of five images: one wrong at first, one that no attack fools.
LENGTHS = {"a": torch.tensor([0.0, 1.0, 2.0, INF, INF]), "b": torch.tensor([0.5, 2.0, 1.0, 4.0, INF])}


def test_optimality_is_the_best_length_by_ones_own():
    rows = nearness.optimality(LENGTHS, {"a": [3.0, 2.0], "b": [7.0, 0.0]}).set_index("attack")
    assert rows.optimality["a"] == pytest.approx((1 + 0.5 + 0) / 3)
    assert rows.optimality["b"] == pytest.approx((0.5 + 1 + 1) / 3)
    assert list(rows.n) == [3, 3] and list(rows.forward) == [3, 7] and list(rows.backward) == [2, 0]
    assert (rows.low < rows.optimality).all() and (rows.optimality < rows.high).all()
    alone = nearness.optimality({"b": LENGTHS["b"]}, {"b": [7.0, 0.0]})
    assert alone.optimality[0] == alone.low[0] == alone.high[0] == 1 and alone.n[0] == 4


def test_a_security_curve_falls_at_each_success_and_knows_its_area():
    rows = nearness.security(LENGTHS["b"], 3.0)
    assert list(rows["size"]) == [0, 0.5, 1, 2, 3]
    assert list(rows.accuracy) == pytest.approx([1, 0.8, 0.6, 0.4, 0.4])
    assert (rows.low < rows.accuracy).all() and (rows.accuracy <= rows.high).all()
    steps = (rows.accuracy * rows["size"].diff().shift(-1)).cumsum().shift(fill_value=0)
    assert list(rows.area) == pytest.approx(list(steps)) and rows.area[4] == pytest.approx(1.9)
    wrong = nearness.security(LENGTHS["a"], 1.5)
    assert wrong.accuracy[0] == pytest.approx(0.8)  # one is wrong at first
    assert list(nearness.security(torch.full((4,), INF), 2.0).area) == [0, 2]


def test_passes_are_counted_forward_and_backward():
    model, x, y = setting(classes=5)
    counted = nearness.Counted(model)
    attacks.fgsm(counted, x, y, budget=attacks.Budget.l2(0.1))
    assert counted.passes == {"forward": len(x), "backward": len(x)}
    attacks.noise(counted, x, y, budget=attacks.Budget.l2(0.1), draws=3)
    assert counted.passes == {"forward": 4 * len(x), "backward": len(x)}
    deepfool = nearness.Counted(model)
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
    lengths, passes = nearness.reached(model, x, y, tried)
    rows = nearness.optimality(lengths, passes).set_index("attack")
    assert list(rows.n) == [len(x) - 1] * 3 and rows.optimality["none"] == 0 == rows.forward["none"]
    assert rows.optimality["ddn"] == 1 > rows.optimality["hopskipjump"] > 0.5
    assert rows.backward["hopskipjump"] == 0 < rows.forward["hopskipjump"] <= 500 and 0 < rows.backward["ddn"] <= 100
    curve = nearness.security(lengths["ddn"], float(model.distance(x, y).max()) * 1.1)
    assert curve.accuracy[0] == pytest.approx(1 - 1 / len(x)) and curve.accuracy.iloc[-1] == 0

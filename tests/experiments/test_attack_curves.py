import math

from labkit.core.recipes import AttackRecipe
from labkit.experiments import attack_curves

import pytest
import torch


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

"""Numbers that two runs have measured: which they are, and what is said of them."""

import pandas as pd
import pytest

from labkit import repeats, threat


def row(recipe, accuracy, psnr, attack="FGSM-0.08"):
    told = {"defense": "STL", "retrained": True, "attack": attack, "knowledge": "exact", "n": 100, "recipe": recipe}
    reached = {"dissimilarity": 0.08, "psnr": psnr}
    return told | {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05} | reached


@pytest.fixture
def files(tmp_path):
    parts = {
        "first": [row("00", 0.5, 1.25), row("01", 0.6, 1.5), row("02", 0.3, 2.0)],
        "shown again": [row("00", 0.5, 1.25)],
        "second": [row("01", 0.62, 1.75), row("02", 0.45, 2.5, "BIM-0.03"), row("03", 0.1, 3.0)],
    }
    for name, rows in parts.items():
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    return [tmp_path / f"{name}.csv" for name in parts]


def test_one_measurement_shown_twice_is_none_repeated(files):
    twice = repeats.repeats(files)
    assert list(twice.recipe) == ["01", "02"]
    assert list(twice.accuracy) == [0.6, 0.3] and list(twice.accuracy_again) == [0.62, 0.45]
    assert repeats.repeats(files[:2]).empty and repeats.repeats([]).empty


def test_what_differs_by_more_than_its_intervals_is_named(files):
    assert repeats.reading(repeats.repeats(files)) == (
        "Numbers that two runs of the same recipe have measured: 2. Their two accuracies differ by 0.085 (median; "
        "at most 0.150); 1 of them can be told apart: STL, retrained, FGSM-0.08, "
        f"attacker has {threat.SHORT['exact']}: "
        "0.300 [0.250, 0.350] and 0.450 [0.400, 0.500]."
    )


def test_two_runs_that_agree(files):
    said = repeats.reading(repeats.repeats(files).head(1))
    assert said.endswith("(median; at most 0.020); none of them can be told apart.")

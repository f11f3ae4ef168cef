"""Numbers that two runs have measured: which they are, and what is said of them."""

import pandas as pd
import pytest

from labkit import repeats


def row(recipe, accuracy, run, attack="FGSM-0.08"):
    told = {"defense": "STL", "retrained": True, "attack": attack, "knowledge": "exact", "n": 100, "recipe": recipe}
    return told | {"accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "run": run}


@pytest.fixture
def files(tmp_path):
    parts = {
        "first": [row("00", 0.5, "1e5"), row("01", 0.6, "1e6"), row("02", 0.3, "a")],
        "shown again": [row("00", 0.5, "1e5")],
        "second": [row("01", 0.62, "10e5"), row("02", 0.45, "c", "BIM-0.03"), row("03", 0.1, "d")],
    }
    for name, rows in parts.items():
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    return [tmp_path / f"{name}.csv" for name in parts]


def test_one_measurement_shown_twice_is_none_repeated(files):
    twice = repeats.repeats(files)
    assert list(twice.recipe) == ["01", "02"]
    assert list(twice.accuracy) == [0.6, 0.3] and list(twice.accuracy_again) == [0.62, 0.45]
    assert repeats.repeats(files[:2]).empty and repeats.repeats([]).empty


def test_a_measurement_is_known_by_its_run_and_not_by_its_time(tmp_path):
    """Two runs may well take equally long, and measure the same."""
    pair = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for file, run in zip(pair, ("a", "b"), strict=True):
        pd.DataFrame([row("00", 0.5, run) | {"seconds": 1.5}]).to_csv(file, index=False)
    assert list(repeats.repeats(pair).recipe) == ["00"]


def test_rows_from_before_there_was_a_run_are_known_by_what_they_measured(tmp_path):
    """Their seconds may be blank in one file, and stand in the other."""
    old = [row("00", 0.5, None), row("01", 0.5, None) | {"psnr": 30.0}, row("02", 0.5, None)]
    parts = {"old": old, "blank": [old[0] | {"seconds": 1.5, "what": "K"}, old[1] | {"psnr": 31.0}],
             "new": [row("02", 0.5, "a")]}  # fmt: skip
    for name, rows in parts.items():
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    assert list(repeats.repeats(tmp_path / f"{name}.csv" for name in parts).recipe) == ["01", "02"]


def test_what_differs_by_more_than_its_intervals_is_named(files):
    said = repeats.reading(repeats.repeats(files))
    assert "2. Their" in said and "0.085 (median; at most 0.150)" in said
    named = said.partition("1 of them")[2]
    assert "STL, retrained, FGSM-0.08" in named and "0.300 [0.250, 0.350] and 0.450 [0.400, 0.500]" in named


def test_two_runs_that_agree(files):
    said = repeats.reading(repeats.repeats(files).head(1))
    assert said.endswith("(median; at most 0.020); none of them can be told apart.")

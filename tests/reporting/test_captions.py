"""What a caption says of defenses that need no attacker."""

from pathlib import Path

from labkit.core import metrics
from labkit.reporting import captions

import pandas as pd
import pytest

REPORTS = Path(__file__).resolve().parents[2] / "reports"


def rows(*clean, attack="Clean"):
    """Rows (defense, right, n), and each under an attack that leaves nothing."""
    frame = pd.DataFrame([(name, *metrics.accuracy(right, n)) for name, right, n in clean],
                         columns=["defense", "accuracy", "low", "high", "n"])  # fmt: skip
    frame = pd.concat([frame.assign(attack=attack), frame.assign(attack="FGSM-0.08", accuracy=0.0, low=0.0)])
    return frame.assign(data="fashion", classifier="vgg16", knowledge="classifier", retrained=False)


@pytest.mark.parametrize(
    ("clean", "named"),
    [
        ([("No Defense", 90, 100), ("A", 60, 100), ("B", 70, 100)], ["A 0.60 (n = 100)"]),
        ([("A", 1, 2), ("No Defense", 85, 100), ("B", 3, 16)], ["B 0.19 (n = 16)"]),  # of two images nothing is sure
        ([("No Defense", 900, 1000), ("A", 300, 1000), ("B", 2, 20)], ["A 0.30 (n = 1,000)", "B 0.10 (n = 20)"]),
        ([("No Defense", 30, 100), ("A", 10, 100)], []),
        ([("No Defense", 40, 100), ("A", 95, 100)], []),
        ([("A", 10, 100), ("B", 90, 100)], []),
    ],
)
def test_what_is_broken_without_an_attack_is_said_with_numbers(clean, named):
    said = captions.table(rows(*clean), "1")
    assert ("Broken before anyone attacks" in said) == bool(named)
    assert not named or f"accuracy of {', '.join(named)}; No Defense has 0." in said
    assert said.index("<details>") > said.find("Broken")


def test_rows_without_clean_images_say_nothing_of_it():
    assert "Broken" not in captions.table(rows(("No Defense", 90, 100), ("A", 1, 100), attack="BIM-0.03"), "1")


def test_the_two_ensembles_of_small_images_are_explained_and_nothing_else_is():
    for folder, n in (("lab/cifar10/05_defense_tables", 200), ("quick", 16)):
        said = captions.table(pd.read_csv(REPORTS / folder / "competitors_rows.csv"), "5")
        (line,) = [line for line in said.splitlines() if "Broken" in line]
        assert line.count(f"(n = {n})") == line.count("(n = ") == 2 and "Crop-Ens 0." in line and "PD-Ens 0." in line
    for file in (REPORTS / "lab").rglob("table_*_rows.csv"):
        assert "Broken" not in captions.table(pd.read_csv(file), file.stem.split("_")[1])


def test_a_white_box_that_is_weaker_than_a_grey_one_is_named():
    rows = pd.DataFrame(
        [
            ("D3", "BIM-0.03", "classifier", 0.03, 0.035), ("D3", "BIM-0.03", "transfer", 0.03, 0.05),
            ("D3", "PGD-0.03", "exact", 0.03, 0.075), ("D3", "PGD-0.03", "identity", 0.03, 0.035),
            ("D3", "FGSM-0.08", "classifier", 0.08, 0.0), ("TE", "BIM-0.03", "classifier", 0.03, 0.5),
            ("D3", "Square-0.03", "queries", 0.03, 0.9),  # a black box: it may be weaker
        ],
        columns=["defense", "attack", "knowledge", "budget", "accuracy"],
    )  # fmt: skip
    said = captions.adaptive(rows)
    assert said.endswith("failed by 1 of 2: D3, PGD-0.03, white box (exact gradient) (0.075 against 0.035).")
    assert captions.adaptive(rows[rows.knowledge != "exact"]).endswith("passed by all 1.")
    assert captions.adaptive(rows[rows.defense == "TE"]) == ""


def test_a_caption_says_in_what_the_sizes_of_attacks_are():
    rows = pd.read_csv(REPORTS / "lab" / "cifar10" / "baselines_rows.csv")
    relative = rows[~rows.attack.str.contains("-L∞-|-L2-")]
    largest = rows[(rows.attack == "Clean") | rows.attack.str.contains("-L∞-")]
    mixed = "relative L2 dissimilarities; those named L∞ or L2 are for pixels in [0, 1]."
    for part, words in (
        (relative, "relative L2 dissimilarities."),
        (largest, "L∞, for pixels in [0, 1]."),
        (rows, mixed),
    ):
        assert f"Sizes of attacks are {words}" in captions.table(part, "5")

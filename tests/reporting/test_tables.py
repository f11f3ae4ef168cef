import hashlib
import json

from labkit.core import recipes, store
from labkit.core.errors import InputError
from labkit.core.recipes import AttackRecipe
from labkit.experiments import paper_tables, published_numbers
from labkit.reporting import figures, pictures, tables

import pandas as pd
import pytest


def row(defense, retrained, attack, knowledge, accuracy, n=500):
    return {
        "data": "fashion, 32×32", "n": n, "classifier": "vgg16 ×0.25", "retrained": retrained, "defense": defense,
        "attack": attack, "budget": 0.03, "knowledge": knowledge, "seed": 0, "accuracy": accuracy,
        "low": accuracy - 0.04, "high": accuracy + 0.04, "dissimilarity": 0.03, "psnr": 30.0, "seconds": 1.0,
        "recipe": "0123456789abcdef",
    }  # fmt: skip


def rows():
    """Measured-looking rows with known numbers: clean and BIM, by attackers of three kinds."""
    return pd.DataFrame([
        row("No Defense", False, "Clean", "–", 0.9), row("STL", False, "Clean", "–", 0.8),
        row("STL", True, "Clean", "–", 0.88),
        row("No Defense", False, "BIM-0.03", "classifier", 0.18), row("STL", False, "BIM-0.03", "classifier", 0.5),
        row("STL", True, "BIM-0.03", "transfer", 0.66), row("STL", True, "BIM-0.03", "exact", 0.11),
    ])  # fmt: skip


def test_the_papers_numbers_are_the_printed_ones():
    assert published_numbers.table("1").loc["STL (cluster)", "FGSM-0.08"] == 0.8567
    assert published_numbers.table("4").loc["STL (cluster)", "PGD-L∞-0.031"] == 0.19
    assert published_numbers.table("8b").loc["Adv Training", "Uni-0.08"] == 0.672
    assert published_numbers.table("6b").loc["PD-Ens", "Clean"] == 0.8789
    assert len(published_numbers.names()) == 11
    with pytest.raises(InputError, match="no table '9'"):
        published_numbers.table("9")
    assert published_numbers.counterparts(64) == ("6a", "2a") and published_numbers.counterparts(200) == ("7", "3")


def test_every_line_carries_its_attacker_and_its_interval():
    frame = tables.beside_paper(rows(), "1")
    ours, theirs = frame[frame.block == "ours"], frame[frame.block == "paper, Table 1"]
    assert list(frame.columns) == ["block", "defense", "threat model", "n", "Clean", "BIM-0.03"]
    assert set(ours.n) == {"500"} and set(theirs.n) == {"not said"}
    assert list(zip(ours.defense, ours["threat model"], ours["BIM-0.03"], strict=True)) == [
        ("No Defense", "white box", "0.180 [0.140, 0.220]"),
        ("STL", "grey box (surrogate)", "0.660 [0.620, 0.700]"),
        ("STL", "white box (exact gradient)", "0.110 [0.070, 0.150]"),
    ]
    assert set(ours.Clean) == {"0.900 [0.860, 0.940]", "0.880 [0.840, 0.920]"}
    assert theirs.set_index("defense").loc["STL", "BIM-0.03"] == "0.8754"
    vanilla = tables.beside_paper(rows(), "5")
    assert vanilla[(vanilla.block == "ours") & (vanilla.defense == "STL")]["BIM-0.03"].tolist() == [
        "0.500 [0.460, 0.540]"
    ]


def competitors():
    """Rows as `baselines.cases` asks for them, one defense on fewer images, one attacked otherwise; and the worst."""
    blind = [
        row(defense, False, attack, knowledge, accuracy - less, n)
        for defense, n, accuracy in (("No Defense", 1000, 0.9), ("TVM", 1000, 0.8), ("Quilting", 200, 0.7))
        for attack, knowledge, less in (
            ("Clean", "–", 0.0),
            ("FGSM-0.08", "classifier", 0.2),
            ("BIM-0.03", "classifier", 0.4),
        )
    ]
    blind += [row("JPEG", False, "Clean", "–", 0.85, 1000), row("JPEG", False, "BIM-0.05", "classifier", 0.3, 1000)]
    blind += [row("TE", False, "Clean", "–", 0.8, 1000), row("TE", False, "BIM-0.03", "classifier", 0.1, 1000)]
    aware = [
        row("JPEG", False, "PGD-0.03", "identity", 0.25, 1000),
        row("JPEG", False, "PGD-0.03", "smooth", 0.15, 1000),
        row("TVM", False, "PGD-0.03", "exact", 0.1, 1000) | {"majority": 0.08},
        row("Quilting", False, "PGD-0.03", "identity", 0.2, 200),
        row("No Defense", False, "PGD-0.03", "classifier", 0.05, 1000),
        row("TE", False, "PGD-0.03", "classifier", 0.06, 1000),
    ]
    least = [row(name, False, "all", "–", accuracy, n) | {"attacks": 4} for name, accuracy, n in (
        ("No Defense", 0.05, 1000), ("TVM", 0.09, 1000), ("Quilting", 0.1, 200), ("JPEG", 0.14, 1000),
    )]  # fmt: skip
    return pd.DataFrame(blind + aware), pd.DataFrame(least)


def test_competitors_have_one_line_each_and_say_their_n():
    frame = tables.baselines(*competitors(), "6a")
    known = "PGD-0.03, defense known"
    often = f"{known}, majority of 9 answers"
    asked = ["Clean", "FGSM-0.08", "BIM-0.03", "BIM-0.05", known, often, tables._ALL]
    assert list(frame.columns) == ["source", "defense", "n", *asked]
    ours = frame[frame.source == "ours"].set_index("defense")
    counts = {"No Defense": "1,000", "TVM": "1,000", "Quilting": "200", "JPEG": "1,000", "TE": "1,000"}
    assert ours.n.to_dict() == counts
    assert ours["BIM-0.03"].to_dict() == {
        "No Defense": "0.500 [0.460, 0.540]", "TVM": "0.400 [0.360, 0.440]", "Quilting": "0.300 [0.260, 0.340]",
        "JPEG": "", "TE": "0.100 [0.060, 0.140]",
    }  # fmt: skip
    assert ours[known].to_dict() == {
        "No Defense": "0.050 [0.010, 0.090] (white box)", "TVM": "0.100 [0.060, 0.140] (white box (exact gradient))",
        "Quilting": "0.200 [0.160, 0.240] (white box (BPDA))",
        "JPEG": "0.150 [0.110, 0.190] (white box (smooth BPDA))",  # the lower of two
        "TE": "0.060 [0.020, 0.100] (white box)",  # its own defense: whoever has it knows it
    }  # fmt: skip
    assert ours[often].to_dict() == dict.fromkeys(counts, "") | {"TVM": "0.080"}


def test_what_no_attack_breaks_is_called_so_and_what_is_not_measured_whole_has_no_worst_case():
    frame = tables.baselines(*competitors(), "6a")
    assert frame.set_index("defense")[tables._ALL][:5].to_dict() == {
        "No Defense": "0.050 [0.010, 0.090] (4 attacks)", "TVM": "0.090 [0.050, 0.130] (4 attacks)",
        "Quilting": "0.100 [0.060, 0.140] (4 attacks)", "JPEG": "0.140 [0.100, 0.180], not broken here (4 attacks)",
        "TE": "",
    }  # fmt: skip


def test_attacks_that_do_not_break_the_network_alone_say_nothing_of_what_holds():
    rows, worst = competitors()
    worst.loc[worst.defense == "No Defense", "accuracy"] = 0.4
    assert not tables.baselines(rows, worst, "6a")[tables._ALL].str.contains(tables.HELD).any()


def test_the_strongest_grey_box_is_one_that_most_defenses_have_faced():
    rows, _ = competitors()
    once = pd.DataFrame([row("TVM", False, "MI-DI-0.03", "classifier", 0.3, 1000)])
    blind, _ = paper_tables.strongest(pd.concat([rows, once], ignore_index=True))
    assert set(blind.attack) == {"BIM-0.03"}
    assert set(blind.defense) == {"No Defense", "TVM", "Quilting"}


def test_what_was_differentiated_in_several_ways_is_laid_side_by_side():
    (line,) = tables.gradients(competitors()[0]).to_dict("records")
    assert line == {
        "defense": "JPEG", "attack": "PGD-0.03", "n": "1,000", "white box (BPDA)": "0.250 [0.210, 0.290]",
        "white box (smooth BPDA)": "0.150 [0.110, 0.190]",
    }  # fmt: skip


def test_competitors_stand_above_the_papers_lines():
    frame = tables.baselines(*competitors(), "6a")
    theirs = frame[frame.source == "paper, Table 6a"].set_index("defense")
    printed = published_numbers.table("6a")
    assert list(theirs.index) == [name for name in ("No Defense", "TVM", "Quilting", "JPEG") if name in printed.index]
    assert "TVM" in theirs.index and (theirs.n == "not said").all()
    assert theirs.loc["TVM", "BIM-0.03"] == f"{printed.loc['TVM', 'BIM-0.03']:.4f}"
    assert theirs.loc["TVM", "BIM-0.05"] == "not reported"
    assert frame.index[frame.source == "ours"].max() < frame.index[frame.source != "ours"].min()


def test_an_attack_the_paper_lacks_is_said_so():
    frame = rows().replace({"attack": {"BIM-0.03": "BIM-0.05"}})
    assert "not reported" in set(tables.beside_paper(frame, "1")["BIM-0.05"])


def test_retention():
    cells = published_numbers.alike(rows(), "1")
    frame = tables.retention(cells, "1").set_index(["block", "defense", "threat model"])["BIM-0.03"]
    assert frame[("ours", "STL", "grey box (surrogate)")] == "0.75"
    assert frame[("paper, Table 1", "No Defense", "not said")] == f"{0.1803 / 0.9298:.2f}"


def test_an_attack_on_fewer_images_says_so_and_is_divided_by_their_clean_accuracy():
    few = pd.concat([rows(), pd.DataFrame([row("STL", True, "CW-0.03", "transfer", 0.6, n=200)])])
    few.loc[few.attack == "Clean", "budget"] = 0.0
    worst = [{"defense": "STL", "n": 200, "size": 0.0, "accuracy": 0.75, "low": 0.7, "high": 0.8}]
    cells = published_numbers.measured(few[few.retrained], pd.DataFrame(worst), "1")
    line = tables.blocks(cells, "1").set_index(["block", "threat model"]).loc[("ours", "grey box (surrogate)")]
    assert line["CW-0.03"] == "0.600 [0.560, 0.640] (n = 200)" and line["BIM-0.03"] == "0.660 [0.620, 0.700]"
    shares = tables.retention(cells, "1").set_index(["block", "defense", "threat model"])
    assert shares.loc[("ours", "STL", "grey box (surrogate)"), "CW-0.03"] == f"{0.6 / 0.75:.2f}"
    assert shares.loc[("ours", "STL", "grey box (surrogate)"), "BIM-0.03"] == f"{0.66 / 0.88:.2f}"
    # Nobody knows these 200 images' clean accuracy.
    alone = published_numbers.measured(few[few.retrained], pd.DataFrame(), "1")
    assert published_numbers.kept(alone)[(alone.attack == "CW-0.03") & (alone.block == "ours")].isna().all()


def test_a_defense_that_nobody_attacked_has_its_clean_cell():
    frame = tables.beside_paper(rows()[rows().attack == "Clean"], "5")
    assert frame[frame.block == "ours"].Clean.tolist() == ["0.900 [0.860, 0.940]", "0.800 [0.760, 0.840]"]


def test_saved_as_csv_and_markdown_with_the_caption(tmp_path):
    tables.save(tables.beside_paper(rows(), "1"), tmp_path / "new", "kept", "n = 500.")
    assert len(pd.read_csv(tmp_path / "new" / "kept.csv")) == 3 + len(published_numbers.table("1"))
    text = (tmp_path / "new" / "kept.md").read_text()
    assert text.startswith("| block") and text.rstrip().endswith("n = 500.")
    tables.save(pd.DataFrame({"attack": ["Clean", "FGSM"], "psnr": [float("nan"), 20.5]}), tmp_path / "new", "gaps")
    assert "nan" not in (gaps := (tmp_path / "new" / "gaps.md").read_text()) and "–" in gaps and "20.5" in gaps
    tables.save(rows(), "", "kept")
    assert len(list(tmp_path.iterdir())) == 1


def test_which_images_are_right_is_kept_for_programs_and_not_shown(tmp_path):
    frame = rows().assign(right="0123456789ab:500:ff00ff")
    tables.save(frame, tmp_path, "rows")
    assert "ff00ff" in (tmp_path / "rows.csv").read_text()
    for shown in ((tmp_path / "rows.md").read_text(), tables.view(frame).to_html()):
        assert "ff00ff" not in shown and "0.900" in shown.replace("0.9 ", "0.900 ")


def test_recipes_are_saved_one_a_line_as_the_text_that_is_hashed(tmp_path):
    made = {store.key(attack): recipes.plain(attack) for attack in (AttackRecipe(), AttackRecipe("bim", 0.03, 20))}
    tables.save(rows(), tmp_path, "kept", recipes=made)
    text = (tmp_path / "kept_recipes.json").read_text()
    assert json.loads(text) == made
    for line in text.splitlines()[1:-1]:
        key, told = line.rstrip(",").split(": ", 1)
        assert hashlib.sha256(told.encode()).hexdigest()[:16] == json.loads(key)
    tables.save(rows(), tmp_path, "without")
    assert not (tmp_path / "without_recipes.json").exists()


def test_figures_show_every_row(tmp_path):
    fig = pictures.save(figures.accuracies(rows(), "title"), tmp_path, "accuracies")
    drawn = [[round(float(v), 2) for bars in ax.containers for v in bars.lines[0].get_ydata()] for ax in fig.axes]
    assert sorted(drawn[0]) == [0.18, 0.5, 0.8, 0.9]
    assert sorted(drawn[1]) == [0.11, 0.18, 0.66, 0.88, 0.9]
    assert (tmp_path / "accuracies.png").stat().st_size > 5_000
    assert len(fig.legends[0].get_texts()) == 4

"""A table of the paper measured, small: its page, its files, and what it says."""

import json
import runpy
from dataclasses import replace
from pathlib import Path

from labkit.__main__ import main
from labkit.core.errors import InputError
from labkit.core.torchvision_shim import torchvision
from labkit.datasets import load
from labkit.evaluation import measurement
from labkit.evaluation.workbench import Workbench
from labkit.experiments import cluster_stability, paper_tables, published_numbers
from labkit.reporting import questions, table_page, tables, verdicts

import kept_recipes
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal
from safetensors.torch import save_file
from small_imagenet import write_imagenet

WANTED = {
    "defense": ["No Defense", "STL", "STL (cluster)"],
    "attack": ["Clean", "FGSM-0.08", "BIM-0.03"],
}


@pytest.fixture(scope="module")
def small(lab):
    return replace(lab, adaptive=replace(lab.adaptive, n=20))


@pytest.fixture(scope="module")
def asked(small):
    return table_page.ask(small, ["1"], WANTED)["1"]


@pytest.fixture(scope="module")
def made(asked, small, bench):
    return table_page.measure("1", asked, small, bench, checked=False)


def test_the_worst_case_is_never_above_any_attack_on_the_same_images(made, asked, bench):
    from labkit.evaluation import measurement

    rows = measurement.run(asked.aware, bench)
    for row in made.worst.itertuples():
        mine = rows[(rows.defense == row.defense) & (rows.budget == row.size)]
        assert (mine.attack != "Clean").sum() == row.attacks and row.accuracy <= mine.accuracy.min() and row.n == 20
    assert set(made.worst["size"]) == {0.0, 0.03, 0.08}
    assert list(paper_tables.worst([], bench).columns) == list(made.worst.columns)


def test_a_table_has_three_blocks(made):
    cells = made.cells
    assert list(dict.fromkeys(cells.block)) == ["ours", "worst", "paper"]
    assert list(dict.fromkeys(cells.attack)) == ["Clean", "FGSM-0.08", "BIM-0.03"]
    theirs = cells[(cells.block == "paper") & (cells.defense == "STL")].set_index("attack").accuracy
    assert theirs.to_dict() == {"Clean": 0.9002, "FGSM-0.08": 0.8515, "BIM-0.03": 0.8754}
    seen = tables.blocks(cells, "1")
    assert list(seen.columns) == ["block", "defense", "threat model", "n", "Clean", "FGSM-0.08", "BIM-0.03"]
    grey = seen[(seen.block == "ours") & (seen.defense == "STL")]
    assert list(grey["threat model"]) == ["grey box (surrogate)", "grey box (weights)"]
    row = made.rows[(made.rows.defense == "STL") & (made.rows.attack == "BIM-0.03")].iloc[0]
    assert grey["BIM-0.03"].iloc[0] == tables.cell(row) and set(grey.n) == {"100"}


def test_ranking_and_retention_are_those_of_the_cells():
    cells = pd.DataFrame(
        [
            ("ours", "No Defense", "classifier", 100, "Clean", 0.9, 0.85, 0.95),
            ("ours", "No Defense", "classifier", 100, "FGSM-0.08", 0.3, 0.25, 0.35),
            ("ours", "STL", "transfer", 100, "Clean", 0.8, 0.75, 0.85),
            ("ours", "STL", "transfer", 100, "FGSM-0.08", 0.6, 0.55, 0.65),
            ("ours", "STL (cluster)", "transfer", 100, "FGSM-0.08", 0.58, 0.53, 0.63),
            ("paper", "STL", "", None, "Clean", 0.9, None, None),
            ("paper", "STL", "", None, "FGSM-0.08", 0.45, None, None),
        ],
        columns=["block", "defense", "knowledge", "n", "attack", "accuracy", "low", "high"],
    )
    found = questions.ranking(cells)
    lines = {(row["ours"], row["other"], row["case"]): row for row in verdicts.view(found).to_dict("records")}
    named = {(ours.rpartition(" [")[0].rpartition(" ")[0], other.rpartition(" [")[0].rpartition(" ")[0], case): row
             for (ours, other, case), row in lines.items()}  # fmt: skip
    assert set(named) == {
        ("STL", "No Defense", "Clean"), ("STL", "No Defense", "FGSM-0.08"),
        ("STL (cluster)", "No Defense", "FGSM-0.08"), ("STL (cluster)", "STL", "FGSM-0.08"),
    }  # fmt: skip
    told = {key: (row["difference"], row["verdict"]) for key, row in named.items()}
    assert told["STL", "No Defense", "FGSM-0.08"] == ("+0.300 [+0.229, +0.371]", verdicts.HIGHER)
    assert told["STL", "No Defense", "Clean"] == ("-0.100 [-0.171, -0.029]", verdicts.LOWER)
    assert told["STL (cluster)", "STL", "FGSM-0.08"] == ("-0.020 [-0.091, +0.051]", verdicts.SAME)
    kept = tables.retention(cells, "1")
    assert kept["FGSM-0.08"].tolist() == ["0.33", "0.75", "–", "0.50"]


def test_a_saved_table_says_where_it_comes_from(made, tmp_path):
    made.save(tmp_path, "python -m labkit table 1")
    assert_frame_equal(pd.read_csv(tmp_path / "table_1_rows.csv"), made.rows)
    again = published_numbers.measured(
        pd.read_csv(tmp_path / "table_1_rows.csv"), pd.read_csv(tmp_path / "table_1_worst.csv"), "1"
    )
    assert_frame_equal(pd.read_csv(tmp_path / "table_1.csv", keep_default_na=True).fillna({"knowledge": ""}), again)
    told = json.loads((tmp_path / "table_1.json").read_text())
    assert told["command"] == "python -m labkit table 1" and {f["path"] for f in told["files"]} == {
        "table_1.md", "table_1.csv", "table_1.png", "table_1_rows.csv", "table_1_worst.csv", "table_1_votes.csv",
        "table_1_rows_recipes.json",
    }  # fmt: skip
    rows, kept = kept_recipes.read(tmp_path / "table_1_rows.csv")
    assert kept_recipes.flaws(rows, kept) == []
    assert set(kept_recipes.images(kept).values()) <= set(told["images"].values())
    (tmp_path / "table_1_rows_recipes.json").write_text("{}")
    assert len(kept_recipes.flaws(*kept_recipes.read(tmp_path / "table_1_rows.csv"))) == rows.recipe.nunique()
    page = (tmp_path / "table_1.md").read_text()
    assert "    python -m labkit table 1\n" in page and "Threat models:" in page and "| ours, worst case" in page
    assert "Wilson" in page and "not checked for this selection" in page


def test_the_command_line_measures_one_cell_and_says_how_to_do_it_again(tmp_path, capsys, bench):
    words = ["5", "--profile", "smoke", "--store", str(tmp_path / "store")]
    assert main(["plan", *words]) == 0
    told = capsys.readouterr().out
    assert "classifier" in told and "with nothing else running: about" in told
    only = ["--only", "defense=No Defense", "--only", "attack=Clean,FGSM-0.08"]
    assert main(["plan", *words, *only, "--list"]) == 0
    chosen = capsys.readouterr().out
    assert "No Defense" in chosen and "dictionary" not in chosen and "dictionary" in told
    assert main(["table", *words, *only, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "# Table 5: CIFAR-10, VGG-16, vanilla classifier" in told
    again = "python -m labkit table 5 --profile smoke --dataset fashion --only 'defense=No Defense'"
    assert again in told and (tmp_path / "out" / "table_5.md").is_file()
    for wrong, said in (
        (["--only", "defense"], "cells are chosen by WHAT=VALUE"),
        (["--only", "attack=CW"], "no case is left; there are attack: BIM-0.03"),
    ):
        assert main(["table", *words, *wrong]) == 2
        assert said in capsys.readouterr().err
    assert main(["table", "9", "--profile", "smoke"]) == 2
    assert "the paper has no table '9'" in capsys.readouterr().err


def test_the_baselines_are_a_table_of_the_labs_own(tmp_path, capsys, bench):
    only = ["--only", "defense=No Defense,JPEG,Median"]
    words = ["table", "baselines", "--profile", "smoke", "--store", str(bench.store.root), *only]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert "# Which defenses hold?" in told and "worst case, at one size" in told and "Sanity check, no attack" in told
    assert "python -m labkit table baselines --profile smoke --dataset fashion --only" in told
    worst = pd.read_csv(tmp_path / "out" / "baselines_worst.csv").set_index("defense")
    rows = pd.read_csv(tmp_path / "out" / "baselines_rows.csv")
    assert list(worst.index) == ["No Defense", "JPEG", "Median"] and (tmp_path / "out" / "baselines.png").is_file()
    for name, mine in rows[(rows.attack == "Clean") | (rows.budget == 0.03)].groupby("defense"):
        assert worst.accuracy[name] <= mine.accuracy.min() and worst.attacks[name] == len(mine) - 1
    told = json.loads((tmp_path / "out" / "baselines.json").read_text())
    assert {file["path"] for file in told["files"]} >= {"baselines.md", "baselines.png", "baselines_rows.csv"}


def test_a_folder_is_named_without_the_way_to_it():
    from labkit.core import profiles

    lab = profiles.profile("lab", dataset="folder:/secret/x.zip", resolution=64)
    told = table_page.command("1", lab, seed=1)
    assert told == "python -m labkit table 1 --profile lab --dataset folder:x.zip --resolution 64 --seed 1"


def test_what_is_asked_for_twice_is_asked_for_together():
    found = table_page.chosen(["defense=STL,TVM", " attack=Clean", "defense=MagNet"])
    assert found == {"defense": ["STL", "TVM", "MagNet"], "attack": ["Clean"]}
    # a comma in brackets is the name's own
    found = table_page.chosen(["defense=Adv Training (one step, through T),STL"])
    assert found == {"defense": ["Adv Training (one step, through T)", "STL"]}
    with pytest.raises(InputError, match="WHAT=VALUE, such as defense=STL; got 'defense'"):
        table_page.chosen(["defense"])


def test_the_overview_names_every_table_and_what_is_measured(tmp_path):
    from labkit.core import profiles

    lab, bench = profiles.profile("smoke"), Workbench(tmp_path, progress=False)
    before = table_page.overview(lab, bench)
    assert (*before.table,) == published_numbers.names() and not before.measured.any() and (before.cells > 5).all()
    asked = table_page.ask(lab, ["5"], table_page.chosen(["defense=No Defense", "attack=Clean"]))["5"]
    measurement.run(asked.blind, bench)
    after = table_page.overview(lab, bench).set_index("table").measured
    assert after["5"] == len(asked.blind) and after["6a"] >= after["5"]  # the same cell stands in several tables


def test_a_table_can_be_asked_of_all_profiles():
    from labkit.core import profiles

    for lab in profiles.PROFILES.values():
        assert all(paper_tables.table(lab, name).blind for name in ("1", "4", "8a"))


def test_votes_are_counted_under_the_tables_own_attacks(made, small, bench):
    assert list(made.votes.attack[::2]) == ["FGSM-0.08", "BIM-0.03"]
    assert_frame_equal(
        made.votes, cluster_stability.stability(small, bench, [small.attack("FGSM-0.08"), small.strongest])
    )
    assert "## Which attacked images keep their cluster?" in made.text("again")
    alone = table_page.ask(small, ["1"], {"defense": ["STL"], "attack": ["Clean"]})["1"]
    assert table_page.measure("1", alone, small, bench, checked=False).votes.empty
    attackless = table_page.ask(small, ["1"], {**WANTED, "defense": ["STL (cluster)"]})["1"]
    assert table_page.measure("1", attackless, small, bench, checked=False).votes.empty


def test_tables_of_a_given_network_on_imagenets_own_layout(tmp_path, capsys, monkeypatch):
    """A network of torchvision's with its weights in a file, as whoever has ImageNet gives it; nothing is trained."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root").mkdir()
    write_imagenet(tmp_path / "root", ["n00000001", "n00000002", "n00000003"], train=8)
    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "random_resnet50.py"))
    parts = [load("imagenet", part, data_root=tmp_path / "root", resolution=32) for part in ("train", "test")]
    save_file(example["weights"](parts, make=torchvision.models.resnet18, batch=8), "net.safetensors")
    model = "torchvision:resnet18@net.safetensors"
    words = ["--profile", "smoke", "--dataset", "imagenet", "--data-root", "root", "--resolution", "32"]
    words += ["--model", model, "--store", "store"]
    few = ["--only", "defense=No Defense,STL", "--only", "attack=Clean,FGSM-0.08,FGSM-0.06 avg"]
    few += ["--only", "knowledge=classifier"]
    note = "Its features are random."
    for name in ("7", "3"):
        assert main(["plan", name, *words, *few, "--list"]) == 0
        assert "classifier" not in capsys.readouterr().out
        assert main(["table", name, *words, *few, "--out", "out", "--note", note]) == 0
        told = capsys.readouterr().out
        assert (
            f"{note} The network is given, and none is trained" in told and f"--model {model} --resolution 32" in told
        )
        rows = pd.read_csv(f"out/table_{name}_rows.csv")
        assert (
            set(rows.classifier) == {model} and not rows.retrained.any() and set(rows.defense) == {"No Defense", "STL"}
        )
        assert set(rows.knowledge) <= {"–", "classifier"} and rows.data.str.startswith("imagenet, 32×32").all()
    assert not (tmp_path / "store" / "classifier").exists()
    assert main(["table", "holds", *words]) == 2
    assert "holds trains the networks that it compares; leave out --model" in capsys.readouterr().err
    assert main(["plan", "8a", *words]) == 0
    assert "Adv Training: the network is given, and no other is trained like it" in capsys.readouterr().out

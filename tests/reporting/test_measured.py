"""What is committed in reports: that each table is made of its rows, and each row of the recipe kept beside it."""

import argparse
import json
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

from labkit.cli import table
from labkit.core import checkpoint, metrics, profiles
from labkit.experiments import published_numbers
from labkit.reporting import findings, tables

import kept_recipes
import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

LAB = Path(__file__).resolve().parents[2] / "reports" / "lab"
MEASURED = sorted({*LAB.rglob("table_*.json")} - {*LAB.rglob("*_recipes.json")})
# Every set of rows, known by its column of hashes.
COMMITTED = sorted({*LAB.rglob("*.csv"), *(LAB.parent / "quick").rglob("*.csv")})  # others are somebody's own
ROWS = [file for file in COMMITTED if "recipe" in file.read_text().partition("\n")[0]]
WHITE = ("classifier", "identity", "smooth", "exact")
UNKNOWN = {"map.csv": 9}  # lines without a hash: their run kept none, and no row has the same numbers


_CONVENTION = {"stated": "", "released": "_released"}  # what it adds to a table's name


def parsed(command):
    """Profile, table and seed of a command that is printed under a table."""
    parser = argparse.ArgumentParser()
    table.add(parser.add_subparsers())
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "labkit"]
    return parser.parse_args(words[3:])


def table_of(page):
    """The first table of a page in Markdown, as text."""
    text = page.read_text().partition("\n|")[2].partition("\n\n")[0]
    header, _, *cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.split("\n")]
    return pd.DataFrame(cells, columns=header)


@pytest.mark.parametrize("file", MEASURED, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_table_is_made_of_its_rows_and_they_of_its_command(file):
    told, stem = json.loads(file.read_text()), file.with_suffix("")
    options = parsed(told["command"])
    name = file.stem.removeprefix("table_")
    assert [name] == [f"{plain}{_CONVENTION[options.convention]}" for plain in options.names]
    frames = {part: pd.read_csv(f"{stem}{part}.csv") for part in ("", "_rows", "_worst")}
    cells = published_numbers.measured(frames["_rows"], frames["_worst"], name)
    assert_frame_equal(frames[""].fillna({"knowledge": ""}), cells)
    blocks, shown = tables.blocks(cells, name), table_of(stem.with_suffix(".md"))
    assert_frame_equal(shown, blocks)
    assert f"    {told['command']}\n" in stem.with_suffix(".md").read_text()
    for kept in told["files"]:
        assert checkpoint.fingerprint(file.parent / kept["path"], file.parent) == kept
    assert file.with_name(f"{file.stem}_rows.csv") in ROWS

    rows, recipes = kept_recipes.read(file.with_name(f"{file.stem}_rows.csv"))
    images = kept_recipes.images(recipes)
    assert {told["images"][str(n)] == images[key] for n, key in zip(rows.n, rows.recipe, strict=True)} == {True}
    assert set(rows.seed) == {options.seed}
    (data,) = set(rows.data)
    assert data.startswith(f"{options.dataset}, {options.resolution or ''}")


@pytest.mark.parametrize("file", ROWS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_every_row_is_of_the_recipe_kept_beside_it(file):
    rows, kept = kept_recipes.read(file)
    assert kept_recipes.flaws(rows, kept) == []
    assert rows.filter(regex="recipe$").isna().any(axis=1).sum() <= UNKNOWN.get(file.name, 0)


def test_rows_of_one_data_set_are_of_the_same_images():
    judged = {}
    for file in ROWS:
        rows, kept = kept_recipes.read(file)
        images = kept_recipes.images(kept)
        trained_on = {digest.partition(":")[0] for digest in images.values()}
        assert len(trained_on) <= 1 + ("norm" in rows)  # all of them and, of what holds, few
        for n, key in kept_recipes.hashes(rows).itertuples(index=False):
            data = rows.data[0] if "data" in rows else "Figure 6"
            judged.setdefault((data, n), set()).add(images[key].rpartition(":")[2])
    assert {len(digests) for digests in judged.values()} == {1}


def as_written(file):
    """The files beside a notebook's manifest, which are as it says."""
    told, folder = json.loads(file.read_text()), file.parent
    (ran,) = (entry for entry in told["notebooks"] if entry["name"] == folder.name)
    written = {kept["path"]: kept for kept in ran["files"]}
    kept = [path for path in folder.iterdir() if path != file]
    for path in kept:
        assert checkpoint.fingerprint(path, folder.parent) == written[f"{folder.name}/{path.name}"]
    return kept


def test_no_image_of_a_data_set_that_is_not_ours_is_handed_on():
    """Only charts and learned filters; the pictures that show test images stay at home."""
    charts = re.compile(
        r"(8-epochs/)?baselines(_curves)?|causes|holds|table_\w+|0[56]_\w+/headline|05_\w+/competitors|06_\w+/([KSM]|map|filters_[KS]_\d+)"
    )
    for folder in (LAB / name for name in ("cifar10", "imagenet10", "imagenet-samples")):
        for file in folder.rglob("*.png"):
            assert charts.fullmatch(file.relative_to(folder).with_suffix("").as_posix()), f"{file} shows images"


NOTEBOOKS = sorted(LAB.glob("*/0*/manifest.json"))
PROJECTED = [file for file in NOTEBOOKS if file.parent.name == "03_projection"]
LEFT = {
    "03_projection": {"shrinkage.csv", "headline.md"},
    "05_defense_tables": {"rows.csv", "competitors_rows.csv"},
    "06_tradeoff": {*(f"{what}_rows.csv" for what in ("lambda", "K", "S", "M", "silent")), "map.csv"},
}


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: f"{file.parents[1].name}-{file.parent.name}")
def test_what_a_notebook_left_is_as_it_wrote_it(file):
    kept = as_written(file)
    assert LEFT[file.parent.name] <= {path.name for path in kept}
    rows = [path for path in kept if path.name in LEFT[file.parent.name] and path.suffix == ".csv"]
    assert rows and set(rows) <= set(ROWS)
    if file in PROJECTED:
        assert not [path for path in kept if path.suffix == ".png"]  # the images are not ours to hand on


def test_another_size_of_a_profile_leaves_what_is_committed_as_it_is(monkeypatch):
    for name, lab in profiles.PROFILES.items():
        fewer = replace(lab.transform, dictionary=replace(lab.transform.dictionary, K=9, images=7))
        changed = replace(lab, transform=fewer, classifier=replace(lab.classifier, width=2.0, epochs=3), retraining=1)
        changed = replace(
            changed, attacks=lab.attacks[:2], baselines=replace(lab.baselines, fast=3, slow=2, options=())
        )
        monkeypatch.setitem(profiles.PROFILES, name, changed)
        monkeypatch.setattr(profiles, name.upper(), changed)
    for file in ROWS:
        test_every_row_is_of_the_recipe_kept_beside_it(file)
    for file in MEASURED:
        test_a_table_is_made_of_its_rows_and_they_of_its_command(file)


@pytest.mark.parametrize("file", ROWS, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_row_that_says_something_else_than_its_recipe_is_found(file):
    rows, kept = kept_recipes.read(file)
    told = {"attack", "budget", "defense", "knowledge", "retrained", "classifier", "seed", "asked", "value", "λ"}
    for column in told & {*rows}:
        false = rows.astype(object)
        false.loc[0, column] = "another"
        assert any(f"{column} is another" in said for said in kept_recipes.flaws(false, kept))
    for column in (name for name in rows if name.endswith("recipe")):
        false = rows.copy()
        false.loc[0, column] = "0" * 16
        assert f"no recipe makes {'0' * 16}" in kept_recipes.flaws(false, kept)


def test_a_recipe_that_was_changed_afterwards_is_found():
    rows, kept = kept_recipes.read(ROWS[0])
    key = rows.recipe[1]
    false = kept | {key: kept[key] | {"knowledge": "exact"}}
    assert f"{key} is not the hash of its recipe" in kept_recipes.flaws(rows, false)
    swapped = rows.assign(recipe=rows.recipe[::-1].to_numpy())
    assert len(kept_recipes.flaws(swapped, kept)) > len(rows) / 2  # each hash is right, and stands in another's row


def test_one_command_makes_all_of_it():
    dry = ["make", "-n", "measured", "CIFAR10=folder:cifar10.zip", "IMAGENET10=folder:imagenet10-64.zip"]
    dry.append("SAMPLES=folder:imagenet-samples-224.zip")
    lines = subprocess.run(dry, cwd=LAB.parents[1], capture_output=True, text=True, check=True).stdout
    lines = lines.replace("\\\n", "").splitlines()
    asked = [line.removeprefix(".venv/bin/") for line in lines if line.startswith(".venv/bin/python -m labkit ")]
    made, how = set(), lambda told: (told.profile, told.convention, told.epochs, tuple(told.only))
    for told in (options for line in asked if " table " in line for options in [parsed(line)]):
        made |= {(told.out.as_posix(), name, *how(told)) for name in told.names}
    for file in (*MEASURED, *(file for name in ("causes", "baselines", "holds") for file in LAB.rglob(f"{name}.json"))):
        told = parsed(json.loads(file.read_text())["command"])
        (name,) = told.names
        assert (file.parent.relative_to(LAB.parents[1]).as_posix(), name, *how(told)) in made
    assert sum("report --profile lab" in line and "--notebooks 05,06" in line for line in asked) == 1
    for file in PROJECTED:
        told = json.loads(file.read_text())
        what = f"report --profile {told['profile']} --dataset '{told['dataset']}' --notebooks 03 "
        assert sum(what in line for line in asked) == 1
    assert [line.split()[3] for line in asked[-2:]] == ["findings", "leaderboard"]


def test_the_page_over_them_is_made_of_them():
    if not MEASURED:
        pytest.skip("no table has been measured yet")
    page = (LAB.parent / "README.md").read_text()
    assert findings.page(LAB, "lab/") in page and findings.opening(LAB) in page
    assert sum(file.stat().st_size for file in LAB.rglob("*") if file.is_file()) < 10 * 2**20


def test_the_leaderboard_over_them_is_made_of_them(tmp_path):
    if not MEASURED:
        pytest.skip("no table has been measured yet")
    (tmp_path / "lab").symlink_to(LAB)
    page = findings.leaderboard(tmp_path / "lab", tmp_path / "leaderboard")
    assert page.read_text("utf-8") == (LAB.parent / "leaderboard" / page.name).read_text("utf-8")


@pytest.mark.parametrize("file", [file for file in ROWS if "right" in pd.read_csv(file, nrows=0)], ids=lambda f: f.stem)
def test_rows_of_a_network_are_of_one_training(file):
    """A white box attacks what is right when clean, so hardly an image is wrong clean and right attacked.

    Of another training of the recipe, many are. Random defenses draw anew, and are left out.
    """
    rows = pd.read_csv(file).query("right.notna() and majority.isna()")
    same = ["defense", "retrained", "n", "classifier"]
    clean = rows[rows.attack == "Clean"].drop_duplicates(same)
    white = rows[rows.attack.str.contains("PGD|ladder|AutoAttack") & rows.knowledge.isin(WHITE)]
    for row in white.merge(clean, on=same, suffixes=("", "_clean")).itertuples():
        gained = metrics.compared(row.right, row.right_clean).ours
        assert gained <= row.n // 100, f"{row.defense}, {row.attack}, {row.knowledge}"

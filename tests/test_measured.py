"""The tables in reports/lab: that each is made of its rows, and each row of the recipe that its command names."""

import argparse
import json
import re
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from pandas.testing import assert_frame_equal

from labkit import (
    experiment,
    findings,
    profiles,
    provenance,
    published,
    recipes,
    rivals,
    store,
    table_cli,
    tables,
    tradeoff,
)

LAB = Path(__file__).resolve().parents[1] / "reports" / "lab"
MEASURED = sorted(LAB.rglob("table_*.json"))


def parsed(command):
    """Profile, table and seed of a command that is printed under a table."""
    parser = argparse.ArgumentParser()
    table_cli.add(parser.add_subparsers())
    words = shlex.split(command)
    assert words[:3] == ["python", "-m", "labkit"]
    return parser.parse_args(words[3:])


@pytest.mark.parametrize("file", MEASURED, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_a_table_is_made_of_its_rows_and_they_of_their_recipes(file):
    told, stem = json.loads(file.read_text()), file.with_suffix("")
    options = parsed(told["command"])
    (name,) = options.names
    frames = {part: pd.read_csv(f"{stem}{part}.csv") for part in ("", "_rows", "_worst")}
    cells = tables.measured(frames["_rows"], frames["_worst"], name)
    assert_frame_equal(frames[""].fillna({"knowledge": ""}), cells)
    assert tables.blocks(cells, name).to_markdown(index=False) in stem.with_suffix(".md").read_text()
    assert f"    {told['command']}\n" in stem.with_suffix(".md").read_text()
    for kept in told["files"]:
        assert provenance.fingerprint(file.parent / kept["path"], file.parent) == kept

    lab = profiles.profile(options.profile, dataset=options.dataset, resolution=options.resolution)
    wanted = published.chosen(options.only)
    (asked,) = published.ask(recipes.reseed(lab, options.seed), [name], wanted).values()
    assert published.recipes(asked, told["images"]) == set(frames["_rows"].recipe)


def as_written(file):
    """The lab of a notebook's manifest, and the files beside it, which are as that notebook wrote them."""
    told, folder = json.loads(file.read_text()), file.parent
    (ran,) = (entry for entry in told["notebooks"] if entry["name"] == folder.name)
    written = {kept["path"]: kept for kept in ran["files"]}
    kept = [path for path in folder.iterdir() if path != file]
    for path in kept:
        assert provenance.fingerprint(path, folder.parent) == written[f"{folder.name}/{path.name}"]
    return profiles.profile(told["profile"], dataset=told["dataset"], resolution=told["resolution"]), kept


def measured_images(folder):
    """Digest of a data set's images, by how many of its test images were asked, from the tables beside a notebook."""
    told = (json.loads(table.read_text())["images"] for table in folder.parent.glob("table_*.json"))
    return {int(n): digest for images in told for n, digest in images.items()}


def test_no_image_of_a_data_set_that_is_not_ours_is_handed_on():
    """Only charts and learned filters; the pictures that show test images stay at home."""
    charts = re.compile(r"table_\w+|0[56]_\w+/headline|05_\w+/competitors|06_\w+/([KSM]|map|filters_[KS]_\d+)")
    for folder in (LAB / name for name in ("cifar10", "imagenet10", "imagenet-samples")):
        for file in folder.rglob("*.png"):
            assert charts.fullmatch(file.relative_to(folder).with_suffix("").as_posix()), f"{file} shows images"


COMPARED = sorted(LAB.glob("*/05_defense_tables/manifest.json"))


@pytest.mark.parametrize("file", COMPARED, ids=lambda file: file.parents[1].name)
def test_the_competitors_are_of_the_profiles_recipes_and_as_their_notebook_wrote_them(file):
    (lab, _), images = as_written(file), measured_images(file.parent)
    for name, cases in (("rows", experiment.grid(lab)), ("competitors_rows", rivals.cases(lab))):
        rows = pd.read_csv(file.with_name(f"{name}.csv"), dtype={"recipe": str})
        assert [store.key(case, images[case.data.test]) for case in cases] == list(rows.recipe)


SWEPT = sorted(LAB.glob("*/06_tradeoff/manifest.json"))


@pytest.mark.parametrize("file", SWEPT, ids=lambda file: file.parents[1].name)
def test_the_trade_off_is_of_the_profiles_recipes_and_as_its_notebook_wrote_it(file):
    (lab, kept), folder = as_written(file), file.parent
    assert len(kept) > 10
    images = measured_images(folder)
    for what, file in (("lam", "lambda"), ("K", "K"), ("S", "S"), ("M", "M")):
        rows = pd.read_csv(folder / f"{file}_rows.csv", dtype={"recipe": str})
        how = {"retrained": lab.tradeoff.retrained and what != "lam"}
        values = getattr(lab.tradeoff, what)
        asked = [case for value in values for case in tradeoff.cases(lab, what, value, **how).values()]
        assert [store.key(case, images[case.data.test]) for case in asked] == list(rows.recipe)
    rows = pd.read_csv(folder / "silent_rows.csv", dtype={"recipe": str})
    tried = [(what, value) for what, values in lab.tradeoff.silent for value in (tradeoff.own(lab, what), *values)]
    asked = [case for what, value in tried for case in tradeoff.cases(lab, what, value, aware=False).values()]
    assert [store.key(case, images[case.data.test]) for case in asked] == list(rows.recipe)


PROJECTED = sorted(LAB.glob("*/03_projection/manifest.json"))


@pytest.mark.parametrize("file", PROJECTED, ids=lambda file: file.parents[1].name)
def test_what_T_leaves_is_of_the_profiles_recipe_and_as_its_notebook_wrote_it(file):
    lab, kept = as_written(file)
    assert {"shrinkage.csv", "headline.md"} <= {path.name for path in kept}
    assert not [path for path in kept if path.suffix == ".png"]  # the images are not ours to hand on
    rows = pd.read_csv(file.parent / "shrinkage.csv", dtype={"recipe": str})
    asked = [store.key(replace(lab.transform, lam=lam), rows.images[0]) for lam in rows["λ"]]
    assert asked == list(rows.recipe)


def test_one_command_makes_all_of_it():
    dry = ["make", "-n", "measured", "CIFAR10=folder:cifar10.zip", "IMAGENET10=folder:imagenet10-64.zip"]
    dry.append("SAMPLES=folder:imagenet-samples-224.zip")
    lines = subprocess.run(dry, cwd=LAB.parents[1], capture_output=True, text=True, check=True).stdout
    lines = lines.replace("\\\n", "").splitlines()
    asked = [line.removeprefix(".venv/bin/") for line in lines if line.startswith(".venv/bin/python -m labkit ")]
    made = set()
    for told in (options for line in asked if " table " in line for options in [parsed(line)]):
        made |= {(told.out.as_posix(), name, told.profile, tuple(told.only)) for name in told.names}
    for file in MEASURED:
        told = parsed(json.loads(file.read_text())["command"])
        (name,) = told.names
        assert (file.parent.relative_to(LAB.parents[1]).as_posix(), name, told.profile, tuple(told.only)) in made
    assert sum("report --profile lab" in line and "--notebooks 05,06" in line for line in asked) == 1
    for file in PROJECTED:
        told = json.loads(file.read_text())
        what = f"report --profile {told['profile']} --dataset '{told['dataset']}' --notebooks 03 "
        assert sum(what in line for line in asked) == 1
    assert asked[-1].startswith("python -m labkit findings ")


def test_the_page_over_them_is_made_of_them():
    if not MEASURED:
        pytest.skip("no table has been measured yet")
    page = (LAB.parent / "README.md").read_text()
    assert findings.page(LAB, "lab/") in page
    assert sum(file.stat().st_size for file in LAB.rglob("*") if file.is_file()) < 10 * 2**20

"""Command lines, and the folder of a report that is gone on with: whatever is in them, nothing is written elsewhere.

LABKIT_FUZZ is how many cases each gets, as in test_fuzz.py.
"""

import argparse
import io
import json
import random
import shutil
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from labkit.__main__ import main
from labkit.core import store
from labkit.core.recipes import DictionaryRecipe
from labkit.csc import cbpdn
from labkit.experiments import cost_estimate
from labkit.reporting import report_folder, table_page
from labkit.reporting.report_folder import ReportFolder, Settings

import nbformat
import pytest
import torch
from hostile import bent, cases, mutants, put, survive, tree
from PIL import Image
from small_notebooks import save

pytestmark = pytest.mark.usefixtures("one_thread")


def test_reports(tmp_path):
    """The manifest of a report that is gone on with; pages and copies are made within its folder alone."""
    source = save(tmp_path / "notebooks" / "01_new.ipynb", "#md # New")
    notebook = nbformat.read(source, as_version=4)
    entry = {"name": "02_old", "title": "Old", "status": "finished", "profile": "smoke", "dataset": "fashion",
             "resolution": 0, "begun": None, "seconds": 1.5, "error": None, "headline": "02_old/a.png",
             "page": "02_old.html", "executed": "executed/02_old.ipynb", "files": [{"path": "02_old/a.csv"}],
             }  # fmt: skip
    failed = json.loads(json.dumps(entry).replace("02_old", "03_failed")) | {"error": {"sentence": "cell 2: no"}}
    good = json.dumps({"notebooks": [entry, failed]})
    bad = ["../02_old", "/02_old", "..", "", "02_old/../../x", "javascript:x", 7, None, "a\x00b"]
    forged = [
        good.replace(json.dumps(entry[field]), json.dumps(value))
        for field in ("name", "page", "executed", "headline")
        for value in bad
    ]
    draw, whole = random.Random(0), iter(range(40))
    inputs = [good.encode(), *(text.encode() for text in forged), *mutants([good.encode()], cases(2500))]
    inputs += [json.dumps(bent(json.loads(good), draw)).encode() for _ in range(cases(2500))]
    out = tmp_path / "out"
    out.mkdir()

    def read(raw: bytes) -> None:
        put(out / "manifest.json", raw)
        with redirect_stderr(io.StringIO()):
            understood = report_folder._earlier(out)
        if understood and next(whole, None) is not None:  # the first of them, with all that follows
            shutil.rmtree(out)
            (out / "executed").mkdir(parents=True)
            shutil.copy(source, out / "executed" / "02_old.ipynb")
            (out / "02_old").mkdir()
            (out / "02_old" / "a.csv").write_text("x\n1\n")
            put(out / "manifest.json", raw)
            report = ReportFolder(out, Settings(), source.parent)
            report.begin({source: notebook})
            report.prepare("01_new")

    before = tree(tmp_path)
    survive(read, inputs)
    assert next(whole, 40) >= min(10, len(inputs) // 50)
    assert {name for name in tree(tmp_path) if not name.startswith("out")} == before.keys()


class Reached(Exception):
    """The command line was understood, and the work would begin."""


def keep(scratch):
    return {"d": torch.ones(3)}, {"n": 1}


def reached(*_args, **_options):
    raise Reached


def command_lines(count: int, root: Path, seed: int = 0):
    """What people and programs type: every command, with options of every kind of value."""
    draw = random.Random(seed)
    texts = ["", " ", "-", "--", "=", "a=b=c", "é\udcff", "\n", "x" * 5000, "~nobody/x", "../../x", "/", "%s{}", "nan"]
    numbers = ["0", "1", "-1", "32", "1e9", "nan", "inf", "7" * 30, "0x20", "", "٣"]
    places = [str(root / name) for name in ("out", "store", "file", "file/below", "set", "nowhere")] + texts
    values = {
        "--profile": ["smoke", "quick", "SMOKE", *texts],
        "--dataset": ["fashion", "folder:", "folder:nowhere", *(f"folder:{p}" for p in places), *texts],
        "--resolution": numbers, "--seed": numbers, "--cell-timeout": numbers, "--older-than": numbers,
        "--data-root": places, "--store": places, "--out": [str(root / "out" / "a"), str(root / "file"), "x" * 300],
        "--notebooks": ["01", "1,2", *texts], "--notebook-dir": places,
        "--only": ["defense=STL", "attack=FGSM-0.08,Clean", "knowledge=", "retrained=yes", "=x", *texts],
        "--kind": ["kind", *texts], "--unfinished": None, "--yes": None, "--list": None, "--help": None,
    }  # fmt: skip
    tables = ["1", "2a", "5", "8b", "9", *texts]
    commands = {
        "report": ([], ("--profile", "--dataset", "--resolution", "--data-root", "--store", "--out", "--notebooks",
                        "--notebook-dir", "--cell-timeout")),
        "table": (tables, ("--profile", "--dataset", "--resolution", "--seed", "--data-root", "--store", "--only")),
        "plan": (tables, ("--profile", "--dataset", "--resolution", "--seed", "--data-root", "--store", "--only",
                          "--list")),
        "findings": ([place for place in places if place not in ("/", "../../x")], ("--out",)),
        "artifacts": (["list", "show", "verify", "prune", *texts], ("--store", "--kind", "--older-than", "--unfinished",
                                                                    "--yes")),
        "profiles": ([], ("--help",)),
    }  # fmt: skip
    for _ in range(count):
        name = draw.choice(list(commands))
        words, options = commands[name]
        line = [name, *draw.sample(words, min(len(words), draw.choice((0, 1, 1, 1, 2))))]
        if name in ("report", "findings") and draw.random() < 0.9:
            line += ["--out", draw.choice(values["--out"])]
        for option in draw.sample(options, draw.randrange(min(4, len(options)) + 1)):
            line += [option] if values[option] is None else [option, draw.choice(values[option])]
        if draw.random() < 0.05:
            line.insert(draw.randrange(len(line) + 1), draw.choice([*texts, *values]))
        yield line


def test_command_lines(tmp_path, monkeypatch):
    """Status 0, 1 or 2; an error is one line; and what is there, stays, and nothing comes beside `--out`."""
    kept = store.Store(tmp_path / "store")
    kept.fetch("kind", DictionaryRecipe(), keep)
    (tmp_path / "file").write_text("not a folder")
    for k in range(4):
        (tmp_path / "set" / f"class{k % 2}").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32), (60 * k, 0, 0)).save(tmp_path / "set" / f"class{k % 2}" / f"{k}.png")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("LABKIT_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(argparse, "_", str)  # looking for translations takes half of the time
    for module, name in ((cbpdn, "prepare"), (table_page, "measure"), (cost_estimate, "steps")):
        monkeypatch.setattr(module, name, reached)
    before = tree(tmp_path)

    def read(line) -> None:
        said = io.StringIO()
        try:
            with redirect_stdout(io.StringIO()), redirect_stderr(said):
                status = main(line)
        except SystemExit as ended:
            status = ended.code
        assert status in (0, 1, 2), status
        assert (status == 2) == bool(said.getvalue()), said.getvalue()
        assert said.getvalue().startswith("usage: ") or said.getvalue().count("\n") == (status == 2)
        changed = {name for name, _ in tree(tmp_path).items() ^ before.items()}
        if "--yes" in line and changed:
            assert all(name.startswith("store") for name in changed)
            kept.fetch("kind", DictionaryRecipe(), keep)
            assert tree(tmp_path).items() <= before.items()
        else:
            assert all(name.startswith("out") for name in changed), changed

    taken, understood = survive(read, command_lines(cases(1500), tmp_path), (Reached,))
    assert taken and understood

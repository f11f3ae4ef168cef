"""`labkit artifacts`: what is printed, what is deleted, and the exit status."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import labkit
from labkit import inventory, recipes, units
from labkit.__main__ import main
from labkit.artifacts_cli import human_age
from labkit.recipes import ClassifierRecipe, DictionaryRecipe
from labkit.store import Store, key, locked

DICTIONARY = DictionaryRecipe(K=12)


@pytest.fixture
def store(tmp_path):
    """A dictionary of five days, a network, and what a killed run left."""
    store = Store(tmp_path / "store")
    facts = {"objectives": list(range(100)), "classes": ["été", "b"]}
    path = store.fetch("dictionary", DICTIONARY, lambda _: ({"d": torch.ones(2, 3), "n": torch.tensor(1)}, facts)).path
    store.fetch("network", ClassifierRecipe(), lambda _: ({"w": torch.ones(300, 1000)}, {}))
    past = time.time() - 5.5 * 86400
    os.utime(path / "manifest.json", (past, past))
    left = store.root / "network" / ".0123456789abcdef.work"
    left.mkdir()
    (left / "first.safetensors").write_bytes(b"x" * 1500)
    return store


@pytest.fixture
def run(store, capsys):
    def run(*line: str, status: int = 0) -> str:
        assert main(["artifacts", *line, "--store", str(store.root)]) == status
        printed = capsys.readouterr()
        assert printed.err == "" or status == 2
        return printed.err if status == 2 else printed.out

    return run


def files(store):
    return sorted(p for p in store.root.rglob("*") if p.is_file())


def test_list(store, run):
    head, dictionary, network, total, left = run("list").splitlines()
    assert re.split(r"  +", head) == ["kind", "key", "size", "age", "recipe"]
    size = sum(len(p.read_bytes()) for p in (store.root / "dictionary" / key(DICTIONARY)).iterdir())
    assert re.split(r"  +", dictionary) == [
        "dictionary", key(DICTIONARY), units.size(size), "5 d", "K=12 S=8 lam=0.2 data(fashion)",
    ]  # fmt: skip
    assert re.split(r"  +", network)[:3] == ["network", key(ClassifierRecipe()), "1.2 MB"]
    assert head.index("recipe") == dictionary.index("K=12") == network.index("vgg16")
    assert total == f"2 artifacts, 1.2 MB, in {store.root}"
    assert left == "and 1.5 kB unfinished in 1 (see prune --unfinished)"
    assert "dictionary" not in run("list", "--kind", "network")


def test_an_empty_store_is_no_error(tmp_path, capsys):
    assert main(["artifacts", "list", "--store", str(tmp_path)]) == 0
    assert main(["artifacts", "verify", "--store", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"0 artifacts, 0 B, in {tmp_path}\n")


def test_long_recipes_are_cut_to_the_width_of_the_terminal(store, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    lines = run("list").splitlines()[:3]
    assert len(lines[1]) == 60 and lines[1].endswith("…")


def test_show(store, run):
    name = key(DICTIONARY)
    text = run("show", name[:5])
    assert text.startswith(f"dictionary {name}, ") and "built 5 d ago\n" in text
    assert str(store.root / "dictionary" / name) in text
    recipe, rest = text.partition("\nrecipe\n")[2].split("\nfacts\n")
    assert json.loads(recipe) == recipes.plain(DICTIONARY) and "\n    " in recipe
    facts, rest = rest.split("\ntensors\n")
    assert facts == '  classes     ["été", "b"]\n  objectives  [0, 1, 2, 3, 4, 5, … 94 more]\n'
    tensors, sizes = rest.split("\nfiles\n")
    assert tensors == "  d  F32  2 × 3\n  n  I64  one number\n"
    printed = [line.split(maxsplit=1) for line in sizes.splitlines()]
    there = sorted((store.root / "dictionary" / name).iterdir())
    assert printed == [[p.name, units.size(p.stat().st_size)] for p in there]


def test_verify_names_the_bad_files(store, run):
    assert run("verify") == f"2 artifacts, 1.2 MB, in {store.root}: all as written\n"
    file = store.root / "network" / key(ClassifierRecipe()) / "tensors.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    bad, total = run("verify", status=1).splitlines()
    assert bad == f"network {key(ClassifierRecipe())}: tensors.safetensors has changed"
    assert total.startswith("1 of 2 artifacts") and "builds it again" in total


def test_prune_is_dry_until_told(store, run):
    before = files(store)
    text = run("prune", "--older-than", "5")
    assert key(DICTIONARY) in text and key(ClassifierRecipe()) not in text and "add --yes" in text
    assert files(store) == before
    assert run("prune", "--older-than", "6", "--yes") == "0 artifacts, 0 B, deleted\n"
    assert files(store) == before
    assert "1 artifact, " in run("prune", "--older-than", "5", "--yes")
    assert [e.kind for e in inventory.artifacts(store)] == ["network"]
    assert run("prune", "--unfinished", "--yes").endswith("1 leftover, 1.5 kB, deleted\n")
    assert inventory.unfinished(store) == [] and len(inventory.artifacts(store)) == 1
    assert run("prune", "--unfinished") == "nothing to delete\n"


def test_prune_keeps_what_is_locked(store, run):
    with locked(store.root / "network" / "0123456789abcdef"), locked(store.root / "dictionary" / key(DICTIONARY)):
        before = files(store)
        for line in (["--unfinished"], ["--unfinished", "--yes"]):
            assert run("prune", *line).startswith("kept: network 0123456789abcdef, which a run is building\n")
        assert files(store) == before
        text = run("prune", "--older-than", "0", "--yes")
        assert f"kept: dictionary {key(DICTIONARY)}, which a run is building\n" in text and "1 artifact, 1.2 MB" in text
    assert [e.kind for e in inventory.artifacts(store)] == ["dictionary"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (["show", "zz"], "no artifact's key begins with 'zz'"),
        (["show", ""], "2 artifacts begin with ''"),
        (["list", "--kind", "dictionarie"], "there are dictionary, network"),
        (["prune"], "say what may go: --older-than DAYS"),
        (["prune", "--yes"], "say what may go: --older-than DAYS"),
        (["prune", "--older-than", "-1"], "0 or more; got -1"),
    ],
)
def test_bad_input_is_one_sentence(store, run, line, words):
    before = files(store)
    said = run(*line, status=2)
    assert re.fullmatch(r"labkit: .*\n", said) and words in said
    assert files(store) == before


def test_a_store_that_is_not_there_is_bad_input(tmp_path, capsys):
    assert main(["artifacts", "list", "--store", str(tmp_path / "typo")]) == 2
    assert f"there is no folder {tmp_path / 'typo'}" in capsys.readouterr().err


def test_the_list_does_not_wait_for_torch(store):
    program = "import sys; from labkit.__main__ import main; main(sys.argv[1:]); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(labkit.__file__).parent.parent)}
    for line in (["list"], ["show", key(DICTIONARY)], ["verify"], ["prune", "--older-than", "5", "--yes"]):
        command = [sys.executable, "-c", program, "artifacts", *line, "--store", store.root]
        assert subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode == 0


def test_ages():
    ages = {0: "0 s", 59.9: "59 s", 60: "1 min", 3599: "59 min", 3 * 3600: "3 h", 2 * 86400: "2 d", 731 * 86400: "2 y"}
    assert {t: human_age(t) for t in ages} == ages

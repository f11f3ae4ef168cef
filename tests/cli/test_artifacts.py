"""`labkit artifacts`: the list is what was put there, damage is found where it was done, and only what is told goes."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import labkit
from labkit.__main__ import main
from labkit.cli.artifacts import artifacts, contents, find, images, prunable, remove, summary
from labkit.core import recipes, wording
from labkit.core.errors import InputError
from labkit.core.recipes import AttackRecipe, ClassifierRecipe, DictionaryRecipe, TransformRecipe
from labkit.core.store import Store, flaws, key, locked

import pytest
import torch

DICTIONARY, OTHER = DictionaryRecipe(K=12), DictionaryRecipe(lam=0.1)
DIGEST = "abcdefgh:12345678"
DAY = 86400


def build(scratch):
    return {"d": torch.ones(2, 3), "half": torch.zeros(4, dtype=torch.half)}, {"n": 3}


@pytest.fixture
def kept(tmp_path):
    """Two dictionaries, one ten days old, and a classifier of two days."""
    store = Store(tmp_path / "store")
    for kind, recipe, days in (
        ("dictionary", DICTIONARY, 10),
        ("dictionary", OTHER, 0),
        ("network", ClassifierRecipe(), 2),
    ):
        path = store.fetch(kind, recipe, build, digest=DIGEST).path
        past = time.time() - days * DAY
        os.utime(path / "manifest.json", (past, past))
    return store


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
        "dictionary", key(DICTIONARY), wording.size(size), "5 d", "K=12 S=8 lam=0.2 data(fashion)",
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
    assert printed == [[p.name, wording.size(p.stat().st_size)] for p in there]


def test_names_that_terminals_obey_are_printed_as_text(store, run):
    """Whoever made the store may have named a kind, a fact or a file."""
    folder = store.root / "network" / key(ClassifierRecipe())
    (folder / "x\x9b2J").write_text("")
    (folder / "facts.json").write_text(json.dumps({"a\x1b[2J": "b\x9b2J"}, ensure_ascii=False))
    shutil.copytree(folder, store.root / "kind\x1b[2J" / folder.name)
    lines = (["list"], ["show", f"network/{folder.name}"], ["prune", "--older-than", "0"])
    printed = [run(*line) for line in lines] + [run("verify", status=1)]
    assert all(line.isprintable() for text in printed for line in text.split("\n"))
    assert all(r"[2J" in text or r"\x9b2J" in text for text in printed)


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
    assert [e.kind for e in artifacts(store)] == ["network"]
    assert run("prune", "--unfinished", "--yes").endswith("1 leftover, 1.5 kB, deleted\n")
    assert artifacts(store, unfinished=True) == [] and len(artifacts(store)) == 1
    assert run("prune", "--unfinished") == "nothing to delete\n"


def test_prune_keeps_what_is_locked(store, run):
    with locked(store.root / "network" / "0123456789abcdef"), locked(store.root / "dictionary" / key(DICTIONARY)):
        before = files(store)
        for line in (["--unfinished"], ["--unfinished", "--yes"]):
            assert run("prune", *line).startswith("kept: network 0123456789abcdef, which a run is building\n")
        assert files(store) == before
        text = run("prune", "--older-than", "0", "--yes")
        assert f"kept: dictionary {key(DICTIONARY)}, which a run is building\n" in text and "1 artifact, 1.2 MB" in text
    assert [e.kind for e in artifacts(store)] == ["dictionary"]


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


def test_sizes_and_ages():
    sizes = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 99_949: "99.9 kB", 99_951: "100 kB", 1e6: "1.0 MB", 3e12: "3.0 TB"}
    assert {n: wording.size(n) for n in sizes} == sizes
    ages = {0: "0 s", 59.9: "59 s", 60: "1 min", 3599: "59 min", 3 * 3600: "3 h", 2 * 86400: "2 d", 731 * 86400: "2 y"}
    assert {t: wording.age(t) for t in ages} == ages


def test_the_list_is_what_was_built(kept):
    found = artifacts(kept)
    wanted = [("dictionary", OTHER, 0), ("dictionary", DICTIONARY, 10), ("network", ClassifierRecipe(), 2)]
    assert [(e.kind, e.key) for e in found] == [(kind, key(r, DIGEST)) for kind, r, _ in wanted]
    for entry, (_, _, days) in zip(found, wanted, strict=True):
        assert entry.size == sum(len(file.read_bytes()) for file in entry.path.iterdir())
        assert abs(entry.age - days * DAY) < 60 and not entry.unfinished
    assert [e.kind for e in artifacts(kept, kind="network")] == ["network"]
    assert artifacts(Store(kept.root / "nowhere")) == []


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (DICTIONARY, "K=12 S=8 lam=0.2"),
        (DictionaryRecipe(), "K=64 S=8 lam=0.2"),
        (DictionaryRecipe(seed=3, version=0), "K=64 S=8 lam=0.2 seed=3 version=0"),
        (ClassifierRecipe(epochs=3), "vgg16 width=0.25 epochs=3"),
        (AttackRecipe(), "fgsm size=0.08 steps=1"),
        (TransformRecipe(DICTIONARY, lowpass=float("inf")), "lam=0.2 lowpass=inf pad=16 dictionary(K=12 S=8 lam=0.2)"),
    ],
)
def test_a_summary_names_what_was_chosen(recipe, line):
    plain = recipes.plain(recipe, "abcdefgh")
    assert summary(plain) == line
    assert images(plain) == ("" if isinstance(recipe, AttackRecipe) else "abcdef")


def test_the_summary_of_a_recipe_we_do_not_know_leaves_out_nothing_but_the_version():
    plain = {"recipe": "Case", "knowledge": "exact", "n": 3, "attack": {"recipe": "New", "a": [1, 2]}, "version": 1}
    assert summary(plain) == "knowledge=exact n=3 attack(a=[1,2])"


def test_find_takes_any_unique_beginning(kept):
    for entry in artifacts(kept):
        assert find(kept, entry.key) == find(kept, f"{entry.kind}/{entry.key[:6]}") == entry
    assert find(kept, "network/").kind == "network"
    with pytest.raises(InputError, match=r"2 artifacts begin with 'dictionary/'.*type more"):
        find(kept, "dictionary/")
    for unknown in ("zz", "network/zz", "net"):
        with pytest.raises(InputError, match=f"no artifact's key begins with '{unknown}'"):
            find(kept, unknown)


def test_contents(kept):
    inside = contents(find(kept, "network/"))
    assert inside["recipe"] == recipes.plain(ClassifierRecipe(), DIGEST)
    assert inside["facts"] == [("n", "3")]
    assert inside["tensors"] == [("d", "F32", "2 × 3"), ("half", "F16", "4")]
    assert {name for name, _ in inside["files"]} == {
        "facts.json", "manifest.json", "recipe.json", "tensors.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("file", ["facts.json", "recipe.json", "tensors.safetensors"])
def test_a_flipped_byte_is_found_named_and_mended(kept, file):
    sound, hurt, other = artifacts(kept)
    raw = bytearray((hurt.path / file).read_bytes())
    raw[-2] ^= 1
    (hurt.path / file).write_bytes(raw)
    (other.path / "facts.json").unlink()
    assert [(e.key, flaws(e.path)) for e in artifacts(kept)] == [
        (sound.key, {}),
        (hurt.key, {file: "has changed"}),
        (other.key, {"facts.json": "is missing"}),
    ]
    with pytest.warns(UserWarning, match=f"{hurt.key} is damaged \\({file} has changed\\) and is built again"):
        kept.fetch("dictionary", DICTIONARY, build, digest=DIGEST)
    with pytest.warns(UserWarning, match=r"facts.json is missing"):
        kept.fetch("network", ClassifierRecipe(), build, digest=DIGEST)
    assert not any(flaws(e.path) for e in artifacts(kept))


def test_an_artifact_without_a_recipe_is_listed_all_the_same(kept):
    entry = artifacts(kept)[0]
    (entry.path / "recipe.json").write_text("{")
    assert find(kept, entry.key).summary == "its recipe cannot be read"
    with pytest.raises(InputError, match="builds it again"):
        contents(entry)


def test_prunable_is_narrowed_by_every_option(kept):
    new, old, network = artifacts(kept)
    (kept.root / "network" / ".0123456789abcdef.work").mkdir()
    (kept.root / "dictionary" / ".0123456789abcdef.new").mkdir()
    assert prunable(kept, kind="dictionary") == [new, old]
    assert prunable(kept, older_than=1) == [old, network]
    assert prunable(kept, older_than=1, kind="dictionary") == [old]
    assert [e.kind for e in prunable(kept, unfinished=True)] == ["dictionary", "network"]
    assert [e.kind for e in prunable(kept, unfinished=True, kind="network")] == ["network"]
    assert prunable(kept, unfinished=True, older_than=1) == []
    for options, words in (
        ({}, "say what may go"),
        ({"older_than": -1.0}, "0 or more; got -1"),
        ({"older_than": float("nan")}, "0 or more"),
        ({"kind": "x"}, "no artifacts of kind 'x' .* there are dictionary, network"),
    ):
        with pytest.raises(InputError, match=words):
            prunable(kept, **options)


def test_remove_takes_one_artifact_and_leaves_no_trace(kept):
    new, old, network = artifacts(kept)
    assert remove(old)
    assert artifacts(kept) == [new, network]
    assert [p.name for p in old.path.parent.iterdir()] == [new.key]
    assert remove(old)  # gone is gone
    calls = []
    kept.fetch("dictionary", DICTIONARY, lambda scratch: calls.append(1) or build(scratch), digest=DIGEST)
    assert calls == [1]


def test_only_what_bears_a_name_of_the_stores_is_ever_deleted(kept):
    """A --kept that is not one, or has other things in it, loses nothing."""
    others = ("dictionary/notes", "photos/2019", ".git/0123456789abcdef", "dictionary/.0123.work", "x/.ab.lock")
    for name in others:
        (kept.root / name).mkdir(parents=True)
    for entry in prunable(kept, older_than=0) + prunable(kept, older_than=0, unfinished=True):
        remove(entry)
    assert artifacts(kept) == []
    assert all((kept.root / name).is_dir() for name in others)

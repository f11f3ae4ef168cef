"""What lies in a store: the list is what was put there, damage is found where it was done, the locked stays."""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import torch
from filelock import FileLock, Timeout

from labkit import artifacts_cli, recipes
from labkit.errors import InputError
from labkit.recipes import AttackRecipe, ClassifierRecipe, DictionaryRecipe, TransformRecipe
from labkit.store import Store, beside, flaws, key, locked

DAY = 86400
FIRST, SECOND = DictionaryRecipe(K=12), DictionaryRecipe(lam=0.1)


def build(scratch):
    return {"d": torch.ones(2, 3), "half": torch.zeros(4, dtype=torch.half)}, {"n": 3}


@pytest.fixture
def store(tmp_path):
    """Two dictionaries, one ten days old, and a classifier of two days."""
    store = Store(tmp_path / "store")
    for kind, recipe, days in (
        ("dictionary", FIRST, 10),
        ("dictionary", SECOND, 0),
        ("network", ClassifierRecipe(), 2),
    ):
        path = store.fetch(kind, recipe, build, digest="abcdefgh:12345678").path
        past = time.time() - days * DAY
        os.utime(path / "manifest.json", (past, past))
    return store


@pytest.fixture
def worker(store):
    """A process that is building `DictionaryRecipe(K=5)`, and has written one checkpoint."""
    program = """
        import sys, time
        from labkit.recipes import DictionaryRecipe
        from labkit.store import Store
        def build(scratch):
            (scratch / "first.safetensors").write_bytes(b"x" * 1000)
            print("building", flush=True)
            sys.stdin.readline()
            return {}, {}
        Store(sys.argv[1]).fetch("dictionary", DictionaryRecipe(K=5), build)
        """
    line = [sys.executable, "-c", textwrap.dedent(program), store.root]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "building\n"
        yield process
        process.kill()


def test_the_list_is_what_was_built(store):
    found = artifacts_cli.artifacts(store)
    wanted = [("dictionary", SECOND, 0), ("dictionary", FIRST, 10), ("network", ClassifierRecipe(), 2)]
    assert [(e.kind, e.key) for e in found] == [(kind, key(r, "abcdefgh:12345678")) for kind, r, _ in wanted]
    for entry, (_, _, days) in zip(found, wanted, strict=True):
        assert entry.size == sum(len(file.read_bytes()) for file in entry.path.iterdir())
        assert abs(entry.age - days * DAY) < 60 and not entry.unfinished
    assert [e.kind for e in artifacts_cli.artifacts(store, kind="network")] == ["network"]
    assert artifacts_cli.artifacts(Store(store.root / "nowhere")) == []


@pytest.mark.parametrize(
    ("recipe", "line"),
    [
        (FIRST, "K=12 S=8 lam=0.2"),
        (DictionaryRecipe(), "K=64 S=8 lam=0.2"),
        (DictionaryRecipe(seed=3, version=0), "K=64 S=8 lam=0.2 seed=3 version=0"),
        (ClassifierRecipe(epochs=3), "vgg16 width=0.25 epochs=3"),
        (AttackRecipe(), "fgsm size=0.08 steps=1"),
        (TransformRecipe(FIRST, lowpass=float("inf")), "lam=0.2 lowpass=inf pad=16 dictionary(K=12 S=8 lam=0.2)"),
    ],
)
def test_a_summary_names_what_was_chosen(recipe, line):
    plain = recipes.plain(recipe, "abcdefgh")
    assert artifacts_cli.summary(plain) == line
    assert artifacts_cli.images(plain) == ("" if isinstance(recipe, AttackRecipe) else "abcdef")


def test_the_summary_of_a_recipe_we_do_not_know_leaves_out_nothing_but_the_version():
    plain = {"recipe": "Case", "knowledge": "exact", "n": 3, "attack": {"recipe": "New", "a": [1, 2]}, "version": 1}
    assert artifacts_cli.summary(plain) == "knowledge=exact n=3 attack(a=[1,2])"


def test_find_takes_any_unique_beginning(store):
    for entry in artifacts_cli.artifacts(store):
        assert (
            artifacts_cli.find(store, entry.key) == artifacts_cli.find(store, f"{entry.kind}/{entry.key[:6]}") == entry
        )
    assert artifacts_cli.find(store, "network/").kind == "network"
    with pytest.raises(InputError, match=r"2 artifacts begin with 'dictionary/'.*type more"):
        artifacts_cli.find(store, "dictionary/")
    for unknown in ("zz", "network/zz", "net"):
        with pytest.raises(InputError, match=f"no artifact's key begins with '{unknown}'"):
            artifacts_cli.find(store, unknown)


def test_contents(store):
    inside = artifacts_cli.contents(artifacts_cli.find(store, "network/"))
    assert inside["recipe"] == recipes.plain(ClassifierRecipe(), "abcdefgh:12345678")
    assert inside["facts"] == [("n", "3")]
    assert inside["tensors"] == [("d", "F32", "2 × 3"), ("half", "F16", "4")]
    assert {name for name, _ in inside["files"]} == {
        "facts.json", "manifest.json", "recipe.json", "tensors.safetensors",
    }  # fmt: skip


@pytest.mark.parametrize("file", ["facts.json", "recipe.json", "tensors.safetensors"])
def test_a_flipped_byte_is_found_named_and_mended(store, file):
    sound, hurt, other = artifacts_cli.artifacts(store)
    raw = bytearray((hurt.path / file).read_bytes())
    raw[-2] ^= 1
    (hurt.path / file).write_bytes(raw)
    (other.path / "facts.json").unlink()
    assert [(e.key, wrong) for e, wrong in artifacts_cli.verify(artifacts_cli.artifacts(store))] == [
        (sound.key, {}),
        (hurt.key, {file: "has changed"}),
        (other.key, {"facts.json": "is missing"}),
    ]
    with pytest.warns(UserWarning, match=f"{hurt.key} is damaged \\({file} has changed\\) and is built again"):
        store.fetch("dictionary", FIRST, build, digest="abcdefgh:12345678")
    with pytest.warns(UserWarning, match=r"facts.json is missing"):
        store.fetch("network", ClassifierRecipe(), build, digest="abcdefgh:12345678")
    assert not any(wrong for _, wrong in artifacts_cli.verify(artifacts_cli.artifacts(store)))


def test_an_artifact_without_a_recipe_is_listed_all_the_same(store):
    entry = artifacts_cli.artifacts(store)[0]
    (entry.path / "recipe.json").write_text("{")
    assert artifacts_cli.find(store, entry.key).summary == "its recipe cannot be read"
    with pytest.raises(InputError, match="builds it again"):
        artifacts_cli.contents(entry)


def test_prunable_is_narrowed_by_every_option(store):
    new, old, network = artifacts_cli.artifacts(store)
    (store.root / "network" / ".0123456789abcdef.work").mkdir()
    (store.root / "dictionary" / ".0123456789abcdef.new").mkdir()
    assert artifacts_cli.prunable(store, kind="dictionary") == [new, old]
    assert artifacts_cli.prunable(store, older_than=1) == [old, network]
    assert artifacts_cli.prunable(store, older_than=1, kind="dictionary") == [old]
    assert [e.kind for e in artifacts_cli.prunable(store, unfinished=True)] == ["dictionary", "network"]
    assert [e.kind for e in artifacts_cli.prunable(store, unfinished=True, kind="network")] == ["network"]
    assert artifacts_cli.prunable(store, unfinished=True, older_than=1) == []
    for options, words in (
        ({}, "say what may go"),
        ({"older_than": -1.0}, "0 or more; got -1"),
        ({"older_than": float("nan")}, "0 or more"),
        ({"kind": "x"}, "no artifacts of kind 'x' .* there are dictionary, network"),
    ):
        with pytest.raises(InputError, match=words):
            artifacts_cli.prunable(store, **options)


def test_remove_takes_one_artifact_and_leaves_no_trace(store):
    new, old, network = artifacts_cli.artifacts(store)
    assert artifacts_cli.remove(old)
    assert artifacts_cli.artifacts(store) == [new, network]
    assert [p.name for p in old.path.parent.iterdir()] == [new.key]
    assert artifacts_cli.remove(old)  # gone is gone
    calls = []
    store.fetch("dictionary", FIRST, lambda scratch: calls.append(1) or build(scratch), digest="abcdefgh:12345678")
    assert calls == [1]


def test_only_what_bears_a_name_of_the_stores_is_ever_deleted(store):
    """A --store that is not one, or has other things in it, loses nothing."""
    others = ("dictionary/notes", "photos/2019", ".git/0123456789abcdef", "dictionary/.0123.work", "x/.ab.lock")
    for name in others:
        (store.root / name).mkdir(parents=True)
    for entry in artifacts_cli.prunable(store, older_than=0) + artifacts_cli.prunable(
        store, older_than=0, unfinished=True
    ):
        artifacts_cli.remove(entry)
    assert artifacts_cli.artifacts(store) == []
    assert all((store.root / name).is_dir() for name in others)


def test_what_a_process_is_building_is_kept(store, worker):
    (entry,) = artifacts_cli.artifacts(store, unfinished=True)
    assert (entry.key, entry.size) == (key(DictionaryRecipe(K=5)), 1000)
    assert artifacts_cli.in_use(entry) and not artifacts_cli.remove(entry)
    assert (entry.path / "first.safetensors").is_file()

    done = artifacts_cli.artifacts(store)[0]
    with locked(done.path):  # as a process has it that mends what it found damaged
        assert artifacts_cli.in_use(done) and not artifacts_cli.remove(done)
    assert flaws(done.path) == {} and not artifacts_cli.in_use(done)

    worker.communicate("go on\n", timeout=60)
    assert worker.returncode == 0 and artifacts_cli.artifacts(store, unfinished=True) == []
    assert flaws(entry.path.parent / entry.key) == {}


def test_what_a_killed_process_left_can_go(store, worker):
    worker.kill()
    worker.wait()
    (entry,) = artifacts_cli.artifacts(store, unfinished=True)
    assert beside(entry.path.parent / entry.key, "lock").exists()
    assert not artifacts_cli.in_use(entry) and artifacts_cli.remove(entry)
    assert not any(p.name.startswith(".") for p in entry.path.parent.iterdir())


def test_fetching_and_removing_at_once_never_builds_twice_at_once(tmp_path):
    """The lock file goes with the artifact; nobody may be left holding a lock on a file that is no longer there."""
    store, inside, most, failed = Store(tmp_path), [], [], []

    def slow(scratch):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.001)
        inside.pop()
        return {}, {"n": 1}

    def work():
        try:
            for _ in range(25):
                assert store.fetch("dictionary", FIRST, slow).facts == {"n": 1}
                for entry in artifacts_cli.artifacts(store):
                    artifacts_cli.remove(entry)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert failed == [] and max(most) == 1 and len(most) > 10


def test_a_lock_file_is_unlinked_only_while_its_lock_is_held(tmp_path, monkeypatch):
    """Otherwise somebody may have taken it already, and the next comer would make, and take, a second one."""
    unlink, seen = Path.unlink, []

    def watched(path, *arguments, **options):
        if path.suffix == ".lock":
            with pytest.raises(Timeout):
                FileLock(path).acquire(timeout=0)
            seen.append(path)
        unlink(path, *arguments, **options)

    monkeypatch.setattr(Path, "unlink", watched)
    store = Store(tmp_path)
    folder = store.fetch("dictionary", FIRST, build).path
    assert artifacts_cli.remove(artifacts_cli.artifacts(store)[0])
    assert seen == [beside(folder, "lock")] * 2


def test_a_store_that_may_not_be_changed_is_explained(store, monkeypatch):
    entry = artifacts_cli.artifacts(store)[0]

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(artifacts_cli, "discard", refuse)
    with pytest.raises(InputError, match=r"cannot delete .* \(Permission denied\)"):
        artifacts_cli.remove(entry)
    assert json.loads((entry.path / "facts.json").read_text()) == {"n": 3}

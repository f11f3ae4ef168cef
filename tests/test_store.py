import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import warnings

import pytest
import torch

from labkit.errors import InputError
from labkit.recipes import SMOKE, DataRecipe, DictionaryRecipe, canonical, profile
from labkit.store import Store, key

RECIPE = DictionaryRecipe()


def builder(calls, value=1.0):
    def build(scratch):
        calls.append(scratch)
        return {"d": torch.full((2, 3), value)}, {"note": "é", "n": 3}

    return build


def test_built_once_then_read(tmp_path):
    calls, store = [], Store(tmp_path)
    first = store.fetch("dictionary", RECIPE, builder(calls), digest="abc")
    again = store.fetch("dictionary", RECIPE, builder(calls, 2.0), digest="abc")
    assert len(calls) == 1 and torch.equal(first.tensors["d"], again.tensors["d"])
    assert again.facts == {"note": "é", "n": 3}
    assert store.has("dictionary", RECIPE, digest="abc") and not store.has("dictionary", RECIPE, digest="abd")
    assert json.loads((again.path / "recipe.json").read_text())["K"] == 64
    assert not calls[0].exists()


def test_the_hash_follows_recipe_and_images_but_not_the_path():
    base = key(RECIPE, "abc")
    assert key(DictionaryRecipe(data=DataRecipe(name="folder:/elsewhere")), "abc") == base
    assert key(RECIPE, "abd") != base and key(DictionaryRecipe(lam=0.1), "abc") != base
    assert canonical(RECIPE) == canonical(DictionaryRecipe())


@pytest.mark.parametrize("file", ["tensors.safetensors", "facts.json", "recipe.json", "manifest.json"])
def test_a_flipped_byte_is_found_and_mended(tmp_path, file):
    calls, store = [], Store(tmp_path)
    path = store.fetch("dictionary", RECIPE, builder(calls)).path / file
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.warns(UserWarning, match="damaged"):
        store.fetch("dictionary", RECIPE, builder(calls))
    assert len(calls) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store.fetch("dictionary", RECIPE, builder(calls))
    assert len(calls) == 2


@pytest.mark.parametrize("file", ["tensors.safetensors", "manifest.json"])
def test_a_missing_file_is_mended(tmp_path, file):
    calls, store = [], Store(tmp_path)
    (store.fetch("dictionary", RECIPE, builder(calls)).path / file).unlink()
    with pytest.warns(UserWarning, match="damaged"):
        store.fetch("dictionary", RECIPE, builder(calls))
    assert len(calls) == 2


WORKER = textwrap.dedent(
    """
    import sys, time, torch
    from pathlib import Path
    from labkit.recipes import DictionaryRecipe
    from labkit.store import Store
    root, log, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    def build(scratch):
        with open(log, "a") as file: file.write("build\\n")
        if not (scratch / "half").exists():
            (scratch / "half").write_text("done")
            with open(log, "a") as file: file.write("first half\\n")
        time.sleep(pause)
        return {"d": torch.ones(3)}, {}
    Store(root).fetch("dictionary", DictionaryRecipe(), build)
    """
)


def start(tmp_path, pause):
    return subprocess.Popen([sys.executable, "-c", WORKER, tmp_path / "store", tmp_path / "log", str(pause)])


def test_two_processes_build_once(tmp_path):
    both = [start(tmp_path, 1.0) for _ in range(2)]
    assert [p.wait(60) for p in both] == [0, 0]
    assert (tmp_path / "log").read_text().count("build") == 1


def test_a_killed_build_leaves_no_artifact_and_goes_on(tmp_path):
    worker = start(tmp_path, 60)
    for _ in range(600):
        if (tmp_path / "log").exists() and "half" in (tmp_path / "log").read_text():
            break
        time.sleep(0.1)
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert not Store(tmp_path / "store").has("dictionary", RECIPE)
    assert start(tmp_path, 0).wait(60) == 0  # the dead process's lock does not hold anybody up
    log = (tmp_path / "log").read_text()
    assert log.count("build") == 2 and log.count("first half") == 1
    assert Store(tmp_path / "store").has("dictionary", RECIPE)


def test_a_failing_build_leaves_no_artifact(tmp_path):
    def build(scratch):
        raise RuntimeError("boom")

    store = Store(tmp_path)
    with pytest.raises(RuntimeError, match="boom"):
        store.fetch("dictionary", RECIPE, build)
    assert not store.has("dictionary", RECIPE)


def test_an_unwritable_folder_is_explained(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="--store"):
        Store(tmp_path / "file").fetch("dictionary", RECIPE, builder([]))


def test_profiles(monkeypatch):
    monkeypatch.delenv("LABKIT_PROFILE", raising=False)
    assert profile("").name == "quick"
    monkeypatch.setenv("LABKIT_PROFILE", "smoke")
    assert profile("") == SMOKE
    other = profile("smoke", dataset="photos", resolution=64)
    assert other.transform.dictionary.data == other.classifier.data == other.data
    assert (other.data.name, other.data.resolution, other.data.train) == ("photos", 64, SMOKE.data.train)
    assert other.retrained().transform == other.transform
    with pytest.raises(InputError, match="smoke, quick, lab, paper"):
        profile("huge")

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from pathlib import Path

import labkit
from labkit.core.errors import InputError
from labkit.core.profiles import SMOKE, profile
from labkit.core.recipes import DataRecipe, DictionaryRecipe, canonical
from labkit.core.store import Store, flaws, key, locked, read

import pytest
import torch

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


def test_what_is_wrong_is_said_file_by_file(tmp_path):
    store = Store(tmp_path)
    path = store.fetch("dictionary", RECIPE, builder([])).path
    assert flaws(path) == {}
    (path / ".DS_Store").write_text("a file manager was here")
    assert flaws(path) == {}
    (path / "stray.txt").write_text("not ours")
    (path / "facts.json").unlink()
    (path / "recipe.json").write_text("{}\n")
    assert flaws(path) == {
        "facts.json": "is missing",
        "recipe.json": "has changed",
        "stray.txt": "is not in the manifest",
    }


def test_an_artifact_under_a_name_that_is_not_its_recipes_is_damaged(tmp_path):
    store = Store(tmp_path)
    path = store.fetch("dictionary", RECIPE, builder([])).path
    other = DictionaryRecipe(lam=0.1)
    path.rename(path.parent / key(other))
    with pytest.warns(UserWarning, match="recipe.json is another artifact's"):
        found = store.fetch("dictionary", other, builder([], 2.0))
    assert found.tensors["d"][0, 0] == 2 and flaws(found.path) == {}


def test_tensors_struck_off_the_manifest_are_missed(tmp_path):
    calls, store = [], Store(tmp_path)
    path = store.fetch("dictionary", RECIPE, builder(calls)).path
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["tensors.safetensors"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match="tensors.safetensors is not in the manifest"):
        store.fetch("dictionary", RECIPE, builder(calls))
    assert len(calls) == 2


def test_who_builds_gets_what_readers_get(tmp_path):
    store = Store(tmp_path)
    tensors = {"d": torch.arange(6.0).view(2, 3).t().requires_grad_()}
    built = store.fetch("dictionary", RECIPE, lambda scratch: (tensors, {"pair": (1, 2), "by": {3: "x"}}))
    again = store.fetch("dictionary", RECIPE, builder([]))
    assert built.facts == again.facts == {"pair": [1, 2], "by": {"3": "x"}}
    for found in (built, again):
        d = found.tensors["d"]
        assert d.tolist() == [[0, 3], [1, 4], [2, 5]] and d.is_contiguous() and not d.requires_grad
    assert len({file.stat().st_mode for file in built.path.iterdir()}) == 1  # whoever may read one may read all


WORKER = textwrap.dedent(
    """
    import sys, time, torch
    from pathlib import Path
    from labkit.core import store
    from labkit.core.recipes import DictionaryRecipe
    store._PATIENCE = 0.5
    root, log, pause = Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    def build(scratch):
        with open(log, "a") as file: file.write("build\\n")
        if not (scratch / "half").exists():
            (scratch / "half").write_text("done")
            with open(log, "a") as file: file.write("first half\\n")
        time.sleep(pause)
        return {"d": torch.ones(3)}, {}
    found = store.Store(root).fetch("dictionary", DictionaryRecipe(), build)
    print(found.key, found.tensors["d"].tolist())
    """
)


def start(tmp_path, pause):
    line = [sys.executable, "-c", WORKER, tmp_path / "store", tmp_path / "log", str(pause)]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_build_once_and_both_get_it(tmp_path):
    both = [start(tmp_path, 3.0) for _ in range(2)]
    said = [p.communicate(timeout=60) for p in both]
    assert [p.returncode for p in both] == [0, 0], said
    assert (tmp_path / "log").read_text().count("build") == 1
    assert [out for out, _ in said] == [f"{key(RECIPE)} [1.0, 1.0, 1.0]\n"] * 2
    assert sorted(f"another run is building dictionary {key(RECIPE)}" in err for _, err in said) == [False, True]
    assert [p.name for p in (tmp_path / "store" / "dictionary").iterdir()] == [key(RECIPE)]


def test_a_killed_build_leaves_no_artifact_and_goes_on(tmp_path):
    worker = start(tmp_path, 60)
    for _ in range(600):
        if (tmp_path / "log").exists() and "half" in (tmp_path / "log").read_text():
            break
        time.sleep(0.1)
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    assert not Store(tmp_path / "store").has("dictionary", RECIPE)
    again = start(tmp_path, 0)
    again.communicate(timeout=60)
    assert again.returncode == 0  # the dead process's lock does not hold anybody up
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
    assert [*(tmp_path / "dictionary").iterdir()] == []


def test_a_scratch_folder_beside_its_finished_artifact_is_swept_away(tmp_path):
    store = Store(tmp_path)
    folder = store.fetch("dictionary", RECIPE, builder([])).path
    left = folder.parent / f".{folder.name}.work"
    left.mkdir()
    (left / "epoch.safetensors").write_text("whole")
    with locked(folder):
        store.fetch("dictionary", RECIPE, builder([]))
        assert left.is_dir()  # somebody may be at work
    store.fetch("dictionary", RECIPE, builder([]))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_facts_that_are_no_json_leave_nothing(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        Store(tmp_path).fetch("dictionary", RECIPE, lambda scratch: ({}, {"nan": float("nan")}))
    assert [*(tmp_path / "dictionary").iterdir()] == []


def test_a_failing_build_keeps_whole_checkpoints_only(tmp_path):
    def build(scratch):
        (scratch / "epoch.safetensors").write_text("whole")
        (scratch / ".epoch.safetensors.7.partial").write_text("ha")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        Store(tmp_path).fetch("dictionary", RECIPE, build)
    left = [p.relative_to(tmp_path) for p in tmp_path.rglob("*") if p.is_file()]
    assert left == [Path("dictionary", f".{key(RECIPE)}.work", "epoch.safetensors")]


def test_damage_is_mended_by_one_only(tmp_path):
    """Who finds damage while another is at work on it must not delete what the other has just made."""
    store = Store(tmp_path)
    path = store.fetch("dictionary", RECIPE, builder([])).path
    with locked(path):
        (path / "facts.json").write_text("{}")
        worker = start_reader(tmp_path)
        assert worker.stdout.readline() == "reading\n"
        time.sleep(0.5)
        assert path.is_dir()  # it waits; the damage is ours to mend
        shutil.rmtree(path)
        other = Store(tmp_path / "other").fetch("dictionary", RECIPE, builder([], 5.0))
        other.path.rename(path)
    out, err = worker.communicate(timeout=60)
    assert worker.returncode == 0 and out == "5.0\n" and "damaged" not in err
    assert read(path).tensors["d"][0, 0] == 5


def start_reader(tmp_path):
    program = textwrap.dedent(
        """
        import sys
        from labkit.core.recipes import DictionaryRecipe
        from labkit.core.store import Store
        import safetensors.torch
        print("reading", flush=True)
        build = lambda scratch: sys.exit("built, though another had")
        print(Store(sys.argv[1]).fetch("dictionary", DictionaryRecipe(), build).tensors["d"][0, 0].item())
        """
    )
    line = [sys.executable, "-c", program, tmp_path]
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


# What a process does whose disk fills up, and what it leaves: run on a small file system, or with a limit on files.
FULL = textwrap.dedent(
    """
    import json, sys, torch
    from pathlib import Path
    from labkit.core import checkpoint
    from labkit.core.errors import InputError
    from labkit.core.recipes import DictionaryRecipe
    from labkit.core.store import Store
    root, where, limit = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    def build(scratch):
        n = 500_000 if where == "checkpoint" else 10
        if where.startswith("checkpoint"):
            checkpoint.write(scratch / "first.safetensors", {}, {"x": torch.ones(10)}, {})
            checkpoint.write(scratch / "second.safetensors", {}, {"x": torch.ones(n)}, {})
        size = 500_000 if where == "tensors" else 10
        return {"d": torch.ones(size)}, {"text": "x" * (2_000_000 if where == "facts" else 1)}
    if limit:
        import resource
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        Store(root).fetch("dictionary", DictionaryRecipe(), build)
        said = ""
    except InputError as error:
        said = str(error)
    print(json.dumps({"said": said, "left": [str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()]}))
    """
)
LEFT = {"tensors": [], "facts": [], "checkpoint": [f"dictionary/.{key(RECIPE)}.work/first.safetensors"]}


@pytest.mark.parametrize("where", LEFT)
def test_a_file_too_large_is_one_sentence_and_nothing_half_written(tmp_path, where):
    line = [sys.executable, "-c", FULL, tmp_path, where, "1000000"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    found = json.loads(done.stdout)
    assert found["left"] == LEFT[where]
    assert found["said"] == (
        f"cannot write artifacts to {tmp_path} (File too large); "
        "free some space there (`labkit artifacts prune` helps) or choose another, as with store=DIR"
    )


@pytest.mark.parametrize("where", ["tensors", "checkpoint"])
def test_a_full_disk_is_one_sentence_and_nothing_half_written(tmp_path, where):
    """In a mount namespace of its own, so that the small file system is gone when the process is."""
    mount = 'mount -t tmpfs -o size=1500k labkit-test "$0"'
    namespace = next(
        (n for n in (["unshare", "-m"], ["unshare", "-rm"]) if _can([*n, "sh", "-c", mount, tmp_path])), None
    )
    if namespace is None:
        pytest.skip("mounting a small file system is not permitted here")
    shell = mount + ' && "$1" -c "$2" "$0" "$3" 0 && "$1" -c "$2" "$0" none 0'
    done = subprocess.run(
        [*namespace, "sh", "-c", shell, tmp_path, sys.executable, FULL, where], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    full, again = map(json.loads, done.stdout.splitlines())
    assert full["left"] == LEFT[where] and "No space left on device" in full["said"] and "\n" not in full["said"]
    names = ("facts.json", "manifest.json", "recipe.json", "tensors.safetensors")
    assert again["said"] == "" and sorted(again["left"]) == [f"dictionary/{key(RECIPE)}/{name}" for name in names]


def _can(line) -> bool:
    try:
        return subprocess.run(line, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


def test_an_unwritable_folder_is_explained(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="store=DIR"):
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


PICKLERS = {"cloudpickle", "dill", "joblib", "marshal", "shelve"}
HARMLESS = {"pickle.UnpicklingError"}  # what `torch.load(…, weights_only=True)` raises when it refuses a file


def pickling(source: str) -> list[str]:
    """The expressions and imports in a program that could pickle or unpickle."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                bad = any(a.name.partition(".")[0] in PICKLERS or (a.name == "pickle" and a.asname) for a in names)
            case ast.ImportFrom(module=str(module), names=names):
                bad = module in PICKLERS or any(
                    f"{module}.{a.name}" not in HARMLESS and "pickle" in f"{module}.{a.name}".lower() for a in names
                )
            case ast.Attribute(attr=attr):
                name = ast.unparse(node)
                bad = name not in HARMLESS and (
                    name.startswith("pickle.") or name == "torch.save" or attr in ("to_pickle", "read_pickle")
                )
            case ast.Call(func=ast.Attribute() as func, keywords=keywords):
                given = {k.arg: ast.unparse(k.value) for k in keywords}
                bad = given.get("allow_pickle", "False") != "False" or (
                    ast.unparse(func) == "torch.load" and given.get("weights_only") != "True"
                )
            case _:
                bad = False
        if bad:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    ("line", "safe"),
    [
        ("import pickle\nx = pickle.loads(raw)", False),
        ("import pickle as p", False),
        ("from pickle import load", False),
        ("import pickle\ntry: f()\nexcept pickle.UnpicklingError: pass", True),
        ("from joblib import dump", False),
        ("torch.load(file)", False),
        ("torch.load(file, weights_only=False)", False),
        ("torch.load(file, map_location='cpu', weights_only=True)", True),
        ("torch.save(model, file)", False),
        ("np.load(file)", True),
        ("np.load(file, allow_pickle=True)", False),
        ("frame.to_pickle(file)", False),
        ("from safetensors.torch import load_file", True),
    ],
)
def test_pickling_is_recognised(line, safe):
    assert (pickling(line) == []) == safe


def test_nothing_in_the_package_pickles():
    files = sorted(Path(labkit.__file__).parent.rglob("*.py"))
    assert len(files) > 30
    assert {file.name: lines for file in files if (lines := pickling(file.read_text()))} == {}

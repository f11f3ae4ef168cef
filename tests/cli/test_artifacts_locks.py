"""What a process is building stays: artifacts are removed only under their locks."""

import json
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

from labkit.cli.artifacts import artifacts, remove
from labkit.core.errors import InputError
from labkit.core.recipes import DictionaryRecipe
from labkit.core.store import Store, beside, flaws, held, key, locked

import pytest
import torch
from filelock import FileLock, Timeout

RECIPE = DictionaryRecipe(K=12)


def build(scratch):
    return {"d": torch.ones(2, 3)}, {"n": 3}


@pytest.fixture
def store(tmp_path):
    """One dictionary."""
    store = Store(tmp_path / "store")
    store.fetch("dictionary", RECIPE, build)
    return store


@pytest.fixture
def worker(store):
    """A process that is building `DictionaryRecipe(K=5)`, and has written one checkpoint."""
    program = """
        import sys, time
        from labkit.core.recipes import DictionaryRecipe
        from labkit.core.store import Store
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


def test_what_a_process_is_building_is_kept(store, worker):
    (entry,) = artifacts(store, unfinished=True)
    assert (entry.key, entry.size) == (key(DictionaryRecipe(K=5)), 1000)
    assert held(entry.folder) and not remove(entry)
    assert (entry.path / "first.safetensors").is_file()

    done = artifacts(store)[0]
    with locked(done.path):  # as a process has it that mends what it found damaged
        assert held(done.folder) and not remove(done)
    assert flaws(done.path) == {} and not held(done.folder)

    worker.communicate("go on\n", timeout=60)
    assert worker.returncode == 0 and artifacts(store, unfinished=True) == []
    assert flaws(entry.path.parent / entry.key) == {}


def test_what_a_killed_process_left_can_go(store, worker):
    worker.kill()
    worker.wait()
    (entry,) = artifacts(store, unfinished=True)
    assert beside(entry.path.parent / entry.key, "lock").exists()
    assert not held(entry.folder) and remove(entry)
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
                assert store.fetch("dictionary", RECIPE, slow).facts == {"n": 1}
                for entry in artifacts(store):
                    remove(entry)
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
    folder = store.fetch("dictionary", RECIPE, build).path
    assert remove(artifacts(store)[0])
    assert seen == [beside(folder, "lock")] * 2


def test_a_store_that_may_not_be_changed_is_explained(store, monkeypatch):
    entry = artifacts(store)[0]

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("labkit.cli.artifacts.discard", refuse)
    with pytest.raises(InputError, match=r"cannot delete .* \(Permission denied\)"):
        remove(entry)
    assert json.loads((entry.path / "facts.json").read_text()) == {"n": 3}

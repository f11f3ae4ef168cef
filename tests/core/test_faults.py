"""Crashes, full and read-only disks, clocks that jump, runs that meet: nothing is lost, and nothing comes out other."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import labkit
from labkit.cli import artifacts
from labkit.core import store
from labkit.core.recipes import DictionaryRecipe
from labkit.core.store import Store, locked

import labourer
import numpy as np
import pytest
import torch
from PIL import Image

KILLS = int(os.environ.get("LABKIT_KILLS") or 50)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Forty grey pictures of two classes: noise of two kinds."""
    root, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for part, count in (("train", 16), ("test", 4)):
        for k, name in enumerate(("coarse", "fine")):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = draw.integers(0, 256, (8, 8) if k == 0 else (32, 32), dtype=np.uint8)
                image = Image.fromarray(pixels).resize((32, 32), Image.Resampling.NEAREST)
                image.save(root / part / name / f"{i}.png")
    return root


class Labour:
    """The process of `labourer`, and what its children have made."""

    def __init__(self, data: Path, said: Path):
        program = Path(labourer.__file__)
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(labkit.__file__).parents[1])}
        self.said, file = said, open(said, "w")
        self.process = subprocess.Popen(
            [sys.executable, program, data],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, text=True, env=environment,
        )  # fmt: skip

        file.close()

    def _ask(self, order: str) -> int:
        self.process.stdin.write(order + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def start(self, root: Path) -> int:
        return self._ask(f"start {root}")

    def wait(self, child: int) -> int:
        return self._ask(f"wait {child}")

    def do(self, root: Path) -> None:
        """The work, to its end."""
        assert self.wait(self.start(root)) == 0, self.said.read_text()


@pytest.fixture(scope="module")
def labour(pictures, tmp_path_factory):
    made = Labour(pictures, tmp_path_factory.mktemp("said") / "stderr")
    yield made
    made.process.stdin.close()
    made.process.wait(30)
    made.process.stdout.close()


def looked_at(kept: Store) -> list:
    """Every artifact, with what is wrong with its files."""
    return [(entry, store.flaws(entry.path)) for entry in artifacts.artifacts(kept)]


def outcome(root: Path) -> dict[str, str]:
    """What lies in a store, to the last bit, but for times and ids of runs. Everything is whole and finished."""
    kept = Store(root)
    # Killed between the two, an artifact is there and its scratch folder too: until somebody asks for the artifact.
    assert all((left.path.parent / left.key).is_dir() for left in artifacts.artifacts(kept, unfinished=True))
    found = {}
    for entry, wrong in looked_at(kept):
        assert wrong == {}
        facts = json.loads((entry.path / "facts.json").read_text())
        told = json.dumps(
            {name: value for name, value in facts.items() if name not in ("seconds", "passes", "run")}, sort_keys=True
        )
        manifest = json.loads((entry.path / "manifest.json").read_text())
        del manifest["facts.json"]
        found[f"{entry.kind}/{entry.key}"] = json.dumps(manifest, sort_keys=True) + told
    return found


@pytest.fixture(scope="module")
def undisturbed(labour, tmp_path_factory):
    root = tmp_path_factory.mktemp("undisturbed")
    labour.do(tmp_path_factory.mktemp("first"))  # which waits for the process to be ready, too
    begun = time.monotonic()
    labour.do(root)
    return root, time.monotonic() - begun


def test_the_work_is_real(undisturbed):
    found = outcome(undisturbed[0])
    kinds = [name.partition("/")[0] for name in found]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "attack": 3, "classifier": 2, "dictionary": 1, "projected": 1, "row": 3
    }  # fmt: skip


@pytest.mark.slow
def test_killed_at_any_moment_the_work_goes_on_to_the_same_end(labour, undisturbed, tmp_path):
    """Two build the same side by side, each killed, 50 times; whenever one comes to its end, all is begun again."""
    expected, seconds = outcome(undisturbed[0]), undisturbed[1]
    draw, kills, ends = random.Random(0), 0, 0
    while kills < KILLS:
        root, ended = tmp_path / f"round{ends}", []
        while 0 not in ended:
            ended = []
            for child in [labour.start(root), labour.start(root)]:
                time.sleep(draw.uniform(0, 0.4) * seconds)
                if kills < KILLS:
                    os.kill(child, signal.SIGKILL)
                ended.append(labour.wait(child))
                kills += ended[-1] == -signal.SIGKILL
            assert set(ended) <= {0, -signal.SIGKILL}, labour.said.read_text()
            for _, wrong in looked_at(Store(root)):
                assert wrong == {}  # what is there under its name is whole, at every moment
        labour.do(root)  # tidies nothing more, builds nothing anew
        assert outcome(root) == expected
        ends += 1
    assert "damaged" not in labour.said.read_text()


def test_two_runs_share_a_store_and_one_may_die(labour, undisturbed, tmp_path):
    draw = random.Random(1)
    for k in range(3):
        root = tmp_path / str(k)
        one, other = labour.start(root), labour.start(root)
        if k:
            time.sleep(draw.uniform(0.1, 0.8) * undisturbed[1])
            os.kill(one, signal.SIGKILL)
        assert [labour.wait(other), labour.wait(one) in (0, -signal.SIGKILL)] == [0, True], labour.said.read_text()
        labour.do(root)  # what the dead one alone was at, if anything
        assert outcome(root) == outcome(undisturbed[0])


def test_every_file_of_every_artifact_may_decay(labour, undisturbed, tmp_path):
    """Truncated, flipped, emptied or gone: it is built again, to the same bits."""
    root, draw = tmp_path / "store", random.Random(2)
    shutil.copytree(undisturbed[0], root)
    for entry in artifacts.artifacts(Store(root)):
        file = draw.choice(sorted(entry.path.iterdir()))
        raw = bytearray(file.read_bytes())
        at = draw.randrange(len(raw))
        how = draw.choice(("flip", "cut", "empty", "gone"))
        raw[at] ^= 1 << draw.randrange(8)
        file.write_bytes({"flip": raw, "cut": raw[:at], "empty": b"", "gone": b""}[how])
        if how == "gone":
            file.unlink()
    assert all(wrong for _, wrong in looked_at(Store(root)))
    labour.do(root)
    # Rows are what is asked for; what they were made of is only built again when something needs it.
    expected = outcome(undisturbed[0])
    for entry, wrong in looked_at(Store(root)):
        if wrong:
            artifacts.remove(entry)
    found = outcome(root)
    assert found.items() <= expected.items() and sum(name.startswith("row/") for name in found) == 3


# One artifact


RECIPE = DictionaryRecipe()


def build(scratch):
    return {"d": torch.ones(3)}, {"n": 1}


HOLDER = """
import sys, time
from labkit.core.store import Store, locked, key
from labkit.core.recipes import DictionaryRecipe
with locked(Store(sys.argv[1]).root / "dictionary" / key(DictionaryRecipe())):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """A process that has the lock of RECIPE's artifact in the store `tmp_path`."""
    (tmp_path / "dictionary").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(Path(labkit.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, tmp_path], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_dead_holder_of_a_lock_holds_nobody_up(tmp_path, holder):
    entry = tmp_path / "dictionary" / store.key(RECIPE)
    with locked(entry, wait=False) as mine:
        assert not mine
    holder.kill()
    holder.wait()
    begun = time.monotonic()
    assert Store(tmp_path).fetch("dictionary", RECIPE, build).facts == {"n": 1}
    assert time.monotonic() - begun < 3
    assert [path.name for path in entry.parent.iterdir()] == [entry.name]


@pytest.mark.parametrize("jump", [-40 * 365 * 86400, 70 * 365 * 86400])
def test_a_clock_that_jumps_breaks_no_lock_and_no_artifact(tmp_path, holder, monkeypatch, jump):
    """Decades back or ahead, while one run builds and another waits; and every time in the store is of the other."""
    kept, entry = Store(tmp_path), tmp_path / "dictionary" / store.key(RECIPE)
    real, asked = time.time, []

    def jumping() -> float:
        asked.append(None)
        return real() + jump * (len(asked) % 2)

    monkeypatch.setattr(time, "time", jumping)
    os.utime(store.beside(entry, "lock"), (1e9, max(0, real() + jump)))
    with locked(entry, wait=False) as mine:
        assert not mine  # however old, or not yet made: it is held
    holder.kill()
    holder.wait()
    kept.fetch("dictionary", RECIPE, build)
    for path in [entry, *entry.iterdir()]:
        os.utime(path, (0, max(0, real() + jump)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = kept.fetch("dictionary", RECIPE, lambda scratch: pytest.fail("built again"))
    assert torch.equal(again.tensors["d"], torch.ones(3))
    (found,) = artifacts.artifacts(kept)
    assert found.age >= 0
    if jump > 0:  # made in the future, it is no older than a day
        monkeypatch.setattr(time, "time", real)
        assert artifacts.prunable(kept, older_than=1) == []


READER = """
import sys
from labkit.__main__ import main
from labkit.core.recipes import DictionaryRecipe
from labkit.core.store import Store
import torch
from labkit.core.errors import InputError
kept = Store(sys.argv[1])
print(kept.fetch("dictionary", DictionaryRecipe(), None).facts)
try:
    kept.fetch("dictionary", DictionaryRecipe(K=3), lambda scratch: ({}, {}))
except InputError as error:
    print(error)
for line in (["list"], ["verify"], ["prune", "--kind", "dictionary", "--yes"]):
    print(main(["artifacts", *line, "--store", sys.argv[1]]))
"""


def test_a_read_only_folder_is_read_and_refuses_in_a_sentence(tmp_path):
    root = tmp_path / "store"
    found = Store(root).fetch("dictionary", RECIPE, build)
    mount = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0"'
    environment = {**os.environ, "PYTHONPATH": str(Path(labkit.__file__).parents[1])}
    for namespace in (["unshare", "-m"], ["unshare", "-rm"]):
        try:
            if subprocess.run([*namespace, "sh", "-c", mount, root], capture_output=True).returncode == 0:
                break
        except FileNotFoundError:
            pass
    else:
        pytest.skip("mounting a folder read-only is not permitted here")
    done = subprocess.run(
        [*namespace, "sh", "-c", mount + ' && exec "$1" -c "$2" "$0"', root, sys.executable, READER],
        capture_output=True, text=True, timeout=100, env=environment,
    )  # fmt: skip
    facts, refused, *rest = done.stdout.splitlines()
    assert (done.returncode, facts) == (0, "{'n': 1}"), done.stderr
    assert refused == f"cannot write artifacts to {root} (Read-only file system); choose another, as with store=DIR"
    assert [line for line in rest if line in "012"] == ["0", "0", "2"]
    assert done.stderr.startswith("labkit: cannot delete") and done.stderr.count("\n") == 1
    assert store.flaws(found.path) == {}


def test_a_link_to_an_artifact_is_read_and_only_the_link_is_removed(tmp_path):
    theirs = Store(tmp_path / "theirs").fetch("dictionary", RECIPE, build)
    ours = tmp_path / "ours" / "dictionary" / theirs.key
    ours.parent.mkdir(parents=True)
    ours.symlink_to(theirs.path)
    kept = Store(tmp_path / "ours")
    assert kept.fetch("dictionary", RECIPE, lambda scratch: pytest.fail("built again")).facts == {"n": 1}
    (entry,) = artifacts.artifacts(kept)
    assert artifacts.remove(entry)
    assert list(ours.parent.iterdir()) == [] and store.flaws(theirs.path) == {}


def test_a_disk_that_is_full_for_a_while_costs_nothing(labour, undisturbed, pictures, tmp_path):
    """The real work under a limit on files meets it at one artifact or another, and goes on when it is lifted."""
    program = (
        "import sys, resource, labourer, torch; torch.set_num_threads(1); from labkit.core.errors import InputError\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]),) * 2)\n"
        "try: labourer.work(sys.argv[1], sys.argv[2])\n"
        "except InputError as error: sys.exit(str(error))"
    )
    here = (str(Path(labkit.__file__).parents[1]), str(Path(labourer.__file__).parent))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(here)}
    line = [sys.executable, "-c", program, tmp_path, pictures, "30000"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, env=environment)
    assert done.returncode == 1 and "File too large" in done.stderr.splitlines()[-1]
    assert all(wrong == {} for _, wrong in looked_at(Store(tmp_path)))
    labour.do(tmp_path)
    assert outcome(tmp_path) == outcome(undisturbed[0])

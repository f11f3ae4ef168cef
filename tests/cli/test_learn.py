"""`labkit learn`, `project` and `table` by two ranks of which one is killed, against one rank that is left in peace."""

import io
import json
import tarfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

from labkit.__main__ import main
from labkit.core import metrics
from labkit.core.profiles import profile
from labkit.datasets import loaders
from labkit.evaluation.workbench import Workbench
from labkit.models.classifiers import predict

import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file
from torch.testing import assert_close
from torchrun import torchrun

HERE = Path(__file__).parents[1]

# As many threads as a rank has: with others, codes differ within their tolerance, and networks by more.
pytestmark = pytest.mark.usefixtures("one_thread")


def killed(rank: int, where: str, count: int, *command: str, cwd: Path) -> list[list[str]]:
    """Runs a command by two ranks, one of which is killed once; the calls of `where` that ended, by rank and path."""
    log = cwd / "log"
    done = torchrun(str(HERE / "killed_once.py"), str(log), str(rank), where, str(count), *command, cwd=cwd, restarts=1)
    assert done.returncode == 0, done.stderr
    assert "exitcode: -9" in done.stderr or "Signal 9" in done.stderr or "SIGKILL" in done.stderr
    return [line.split() for line in log.read_text().splitlines()]


def alone(*command: str) -> None:
    assert main(list(command)) == 0


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Holds the filters of the smoke profile, learned alone."""
    folder = tmp_path_factory.mktemp("store")
    alone("learn", "--profile", "smoke", "--dataset", "photos", "--store", str(folder))
    return folder


def filters(store: Path):
    (file,) = store.glob("dictionary/*/tensors.safetensors")
    return load_file(file)["d"], json.loads((file.parent / "facts.json").read_text())


@pytest.mark.slow
def test_a_rank_killed_while_learning_costs_nothing(store, tmp_path):
    command = ("learn", "--profile", "smoke", "--dataset", "photos", "--store", str(tmp_path / "store"))
    killed(1, "core.distributed.all_reduce", 2, *command, cwd=tmp_path)
    (theirs, facts), (mine, known) = filters(tmp_path / "store"), filters(store)
    assert_close(theirs, mine, atol=1e-5, rtol=0)
    assert_close(facts["objectives"], known["objectives"], atol=1e-4, rtol=0)
    assert [file.name for file in (tmp_path / "store").glob("dictionary/.*")] == []


@pytest.mark.slow
def test_a_rank_killed_while_projecting_loses_no_chunk_and_makes_none_twice(store, tmp_path):
    images = loaders.load("photos", "test", n=20, resolution=32)
    for n in range(5):
        with tarfile.open(tmp_path / f"{n}.tar", "w") as tar:
            for i in range(4 * n, 4 * n + 4):
                out = io.BytesIO()
                pixels = (images.x[i] * 255).round().byte().permute(1, 2, 0).numpy()
                Image.fromarray(pixels).save(out, "PNG")
                about = tarfile.TarInfo(f"{i:02d}.png")
                about.size = len(out.getvalue())
                tar.addfile(about, io.BytesIO(out.getvalue()))
    command = ["project", "--profile", "smoke", "--dataset", f"tar:{tmp_path}/{{0..4}}.tar", "--learned-on", "photos"]
    command += ["--store", str(store), "--out"]
    alone(*command, str(tmp_path / "one"))
    calls = killed(1, "core.checkpoint.write", 1, *command, str(tmp_path / "two"), cwd=tmp_path)
    made = Counter(Path(path).name for _, path in calls)
    assert set(made.values()) == {1} and len(made) == 5 and {rank for rank, _ in calls} == {"0", "1"}
    one, two = (
        {f.name: f.read_bytes() for f in (tmp_path / d).iterdir() if not f.name.startswith(".")} for d in ("one", "two")
    )
    assert one == two and len(one) == 7


@pytest.mark.slow
def test_a_rank_killed_while_measuring_loses_no_case_and_measures_none_twice(tmp_path):
    only = ("--only", "attack=Clean,FGSM-0.08", "--only", "defense=No Defense,STL")
    command = ["table", "1", "--profile", "smoke", *only]
    calls = killed(
        1, "core.store._write", 4, *command, "--store", str(tmp_path / "store"), "--out", "two", cwd=tmp_path
    )
    made = Counter(path for _, path in calls)
    assert set(made.values()) == {1} and {rank for rank, _ in calls} == {"0", "1"}
    alone(*command, "--store", str(tmp_path / "one"), "--out", str(tmp_path / "one"))
    frames = [pd.read_csv(tmp_path / folder / "table_1_rows.csv") for folder in ("one", "two")]
    pd.testing.assert_frame_equal(*(frame.drop(columns=["seconds", "run"]) for frame in frames))


def test_a_classifier_is_learned_as_told_and_judged_on_test_images(capsys, tmp_path):
    how = "network=vgg11,width=0.0625,epochs=2,lr=0.02,augment=no"
    command = ["learn", "--profile", "smoke", "--what", "classifier", "--classifier", how, "--store", str(tmp_path)]
    alone(*command)
    first, second = capsys.readouterr().out.splitlines()
    (file,) = tmp_path.glob("classifier/*/recipe.json")
    recipe = json.loads(file.read_text())
    assert file.parent.name in first
    told = {"network": "vgg11", "width": 0.0625, "epochs": 2, "lr": 0.02, "augment": False}
    assert {name: recipe[name] for name in told} == told
    assert recipe["batch"] == profile("smoke").classifier.batch
    bench = Workbench(tmp_path, progress=False)
    told = replace(profile("smoke").classifier, **told)
    test = loaders.load("fashion", "test", resolution=told.data.resolution)
    right = predict(bench.classifier(told), test.x).argmax(1) == test.y
    assert second == f"classifier: {metrics.accuracy(right)} test images, which nobody attacked" and len(right) == 2000
    assert len(list(tmp_path.glob("classifier/*/recipe.json"))) == 1  # it was that network, and not another


def test_bad_input_of_the_commands_is_one_sentence(capsys, tmp_path):
    for command, words in (
        (["learn", "--what", "filters"], "dictionary, clusters, classifier, retrained"),
        (["learn", "--seed", "-1"], "from 0 to 4294967295; got -1"),
        (["learn", "--classifier", "depth=3"], "augment, erase, levels, mirrored"),
        (["learn", "--classifier", "augment=1"], "yes or no for augment; got '1'"),
        (["learn", "--classifier", "epochs=many"], "a number for epochs; got 'many'"),
        (
            ["learn", "--what", "classifier", "--profile", "smoke", "--classifier", "weight_decay=-1"],
            "weight_decay ≥ 0, got -1",
        ),
        (["learn", "--classifier", "epochs"], "a number for epochs; got ''"),
        (["project", "--dataset", "tar:a.tar", "--out", str(tmp_path / "out")], "--learned-on"),
        (["project", "--images", "0", "--out", str(tmp_path / "out")], "above 0"),
    ):
        assert main(command) == 2
        error = capsys.readouterr().err
        assert error.startswith("labkit: ") and words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()

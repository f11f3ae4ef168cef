"""Two ranks, really started by torchrun, against one."""

import json
from pathlib import Path

from labkit.core import distributed
from labkit.core.errors import InputError
from labkit.models.classifiers import predict

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close
from torchrun import torchrun
from two_ranks import WAYS, learned, spoken, textures, trained

HERE = Path(__file__).parents[1]
# As many threads as a rank has: with others, codes differ within their tolerance, and networks by more.
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """The answers of two ranks: (JSON, tensors) of each."""
    folder = tmp_path_factory.mktemp("ranks")
    done = torchrun(str(HERE / "two_ranks.py"), str(folder), cwd=folder)
    assert done.returncode == 0, done.stderr
    return [
        (json.loads((folder / f"rank{r}.json").read_text()), load_file(folder / f"rank{r}.safetensors")) for r in (0, 1)
    ]


def test_alone_everything_is_given_back():
    assert spoken() == {
        "world": 1,
        "shard": list("abcde"),
        "sum": [[[1.5, 0.0]], 1, "torch.int64"],
        "join": [[0.0] * 3] * 2,
        "gather": [{"name": "", "n": 0}],
        "tell": ["of", 0],
        "first": [[1.0, 0.0], {"from": 0}],
        "none": None,
        "apart": [0, 1, ["x"], 0],
        "threads": torch.get_num_threads(),
        "device": None,
    }


def test_ranks_share_add_up_and_tell(ranks):
    for rank, (answers, _) in enumerate(ranks):
        expected = {
            "world": 2,
            "shard": [list("ab"), list("cde")][rank],
            "sum": [[[3.0, 1.0]], 3, "torch.int64"],
            "join": [[0.0] * 3] * 2 + [[1.0] * 3] * 3,
            "gather": [{"name": "", "n": 0}, {"name": "é", "n": 1}],
            "tell": ["of", 0],
            "first": [[1.0, 0.0], {"from": 0}],
            "none": None,
            "apart": [0, 1, ["x"], rank],
            "threads": 1,
            "device": "cuda:0" if torch.cuda.is_available() else "cpu",
        }
        assert answers["spoken"] == expected


@pytest.mark.parametrize("way", WAYS)
def test_two_ranks_learn_the_same_dictionary_as_one(ranks, way):
    d, objectives = learned(way)
    for answers, tensors in ranks:
        assert_close(tensors[way], d, atol=1e-5, rtol=0)
        assert_close(answers[way], objectives, atol=1e-4, rtol=0)
    assert torch.equal(ranks[0][1][way], ranks[1][1][way])


def test_two_ranks_train_one_network(ranks, tmp_path):
    for name in ("plain", "adversarial"):
        assert torch.equal(ranks[0][1][name], ranks[1][1][name])
    model = trained()
    sizes = [t.numel() for t in model.state_dict().values()]
    parts = ranks[0][1]["plain"].split(sizes)
    model.load_state_dict(
        {name: p.view(t.shape).to(t.dtype) for (name, t), p in zip(model.state_dict().items(), parts, strict=True)}
    )
    images = textures()
    assert float((predict(model, images.x).argmax(1) == images.y).float().mean()) > 0.95
    assert_close(model.mean.flatten(), images.x.mean((0, 2, 3)), atol=1e-5, rtol=0)


def test_too_many_ranks_for_a_batch_are_refused(ranks):
    assert "3 among 2 ranks" in ranks[0][0]["refused"] and "fewer ranks" in ranks[0][0]["refused"]


def test_an_environment_that_names_ranks_but_no_meeting_place_is_explained(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads = torch.get_num_threads()
    with pytest.raises(InputError, match="start them with torchrun"), distributed.session():
        pass
    assert torch.get_num_threads() == threads

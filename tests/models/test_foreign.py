"""Other people's networks and callables: by name, from files, as objects, and what is wrong with them in a sentence."""

from labkit.core.errors import InputError
from labkit.core.torchvision_shim import torchvision
from labkit.models import foreign
from labkit.models.foreign import Cleaner, Network

import pytest
import torch
from safetensors.torch import save_file
from somebodys import Linear, images
from torch import nn
from torch.testing import assert_close

NET = """
import torch
from torch import nn

def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

def broken():
    return build().nothing

def clean(x):
    return x / 2

def make(by=4):
    return lambda x: x / by

def answer():
    return 42
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "net.py").write_text(NET, "utf-8")
    return tmp_path / "net.py"


def test_a_network_from_a_file_and_its_weights(file, tmp_path):
    x = images()[0]
    fresh = foreign.network(f"{file}:build")
    assert_close(fresh.thing(x), foreign.network(f"{file}:build").thing(x))
    weights = {name: t + 1 for name, t in fresh.thing.state_dict().items()}
    save_file(weights, tmp_path / "w.safetensors")
    torch.save({"state_dict": {f"module.{name}": t for name, t in weights.items()}, "epoch": 3}, tmp_path / "w.pth")
    loaded = [foreign.network(f"{file}:build@{tmp_path}/w.{ending}") for ending in ("safetensors", "pth")]
    assert all(torch.equal(found.thing[1].weight, weights["1.weight"]) for found in loaded)
    assert [found.label for found in loaded] == ["net.py:build@w.safetensors", "net.py:build@w.pth"]
    assert loaded[0].digest() == loaded[1].digest() != fresh.digest()
    assert not any(p.requires_grad for p in loaded[0].thing.parameters()) and not loaded[0].thing.training


def test_what_is_wrong_with_a_file_is_said(file, tmp_path):
    torch.save(nn.Linear(2, 2), tmp_path / "whole.pth")
    save_file({"1.weight": torch.zeros(3, 5)}, tmp_path / "other.safetensors")
    (tmp_path / "typo.py").write_text("x = 1\ndef (", "utf-8")
    (tmp_path / "late.py").write_text("x = 1\n\ny = 1 / 0\n", "utf-8")
    for spec, said in (
        (f"{file}:build@{tmp_path}/whole.pth", r"pickle.*state_dict\(\).*safetensors"),
        (f"{file}:build@{tmp_path}/other.safetensors", "is of another network"),
        (f"{file}:build@{tmp_path}/none.safetensors", "cannot read weights"),
        (f"{file}:broken", r"AttributeError.*net\.py line 9"),
        (f"{file}:answer", "returns int"),
        (f"{file}:nothing", "has no function 'nothing'"),
        (f"{tmp_path}/typo.py:f", r"SyntaxError.*typo\.py line 2"),
        (f"{tmp_path}/late.py:f", r"ZeroDivisionError.*late\.py line 3"),
        (f"{tmp_path}/none.py:f", "cannot read"),
        (f"{file}", "names nothing"),
        ("torchvision:resnet0", "cannot be had"),
        (f"{tmp_path}/none.pt2", "cannot read"),
    ):
        with pytest.raises(InputError, match=said):
            foreign.network(spec)


def test_torchvision_takes_as_many_classes_as_its_weights_have(tmp_path):
    theirs = torchvision.models.squeezenet1_1(weights=None, num_classes=4)
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    found = foreign.network(f"torchvision:squeezenet1_1@{tmp_path}/w.safetensors")
    x = torch.rand(2, 3, 32, 32)
    assert_close(Network(found)(x), theirs.eval()(x))
    assert found.label == "torchvision:squeezenet1_1@w.safetensors"


@pytest.mark.filterwarnings("ignore")
def test_an_exported_network_is_asked_in_its_own_size_of_batch(tmp_path):
    network, x = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval(), images(5)[0]
    torch.export.save(torch.export.export(network, (torch.rand(2, 1, 8, 8),)), tmp_path / "e.pt2")
    found = foreign.network(f"{tmp_path}/e.pt2")
    made = Network(found).eval()
    assert found.batch == 2 and found.label == "exported:e.pt2" and not any(m.training for m in made.modules())
    assert_close(made(x.requires_grad_()), network(x))
    assert torch.autograd.grad(made(x).sum(), x)[0].abs().sum() > 0


def test_a_network_is_fed_and_read_as_it_wants():
    x, y = images()
    plain = Linear()
    half = Network(foreign.network(Linear().half()))
    assert half(x).dtype == torch.float32 and torch.equal(half(x).argmax(1), y)
    assert_close(Network(foreign.network(plain), mean=[0.1], std=[2.0])(x), plain((x - 0.1) / 2))
    assert_close(Network(foreign.network(plain), order=[1, 0])(x), plain(x).flip(1))
    odds = Network(foreign.network(nn.Sequential(plain, nn.Softmax(1))))
    (told,) = odds.meet(x, 2, True)
    assert "probabilities" in told
    assert_close(odds(x), plain(x).log_softmax(1))
    assert plain.training and plain.scale.requires_grad  # what was given is as it was


def test_what_a_network_may_not_answer():
    x, _ = images()
    for answer, how, said in (
        (lambda x: torch.full((len(x), 2), torch.nan), {}, "NaN to 6 of 6"),
        (lambda x: x, {}, "let a network answer with logits"),
        (lambda x: torch.zeros(len(x), 5), {}, "tells 5 classes apart, and the images have 2"),
        (lambda x: torch.zeros(len(x), 1), {}, "tells 1 classes apart"),
        (lambda x: torch.zeros(len(x), 5), {"order": [1, 5]}, "give classes="),
        (lambda x: x.nothing, {}, r"AttributeError.*test_foreign\.py line"),
        (lambda x: torch.zeros(len(x), 2), {"mean": [0.5] * 3}, "mean and std need one number"),
    ):
        network = nn.Module()
        network.forward = answer
        with pytest.raises(InputError, match=said):
            Network(foreign.network(network), **how).meet(x, 2, True)


def test_a_callable_from_a_file(file):
    x = images()[0]
    assert_close(foreign.function(f"{file}:clean").thing(x), x / 2)
    assert_close(foreign.function(f"{file}:make").thing(x), x / 4)
    with pytest.raises(InputError, match="returns int"):
        foreign.function(f"{file}:answer")
    assert foreign.function(f"{file}:clean").label == "net.py:clean"


def test_a_digest_tells_closures_and_weights_apart():
    def dim(by):
        return lambda x: by * x

    digests = [foreign.function(dim(by)).digest() for by in (0.5, 0.5, 0.6)]
    assert digests[0] == digests[1] != digests[2]
    nets = [foreign.network(Linear(scale)).digest() for scale in (1.0, 1.0, 2.0)]
    assert nets[0] == nets[1] != nets[2]


def test_a_random_callable_is_drawn_from_the_seed_and_nothing_else():
    x = images()[0]
    noisy = Cleaner(foreign.function(lambda x: x + torch.randn_like(x)), stochastic=True)
    before = torch.get_rng_state()
    a, b = noisy.seeded(1)(x), noisy(x)
    assert torch.equal(a, noisy.seeded(1)(x)) and not torch.equal(a, b)
    assert torch.equal(before, torch.get_rng_state()) and 0 <= a.min() and a.max() <= 1

"""Sharpness-aware steps: where the gradient is taken, and that no trace is left of having been there."""

from dataclasses import replace

import pytest
import torch
from test_classifiers import TINY, assert_same, stripes, trained
from torch import nn
from torch.testing import assert_close

from labkit import classifiers, sharpness

pytestmark = pytest.mark.usefixtures("one_thread")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4))


def backward(model: nn.Module) -> None:
    x = torch.randn(6, 2, 6, 6, generator=torch.Generator().manual_seed(1))
    model.zero_grad()
    nn.functional.cross_entropy(model(x), torch.arange(6) % 4).backward()


def test_the_gradient_is_that_of_the_weights_a_radius_up_the_first_one():
    """On a parabola, wᵀ A w / 2, where it is known: A (w + ρ A w / ‖A w‖), over all weights together."""
    A, start = torch.tensor([[3.0, 1, 0], [1, 2, 0], [0, 0, 5]]), torch.tensor([1.0, -2, 0.5])
    model = nn.Module()
    model.a, model.b = nn.Parameter(start[:2].clone()), nn.Parameter(start[2:].clone())

    def parabola():
        w = torch.cat([model.a, model.b])
        model.zero_grad()
        (w @ A @ w / 2).backward()

    parabola()
    with sharpness.ascended(model, 0.3):
        parabola()
    first = A @ start
    assert_close(torch.cat([model.a.grad, model.b.grad]), A @ (start + 0.3 * first / first.norm()))


def test_weights_and_averages_are_as_if_nothing_had_happened_even_after_an_error():
    model = network()
    backward(model)
    before = {name: t.clone() for name, t in model.state_dict().items() if "num_batches" not in name}
    with pytest.raises(KeyError), sharpness.ascended(model):
        moved = torch.cat([(p - before[name]).flatten() for name, p in model.named_parameters()])
        assert_close(moved.norm(), torch.tensor(sharpness.RADIUS), rtol=1e-4, atol=0)
        backward(model)
        raise KeyError
    assert [name for name, t in before.items() if not torch.equal(model.state_dict()[name], t)] == []
    backward(model)  # and they go on being kept
    assert not torch.equal(model[1].running_mean, before["1.running_mean"])


def test_at_a_gradient_of_zero_the_weights_stay():
    model = network()
    backward(model)
    for p in model.parameters():
        p.grad.zero_()
    with sharpness.ascended(model):
        assert all(p.isfinite().all() for p in model.parameters())


def test_only_the_last_epochs_are_sharpness_aware(monkeypatch):
    """Two of three are not, and leave the network that plain training leaves; the third's steps are other steps."""
    kept = {}
    for sam in (0, 1):
        epochs = kept[sam] = []

        def keep(_file, _run, tensors, _facts, epochs=epochs):
            epochs.append({name: t.clone() for name, t in tensors.items()})

        monkeypatch.setattr(classifiers.checkpoint_file, "write", keep)
        monkeypatch.setattr(classifiers, "_resume", lambda *_: 0)
        trained(stripes(40), replace(TINY, sam=sam), checkpoint="nowhere")
    plain, sharp = kept[0], kept[1]
    assert len(plain) == len(sharp) == TINY.epochs
    same = [all(torch.equal(one[name], other[name]) for name in one) for one, other in zip(plain, sharp, strict=True)]
    assert same == [True, True, False]


def test_a_network_learns_by_it():
    model, unseen = trained(stripes(), replace(TINY, epochs=12, sam=4)), stripes(60, seed=1)
    assert torch.equal(classifiers.predict(model, unseen.x).argmax(1), unseen.y)


def test_a_recipe_without_it_is_named_as_before():
    plain, sharp = (classifiers.canonical(replace(TINY, sam=sam), "digest") for sam in (0, 1))
    assert '"sam"' not in plain and '"sam"' in sharp
    assert_same(trained(stripes(20), TINY), trained(stripes(20), replace(TINY, sam=0)))

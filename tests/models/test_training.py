"""Training: what a step does, and that a killed run ends as if it had not been killed."""

import threading
from functools import partial

from labkit.core.checkpoint import draws
from labkit.core.errors import InputError
from labkit.models.training import Training, schedule

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.testing import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIMIZERS = {
    "SGD": lambda model: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True),
    "Adam": lambda model: torch.optim.Adam(model.parameters(), lr=0.1),
}


class Interrupted(Exception):
    """Stands for a kill in the middle of an epoch."""


def regression(folder=None, optimizer="SGD", epochs=3, stop_after=None, run="this", **options):
    """A convolution that learns what another one does, in three unequal batches an epoch; also how many it saw."""
    generator = torch.Generator().manual_seed(0)
    x, target = torch.randn(10, 2, 5, 4, generator=generator), torch.randn(10, 3, 3, 2, generator=generator)
    model, seen = nn.Conv2d(2, 3, 3), []
    for p in model.parameters():
        nn.init.normal_(p, generator=generator)
    model.to(memory_format=torch.channels_last)

    def prepare(at, generator):
        return at, 0.1 * torch.randn(target[at].shape, generator=generator)

    def loss(ready):
        if len(seen) == stop_after:
            raise Interrupted
        at, noise = ready
        seen.append(at)
        found = functional.mse_loss(model(x[at]), target[at] + noise)
        return found, {"loss": found}

    training = Training(model, OPTIMIZERS[optimizer](model), {"run": run}, folder)
    training.run(epochs, torch.arange(10), 4, prepare, loss, draw=partial(draws, 7), progress=False, **options)
    return model, training.history, seen


def assert_same(one, other):
    assert all(
        torch.equal(mine, theirs) for mine, theirs in zip(one[0].parameters(), other[0].parameters(), strict=True)
    )
    assert one[1] == other[1]


def test_a_step_is_the_optimizers_on_each_batch_in_turn():
    model, history, seen = regression(optimizer="SGD", epochs=1, warmup=0.5)
    by_hand, _, _ = regression(epochs=0)
    x = torch.randn(10, 2, 5, 4, generator=(generator := torch.Generator().manual_seed(0)))
    target = torch.randn(10, 3, 3, 2, generator=generator)
    generator, moved, total = draws(7, 0), [torch.zeros_like(p) for p in by_hand.parameters()], 0.0
    order = torch.randperm(10, generator=generator)
    assert torch.equal(torch.cat(seen), order)
    # Shares 1/3, 2/3 and 1 of all steps: two thirds up, then along the cosine, 3/4 and 0.
    for at, rate in zip(order.split([4, 3, 3]), (2 / 3, 3 / 4, 0), strict=True):
        noise = 0.1 * torch.randn(target[at].shape, generator=generator)
        loss = (by_hand(x[at]) - target[at] - noise).square().mean()
        total += loss.item() * len(at)
        with torch.no_grad():
            gradients = torch.autograd.grad(loss, [*by_hand.parameters()])
            for p, velocity, g in zip(by_hand.parameters(), moved, gradients, strict=True):
                velocity.mul_(0.9).add_(g)
                p -= 0.1 * rate * (g + 0.9 * velocity)
    for p, expected in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert_close(p, expected)
    assert history["loss"] == [pytest.approx(total / 10, rel=1e-5)]
    assert not model.training and model.weight.is_contiguous()


def test_the_step_size_rises_to_one_and_falls_to_zero():
    curve = torch.tensor([schedule(step / 40, 0.25) for step in range(1, 41)])
    peak = int(curve.argmax())
    assert peak == 9 and curve[peak] == 1 and abs(curve[-1]) < 1e-12
    assert (curve[: peak + 1].diff() > 0).all() and (curve[peak:].diff() < 0).all()


def test_what_is_measured_after_an_epoch_is_in_the_history():
    calls = iter((0.5, 0.25))
    _, history, _ = regression(epochs=2, measure=lambda: {"held_out": next(calls)})
    assert list(history) == ["loss", "held_out"] and history["held_out"] == [0.5, 0.25]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("warmup", [None, 0.25])
def test_a_resumed_run_ends_bit_for_bit_like_one_never_stopped(tmp_path, optimizer, warmup):
    whole = regression(optimizer=optimizer, warmup=warmup)
    with pytest.raises(Interrupted):
        regression(tmp_path, optimizer, stop_after=4, warmup=warmup)  # in the second of three epochs
    again = regression(tmp_path, optimizer, warmup=warmup)
    assert_same(again, whole)
    assert len(again[2]) == 6  # two epochs, and not the first again
    done = regression(tmp_path, optimizer, warmup=warmup)
    assert_same(done, whole)
    assert not done[2]


def damage(file):
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize(
    "harm",
    [damage, lambda file: file.write_bytes(file.read_bytes()[:-100]), lambda file: file.write_bytes(b"")],
    ids=["one bit", "cut short", "empty"],
)
def test_a_damaged_checkpoint_is_discarded_with_a_warning(tmp_path, harm):
    whole = regression(tmp_path)
    (file,) = tmp_path.iterdir()
    harm(file)
    with pytest.warns(UserWarning, match="damaged"):
        assert_same(regression(tmp_path), whole)


@pytest.mark.parametrize("change", [{"run": "other"}, {"optimizer": "Adam"}], ids=["run", "optimizer"])
def test_a_checkpoint_of_something_else_is_discarded_with_a_warning(tmp_path, change):
    regression(tmp_path)
    with pytest.warns(UserWarning, match="another recipe or other images"):
        assert_same(regression(tmp_path, **change), regression(**change))


def test_a_loss_that_is_no_longer_finite_is_said():
    def loss(ready):
        return (model.weight * torch.nan).sum(), {"loss": torch.tensor(torch.nan)}

    model = nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"diverged in epoch 1; choose a learning rate below 0\.1"):
        training = Training(model, OPTIMIZERS["SGD"](model), {})
        training.run(1, torch.arange(2), 2, lambda at, _: at, loss, draw=partial(draws, 0))


def test_the_next_batch_is_prepared_beside_the_step_and_never_two_ahead():
    prepared, taken, waiting = [], [], threading.Event()

    def prepare(at, generator):
        prepared.append(at.tolist())
        assert len(prepared) <= len(taken) + 2
        waiting.set()
        return at

    def loss(at):
        taken.append(at.tolist())
        if len(taken) == 1:  # the second batch comes while the first step is under way
            waiting.clear()
            assert len(prepared) == 2 or waiting.wait(20)
        found = model.weight.sum()
        return found, {"loss": found}

    model = nn.Linear(1, 1)
    training = Training(model, OPTIMIZERS["SGD"](model), {})
    training.run(2, torch.arange(6), 2, prepare, loss, draw=partial(draws, 0), progress=False)
    assert taken == prepared and len(taken) == 6

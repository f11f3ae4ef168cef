"""Gradients in training mode: what they are, and that a network is as it was afterwards."""

from labkit.attacks import TrainingMode, fgsm
from labkit.attacks.budget import Budget

import pytest
import torch
from torch import nn


def network(dropout=0.0):
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(144, 3),
    )
    model = nn.Sequential(*layers).eval()
    model[1].running_mean += 0.3  # unlike any batch's
    return model


def images(n=7):
    g = torch.Generator().manual_seed(1)
    return torch.rand(n, 1, 6, 6, generator=g), torch.arange(n) % 3


def test_it_is_what_train_would_do_batch_by_batch_and_leaves_no_trace():
    model, (x, _) = network(), images()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    wrapped = TrainingMode(model, batch=4).eval()
    answers = wrapped(x)
    assert not model.training and not model[1].training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    trained = network().train()
    with torch.no_grad():
        want = torch.cat([trained(part) for part in x.tensor_split(2)])
    torch.testing.assert_close(answers, want)
    assert not torch.allclose(answers, model(x), atol=1e-3)


def test_dropout_alone_is_drawn_anew_each_time():
    model, (x, _) = network(0.5), images()
    wrapped = TrainingMode(model, dropout=True)
    assert not torch.equal(wrapped(x), wrapped(x)) and torch.equal(model(x), model(x))
    torch.testing.assert_close(TrainingMode(network(0.0), dropout=True)(x), network()(x))


def test_an_attack_takes_these_gradients_although_its_door_puts_networks_in_evaluation_mode():
    model, (x, y) = network(), images()
    budget = Budget.linf(0.05)
    right, wrong = (fgsm(m, x, y, budget=budget) for m in (model, TrainingMode(model, batch=8)))
    inside = x.clone().requires_grad_()
    nn.functional.cross_entropy(network().train()(inside), y, reduction="sum").backward()
    assert torch.equal(wrong, (x + 0.05 * inside.grad.sign()).clamp(0, 1)) and not torch.equal(right, wrong)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_error_within_leaves_every_module_at_rest(batch):
    model = network()
    with pytest.raises(RuntimeError):
        TrainingMode(model, batch=batch)(torch.zeros(4, 2, 6, 6))
    assert not any(module.training for module in model.modules())

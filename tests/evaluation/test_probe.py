"""Probing: each property is found where it is, and nowhere else."""

from labkit.core.errors import InputError
from labkit.evaluation.probe import probe
from labkit.models import foreign
from labkit.models.foreign import Cleaner, Network

import pytest
import torch
from somebodys import Linear, images
from torch import nn


def found(call, **how):
    return probe(Cleaner(foreign.function(call)).eval(), images()[0], **how)


def failed(findings):
    return [row["check"].removeprefix("the defense ") for row in findings.rows if row["verdict"] == "failed"]


class Straight(torch.autograd.Function):
    """Rounding to eight bits with the gradient of the identity."""

    @staticmethod
    def forward(ctx, x):
        return (x * 255).round() / 255

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_an_honest_map_has_all_that_it_needs():
    for call in (lambda x: x, lambda x: x.square(), nn.AvgPool2d(3, 1, 1), nn.Conv2d(1, 1, 3, padding=1).half()):
        seen = found(call)
        assert seen.differentiable and not seen.stochastic
        assert set(failed(seen)) <= {"answers images in [0, 1]"}, seen.rows


def test_gradients_that_are_none_zero_or_lies():
    for call in (lambda x: x.detach(), lambda x: torch.from_numpy(x.numpy() / 2)):
        seen = found(call)
        assert not seen.gives and not seen.differentiable and failed(seen) == ["has a gradient"]
    seen = found(lambda x: (x * 255).round() / 255)
    assert seen.gives and not seen.differentiable and failed(seen) == ["has a gradient"]
    for call in (Straight.apply, lambda x: 2 * x.detach() - x, lambda x: x.float().detach() / 2 + x / 4):
        seen = found(call)
        assert seen.differentiable and "has the gradient that it says" in failed(seen)


def test_draws_state_and_neighbours():
    seen = found(lambda x: (x + 0.1 * torch.rand_like(x)) / 2)
    assert seen.stochastic and failed(seen) == []
    calls = []
    seen = found(lambda x: calls.append(0) or x / len(calls))
    assert seen.stochastic and failed(seen)[0] == "keeps no state between calls"
    assert failed(found(lambda x: x / (1 + x.mean()))) == ["looks at one image at a time"]


def test_the_caller_knows_better():
    assert not found(lambda x: x, differentiable=False).differentiable
    assert found(lambda x: x, stochastic=True).stochastic
    assert not found(lambda x: x + 0.1 * torch.rand_like(x), stochastic=False).stochastic
    with pytest.raises(InputError, match="no gradient"):
        found(lambda x: x.detach(), differentiable=True)


def test_a_network_is_asked_the_same():
    class Dropping(Linear):
        def forward(self, x):
            return super().forward(nn.functional.dropout(x, training=True))

    x = images()[0]
    assert all(row["verdict"] == "passed" for row in probe(Network(foreign.network(Linear())), x).rows)
    rows = probe(Network(foreign.network(Dropping())), x).rows
    assert [row["check"] for row in rows if row["verdict"] == "failed"] == ["the network does not draw at random"]

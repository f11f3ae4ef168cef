"""An attack that needs decisions alone: neither gradients nor the scores of classes."""

from labkit.attacks.budget import Budget
from labkit.attacks.common import Model, column, fooled, free, logits_at, norm, normal, unit
from labkit.attacks.minimum_norm import COST, keep, least, shortened, smallest

import torch
from torch import Tensor

_STARTS = 10  # places where a wrong decision is looked for
_FIRST, _FEWEST = 100, 10  # random directions of the first step, as published, and of the last
_LENGTHS = 6  # of a step, each twice the last


def hopskipjump(
    model: Model, x: Tensor, y: Tensor, *, budget: Budget | None = None, queries: int = 1000, seed: int = 0
) -> Tensor:
    """HopSkipJump (Chen, Jordan & Wainwright, 2020) in L2: along the boundary of a decision, by decisions alone.

    From a wrong image it goes back towards x as far as the boundary. There, the mean of random directions, each with
    the sign of the decision a little further that way, is about the boundary's normal: the next step goes along it.

    queries  at most, for each image; one for which no wrong decision is found comes back unchanged
    seed     of what is random, drawn for each image from the seed and its pixels: batches do not matter
    """
    return smallest(model, x, y, budget, _search, (queries - COST, seed)) if queries >= COST else x


def _search(model: Model, x: Tensor, y: Tensor, queries: int, seed: int) -> tuple[Tensor, Tensor]:
    best, shortest = x.clone(), x.new_full((len(x),), torch.inf)
    halvings = 3 * x[0].numel().bit_length() // 2  # the boundary is met to 1 / pixels^1.5 of the way to x
    queries -= _STARTS + halvings + 1
    for draw in range(_STARTS if queries >= 0 else 0):  # the negative, and uniform noise
        at = torch.special.ndtr(normal(x, f"{seed}:start:{draw}")) if draw else 1 - x
        length = norm(at - x)
        best, shortest = keep(fooled(logits_at(model, at), y) & (length < shortest), at, length, best, shortest)
    rows = torch.nonzero(shortest.isfinite())[:, 0]
    at, x, y, step = best[rows], x[rows], y[rows], 0
    while len(rows):
        at, step = shortened(model, at, x, y, halvings=halvings, beyond=0.0), step + 1
        length = norm(at - x)
        best[rows], shortest[rows] = keep(length < shortest[rows], at, length, best[rows], shortest[rows])
        count = min(int(_FIRST * step**0.5), queries - _LENGTHS - halvings - 1)
        if count < _FEWEST:
            break
        queries -= count + _LENGTHS + halvings + 1
        direction = unit(free(_normal(model, at, x, y, count, f"{seed}:{step}"), at))
        begin, length = at, length / step**0.5
        for shorter in reversed(range(_LENGTHS)):  # the longest at which the decision is wrong
            tried = (begin + column(length / 2**shorter) * direction).clamp(0, 1)
            at = torch.where(column(fooled(logits_at(model, tried), y)), tried, at)
    return best, shortest


def _normal(model: Model, at: Tensor, x: Tensor, y: Tensor, count: int, seed: str) -> Tensor:
    """About the direction (B, C, H, W) in which decisions become wrong at `at`, from so many of them."""
    reach = column((norm(at - x) / x[0].numel()).clamp_min(10 * least(x)))
    signed, plain, mean = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x[:, :1, :1, :1])
    for draw in range(count):
        change = (at + reach * unit(normal(x, f"{seed}:{draw}"))).clamp(0, 1) - at
        sign = column(2.0 * fooled(logits_at(model, at + change), y) - 1)
        signed, plain, mean = signed + sign * change, plain + change, mean + sign / count
    # Less the mean sign, which leaves less to chance (the publication's equation 16), unless all signs are the same.
    return torch.where(mean.abs() > 1 - 0.5 / count, signed, signed - mean * plain)

"""The standard attacker of whoever knows a defense: ever longer climbs on what is still right."""

from labkit.attacks.budget import Budget
from labkit.attacks.common import LOSSES, Model, ascent, column, free, in_ball, logits_at, margin, unit

import torch
from torch import Tensor

_MOMENTUM = 0.75  # of the last direction, as in AutoPGD
_FRESH = 16  # draws of a random model on which what was found is judged
# Loss, where it starts, and how many times `steps` it takes.
_RUNGS = (("margin", "image", 1), ("log-odds", "random", 1), ("margin", "best", 10))


def ladder(model: Model, x: Tensor, y: Tensor, *, budget: Budget, steps: int = 100, seed: int = 0) -> Tensor:
    """Projected gradient descent with momentum, in three climbs, each on the images that are still right.

    The first climbs the margin from the image itself, the second the log-odds from a random point of the ball, the
    third, ten times as long, the margin from the best that was found. Each image's result is what has the largest
    margin; x itself where nothing is better. Whether the model draws at random is found by asking it twice: then no
    single draw decides, neither what is kept nor when an image is done, but many fresh ones.

    x (B, C, H, W) in [0, 1], y (B,) true classes
    steps  of the first two climbs
    seed   of the random starts, which are drawn for each image from the seed and its pixels: batches do not matter
    """
    few = x[:8]
    draws = 1 if not len(x) or torch.equal(logits_at(model, few), logits_at(model, few)) else _FRESH
    best, score = x.clone(), _judged(model, x, y, draws)
    for loss, start, often in _RUNGS:
        left = torch.nonzero((score <= 0) & (budget.radius(x) > 0))[:, 0]
        if not len(left):
            break
        here, label = x[left], y[left]
        at = {"image": here, "best": best[left]}.get(start)
        if at is None:
            at = budget.project(here + column(budget.radius(here)) * in_ball(here, f"{seed}:ladder", budget.norm), here)
        found = _climb(model, here, label, at, budget, loss, often * steps, single=draws == 1)
        reached = _judged(model, found, label, draws)
        better = reached > score[left]
        best[left[better]], score[left[better]] = found[better], reached[better]
    return best


def _climb(model, x, y, at, budget, loss, steps, *, single: bool) -> Tensor:
    """One climb from `at`; of a model that gives a `single` answer the best iterate, and no step once it is wrong."""
    result, score, left = at.clone(), torch.full_like(x[:, 0, 0, 0], -torch.inf), torch.arange(len(x), device=x.device)
    pushed = torch.zeros_like(x)
    for taken in range(steps):
        logits, gradient = ascent(model, at, y[left], LOSSES[loss])
        if single:
            found = margin(logits, y[left])
            better = found > score[left]
            result[left[better]], score[left[better]] = at[better], found[better]
            if (found > 0).all():
                return result
            stay = found <= 0
            left, at, gradient, pushed = left[stay], at[stay], gradient[stay], pushed[stay]
        direction = gradient.sign() if budget.norm == "linf" else unit(free(gradient, at))
        pushed = _MOMENTUM * pushed + (1 - _MOMENTUM) * direction
        length = min(10 / steps, 1) * (1 - taken / steps) * column(budget.radius(x[left]))
        along = pushed.sign() if budget.norm == "linf" else unit(pushed)
        at = budget.project(at + length * along, x[left])
    if single:
        found = margin(logits_at(model, at), y[left])
        kept = found <= score[left]
        at[kept] = result[left[kept]]
    result[left] = at
    return result


def _judged(model: Model, x: Tensor, y: Tensor, draws: int) -> Tensor:
    """The margin; of a random model that of its probabilities, which nearly all sets of fresh draws exceed: (B,)."""
    if draws == 1:
        return margin(logits_at(model, x), y)
    seen = torch.stack([margin(logits_at(model, x).softmax(1), y) for _ in range(draws)])
    return seen.mean(0) - 2 * seen.std(0) / draws**0.5

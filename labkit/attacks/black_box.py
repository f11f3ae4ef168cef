"""Attacks that ask for logits alone, or for nothing: random noise, and Square through pyautoattack."""

import torch
from torch import Tensor

from labkit.attacks.budget import Budget
from labkit.attacks.common import Model, check, column, margin, normal
from labkit.core import InputError


def noise(model: Model, x: Tensor, y: Tensor, *, budget: Budget, draws: int = 1, seed: int = 0) -> Tensor:
    """Gaussian noise (for L∞ signs, each pixel up or down) of exactly the budget's length after clipping to [0, 1].

    What a perturbation of that size does when nobody aimed it.

    draws  with more than one, the draw under which the model errs most: a random search, which gradients should beat
    seed   of the draws, which are made for each image from the seed and its pixels: batches do not matter
    """
    check("noise", x, y, budget)
    best, worst = x, torch.full_like(x[:, 0, 0, 0], -torch.inf)
    for draw in range(max(draws, 1)):
        direction = normal(x, f"{seed}:noise:{draw}")
        at = budget.reach(direction.sign() if budget.norm == "linf" else direction, x)
        if draws <= 1:
            return at
        with torch.no_grad():
            found = margin(model(at), y)
        best = torch.where(column(found > worst), at, best)
        worst = torch.maximum(found, worst)
    return best


def square(model: Model, x: Tensor, y: Tensor, *, budget: Budget, queries: int = 1000, seed: int = 0) -> Tensor:
    """Square attack (Andriushchenko et al., 2020): a random search that needs no gradient, only logits.

    queries  at most, for each image; an image is left as soon as it is fooled, and comes back unchanged if it never is
    seed     of the squares, which are the same for all images: batches do not matter
    """
    check("square", x, y, budget)
    run = begin("square", model, x, y, budget, seed)
    run.square(queries, rescale=True)
    return run.x_adv


def begin(name: str, model: Model, x: Tensor, y: Tensor, budget: Budget, seed: int):
    """An `autoattack_runs.Run` of pyautoattack; InputError when that is not installed."""
    try:
        from labkit.attacks.pyautoattack_runs import Run
    except ImportError as error:
        raise InputError(
            f"{name} runs through pyautoattack, which cannot be imported ({error}): pip install pyautoattack"
        ) from None
    return Run(model, x, y, budget, seed)

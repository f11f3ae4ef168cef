"""Attacks through pyautoattack (Square, AutoAttack), and the random noise that each has to beat."""

from labkit.attacks.budget import Budget
from labkit.attacks.common import Model, ascent, column, logits_at, margin, normal
from labkit.core import InputError
from labkit.core.wording import reason

import torch
from torch import Tensor


def noise(model: Model, x: Tensor, y: Tensor, *, budget: Budget, draws: int = 1, seed: int = 0) -> Tensor:
    """Gaussian noise (for L∞ signs, each pixel up or down) of exactly the budget's length after clipping to [0, 1].

    draws  with more than one, the draw under which the model errs most: a random search, which gradients should beat
    seed   of the draws, which are made for each image from the seed and its pixels: batches do not matter
    """
    best, worst = x, torch.full_like(x[:, 0, 0, 0], -torch.inf)
    for draw in range(max(draws, 1)):
        direction = normal(x, f"{seed}:noise:{draw}")
        at = budget.reach(direction.sign() if budget.norm == "linf" else direction, x)
        if draws <= 1:
            return at
        found = margin(logits_at(model, at), y)
        best = torch.where(column(found > worst), at, best)
        worst = torch.maximum(found, worst)
    return best


def square(model: Model, x: Tensor, y: Tensor, *, budget: Budget, queries: int = 1000, seed: int = 0) -> Tensor:
    """Square attack (Andriushchenko et al., 2020): a random search that needs no gradient, only logits.

    queries  at most, for each image; an image is left as soon as it is fooled, and comes back unchanged if it never is
    seed     of the squares, which are the same for all images: batches do not matter
    """
    run = _begin("square", model, x, y, budget, seed)
    run.square(queries, rescale=True)
    return run.x_adv


def autoattack(
    model: Model, x: Tensor, y: Tensor, *, budget: Budget, version: str = "standard", steps: int = 100,
    queries: int = 5000, seed: int = 0,
) -> Tensor:  # fmt: skip
    """AutoAttack (Croce & Hein, 2020), part after part, each on what `model` still gets right.

    version  "standard": AutoPGD on the cross-entropy; AutoPGD on the difference of logits ratio (DLR) and FAB, towards
             each of the nine likeliest other classes (DLR only where there are four classes or more); Square
             "rand", for a random model: AutoPGD on the cross-entropy and on the DLR, each gradient the mean of 20
    steps, queries  of each part; as published by default

    An image that none of them fools comes back unchanged.
    """
    if version not in ("standard", "rand"):
        raise InputError(f"unknown version {version!r} of AutoAttack; choose from standard, rand")
    run = _begin("autoattack", model, x, y, budget, seed)
    ascent(model, x[:1], y[:1], margin)  # tells, before the library does, when there is no gradient
    if version == "rand":
        for loss in ("ce", "dlr") if run.classes > 2 else ("ce",):
            run.apgd(loss, steps=steps, averaged=20)
        return run.x_adv
    ranks = range(2, min(run.classes, 10) + 1)
    run.apgd("ce", steps=steps)
    for rank in ranks if run.classes > 3 else ():
        run.apgd("dlr-targeted", steps=steps, rank=rank)
    for rank in ranks:
        run.fab(steps=steps, rank=rank)
    run.square(queries, rescale=False)
    return run.x_adv


def _begin(name: str, model: Model, x: Tensor, y: Tensor, budget: Budget, seed: int):
    """A `pyautoattack_runs.Run`; InputError when that is not installed."""
    try:
        from labkit.attacks.pyautoattack_runs import Run
    except ImportError as error:
        raise InputError(f"{name} needs pyautoattack ({reason(error)}); run `pip install pyautoattack`") from None
    return Run(model, x, y, budget, seed)

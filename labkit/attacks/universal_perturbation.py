"""Universal perturbation: one pattern, fitted on training images, that is added to every image."""

from labkit.attacks.budget import Budget
from labkit.attacks.common import Model, ascent, column, log_odds, norm, unit
from labkit.attacks.door import borrowed
from labkit.core import InputError
from labkit.datasets import Images, check_pixels

import torch
from torch import Tensor, nn

# An image that is wrong by this much no longer pulls at the pattern: log-odds of 1 are 73 % for other classes.
_ENOUGH = 1.0
_STEP = 0.2  # of the first epoch, as a share of the pattern's length; falls to zero along a line


def universal(model: Model, x: Tensor, y: Tensor, *, budget: Budget, pattern: Tensor | None = None) -> Tensor:
    """Universal perturbation (Moosavi-Dezfooli et al., 2017): the same pattern on every image, at the radius of each.

    pattern  (C, H, W), from `fit_universal` on training images; `model` and `y` are not looked at again
    """
    if pattern is None:
        raise InputError("universal needs a pattern of training images: pattern=fit_universal(model, images, budget=…)")
    if pattern.shape != x.shape[1:]:
        raise InputError(f"the pattern is {[*pattern.shape]}, an image {[*x.shape[1:]]}; fit one for these images")
    return _apply(pattern.to(x), x, budget)


def fit_universal(model: Model, images: Images, *, budget: Budget, epochs: int = 5, batch: int = 100) -> Tensor:
    """The pattern (C, H, W), of length one in the budget's norm, under which the model errs most on `images`.

    Stochastic gradient ascent on the log-odds of the other classes, cut off where an image is wrong already (Shafahi et
    al., 2020); the original takes a DeepFool step for each image in turn, which needs many times the passes.

    budget  as it will be used: the pattern is scaled to the radius of each image
    """
    check_pixels(images.x[:1])
    tensor = next(model.parameters(), None) if isinstance(model, nn.Module) else None
    device, how = images.y.device if tensor is None else tensor.device, {"epochs": epochs, "batch": batch}
    with borrowed("fit_universal", model, images.y, len(images), budget=budget, **how) as (model, labels):
        generator = torch.Generator().manual_seed(0)
        pattern = torch.zeros(1, *images.x.shape[1:], device=device)
        parts = (len(images) + batch - 1) // batch
        for epoch in range(epochs):
            for part, at in enumerate(torch.randperm(len(images), generator=generator).tensor_split(parts)):
                x, y = images.x[at].to(device), labels[at].to(device)
                x_adv = _apply(pattern[0], x, budget)
                _, gradient = ascent(model, x_adv, y, lambda logits, y: log_odds(logits, y).clamp_max(_ENOUGH))
                # Chain rule: the pattern enters image i multiplied by its radius.
                pull = (column(budget.radius(x)) * gradient).sum(0, keepdim=True)
                pull = unit(pull) if budget.norm == "l2" else pull.sign()
                pattern = pattern + _STEP * (1 - (epoch * parts + part) / (epochs * parts)) * pull
                pattern = pattern.clamp(-1, 1) if budget.norm == "linf" else pattern / norm(pattern).clamp_min(1)
        return pattern[0] / budget.length(pattern, torch.zeros_like(pattern)).clamp_min(1e-30)


def _apply(pattern: Tensor, x: Tensor, budget: Budget) -> Tensor:
    return budget.project(x + column(budget.radius(x)) * pattern, x)

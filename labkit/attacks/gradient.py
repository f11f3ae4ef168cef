"""Attacks that follow the sign of the loss gradient, once or many times."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit.budget import Budget


def fgsm(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor, *, budget: Budget) -> Tensor:
    """Fast gradient sign method (Goodfellow et al., 2015): one step along the sign of the loss gradient.

    x (B, C, H, W) in [0, 1], y (B,) true classes. Under an L2 budget the sign pattern is scaled to the radius of each
    image, as the paper does to reach a given dissimilarity. The paper does not say whether ε holds before or after
    clipping; here pixels are clipped after the step, so what is reached can be less, and tables print it.
    """
    return budget.project(x + _stride(_ascent(model, x, y), budget.norm) * _column(budget.radius(x)), x)


def bim(
    model: Callable[[Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    *,
    budget: Budget,
    steps: int = 10,
    step: float | None = None,
) -> Tensor:
    """Basic iterative method (Kurakin et al., 2017): FGSM in small steps, brought back into the budget after each.

    step  length of one step as a share of the radius; by default 2.5 / steps, so that the far side can be reached
    """
    length = _column(budget.radius(x)) * (2.5 / max(steps, 1) if step is None else step)
    x_adv = x
    for _ in range(steps):
        x_adv = budget.project(x_adv + length * _stride(_ascent(model, x_adv, y), budget.norm), x)
    return x_adv


def _ascent(model, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of each image's cross-entropy with respect to its pixels; zero where it is not finite."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        # Summed, not averaged: an image's gradient must not depend on what else is in the batch.
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)
    return torch.nan_to_num(gradient, nan=0.0, posinf=0.0, neginf=0.0)


def _stride(gradient: Tensor, norm: str) -> Tensor:
    """The sign pattern of a gradient, of length one in `norm`; zero stays zero."""
    sign = gradient.sign()
    return sign if norm == "linf" else sign / _column(sign.flatten(1).norm(dim=1).clamp_min(1))


def _column(a: Tensor) -> Tensor:
    return a[:, None, None, None]

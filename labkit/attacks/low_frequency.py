"""An attack on the low-pass path: T outputs the low frequencies of an image as they are, so it changes only those."""

import math

from labkit.attacks.budget import Budget
from labkit.attacks.common import Model, column, log_odds, normal, unit
from labkit.attacks.gradient_based import search
from labkit.core import InputError

import torch
from torch import Tensor


def lowfreq(
    model: Model, x: Tensor, y: Tensor, *, budget: Budget, weight: float = 5.0, kept: float = 0.5, steps: int = 40,
    restarts: int = 1, step: float | None = None, stop: bool = False, seed: int = 0,
) -> Tensor:  # fmt: skip
    """`pgd` among the perturbations that the low-pass filter of `labkit.csc.tikhonov` leaves nearly as they are.

    Steps, starts and projections stay in the span of the cosine waves that `split` with this `weight` passes at the
    share `kept` or more, so that low(x_adv) − low(x) is at least `kept` times as long as x_adv − x. Only where pixels
    are clipped to [0, 1] do other frequencies come in. A bound in L∞ is met by scaling the perturbation: clamping
    each pixel would take it out of the span.

    step, restarts, stop, seed  as in `pgd`
    """

    def climb(_, gradient: Tensor) -> Tensor:
        change = unit(passed(gradient, weight, kept))
        # Of L∞ length one, as the radius it is multiplied with is in that norm.
        return change if budget.norm == "l2" else change / column(change.flatten(1).abs().amax(1).clamp_min(1e-12))

    def start(x: Tensor, restart: int) -> Tensor:
        return shrink(x + column(budget.radius(x)) * climb(x, normal(x, f"{seed}:{restart}")), x)

    def shrink(x_adv: Tensor, x: Tensor) -> Tensor:
        length = budget.length(x_adv, x).clamp_min(1e-30)
        return (x + column((budget.radius(x) / length).clamp_max(1)) * (x_adv - x)).clamp(0, 1)

    return search(
        model, x, y, climb, start, shrink, loss=log_odds, radius=budget.radius(x),
        steps=steps, restarts=restarts, step=step, stop=stop,
    )  # fmt: skip


def passed(x: Tensor, weight: float = 5.0, kept: float = 0.5) -> Tensor:
    """Orthogonal projection of images (B, C, H, W) onto the cosine waves that `split` passes at the share `kept`.

    On an image continued by its mirror, the filter is diagonal in the discrete cosine transform (DCT-II), with gain
    1 / (1 + weight · (4 − 2 cos πi/H − 2 cos πj/W)) for wave (i, j); exactly so when the padding is half the image.
    """
    if not 0 < kept <= 1 or not 0 <= weight < math.inf:
        raise InputError(f"lowfreq got kept={kept:g} and weight={weight:g}; choose 0 < kept <= 1 and a finite weight")
    (rows, fy), (columns, fx) = map(_waves, x.shape[-2:])
    mask = 1 / (1 + weight * (fy[:, None] + fx)) >= kept
    rows, columns = rows.to(x), columns.to(x)
    return rows.T @ ((rows @ x @ columns.T) * mask.to(x.device)) @ columns


def _waves(n: int) -> tuple[Tensor, Tensor]:
    """The orthonormal DCT-II of size n, (n, n), a wave in each row, and the squared frequency of each, (n,)."""
    angle = torch.pi * torch.arange(n, dtype=torch.float64) / n
    waves = torch.cos(angle[:, None] * (torch.arange(n, dtype=torch.float64) + 0.5)) * (2 / n) ** 0.5
    waves[0] /= 2**0.5
    return waves, 2 - 2 * torch.cos(angle)

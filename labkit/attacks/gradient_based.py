"""Attacks that climb the loss within a budget, in one step or in many."""

import math
from collections.abc import Callable

from labkit.attacks import common
from labkit.attacks.budget import Budget
from labkit.attacks.common import (
    LOSSES,
    Model,
    ascent,
    column,
    differentiate,
    fooled,
    free,
    in_ball,
    logits_at,
    margin,
    seeded,
    unit,
)
from labkit.core import InputError

import torch
from torch import Tensor
from torch.nn import functional


def fgsm(model: Model, x: Tensor, y: Tensor, *, budget: Budget) -> Tensor:
    """Fast gradient sign method (Goodfellow et al., 2015): one step along the sign of the loss gradient.

    x (B, C, H, W) in [0, 1], y (B,) true classes. Under an L2 budget the sign pattern is scaled to the radius of each
    image, as in the paper. Pixels are clipped after the step (open in the paper), so what is reached can be less.
    """
    return bim(model, x, y, budget=budget, steps=1, step=1.0)


def bim(model: Model, x: Tensor, y: Tensor, *, budget: Budget, steps: int = 10, step: float | None = None) -> Tensor:
    """Basic iterative method (Kurakin et al., 2017): FGSM in small steps, brought back into the budget after each.

    step  length of one step as a share of the radius; by default 2.5 / steps, so that the far side can be reached
    """
    length = column(budget.radius(x)) * (2.5 / max(steps, 1) if step is None else step)
    x_adv = x
    for _ in range(steps):
        _, gradient = ascent(model, x_adv, y, LOSSES["cross-entropy"])
        direction = gradient.sign() if budget.norm == "linf" else unit(gradient.sign())
        x_adv = budget.project(x_adv + length * direction, x)
    return x_adv


def pgd(
    model: Model, x: Tensor, y: Tensor, *, budget: Budget, steps: int = 40, restarts: int = 1,
    step: float | None = None, loss: str = "log-odds", stop: bool = False, seed: int = 0,
    begin: Tensor | None = None, momentum: float = 0.0, last: bool = False,
) -> Tensor:  # fmt: skip
    """Projected gradient descent (Madry et al., 2018) from random points of the ball, in L2 or L∞.

    Each image's result is the iterate, of all restarts, whose margin (`common.margin`) is largest, which matters when
    something else is judged than what was attacked; x itself where nothing is better.

    step  length of the first step as a share of the radius; the others fall to zero along a line. By default
          10 / steps, at most 1, so that they add up to five times the radius. They go along the gradient in L2,
          without the pixels that clipping would hold, and along its sign in L∞
    loss  "log-odds" (the direction of the cross-entropy, without its rounding), "cross-entropy", or "margin"
    stop  leave an image as soon as it is fooled: as good, and faster, where `model` is itself what is judged
    seed  of the starts, which are drawn for each image from the seed and its pixels: batches do not matter
    begin, momentum, last  where to start instead (B, C, H, W), and as for `search`
    """
    if loss not in LOSSES:
        raise InputError(f"unknown loss {loss!r}; choose from {', '.join(LOSSES)}")

    def climb(at: Tensor, gradient: Tensor) -> Tensor:
        return gradient.sign() if budget.norm == "linf" else unit(free(gradient, at))

    def start(x: Tensor, restart: int) -> Tensor:
        return budget.project(x + column(budget.radius(x)) * in_ball(x, f"{seed}:{restart}", budget.norm), x)

    return search(
        model, x, y, climb, start, budget.project, loss=LOSSES[loss], radius=budget.radius(x),
        steps=steps, restarts=restarts, step=step, stop=stop, begin=begin, momentum=momentum, last=last,
    )  # fmt: skip


def climb(model: Model, x: Tensor, y: Tensor, *, budget: Budget, steps: int, seed: int, kept: bool = False) -> Tensor:
    """The last iterate of a few steps up the cross-entropy from a random point of the ball (Madry et al., 2018).

    One step is 1.25 radii long, so that its end is not always a corner (Wong, Rice & Kolter, "Fast is better than
    free", ICLR 2020); several are 2.5 radii together. `kept`: up the divergence from the clean answers, as TRADES does.
    """
    radius, sign = column(budget.radius(x)), budget.norm == "linf"
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(seed)).to(x)
    start = torch.erf(noise / 2**0.5) if sign else unit(noise)
    at, length = budget.project(x + radius * start, x), radius * (1.25 if steps == 1 else 2.5 / max(steps, 1))
    with torch.no_grad():
        clean = model(x).softmax(1) if kept else y
    for _ in range(steps):
        with torch.enable_grad():
            at = at.detach().requires_grad_(True)
            # A target of probabilities gives the divergence up to a constant.
            gradient = differentiate(functional.cross_entropy(model(at), clean, reduction="sum"), at)
        at = at.detach()
        at = budget.project(at + length * (gradient.sign() if sign else unit(free(gradient, at))), x)
    return at


def mi_di(model: Model, x: Tensor, y: Tensor, *, budget: Budget, steps: int = 20, seed: int = 0) -> Tensor:
    """PGD to fool other networks, by momentum (Dong et al., CVPR 2018) and diverse inputs (Xie et al., CVPR 2019).

    From x to the last iterate. At each step half of the images are shown to the model shrunk, to 0.9 of their sides or
    more, at a random place of a black ground: drawn for each image from the seed and its pixels, whatever the batch.
    """
    asked = budget.radius(x) > 0  # `pgd` leaves out the others, and draws must be those of the images it asks about
    drawn, x_adv = seeded(x[asked], seed), x.clone()

    def diverse(at: Tensor) -> Tensor:
        chance, size, *places = torch.stack([torch.rand(4, generator=g) for g in drawn]).to(at).unbind(1)
        side = torch.where(chance < 0.5, 1 - size / 10, 1)
        # A pixel shows the point (pixel − middle) / side of the image; both run from −1 to 1.
        shift = torch.stack([(1 - side) * (1 - 2 * place) / side for place in places], 1)
        where = torch.cat([torch.eye(2).to(at) / column(side)[:, 0], shift[:, :, None]], 2)
        grid = functional.affine_grid(where, at.shape, align_corners=False)
        return model(functional.grid_sample(at, grid, align_corners=False))

    if asked.any():
        here, label = x[asked], y[asked]
        x_adv[asked] = pgd(diverse, here, label, budget=budget, steps=steps, begin=here, momentum=0.75, last=True)
    return x_adv


def search(
    model: Model, x: Tensor, y: Tensor, climb: Callable[[Tensor, Tensor], Tensor],
    start: Callable[[Tensor, int], Tensor], project: Callable[[Tensor, Tensor], Tensor], *,
    loss: Callable[[Tensor, Tensor], Tensor], radius: Tensor, steps: int, restarts: int, step: float | None, stop: bool,
    begin: Tensor | None = None, momentum: float = 0.0, last: bool = False,
) -> Tensor:  # fmt: skip
    """The frame of `pgd`: from each `start`, steps along `climb`, each followed by `project`; the best iterate.

    begin     images (B, C, H, W) to start from, in place of `start`
    momentum  share of the last direction in the next one
    last      take the last iterate in place of the best, which a model that draws at random finds by chance
    """
    step = min(10 / max(steps, 1), 1) if step is None else step
    logits = logits_at(model, x)
    best, score = x.clone(), margin(logits, y)
    done = (radius <= 0) | (fooled(logits, y) if stop else False)
    for restart in range(restarts):
        left = torch.nonzero(~(done | (score > 0)) if stop else ~done)[:, 0]
        if not len(left):
            break
        at, pushed = start(x[left], restart) if begin is None else begin[left], torch.zeros_like(x)
        for taken in range(steps + 1):
            if taken < steps:
                logits, gradient = ascent(model, at, y[left], loss)
            else:  # where the last step has led
                logits = logits_at(model, at)
            found = margin(logits, y[left])
            better = found > score[left]
            best[left[better]], score[left[better]] = at[better], found[better]
            if taken == steps or (stop and (found > 0).all()):
                break
            if stop:
                left, at, gradient = (a[~(found > 0)] for a in (left, at, gradient))
            direction = climb(at, gradient)
            if momentum:
                pushed[left] = momentum * pushed[left] + (1 - momentum) * direction
                direction = climb(at, pushed[left])
            length = step * (1 - taken / steps) * column(radius[left])
            at = project(at + length * direction, x[left])
        if last:
            best[left], score[left] = at, found
    return best


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
        return shrink(x + column(budget.radius(x)) * climb(x, common.normal(x, f"{seed}:{restart}")), x)

    def shrink(x_adv: Tensor, x: Tensor) -> Tensor:
        length = budget.length(x_adv, x).clamp_min(1e-30)
        return (x + column((budget.radius(x) / length).clamp_max(1)) * (x_adv - x)).clamp(0, 1)

    return search(
        model, x, y, climb, start, shrink, loss=LOSSES["log-odds"], radius=budget.radius(x),
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

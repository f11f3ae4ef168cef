"""Attacks that look for the smallest change, in L2, that makes a decision wrong.

Each image gets the smallest change found; x itself where there was none, or the decision was wrong to begin with. With
a budget, a longer change is shortened to the radius, as the paper "constrains the perturbation scale" (Section 5.1).
That point is not across the boundary: the paper's undefended network keeps 5 % to 18 % under DeepFool and CW at 0.03.
"""

import math

from labkit.attacks import common
from labkit.attacks.budget import Budget
from labkit.attacks.common import LOSSES, Model, ascent, column, fooled, free, logits_at, margin, norm, normal, unit

import torch
from torch import Tensor

_CANDIDATES, _OVERSHOOT = 10, 0.02  # of DeepFool: likeliest classes, the true one too; share beyond the boundary
_STEP = 0.3  # of CW by Adam: at first up to this share of the distance to the linearised boundary, falling to zero
_RATE = 0.01  # of Adam, in pixels, where there is no gradient to tell the distance
_HALVINGS, _BEYOND, _COST = 8, 2e-3, 10  # the last in decisions: what `_smallest` asks for besides its search
_STARTS = 10  # places where HopSkipJump looks for a wrong decision
_FIRST, _FEWEST = 100, 10  # random directions of its first step, as published, and of the last
_LENGTHS = 6  # of a step, each twice the last


def deepfool(model: Model, x: Tensor, y: Tensor, *, budget: Budget | None = None, steps: int = 50) -> Tensor:
    """DeepFool (Moosavi-Dezfooli et al., 2016): onto the nearest boundary of the linearised network, again and again.

    Pixels are clipped to [0, 1] after each step. An image is left as soon as it is fooled.
    """
    found = x.clone()
    left, at, total = torch.arange(len(x), device=x.device), x, torch.zeros_like(x)
    for taken in range(steps + 1):
        at = at.detach().requires_grad_(taken < steps)
        logits = model(at)
        wrong = fooled(logits.detach(), y[left])
        found[left[wrong]] = at.detach()[wrong]
        if taken == steps or wrong.all():
            break
        toward = _nearest(logits, at, y[left])
        at = at.detach()
        # Where the linearised network has no boundary, the next step would be the same; such an image is given up.
        keep = ~wrong & (toward.flatten(1) != 0).any(1)
        left, at, toward, total = left[keep], at[keep], toward[keep], total[keep] + toward[keep]
        if not len(left):
            break
        # A little more than the distance, as in the authors' code, lest steps towards a boundary that clipping holds
        # off grow ever shorter; but a small part of a very small change.
        total = total + column((0.02 * norm(total)).clamp_max(1e-4)) * unit(toward)
        at = (x[left] + (1 + _OVERSHOOT) * total).clamp(0, 1)
    return found if budget is None else budget.project(found, x)


def _nearest(logits: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """The shortest change (B, C, H, W) that makes two classes' linearised logits equal, one of them y."""
    own = logits.gather(1, y[:, None])
    count = min(_CANDIDATES, logits.shape[1]) - 1
    rivals = logits.detach().scatter(1, y[:, None], -torch.inf).topk(count, dim=1).indices
    change, shortest = torch.zeros_like(x), torch.full_like(own[:, 0], torch.inf).detach()
    for k in range(count):
        difference = (logits.gather(1, rivals[:, k : k + 1]) - own)[:, 0]
        gradient = common.differentiate(difference.sum(), x, again=k < count - 1)
        size = norm(gradient)
        distance = (difference.detach().abs() / size).clamp_min(_least(x))
        nearer = distance < shortest  # false where the gradient is zero: the distance is infinite or not a number
        shortest = torch.where(nearer, distance, shortest)
        change = torch.where(column(nearer), column(distance / size) * gradient, change)
    return change


def _least(x: Tensor) -> float:
    """The shortest step that floats can take from any image: at a tie, one onto the boundary would lead nowhere."""
    return torch.finfo(x.dtype).eps * x[0].numel() ** 0.5


def ddn(model: Model, x: Tensor, y: Tensor, *, budget: Budget | None = None, steps: int = 100) -> Tensor:
    """Decoupled direction and norm (Rony et al., 2019): up the gradient, on a sphere that shrinks while fooled.

    As in the fast minimum-norm attack (Pintor et al., 2021), the sphere starts at the linearised network's boundary and
    its changes fade from 5 % to 0.1 %. Steps fade from length one to 0.01; the first half climbs the log-odds, the rest
    the margin. At the end the smallest change is shortened, by bisection, to just beyond the boundary.
    """
    return _smallest(model, x, y, budget, _ddn, (steps,))


def _ddn(model: Model, x: Tensor, y: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    best, shortest = x.clone(), x.new_full((len(x),), torch.inf)
    farthest = norm(torch.maximum(x, 1 - x))
    at, radius = x, torch.zeros_like(farthest)
    for taken in range(steps):
        fade = (1 + math.cos(math.pi * taken / steps)) / 2
        step, gamma = 0.01 + 0.99 * fade, 0.001 + 0.049 * fade
        logits, gradient = ascent(model, at, y, LOSSES["log-odds" if 2 * taken < steps else "margin"])
        gradient = free(gradient, at)
        wrong, length = fooled(logits, y), norm(at - x)
        best, shortest = _keep(wrong & (length < shortest), at, length, best, shortest)
        boundary = length + (margin(logits, y).abs() / norm(gradient)).nan_to_num(0.0, 0.0).clamp_min(_least(x))
        larger = radius * (1 + gamma)
        larger = torch.where(shortest.isfinite(), larger, torch.maximum(larger, boundary))
        smaller = torch.minimum(radius * (1 - gamma), shortest)
        radius = torch.minimum(torch.where(wrong, smaller, larger), farthest)
        at = (x + column(radius) * unit(at - x + step * unit(gradient))).clamp(0, 1)
    return best, shortest


def cw(
    model: Model, x: Tensor, y: Tensor, *, budget: Budget | None = None, searches: int = 5, steps: int = 150
) -> Tensor:
    """Carlini and Wagner's L2 attack (2017): minimises ‖x_adv − x‖² + c · max(−margin, 0) by Adam.

    c is searched for each image: ten times larger while nothing is found, and by bisection (of its logarithm) after.
    It starts at twice what suffices on a linear network, 2 · margin / ‖gradient‖², instead of at 10⁻³, which saves
    the first few of the published nine searches.

    Pixels are clipped to [0, 1] after each step (the authors' "projected gradient descent"), not written as tanh, under
    which black pixels hardly move. A search climbs the log-odds at first, then the margin, and then leaves an image
    whose objective did not fall within a tenth of the steps. At the end the smallest change is shortened, as in `ddn`.
    """
    return _smallest(model, x, y, budget, _cw, (searches, steps))


def _cw(model: Model, x: Tensor, y: Tensor, searches: int, steps: int) -> tuple[Tensor, Tensor]:
    best, shortest = x.clone(), x.new_full((len(x),), torch.inf)
    logits, gradient = ascent(model, x, y, margin)
    gap, slope = -margin(logits, y), norm(gradient)
    c = torch.where(slope > 0, 4 * gap / slope.square(), 1.0).clamp_min(1e-6)
    # Adam moves every pixel by its rate, so an image by the root of their number times that.
    rate = torch.where(slope > 0, _STEP * gap / slope / x[0].numel() ** 0.5, _RATE).clamp(1e-4 * _RATE, 5 * _RATE)
    low, high = torch.zeros_like(c), torch.full_like(c, torch.inf)
    for _ in range(searches):
        at, length = _adam(model, x, y, c, rate, steps)
        success = length.isfinite()
        best, shortest = _keep(length < shortest, at, length, best, shortest)
        low, high = torch.where(success, low, c), torch.where(success, c, high)
        c = torch.where(high.isinf(), 10 * c, torch.where(low > 0, (low * high).sqrt(), c / 10))
    return best, shortest


def _adam(model, x: Tensor, y: Tensor, c: Tensor, rate: Tensor, steps: int) -> tuple[Tensor, Tensor]:
    """The shortest success on the way to the minimum for one c, and its length; infinite where there was none."""
    best, shortest = x.clone(), x.new_full((len(x),), torch.inf)
    left = torch.arange(len(x), device=x.device)
    at, first, second, last = x, torch.zeros_like(x), torch.zeros_like(x), torch.full_like(c, torch.inf)
    for taken in range(1, steps + 1):
        # At first away from the class, to whichever: what is likeliest near x is often not what is nearest.
        loss = LOSSES["log-odds" if 3 * taken <= steps else "margin"]
        logits, gradient = ascent(model, at, y[left], loss)
        gap, length = -margin(logits, y[left]), norm(at - x[left])
        better = fooled(logits, y[left]) & (length < shortest[left])
        best[left[better]], shortest[left[better]] = at[better], length[better]
        if taken % max(steps // 10, 1) == 0 and 3 * taken > steps:
            objective = length.square() + c[left] * gap.clamp_min(0)
            keep = objective < 0.9999 * last
            left, at, gap, gradient, first, second = (a[keep] for a in (left, at, gap, gradient, first, second))
            last = objective[keep]
            if not len(left):
                break
        gradient = 2 * (at - x[left]) - column(c[left] * (gap >= 0)) * gradient
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient.square()
        moved = (first / (1 - 0.9**taken)) / ((second / (1 - 0.999**taken)).sqrt() + 1e-8)
        at = (at - column(rate[left]) * (1 - taken / (steps + 1)) * moved).clamp(0, 1)
    return best, shortest


def hopskipjump(
    model: Model, x: Tensor, y: Tensor, *, budget: Budget | None = None, queries: int = 1000, seed: int = 0
) -> Tensor:
    """HopSkipJump (Chen, Jordan & Wainwright, 2020) in L2: along the boundary of a decision, by decisions alone.

    From a wrong image it goes back towards x as far as the boundary. There, the mean of random directions, each with
    the sign of the decision a little further that way, is about the boundary's normal: the next step goes along it.

    queries  at most, for each image; one for which no wrong decision is found comes back unchanged
    seed     of what is random, drawn for each image from the seed and its pixels: batches do not matter
    """
    return _smallest(model, x, y, budget, _search, (queries - _COST, seed)) if queries >= _COST else x


def _search(model: Model, x: Tensor, y: Tensor, queries: int, seed: int) -> tuple[Tensor, Tensor]:
    best, shortest = x.clone(), x.new_full((len(x),), torch.inf)
    halvings = 3 * x[0].numel().bit_length() // 2  # the boundary is met to 1 / pixels^1.5 of the way to x
    queries -= _STARTS + halvings + 1
    for draw in range(_STARTS if queries >= 0 else 0):  # the negative, and uniform noise
        at = torch.special.ndtr(normal(x, f"{seed}:start:{draw}")) if draw else 1 - x
        length = norm(at - x)
        best, shortest = _keep(fooled(logits_at(model, at), y) & (length < shortest), at, length, best, shortest)
    rows = torch.nonzero(shortest.isfinite())[:, 0]
    at, x, y, step = best[rows], x[rows], y[rows], 0
    while len(rows):
        at, step = _shortened(model, at, x, y, halvings=halvings, beyond=0.0), step + 1
        length = norm(at - x)
        best[rows], shortest[rows] = _keep(length < shortest[rows], at, length, best[rows], shortest[rows])
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
    reach = column((norm(at - x) / x[0].numel()).clamp_min(10 * _least(x)))
    signed, plain, mean = torch.zeros_like(x), torch.zeros_like(x), torch.zeros_like(x[:, :1, :1, :1])
    for draw in range(count):
        change = (at + reach * unit(normal(x, f"{seed}:{draw}"))).clamp(0, 1) - at
        sign = column(2.0 * fooled(logits_at(model, at + change), y) - 1)
        signed, plain, mean = signed + sign * change, plain + change, mean + sign / count
    # Less the mean sign, which leaves less to chance (the publication's equation 16), unless all signs are the same.
    return torch.where(mean.abs() > 1 - 0.5 / count, signed, signed - mean * plain)


def _keep(better: Tensor, at: Tensor, length: Tensor, best: Tensor, shortest: Tensor) -> tuple[Tensor, Tensor]:
    """`best` and `shortest` with `at` and `length` where those are better."""
    return torch.where(column(better), at, best), torch.where(better, length, shortest)


def _smallest(model: Model, x: Tensor, y: Tensor, budget, search, options: tuple) -> Tensor:
    """What `search`, as `_adam`, finds for the images that are right, shortened along the line to each."""
    found = x.clone()
    left = torch.nonzero(~fooled(logits_at(model, x), y))[:, 0]
    if len(left):
        far, length = search(model, x[left], y[left], *options)
        left, far = left[length.isfinite()], far[length.isfinite()]
    if len(left):
        found[left] = _shortened(model, far, x[left], y[left])
    return found if budget is None else budget.project(found, x)


def _shortened(model: Model, far: Tensor, x: Tensor, y: Tensor, halvings=_HALVINGS, beyond=_BEYOND) -> Tensor:
    """Each change about as short as its own line allows, with the decision still wrong; asks `halvings` + 1 times."""
    best, low, high = far, x.new_zeros(len(x)), x.new_ones(len(x))
    for halving in range(halvings + 1):
        # At the end a little further than to the boundary: on it, another batch size may round to another decision.
        share = (low + high) / 2 if halving < halvings else (1 + beyond) * high
        at = (x + column(share) * (far - x)).clamp(0, 1)
        across = fooled(logits_at(model, at), y)
        best = torch.where(column(across), at, best)
        low, high = torch.where(across, low, share), torch.where(across, share, high)
    return best

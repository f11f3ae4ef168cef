"""A strong white-box attack: ever longer climbs on the images that are still classified correctly."""

from labkit.attacks.budget import Budget
from labkit.attacks.common import Model, logits_at, margin
from labkit.attacks.gradient_based import pgd

import torch
from torch import Tensor

_MOMENTUM = 0.75  # of the last direction, as in AutoPGD
_FRESH = 16  # EOT samples of a random model by which the outcome of a climb is judged
# Loss, where it starts, and how many times `steps` it takes.
_CLIMBS = (("margin", "image", 1), ("log-odds", "random", 1), ("margin", "best", 10))


def ladder(model: Model, x: Tensor, y: Tensor, *, budget: Budget, steps: int = 100, seed: int = 0) -> Tensor:
    """Projected gradient descent with momentum, in three climbs, each on the images that are still correct.

    The first climbs the margin from the image itself, the second the log-odds from a random point of the ball, the
    third, ten times as long, the margin from the best so far. Each image's result is the outcome with the largest
    margin; x itself where none is better. Whether the model draws at random is found by asking it twice. Then no
    single answer counts, neither for which iterate is kept nor for when an image is done: a climb's last iterate is
    judged by many fresh answers.

    x (B, C, H, W) in [0, 1], y (B,) true classes
    steps  of the first two climbs
    seed   of the random starts, which are drawn for each image from the seed and its pixels: batches do not matter
    """
    few = x[:8]
    draws = 1 if torch.equal(logits_at(model, few), logits_at(model, few)) else _FRESH
    best, score = x.clone(), _judged(model, x, y, draws)
    for loss, begin, often in _CLIMBS:
        left = torch.nonzero((score <= 0) & (budget.radius(x) > 0))[:, 0]
        if not len(left):
            break
        here, label = x[left], y[left]
        found = pgd(
            model, here, label, budget=budget, steps=often * steps, loss=loss, stop=draws == 1, seed=seed,
            begin={"image": here, "best": best[left]}.get(begin), momentum=_MOMENTUM, last=draws > 1,
        )  # fmt: skip
        reached = _judged(model, found, label, draws)
        better = reached > score[left]
        best[left[better]], score[left[better]] = found[better], reached[better]
    return best


def _judged(model: Model, x: Tensor, y: Tensor, draws: int) -> Tensor:
    """The margin; of a random model that of its probabilities, less what chance may add to the mean: (B,)."""
    if draws == 1:
        return margin(logits_at(model, x), y)
    seen = torch.stack([margin(logits_at(model, x).softmax(1), y) for _ in range(draws)])
    return seen.mean(0) - 2 * seen.std(0) / draws**0.5

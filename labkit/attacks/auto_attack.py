"""Attacks through pyautoattack (Square, AutoAttack), and the random noise that each has to beat.

The library's single runs are called, one attack and target class at a time, on the images that are still right, in its
order (`AutoAttack.run_standard_evaluation`), with a radius for each image and with draws that do not depend on the
batch. Its checks are not run, since they trace every call of Python.
"""

import logging
from collections.abc import Callable

from labkit.attacks.budget import Budget
from labkit.attacks.common import Model, ascent, column, differentiate, fooled, in_ball, logits_at, margin, normal

import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import Tensor

_SILENT = logging.getLogger(__name__)  # else zero gradients are warned of at every run
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False


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
    run = _Run(model, x, y, budget, seed)
    run.square(queries, rescale=True)
    return run.x_adv


def autoattack(
    model: Model, x: Tensor, y: Tensor, *, budget: Budget, steps: int = 100, queries: int = 5000, seed: int = 0
) -> Tensor:
    """AutoAttack (Croce & Hein, 2020) in its standard version, part after part, each on what is still right.

    AutoPGD on the cross-entropy; AutoPGD on the difference of logits ratio (DLR) and FAB, towards each of the nine
    likeliest other classes (DLR only where there are four classes or more); Square. An image that none of them fools
    comes back unchanged.

    steps, queries  of each part; as published by default
    """
    run = _Run(model, x, y, budget, seed)
    ascent(model, x[:1], y[:1], margin)  # tells, before the library does, when there is no gradient
    ranks = range(2, min(run.classes, 10) + 1)
    run.apgd("ce", steps=steps)
    for rank in ranks if run.classes > 3 else ():
        run.apgd("dlr-targeted", steps=steps, rank=rank)
    for rank in ranks:
        run.fab(steps=steps, rank=rank)
    run.square(queries, rescale=False)
    return run.x_adv


class _Run:
    """Images under attack by one part of the ensemble after another; each sees only those that are still right.

    x_adv  (B, C, H, W)  what was found so far; x where nothing was
    """

    def __init__(self, model: Model, x: Tensor, y: Tensor, budget: Budget, seed: int):
        self.model, self.x, self.y, self.budget, self.seed = model, x, y, budget, seed
        self._common = {"norm": {"l2": "L2", "linf": "Linf"}[budget.norm], "device": x.device}
        logits = logits_at(model, x)
        self.x_adv, self.classes = x.clone(), logits.shape[1]
        self.done = (budget.radius(x) <= 0) | fooled(logits, y) | ~logits.isfinite().all(1)

    def apgd(self, loss: str, *, steps: int, rank: int | None = None) -> None:
        """AutoPGD (Croce & Hein, 2020) on `loss` "ce" or "dlr"; with `rank`, towards the rank-th likeliest class."""
        kind = APGDAttack if rank is None else APGDAttack_targeted

        def found(x: Tensor, y: Tensor) -> Tensor:
            how = {"n_iter": steps, "seed": self.seed, "logger": _SILENT, **self._common}
            attack = kind(self._predict, eps=self._radius(x), **how)
            attack.init_hyperparam(x)
            if rank is None:
                attack.loss = loss
            else:
                attack.y_target = logits_at(self._predict, x).sort(dim=1)[1][:, -rank]
            # Given, so that the start does not depend on the other images of the batch.
            start = self._radius(x) * in_ball(x, f"{self.seed}:apgd:{loss}:{rank}", self.budget.norm)
            return attack.attack_single_run(x, y, x_init=(x + start).clamp(0, 1))[3]

        self._run(found)

    def fab(self, *, steps: int = 100, rank: int = 2) -> None:
        """Fast adaptive boundary attack (Croce & Hein, 2020) towards the rank-th likeliest class."""

        def found(x: Tensor, y: Tensor) -> Tensor:
            attack = _Fab(self._predict, n_iter=steps, eps=1.0, **self._common)
            attack.target_class = rank
            return attack.attack_single_run(x, y, use_rand_start=False, is_targeted=True)

        self._run(found)

    def square(self, queries: int, *, rescale: bool) -> None:
        """Square attack (Andriushchenko et al., 2020): random search with squares that shrink; no gradients.

        rescale  whether the squares shrink over `queries`, or as they would over 10,000
        """

        def found(x: Tensor, y: Tensor) -> Tensor:
            how = {"n_queries": queries, "p_init": 0.8, "resc_schedule": rescale, **self._common}
            attack = _Square(self._predict, eps=self._radius(x), **how)
            attack.init_hyperparam(x)
            return attack.attack_single_run(x, y)[1]

        self._run(found)

    def _run(self, attack: Callable[[Tensor, Tensor], Tensor]) -> None:
        """Runs `attack` on what is left, and keeps what is wrong now, once brought within the budget."""
        if not len(left := torch.nonzero(~self.done)[:, 0]):
            return
        x, y = self.x[left], self.y[left]
        torch.manual_seed(self.seed)  # which the door leaves as it was
        x_adv = attack(x.float(), y).detach().to(x)
        finite = x_adv.flatten(1).isfinite().all(1)
        x_adv = self.budget.project(torch.where(column(finite), x_adv, x), x)
        wrong = fooled(logits_at(self.model, x_adv), y)
        self.x_adv[left[wrong]] = x_adv[wrong]
        self.done[left[wrong]] = True

    def _predict(self, x: Tensor) -> Tensor:
        if not len(x):  # where all images are done the library asks once more, for none
            return x.new_zeros(0, self.classes)
        # Cloned, since the library writes into the logits it gets.
        return self.model(x.to(self.x)).float().clone()

    def _radius(self, x: Tensor) -> Tensor | float:
        return self.budget.size if not self.budget.relative else column(self.budget.radius(x))


class _Fab(FABAttack_PT):
    """The library's `backward` would leave gradients in the model's parameters."""

    def get_diff_logits_grads_batch_targeted(self, imgs, la, la_target):
        x = imgs.detach().requires_grad_()
        with torch.enable_grad():
            logits = self.predict(x)
            difference = (logits.gather(1, la_target[:, None]) - logits.gather(1, la[:, None]))[:, 0]
            gradient = differentiate(difference.sum(), x)
        return difference.detach()[:, None], gradient[:, None]


class _Square(SquareAttack):
    """The same squares for all images, so that none depends on the batch, and a radius for each image."""

    def attack_single_run(self, x, y):
        self._radii, self._margin = self.eps, torch.full_like(x[:, 0, 0, 0], torch.inf)
        return super().attack_single_run(x, y)

    def random_choice(self, shape):
        each = len(shape) == 4  # one draw for each image in the library
        return super().random_choice([1, *shape[1:]] if each else shape).expand(shape)

    def margin_and_loss(self, x, y):
        margin, _ = super().margin_and_loss(x, y)
        # The library stops on a tie in all images at once, and cannot compare with NaN.
        margin = torch.where(margin == 0, -1e-30, margin).nan_to_num(nan=1e30)
        if isinstance(self._radii, Tensor):
            # The library goes on with the images of positive margin, and needs their radii; its bookkeeping is this.
            active = self._margin > 0
            self._margin[active] = torch.minimum(margin, self._margin[active])
            self.eps = self._radii[self._margin > 0]
        return margin, margin.clone()

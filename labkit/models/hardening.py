"""Adversarial training: what takes the place of clean images in a batch, the loss, and how training is watched."""

import math
from collections.abc import Callable
from pathlib import Path

from labkit.attacks import ATTACKS, Budget, climb
from labkit.core import InputError, distributed
from labkit.core import checkpoint as checkpoint_file
from labkit.core.hardware import autocast
from labkit.core.recipes import AdversarialTraining

import torch
from torch import Tensor, nn
from torch.nn import functional

Layer = Callable[[Tensor], Tensor]

FIGURES = "clean, held out", "under one step, held out", "under ten steps, held out"
WATCHED = FIGURES[-1]  # by which the best epoch is chosen
_WATCH_STEPS = 10  # of the attack on held-out images
_BUDGETS = {"dissimilarity": Budget.dissimilarity, "l2": Budget.l2, "linf": Budget.linf}
_OFFERED = "fgsm", "bim", "pgd"


def check(how: AdversarialTraining) -> None:
    """Raises InputError for an attack or a norm that is not offered."""
    for what, value, known in (("with", how.attack, _OFFERED), ("in the norm", how.norm, _BUDGETS)):
        if value not in known:
            raise InputError(f"adversarial training {what} {value!r} is not offered; use {', '.join(known)}")


def mixed(
    model: nn.Module, x: Tensor, y: Tensor, how: AdversarialTraining, seed: int, layer: Layer | None = None
) -> tuple[Tensor, Tensor | None]:
    """The batch x (B, C, H, W) with its first images made adversarial, and each image's weight in `loss`.

    They are made with the network in evaluation mode, as it will be judged; most papers are silent on this. Of TRADES
    (`how.beta`), the clean images followed by as many adversarial ones, and no weights. `layer` is a T that precedes
    the network: attacked through, too, and what is returned has passed it.
    """

    def answers(x: Tensor) -> Tensor:
        # A context of its own for each call: autocast keeps weights it has cast, without their gradient if in no_grad.
        with autocast(x.device):
            return model(x if layer is None else layer(x)).float()

    count, budget = math.ceil(how.share * len(x)), _BUDGETS[how.norm](how.size)
    few, label, weights = x[:count], y[:count], None
    model.eval()
    if how.attack == "pgd":
        made = climb(answers, few, label, budget=budget, steps=how.steps, seed=seed, kept=bool(how.beta))
    else:
        steps = {"steps": how.steps} if how.attack == "bim" else {}
        made = ATTACKS[how.attack](answers, few, label, budget=budget, **steps)
    model.train()
    if how.beta:
        made = torch.cat([few, made])
    else:
        made = torch.cat([made, x[count:]])
        weights = torch.ones(len(x), device=x.device)
        weights[:count] = how.weight
    if layer is not None:
        with torch.no_grad():
            made = layer(made)
    return made, weights


class Best:
    """The network as it was after the epoch in which it was most robust on held-out images.

    In a file beside the checkpoint of the training, so that a run that goes on has it; or else in memory.
    """

    def __init__(self, model: nn.Module, run: dict, checkpoint: str | Path | None):
        self._model, self._run, self._state = model, run, None
        self._file = Path(checkpoint) / "best.safetensors" if checkpoint is not None else None

    def seen(self, robust: float, history: dict[str, list[float]]) -> None:
        """To be told after each epoch, with the history of those before."""
        if robust >= max(history.get(WATCHED, [0.0])):
            self._state = {name: t.detach().clone() for name, t in self._model.state_dict().items()}
            if self._file and distributed.rank() == 0:
                checkpoint_file.write(self._file, self._run, self._state, {})

    def restore(self) -> None:
        """Gives the network that state."""
        if self._state is None and self._file and (found := checkpoint_file.read(self._file, self._run)):
            self._state = found[0]
        if self._state is not None:
            self._model.load_state_dict(self._state)


def loss(logits: Tensor, y: Tensor, weights: Tensor | None, beta: float = 0.0) -> Tensor:
    """Mean cross-entropy; weighted, (Σ clean + λ Σ adversarial) / (m − k + λ k) (Kurakin et al. 2017, Section 3).

    With beta, that of TRADES (Zhang et al., ICML 2019, Eq. 5): cross-entropy of the clean half of the logits, and beta
    times the divergence of the adversarial half's probabilities from the clean ones'.
    """
    if beta:
        clean, attacked = (half.log_softmax(1) for half in logits.split(len(y)))
        apart = functional.kl_div(attacked, clean, reduction="batchmean", log_target=True)
        return functional.nll_loss(clean, y) + beta * apart
    if weights is None:
        return functional.cross_entropy(logits, y)
    return (weights * functional.cross_entropy(logits, y, reduction="none")).sum() / weights.sum()


def watched(
    model: nn.Module, x: Tensor, y: Tensor, how: AdversarialTraining, layer: Layer | None = None
) -> dict[str, float]:
    """Accuracies of a network under training on held-out images: clean, under one step, and under `climb` of ten.

    A network that has collapsed (Wong et al. 2020; Kurakin et al. call a part of it label leaking) keeps what one step
    leaves and loses what ten leave.
    """
    seen = model if layer is None else nn.Sequential(layer, model)
    budget, mode = _BUDGETS[how.norm](how.size), model.training
    model.eval()
    step = ATTACKS["fgsm"](seen, x, y, budget=budget)
    shown = x, step, climb(seen, x, y, budget=budget, steps=_WATCH_STEPS, seed=0)
    with torch.no_grad():
        right = [float((seen(images).argmax(1) == y).float().mean()) for images in shown]
    found = dict(zip(FIGURES, right, strict=True))
    model.train(mode)
    return found

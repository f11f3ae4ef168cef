"""Threat models: what the attacker differentiates, kept apart from what is judged."""

import torch
from torch import Tensor, nn

from labkit.errors import InputError

KNOWLEDGE = {
    "transfer": "owns an undefended copy trained on the same data; knows neither the judged network nor T",
    "classifier": "has the judged network's weights; does not know that T stands before it",
    "identity": "has everything; treats T as the identity when differentiating (BPDA)",
    "exact": "has everything; differentiates T exactly",
}
SHORT = {
    "–": "nothing",
    "transfer": "an undefended copy",
    "classifier": "the weights, not T",
    "identity": "all, BPDA",
    "exact": "all, exact gradient",
}


def judged(classifier: nn.Module, defense: nn.Module | None) -> nn.Module:
    """What decides in the end: the classifier behind its defense, in evaluation mode."""
    return nn.Sequential(defense or nn.Identity(), classifier).eval()


def view(classifier: nn.Module, defense: nn.Module | None, knowledge: str) -> nn.Module:
    """What the attacker differentiates: a module from images in [0, 1] to logits.

    knowledge  a key of KNOWLEDGE: "classifier" is the grey box of the paper's Tables 1–3 and 5–8, "identity" is BPDA
               (its Table 4; Athalye et al. 2018). For "transfer", pass the undefended copy as `classifier`.
    """
    if knowledge not in KNOWLEDGE:
        raise InputError(f"unknown knowledge {knowledge!r}; the known kinds are {', '.join(KNOWLEDGE)}")
    if defense is None or knowledge in ("transfer", "classifier"):
        return judged(classifier, None)
    return judged(classifier, _StraightThrough(defense) if knowledge == "identity" else defense)


class _StraightThrough(nn.Module):
    """A defense whose output is its own and whose gradient is the identity's."""

    def __init__(self, defense: nn.Module):
        super().__init__()
        self.defense = defense

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            moved = self.defense(x) - x
        return x + moved

"""Threat models: what the attacker differentiates, kept apart from what is judged."""

import math

import torch
from torch import Tensor, nn

from labkit.errors import InputError
from labkit.strata import StratifiedTransform

KNOWLEDGE = {
    "transfer": "owns an undefended copy trained on the same data; knows neither the judged network nor T",
    "classifier": "has the judged network's weights; does not know that T stands before it",
    "queries": "sees the answers of the whole system, T included, to images of its choice, and no gradient",
    "identity": "has everything; treats T as the identity when differentiating (BPDA)",
    "fixed-stratum": "has everything; differentiates T exactly, with the vote held at the clean image's cluster",
    "exact": "has everything; differentiates T exactly",
}
SHORT = {
    "–": "nothing",
    "transfer": "an undefended copy",
    "classifier": "the weights, not T",
    "queries": "answers only",
    "identity": "all, BPDA",
    "fixed-stratum": "all, vote held",
    "exact": "all, exact gradient",
}
AWARE = ("queries", "identity", "fixed-stratum", "exact")  # those who reckon with T


def judged(classifier: nn.Module, defense: nn.Module | None) -> nn.Module:
    """What decides in the end: the classifier behind its defense, in evaluation mode."""
    return nn.Sequential(defense or nn.Identity(), classifier).eval()


def view(
    classifier: nn.Module, defense: nn.Module | None, knowledge: str, *, draws: int = 1, stratum: int | None = None
) -> nn.Module:
    """What the attacker differentiates: a module from images in [0, 1] to logits.

    knowledge  a key of KNOWLEDGE: "classifier" is the grey box of the paper's Tables 1–3 and 5–8, "identity" is BPDA
               (its Table 4; Athalye et al. 2018). For "transfer", pass the undefended copy as `classifier`.
    draws      how often a random defense is asked for each answer; the answers' probabilities are averaged (expectation
               over transformation). It is judged on fresh draws
    stratum    for "fixed-stratum", the cluster of all the images that will be asked about

    Raises InputError for an unknown kind of knowledge, or when "fixed-stratum" comes without its stratum.
    """
    if knowledge not in KNOWLEDGE:
        raise InputError(f"unknown knowledge {knowledge!r}; the known kinds are {', '.join(KNOWLEDGE)}")
    if defense is None or knowledge in ("transfer", "classifier"):
        return judged(classifier, None)
    if knowledge == "fixed-stratum" and isinstance(defense, StratifiedTransform):
        if stratum is None:
            raise InputError('"fixed-stratum" attacks images cluster by cluster; pass stratum=')
        defense = defense.transforms[stratum]
    system = judged(classifier, _StraightThrough(defense) if knowledge == "identity" else defense)
    if draws > 1 and getattr(defense, "stochastic", False):
        system = _Expectation(system, draws)
    return _Answers(system) if knowledge == "queries" else system


class _Answers(nn.Module):
    """A system that tells what it decides and nothing of how."""

    def __init__(self, system: nn.Module):
        super().__init__()
        self.system = system

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self.system(x)


class _Expectation(nn.Module):
    """The logarithm of the mean probabilities over several draws of a random system."""

    def __init__(self, system: nn.Module, draws: int):
        super().__init__()
        self.system, self.draws = system, draws

    def forward(self, x: Tensor) -> Tensor:
        answers = torch.stack([self.system(x).log_softmax(1) for _ in range(self.draws)])
        return answers.logsumexp(0) - math.log(self.draws)


class _StraightThrough(nn.Module):
    """A defense whose output is its own and whose gradient is the identity's."""

    def __init__(self, defense: nn.Module):
        super().__init__()
        self.defense = defense

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            moved = self.defense(x) - x
        return x + moved

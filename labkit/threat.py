"""Threat models: what the attacker differentiates, kept apart from what is judged."""

import math
from enum import Enum

import torch
from torch import Tensor, nn

from labkit.defenses.base import Around, Detector
from labkit.errors import InputError
from labkit.networks import Recomputed
from labkit.strata import StratifiedTransform


class ThreatModel(Enum):
    """What an attacker knows and can ask. `value` is the spelling that recipes hash and rows keep as `knowledge`.

    label, words    as tables and figures name it, and one sentence on what the attacker has
    marker, colour  in every figure (Okabe & Ito's colours, which stay apart for colour-blind readers): blue for grey
                    boxes, green for black ones, warm for white ones, black for the worst case
    knows_defense   whether the attacker takes the defense into account
    """

    NOBODY = ("–", "none", "o", "#5c5c5c", False, "nobody attacks")
    SURROGATE = (
        "transfer",
        "grey box (surrogate)",
        "o",
        "#0072b2",
        False,
        "transfer from an undefended network trained on the same data",
    )
    WEIGHTS = (
        "classifier",
        "grey box (weights)",
        "s",
        "#56b4e9",
        False,
        "has the weights of the judged network, and does not know the defense",
    )
    QUERIES = (
        "queries",
        "score-based black box",
        "v",
        "#009e73",
        True,
        "sees the scores of the whole system for images of its choice, and no gradient",
    )
    BPDA = (
        "identity",
        "white box (BPDA)",
        "^",
        "#e69f00",
        True,
        "has everything, and differentiates the defense as if it were the identity",
    )
    FIXED_STRATUM = (
        "fixed-stratum",
        "white box (fixed stratum)",
        "P",
        "#cc79a7",
        True,
        "has everything, and differentiates T exactly with the vote held at the clean image's cluster",
    )
    EXACT = (
        "exact",
        "white box (exact gradient)",
        "D",
        "#d55e00",
        True,
        "has everything, and differentiates the defense exactly",
    )
    WHITE_BOX = (
        "white-box",
        "white box",
        "X",
        "#8a3d00",
        True,
        "has everything; nothing stands before the network",
    )
    WORST_CASE = (
        "",
        "worst case",
        "*",
        "#000000",
        True,
        "an image counts as correct if it withstands every attack of this size, under every threat model",
    )

    def __new__(cls, value: str, label: str, marker: str, colour: str, knows_defense: bool, words: str):
        member = object.__new__(cls)
        member._value_ = value
        member.label, member.marker, member.colour = label, marker, colour
        member.knows_defense, member.words = knows_defense, words
        return member

    @classmethod
    def of(cls, knowledge: str, defense: str = "") -> "ThreatModel":
        """The threat model of a row, by its columns `knowledge` and `defense`.

        Who has the weights of a network with nothing before it has everything: WHITE_BOX, not WEIGHTS.
        """
        model = cls(knowledge)
        return cls.WHITE_BOX if model is cls.WEIGHTS and inside_network(defense) else model

    def told(self, attack: str) -> str:
        """An attack under this threat model, as legends and controls name the two."""
        return attack if self is ThreatModel.NOBODY else f"{attack}, {self.label}"


def inside_network(defense: str) -> bool:
    """Whether a row's `defense` is none at all, or lies in the network itself (its training, or its encoding)."""
    return defense == "No Defense" or set(defense.split(" + ")) <= {"TE", "Adv Training"}


# What `view` can make: not who has a network without a defense, for whom "classifier" is the same.
KNOWLEDGE = {m.value: m.words for m in ThreatModel if m.name not in ("WHITE_BOX", "WORST_CASE", "NOBODY")}
SHORT = {m.value: m.label for m in ThreatModel}
AWARE = tuple(k for k in KNOWLEDGE if ThreatModel(k).knows_defense)


def judged(classifier: nn.Module, defense: nn.Module | None) -> nn.Module:
    """What decides in the end: the classifier behind its defense, in evaluation mode.

    Where the defense is a `Detector`, there is one logit more than there are classes, and the last says "attacked".
    """
    if isinstance(defense, Around):
        return defense.around(classifier).eval()
    return nn.Sequential(defense or nn.Identity(), classifier).eval()


def view(
    classifier: nn.Module,
    defense: nn.Module | None,
    knowledge: str,
    *,
    draws: int = 1,
    stratum: int | None = None,
    label: int | None = None,
) -> nn.Module:
    """What the attacker differentiates: a module from images in [0, 1] to logits.

    knowledge  a key of KNOWLEDGE: "classifier" is the grey box of the paper's Tables 1–3 and 5–8, "identity" is BPDA
               (its Table 4; Athalye et al. 2018). For "transfer", pass the undefended copy as `classifier`.
    draws      how often a random defense is asked for each answer; the answers' probabilities are averaged (expectation
               over transformation). It is judged on fresh draws
    stratum    for "fixed-stratum", the cluster of all the images that will be asked about
    label      for a `Detector`, the class of all the images that will be asked about: to be rejected is then as good
               as to be seen for what one is, and one attack has to fool both classifier and detector (joint objective)

    Raises InputError for an unknown kind of knowledge, when a stratum or label is needed and missing, or when "exact"
    is asked of a defense whose own gradient says nothing.
    """
    if knowledge not in KNOWLEDGE:
        raise InputError(f"unknown knowledge {knowledge!r}; the known kinds are {', '.join(KNOWLEDGE)}")
    if defense is None or knowledge in ("transfer", "classifier"):
        return judged(classifier, None)
    if knowledge == "fixed-stratum" and isinstance(defense, StratifiedTransform):
        if stratum is None:
            raise InputError('"fixed-stratum" attacks images cluster by cluster; pass stratum=')
        defense = defense.transforms[stratum]
    if knowledge in ("exact", "fixed-stratum") and not getattr(defense, "differentiable", True):
        name = type(defense).__name__
        raise InputError(f'{name} has no gradient of its own; attack it as "identity" (BPDA) or "queries"')
    around = isinstance(defense, Around)  # where such a one has no gradient, it puts an approximation in itself
    averaged = draws > 1 and getattr(defense, "stochastic", False)
    if averaged and not around:
        classifier = Recomputed(classifier)
    system = judged(classifier, _StraightThrough(defense) if knowledge == "identity" and not around else defense)
    if isinstance(defense, Detector):
        if label is None:
            raise InputError("a detector is attacked class by class, so that being rejected can count; pass label=")
        system = _Joint(system, label)
    if averaged:
        system = _Expectation(system, draws)
    return _Answers(system) if knowledge == "queries" else system


def withstood(logits: Tensor, y: Tensor, defense: nn.Module | None, *, attacked: bool = True) -> Tensor:
    """Which images (B,) the judged system gets right, given its logits and their classes y (B,).

    An attacked image that a `Detector` rejects counts as withstood; a clean one that it rejects is a mistake.
    """
    decided = logits.argmax(1)
    right = decided == y
    if attacked and isinstance(defense, Detector):
        right |= decided == logits.shape[1] - 1
    return right


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


class _Joint(nn.Module):
    """Logits of classes alone, for images of one class: that class has the better of its own and of "attacked"."""

    def __init__(self, system: nn.Module, label: int):
        super().__init__()
        self.system, self.label = system, label

    def forward(self, x: Tensor) -> Tensor:
        *classes, attacked = self.system(x).unbind(1)
        classes[self.label] = torch.maximum(classes[self.label], attacked)
        return torch.stack(classes, 1)


class _StraightThrough(nn.Module):
    """A defense whose output is its own and whose gradient is the identity's."""

    def __init__(self, defense: nn.Module):
        super().__init__()
        self.defense = defense

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            moved = self.defense(x) - x
        return x + moved

"""Threat models: what the attacker differentiates, kept apart from what is judged."""

import math
from enum import Enum

from labkit.core import InputError
from labkit.models import Defense, predict
from labkit.models.classifiers import device_of
from labkit.models.defense import Detector
from labkit.models.networks import Recomputed
from labkit.models.strata import StratifiedTransform

import torch
from torch import Tensor, nn

JUDGED_SEED = 1  # of a random defense when it is judged: not the samples that its attacker saw
ANSWERS = 9  # of which the majority counts, where a random defense is asked more than once
_BATCH = 250
_TRAINED = "TE", "noise", "Adv Training", "TRADES"  # how the names of networks begin that are their own defense


class ThreatModel(Enum):
    """What an attacker knows and can ask. `value` is the spelling that recipes hash and rows keep as `knowledge`.

    label, words    as tables and figures name it, and one sentence on what the attacker has
    marker, colour  in every figure (Okabe & Ito's colours, which stay apart for colour-blind readers): blue for grey
                    boxes, green for black ones, warm for white ones, black for the worst case
    knows_defense   whether the attacker takes the defense into account
    """

    # fmt: off
    NOBODY = "–", "none", "o", "#5c5c5c", False, "nobody attacks"
    SURROGATE = ("transfer", "grey box (surrogate)", "o", "#0072b2", False,
                 "transfer from an undefended network trained on the same data")
    WEIGHTS = ("classifier", "grey box (weights)", "s", "#56b4e9", False,
               "has the weights of the judged network, and does not know the defense")
    QUERIES = ("queries", "score-based black box", "v", "#009e73", True,
               "sees the scores of the whole system for images of its choice, and no gradient")
    DECISIONS = ("decisions", "decision-based black box", "d", "#004d38", True,
                 "sees what the whole system decides for images of its choice, neither scores nor a gradient")
    BPDA = ("identity", "white box (BPDA)", "^", "#e69f00", True,
            "has everything, and differentiates the defense as if it were the identity")
    SMOOTH = ("smooth", "white box (smooth BPDA)", "<", "#b89500", True,
              "has everything, and differentiates a smooth stand-in of the defense")
    LEARNED = ("learned", "white box (learned BPDA)", ">", "#a0522d", True,
               "has everything, and differentiates a network trained to do what the defense does")
    FIXED_STRATUM = ("fixed-stratum", "white box (fixed stratum)", "P", "#cc79a7", True,
                     "has everything, and differentiates T exactly with the vote held at the clean image's cluster")
    EXACT = ("exact", "white box (exact gradient)", "D", "#d55e00", True,
             "has everything, and differentiates the defense exactly")
    WHITE_BOX = "white-box", "white box", "X", "#8a3d00", True, "has everything; nothing precedes the network"
    WORST_CASE = ("", "worst case", "*", "#000000", True,
                  "an image counts as correct if no attack of this size changes that, under any threat model")
    # fmt: on

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
    return defense == "No Defense" or all(part.startswith(_TRAINED) for part in defense.split(" + "))


# What `view` can make: not who has a network without a defense, for whom "classifier" is the same.
KNOWLEDGE = tuple(m.value for m in ThreatModel if m.name not in ("WHITE_BOX", "WORST_CASE", "NOBODY"))


def judged(classifier: nn.Module, defense: Defense | None) -> nn.Module:
    """The classifier with its defense, in evaluation mode; a `Detector` adds a last logit, which says "attacked"."""
    return (classifier if defense is None else defense.around(classifier)).eval()


def turned(classifier: nn.Module, defense: Defense | None, x: Tensor) -> Tensor:
    """What the classifier gets of x (n, C, H, W), on the CPU: x itself where the defense is no map of images."""
    if defense is None or not defense.maps:
        return x
    with torch.no_grad():
        return torch.cat([defense(part.to(device_of(classifier))).cpu() for part in x.split(_BATCH)])


def decide(classifier: nn.Module, defense: Defense | None, x: Tensor, seed: int = JUDGED_SEED) -> tuple[Tensor, Tensor]:
    """`turned`, and the judged system's logits for x (n, C, H, W), on the CPU; `seed` is of what it draws."""
    if defense is not None:
        defense.seeded(seed)
    seen, wraps = turned(classifier, defense, x), defense is not None and not defense.maps
    return seen, predict(judged(classifier, defense if wraps else None), seen, batch=_BATCH)


def majority(classifier: nn.Module, defense: Defense, x: Tensor) -> Tensor:
    """What a random defense answers most often, of `ANSWERS` fresh draws, the first being that of `decide`: (n,)."""
    seeds = range(JUDGED_SEED, JUDGED_SEED + ANSWERS)
    return torch.stack([decide(classifier, defense, x, seed)[1].argmax(1) for seed in seeds]).mode(0).values


def sensible(defense: Defense | None) -> tuple[str, ...]:
    """What who knows a defense differentiates, one after the other; nothing where it lies in the network.

    The last says most: the exact gradient, or else that of a smooth stand-in, where there is one.
    """
    if defense is None:
        return ()
    better = "exact" if defense.differentiable else "smooth" if defense.has_smooth else None
    return ("identity", better) if better and defense.maps else (better or "identity",)


def learnable(defense: Defense) -> None:
    """Raises InputError unless the defense is a map of images without a gradient, for which a network can stand in."""
    why = "has a gradient of its own and needs no learned one" if defense.maps else "is no map of images to be learned"
    if defense.differentiable or not defense.maps:
        raise InputError(f'{type(defense).__name__} {why}; attack it as "{"exact" if defense.maps else "identity"}"')


def view(
    classifier: nn.Module, defense: Defense | None, knowledge: str, *,
    draws: int = 1, gap: float = 0.0, stratum: int | None = None, label: int | None = None,
    stand_in: nn.Module | None = None,
) -> nn.Module:  # fmt: skip
    """What the attacker differentiates: a module from images in [0, 1] to logits.

    knowledge  one of KNOWLEDGE: "classifier" is the grey box of the paper's Tables 1–3 and 5–8, "identity" is BPDA
               (its Table 4; Athalye et al. 2018). For "transfer", pass the surrogate as `classifier`.
    draws      EOT samples: how often a random defense is asked for each answer; the mean of their probabilities
               counts (expectation over transformation). It is judged on fresh samples
    gap        duality gap of T's codes in what is differentiated (`Defense.approximate`); 0 for T as it is judged
    stratum    for "fixed-stratum", the cluster of all the images that will be asked about
    label      for a `Detector`, the class of all the images that will be asked about: being rejected then counts as
               that class, so that one attack has to fool both classifier and detector (joint objective)
    stand_in   for "learned", the network whose gradient counts as the defense's (`Workbench.surrogate`)

    Raises InputError for an unknown kind of knowledge, when a stratum, label or stand-in is needed and missing, when
    "exact" is asked of a defense whose own gradient says nothing, or "learned" of one that has no use for a surrogate.
    """
    if knowledge not in KNOWLEDGE:
        raise InputError(f"unknown knowledge {knowledge!r}; the known kinds are {', '.join(KNOWLEDGE)}")
    if defense is None or knowledge in ("transfer", "classifier"):
        return _answering(judged(classifier, None), knowledge)
    if knowledge == "fixed-stratum" and isinstance(defense, StratifiedTransform):
        if stratum is None:
            raise InputError('"fixed-stratum" attacks images cluster by cluster; pass stratum=')
        defense = defense.transforms[stratum]
    if knowledge in ("exact", "fixed-stratum") and not defense.differentiable:
        name = type(defense).__name__
        raise InputError(f'{name} has no gradient of its own; attack it as "identity" (BPDA) or "queries"')
    if knowledge == "learned":
        learnable(defense)
        if stand_in is None:
            raise InputError('"learned" differentiates a network in place of the defense; pass stand_in=')
    if gap:
        defense = defense.approximate(gap)
    averaged = draws > 1 and defense.stochastic
    if averaged and defense.maps:
        classifier = Recomputed(classifier)
    if knowledge in ("identity", "smooth", "learned"):
        near = stand_in if knowledge == "learned" else None
        defense = defense.smoothed() if knowledge == "smooth" else defense.straight_through(near)
    system = judged(classifier, defense)
    if isinstance(defense, Detector):
        if label is None:
            raise InputError("a detector is attacked class by class, so that being rejected can count; pass label=")
        system = _Joint(system, label)
    system = _Expectation(system, draws) if averaged else system
    return _answering(system, knowledge)


def correct(logits: Tensor, y: Tensor, defense: Defense | None, *, attacked: bool = True) -> Tensor:
    """Which images (B,) the judged system gets right, given its logits and their classes y (B,).

    An attacked image that a `Detector` rejects counts as correct; a clean one that it rejects is a mistake.
    """
    decided = logits.argmax(1)
    rejected = decided == logits.shape[1] - 1
    return (decided == y) | rejected if attacked and isinstance(defense, Detector) else decided == y


def _answering(system: nn.Module, knowledge: str) -> nn.Module:
    """The system, with its answers alone where that is all that an attacker gets."""
    return _Answers(system, knowledge == "decisions") if knowledge in ("queries", "decisions") else system


class _Wrapper(nn.Module):
    """Another view of a system; `given` is what the view has to be told."""

    def __init__(self, system: nn.Module, given: int | None = None):
        super().__init__()
        self.system, self.given = system, given


class _Answers(_Wrapper):
    """A system that tells its scores and nothing of how; if `given`, no more than what it decides: 1 for that class."""

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        scores = self.system(x)
        return nn.functional.one_hot(scores.argmax(1), scores.shape[1]).to(scores) if self.given else scores


class _Expectation(_Wrapper):
    """The logarithm of the mean probabilities over several EOT samples of a random system."""

    def forward(self, x: Tensor) -> Tensor:
        answers = torch.stack([self.system(x).log_softmax(1) for _ in range(self.given)])
        return answers.logsumexp(0) - math.log(self.given)


class _Joint(_Wrapper):
    """Logits of classes alone, for images of one class: that class has the better of its own and of "attacked"."""

    def forward(self, x: Tensor) -> Tensor:
        *classes, attacked = self.system(x).unbind(1)
        classes[self.given] = torch.maximum(classes[self.given], attacked)
        return torch.stack(classes, 1)

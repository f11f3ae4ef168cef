"""What cases will take: what is already kept, what has to be built, and about how long that takes on this machine."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from labkit import defenses
from labkit.core import recipes
from labkit.core.recipes import ClassifierRecipe, DataRecipe, DefenseRecipe, TransformRecipe
from labkit.core.store import key
from labkit.csc import cdl
from labkit.datasets import Images
from labkit.evaluation import Case, ThreatModel, Workbench
from labkit.evaluation.adversarial_examples import passes
from labkit.evaluation.workbench import AnyDefense, built, needs
from labkit.experiments.solvers import seconds
from labkit.models import SparseTransform, classifiers, networks, predict
from labkit.models.defense import Detector

import pandas as pd
import torch
from torch import nn

# Images in a timed batch, of a baseline, and to fit one to; fewer of those larger than 64×64, but so many at least.
_BATCH, _FEW, _FEWER, _LEAST = 64, 32, 400, 8
_LEARNING = 6  # solving for codes, and the share of the filter update, beside one T(x)
_FIT = 600.0  # seconds that fitting a baseline counts when the order is made
_AUTOENCODER = 0.2  # of a training step of a quarter-width VGG-16
_FITTED_TO = 64  # training images of a PixelCNN that is timed
# Fitted briefly: how long a defense needs does not depend on how well it has been fitted.
_BRIEF = {"lowpass": {"sigma": 1.0}, "magnet": {"epochs": 1}, "magnet-detector": {"epochs": 1, "rate": 0.1},
          "pixeldefend": {"epochs": 1}}  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One artifact: its kind, what it is in words, whether it is kept already, and seconds; None where unknown."""

    kind: str
    what: str
    kept: bool
    seconds: float | None


def steps(cases: Iterable[Case], bench: Workbench, *, soonest: bool = False) -> list[Step]:
    """Every artifact that the cases need, each once, in the order in which it would be built: `soonest`, as `ordered`.

    Networks, T and baselines are timed on a few images here and now. How long a baseline takes to be fitted is not
    estimated. What several cases share is counted where it is first needed.
    """
    rates = _rates(bench)
    asked = _ordered(cases, bench, rates) if soonest else cases
    return [*_found((("row", case) for case in asked), bench, rates).values()]


def ordered(cases: Iterable[Case], bench: Workbench) -> list[Case]:
    """The cases in the order in which most are measured soonest: next is always what takes least beside what is there.

    The time of what several cases need is shared by them: a network that most need comes before a smaller one that few
    need. Where two take as long, their order stays. What is not estimated counts as a long fit.
    """
    return _ordered(cases, bench, _rates(bench))


def _ordered(cases: Iterable[Case], bench: Workbench, rates: Callable[..., "_Rates"]) -> list[Case]:
    costs = {}
    for case in dict.fromkeys(cases):
        needed = _found([("row", case)], bench, rates)
        costs[case] = {name: _FIT if step.seconds is None else step.seconds for name, step in needed.items()}
    uses = Counter(name for mine in costs.values() for name in mine)
    built: set[tuple[str, str]] = set()
    found: list[Case] = []
    while costs:
        left = {case: [pair for pair in mine.items() if pair[0] not in built] for case, mine in costs.items()}
        sums = {case: sum(cost / uses[name] for name, cost in mine) for case, mine in left.items()}
        found.append(min(sums, key=sums.get))
        built |= costs.pop(found[-1]).keys()
    return found


def parts(defenses: Iterable[ClassifierRecipe | AnyDefense], bench: Workbench) -> list[Step]:
    """The same for networks and defenses, whatever they will be asked."""
    return [*_found((each for recipe in defenses for each in built(recipe)), bench, _rates(bench)).values()]


def table(planned: Iterable[Step]) -> pd.DataFrame:
    """One line per kind of artifact: kind, needed, kept, to build, minutes."""
    lines, frame = [], pd.DataFrame(map(vars, planned), columns=["kind", "what", "kept", "seconds"])
    for kind, mine in frame.groupby("kind", sort=False):
        new = mine[~mine.kept]
        blank = int(new.seconds.isna().sum())
        minutes = f"{new.seconds.sum() / 60:.1f}" + (f", and {blank} not estimated" if blank else "")
        lines.append((kind, len(mine), len(mine) - len(new), len(new), minutes))
    return pd.DataFrame(lines, columns=["kind", "needed", "kept", "to build", "minutes"])


def hours(planned: Iterable[Step]) -> str:
    """The time it all takes, in words: minutes below two hours."""
    seconds = [step.seconds for step in planned]
    known, blank = sum(filter(None, seconds)), seconds.count(None)
    told = f"{known / 3600:.1f} hours" if known > 7200 else f"{known / 60:.0f} minutes"
    return told + (f", and the time to fit {blank} competitors" if blank else "")


def briefly(name: str, network: nn.Module, images: Images) -> nn.Module:
    """A defense with its published settings, fitted for seconds, for timing alone; with its network if it needs one."""
    defense, more = defenses.build(name, **_BRIEF.get(name, {})), {}
    if name == "pixeldefend":
        images = images[:_FITTED_TO]
    if defenses.DEFENSES[name].given == "victim":  # wants images that the network, untrained here, gets right
        images = replace(images, y=predict(network, images.x).argmax(1))
        more = {"classifier": network, "attack": lambda model, x, y: x}
    defense.fit(images, **more)  # no state to come back to: seconds
    return (defense if defense.maps else defense.around(network)).eval()


def _found(
    artifacts: Iterable[tuple[str, Any]], bench: Workbench, rates: Callable[..., "_Rates"]
) -> dict[tuple[str, str], Step]:
    """Each artifact, by kind and key, behind all that it needs; what is kept is not looked into."""
    found: dict[tuple[str, str], Step] = {}

    def add(kind: str, recipe) -> None:
        measured = kind in ("row", "attack")
        digest = bench.digest(recipe.data) if measured else bench.images(recipe.data, "train").digest
        if (name := (kind, key(recipe, digest))) in found:
            return
        kept = bench.store.has(kind, recipe, digest=digest)
        for need in () if kept else needs(kind, recipe):
            add(*need)
        count = len(bench.images(recipe.data, "test" if measured else "train"))
        what, seconds = _estimate(kind, recipe, rates(replace(recipe.data, test=None)), count)
        found[name] = Step(kind, what, kept, 0.0 if kept else seconds())

    for artifact in artifacts:
        add(*artifact)
    return found


def _estimate(kind: str, recipe, rates: "_Rates", count: int) -> tuple[str, Callable[[], float | None]]:
    """What an artifact is in words, and the seconds that it takes itself, on so many images."""
    encoding = lambda: count * _AUTOENCODER * rates.training(ClassifierRecipe(width=0.25))  # noqa: E731
    match kind:
        case "row":
            what = f"{recipe.label}, {ThreatModel.of(recipe.knowledge, recipe.label).told(recipe.attack.label)}"
            return what, lambda: count * (rates.forward(recipe.classifier) + rates.defense(recipe.defense))
        case "attack":
            attack, victims, defense = recipe.attack, recipe.victims, recipe.defense
            draws = attack.draws if defense and defenses.unfitted(defense).stochastic else 1
            once = lambda: sum(map(rates.gradient, victims)) + draws * rates.defense(defense)  # noqa: E731
            told = f"{attack.label} on {' and '.join(victim.network for victim in victims)}"
            return told, lambda: count * passes(attack) * once()
        case "surrogate":
            share = min(1, recipe.images / count)
            once = lambda: count * rates.defense(recipe.defense) + recipe.epochs * encoding()  # noqa: E731
            return f"surrogate of {recipe.defense.label}", lambda: share * once()
        case "classifier":
            how = recipe.adversarial
            harder = 1 + how.share * (how.steps + 0.5) if how else 1
            behind = f" on {recipe.transform.label}" if recipe.transform else ""
            what = f"{recipe.label or recipe.network} ×{recipe.width:g}{behind}, {recipe.epochs} epochs"
            return what, lambda: recipe.epochs * count * harder * rates.training(recipe)
        case "projected":
            return f"{recipe.label} of {count:,} images", lambda: count * rates.defense(recipe)
        case "dictionary":
            of_one = isinstance(recipe, recipes.ClusterRecipe)
            learned, of = (recipe.dictionary, f" of cluster {recipe.cluster + 1}") if of_one else (recipe, "")
            coded = {name: getattr(learned, name) for name in ("lam", "lowpass", "pad", "boundary")}
            often, layer = _LEARNING * learned.images * learned.passes, TransformRecipe(learned, **coded)
            return f"{learned.K} filters of {learned.S}×{learned.S}{of}", lambda: often * rates.defense(layer)
        case "strata":
            return f"{recipe.clusters} clusters", encoding
        case "autoencoder":
            return "denoising", lambda: recipe.epochs * encoding()
    return recipe.label, lambda: None  # fitting a baseline


def _rates(bench: Workbench) -> Callable[[DataRecipe], "_Rates"]:
    return cache(lambda data: _Rates(bench, bench.images(data, "train")))


class _Rates:
    """Seconds an image, measured once each."""

    def __init__(self, bench: Workbench, train: Images):
        self.bench, self.train = bench, train
        self.share = min(1.0, 64**2 / (train.x.shape[-1] * train.x.shape[-2]))
        self.x = train.x[: self._count(_BATCH)].to(bench.device)
        self.forward, self.gradient = _by_speed(self._forward), _by_speed(self._gradient)
        self.training, self.defense = _by_speed(self._training), cache(self._defense)

    def _defense(self, recipe: AnyDefense | None) -> float:
        """Of a defense, without the network; of a T with clusters, one dictionary's."""
        if isinstance(recipe, recipes.StratifiedRecipe):
            return self.defense(recipe.transform)
        if isinstance(recipe, DefenseRecipe):
            return self._baseline(recipe)
        return self._layer(recipe) if recipe else 0.0

    def _count(self, most: int) -> int:
        return max(_LEAST, int(most * self.share))

    def _network(self, recipe: ClassifierRecipe) -> networks.Classifier:
        if recipe.foreign:
            return self.bench.classifier(recipe)
        return networks.frozen(networks.of(recipe, self.train), self.bench.device)

    def _forward(self, recipe: ClassifierRecipe) -> float:
        model = self._network(recipe)
        return seconds(lambda: model(self.x)) / len(self.x)

    def _gradient(self, recipe: ClassifierRecipe) -> float:
        model, x = self._network(recipe), self.x.clone().requires_grad_(True)
        return seconds(lambda: torch.autograd.grad(model(x).sum(), x)) / len(x)

    def _training(self, recipe: ClassifierRecipe) -> float:
        few = self.train[: 4 * len(self.x)]
        short = replace(recipe, batch=min(recipe.batch, len(few)))
        model, device = networks.of(short, self.train), self.bench.device
        return seconds(lambda: classifiers.train(model, few, short, progress=False, device=device)) / len(few)

    def _layer(self, recipe: TransformRecipe) -> float:
        """With its own filters if they are learned, and patches of images, from which learning starts, if not."""
        known = self.bench.store.has("dictionary", recipe.dictionary, digest=self.train.digest)
        d = self.bench.dictionary(recipe.dictionary) if known else cdl.start(self.train, recipe.dictionary)
        layer = SparseTransform.of(recipe, d).to(self.bench.device)
        with torch.no_grad():
            return seconds(lambda: layer(self.x)) / len(self.x)

    def _baseline(self, recipe: DefenseRecipe) -> float:
        """As it was fitted, or fitted for seconds, with settings as published, if it was not yet."""
        has, digest = self.bench.store.has, self.train.digest
        if isinstance(defenses.unfitted(recipe), Detector):
            return 0.0  # beside the network that it wraps; and there may be too few images to fit it to
        liked = not recipe.like or has("dictionary", recipe.like.dictionary, digest=digest)
        if not defenses.unfitted(recipe).learns or (liked and has("defense", recipe, digest=digest)):
            defense = self.bench.defense(recipe)
            if not defense.maps:  # wraps a network, which it may ask about many versions of an image
                defense = defense.around(self._network(ClassifierRecipe()))
        else:
            network = self._network(ClassifierRecipe())
            defense = briefly(recipe.name, network, self.train[: self._count(_FEWER)])
        few = self.x[: self._count(_FEW)]
        with torch.no_grad():
            return seconds(lambda: defense(few), repeat=2) / len(few)  # the first call of some takes twice as long


def _by_speed(timed: Callable[[ClassifierRecipe], float]) -> Callable[[ClassifierRecipe], float]:
    """Times one network of all that are equally fast: what it is trained on, and how long, does not matter."""
    once = cache(timed)
    return lambda recipe: once(replace(recipe, epochs=1, adversarial=None, transform=None))

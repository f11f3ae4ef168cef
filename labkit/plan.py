"""What cases will take: what is already kept, what has to be built, and about how long that takes on this machine."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import pandas as pd
import torch

from labkit import cdl, classifiers, defense_speed, networks, threat
from labkit.artifacts import Workbench
from labkit.data import Images
from labkit.defense import Around
from labkit.defenses import Defense
from labkit.experiment import Case
from labkit.recipes import (
    AttackRecipe,
    ClassifierRecipe,
    ClusterRecipe,
    DataRecipe,
    DefenseRecipe,
    StratifiedRecipe,
    TransformRecipe,
)
from labkit.rivals import unfitted
from labkit.solvers import seconds
from labkit.stl import SparseTransform
from labkit.store import key

# Images in a timed batch, of a competitor, and to fit one to; fewer of those larger than 64×64, but so many at least.
_BATCH, _FEW, _FEWER, _LEAST = 64, 32, 400, 8
# Passes forward and backward that an attack makes through what it attacks, per image and step, and its fixed part.
_PASSES: dict[str, Callable[[AttackRecipe], float]] = {
    "noise": lambda a: a.steps / 2,
    "square": lambda a: a.steps / 2,
    "deepfool": lambda a: 40,  # ten classes, and few images need more than four steps
    "cw": lambda a: 4 * a.steps,  # of five searches, some end early
    "universal": lambda a: 10,
    "autoattack": lambda a: 400,  # most images fall to its first attacks
}
_LEARNING = 6  # solving for codes, and the share of the filter update, beside one T(x)
_AUTOENCODER = 0.2  # of a training step of a quarter-width VGG-16


@dataclass(frozen=True)
class Step:
    """One artifact: its kind, what it is in words, whether it is kept already, and seconds; None where unknown."""

    kind: str
    what: str
    kept: bool
    seconds: float | None


def steps(cases: Iterable[Case], bench: Workbench) -> list[Step]:
    """Every artifact that the cases need, each once, in the order in which it would be built.

    Times come from timing networks, T and competitors on a few images here and now. How long a competitor takes to be
    fitted is not estimated. What is shared with others is counted where it is first needed.
    """
    return each({"": cases}, bench)[""]


def each(groups: Mapping[str, Iterable[Case]], bench: Workbench) -> dict[str, list[Step]]:
    """`steps` of each group as if it stood alone, with everything timed only once."""
    rates, found = _rates(bench), {}
    for name, cases in groups.items():
        walk = _Walk(bench, rates)
        for case in cases:
            walk.row(case)
        found[name] = list(walk.found.values())
    return found


def parts(recipes: Iterable[ClassifierRecipe | TransformRecipe | StratifiedRecipe], bench: Workbench) -> list[Step]:
    """The same for networks and transforms, whatever they will be asked."""
    walk = _Walk(bench, _rates(bench))
    for recipe in recipes:
        (walk.network if isinstance(recipe, ClassifierRecipe) else walk.transform)(recipe)
    return list(walk.found.values())


def table(planned: Iterable[Step]) -> pd.DataFrame:
    """One line per kind of artifact: kind, needed, kept, to build, minutes."""
    lines = []
    frame = pd.DataFrame([vars(step) for step in planned], columns=["kind", "what", "kept", "seconds"])
    for kind, mine in frame.groupby("kind", sort=False):
        new = mine[~mine.kept]
        known, blank = new.seconds.sum() / 60, int(new.seconds.isna().sum())
        told = f"{known:.1f}" if not blank else f"{known:.1f}, and {blank} not estimated"
        lines.append(
            {"kind": kind, "needed": len(mine), "kept": int(mine.kept.sum()), "to build": len(new), "minutes": told}
        )
    return pd.DataFrame(lines)


def hours(planned: Iterable[Step]) -> str:
    """The time it all takes, in words: minutes below two hours."""
    planned = list(planned)
    known = sum(step.seconds or 0 for step in planned)
    blank = sum(step.seconds is None for step in planned)
    told = f"{known / 3600:.1f} hours" if known > 7200 else f"{known / 60:.0f} minutes"
    return told + (f", and the time to fit {blank} competitors" if blank else "")


class _Walk:
    """From one case down to what it rests on; what is kept is not looked into."""

    def __init__(self, bench: Workbench, rates: Callable[[DataRecipe], "_Rates"]):
        self.found: dict[tuple[str, str], Step] = {}
        self.bench, self.rates = bench, rates

    def _new(self, kind: str, what: str, recipe, digest: str, needs: Callable[[], float | None]) -> None:
        """Notes an artifact; `needs` walks on to what it rests on, and gives the seconds that it takes itself."""
        name = (kind, key(recipe, digest))
        if name not in self.found:
            kept = self.bench.store.has(kind, recipe, digest=digest)
            took = 0.0 if kept else needs()
            self.found[name] = Step(kind, what, kept, took)

    def row(self, case: Case) -> None:
        train, test = self._images(case.data)

        def needs():
            self._attempt(case)
            self.network(case.classifier)
            self.transform(case.defense)
            return len(test) * (self._rates(case.data).forward(case.classifier) + self._cost(case.defense))

        what = f"{case.label}, {case.attack.label}, attacker has {threat.SHORT[case.knowledge]}"
        self._new("row", what, case, f"{train.digest}:{test.digest}", needs)

    def _attempt(self, case: Case) -> None:
        (train, test), mine = self._images(case.data), case.attempt()
        if mine.attack.name == "clean":
            return

        def needs():
            self.network(mine.victim)
            self.transform(mine.defense)
            random = isinstance(mine.defense, DefenseRecipe) and unfitted(mine.defense).stochastic
            draws = mine.attack.draws if random else 1
            count = _PASSES.get(mine.attack.name, lambda a: a.steps * a.restarts)(mine.attack)
            once = self._rates(case.data).gradient(mine.victim) + draws * self._cost(mine.defense)
            return len(test) * count * once

        what = f"{mine.attack.label} on {mine.victim.network}"
        self._new("attack", what, mine, f"{train.digest}:{test.digest}", needs)

    def network(self, recipe: ClassifierRecipe) -> None:
        if recipe.weights:
            return
        train = self._images(recipe.data)[0]

        def needs():
            if recipe.transform:
                self._projected(recipe.transform)
            how = recipe.adversarial
            harder = 1 + how.share * (how.steps + 0.5) if how else 1
            return recipe.epochs * len(train) * harder * self._rates(recipe.data).training(recipe)

        behind = f" on {recipe.transform.label}" if recipe.transform else ""
        what = f"{recipe.label or recipe.network} ×{recipe.width:g}{behind}, {recipe.epochs} epochs"
        self._new("classifier", what, recipe, train.digest, needs)

    def _projected(self, recipe) -> None:
        train = self._images(recipe.data)[0]

        def needs():
            self.transform(recipe)
            return len(train) * self._cost(recipe)

        self._new("projected", f"{recipe.label} of {len(train):,} images", recipe, train.digest, needs)

    def transform(self, recipe) -> None:
        if recipe is None:
            return
        digest = self._images(recipe.data)[0].digest
        if isinstance(recipe, TransformRecipe):
            self._new("dictionary", recipe.label, recipe.dictionary, digest, lambda: self._learning(recipe))
        elif isinstance(recipe, StratifiedRecipe):
            self._new(
                "strata", f"{recipe.strata.clusters} clusters", recipe.strata, digest, lambda: self._strata(recipe)
            )
            for m in range(recipe.strata.clusters):
                named = ClusterRecipe(recipe.strata, m, recipe.transform.dictionary)
                what = f"{recipe.label}, cluster {m + 1}"
                self._new("dictionary", what, named, digest, lambda: self._learning(recipe.transform))
        elif _fitted(recipe):

            def needs():
                if recipe.victim:
                    self.network(recipe.victim)

            self._new("defense", recipe.label, recipe, digest, needs)

    def _strata(self, recipe: StratifiedRecipe) -> float:
        """With its autoencoder, which is trained on the same images."""
        dae, train = recipe.strata.dae, self._images(recipe.data)[0]
        once = len(train) * _AUTOENCODER * self._rates(recipe.data).training(ClassifierRecipe(width=0.25))
        self._new("autoencoder", "denoising", dae, train.digest, lambda: dae.epochs * once)
        return once

    def _learning(self, recipe: TransformRecipe) -> float:
        seen = recipe.dictionary.images * recipe.dictionary.passes
        return seen * _LEARNING * self._rates(recipe.data).layer(recipe)

    def _cost(self, recipe) -> float:
        """Seconds for one image through a defense."""
        if recipe is None:
            return 0.0
        rates = self._rates(recipe.data)
        if isinstance(recipe, DefenseRecipe):
            return rates.competitor(recipe)
        return rates.layer(recipe.transform if isinstance(recipe, StratifiedRecipe) else recipe)

    def _images(self, data) -> tuple[Images, Images]:
        return self.bench.images(data, "train"), self.bench.images(data, "test")

    def _rates(self, data) -> "_Rates":
        return self.rates(replace(data, test=None))


def _rates(bench: Workbench) -> Callable[[DataRecipe], "_Rates"]:
    return cache(lambda data: _Rates(bench, bench.images(data, "train")))


class _Rates:
    """Seconds an image, measured once each."""

    def __init__(self, bench: Workbench, train: Images):
        self.bench, self.train = bench, train
        self.share = min(1.0, 64**2 / (train.x.shape[-1] * train.x.shape[-2]))
        self.x = train.x[: self._count(_BATCH)].to(bench.device)
        self.forward, self.gradient = _by_speed(self._forward), _by_speed(self._gradient)
        self.training = _by_speed(self._training)
        self.layer, self.competitor = cache(self._layer), cache(self._competitor)

    def _count(self, most: int) -> int:
        return max(_LEAST, int(most * self.share))

    def _network(self, recipe: ClassifierRecipe):
        model = networks.build(recipe, len(self.train.classes), self.x.shape[1], self.x.shape[-1])
        return networks.frozen(model, self.bench.device)

    def _forward(self, recipe: ClassifierRecipe) -> float:
        model = self._network(recipe)
        return seconds(lambda: model(self.x)) / len(self.x)

    def _gradient(self, recipe: ClassifierRecipe) -> float:
        model, x = self._network(recipe), self.x.clone().requires_grad_(True)
        return seconds(lambda: torch.autograd.grad(model(x).sum(), x)) / len(x)

    def _training(self, recipe: ClassifierRecipe) -> float:
        few = self.train[: 4 * len(self.x)]
        batch = min(recipe.batch, len(few))
        short = replace(recipe, batch=batch)
        model = networks.build(short, len(few.classes), self.x.shape[1], self.x.shape[-1])

        def run():
            classifiers.train(model, few, short, progress=False, device=self.bench.device)

        return seconds(run) / len(few)

    def _layer(self, recipe: TransformRecipe) -> float:
        """With its own filters if they are learned, and patches of images, from which learning starts, if not."""
        known = self.bench.store.has("dictionary", recipe.dictionary, digest=self.train.digest)
        d = self.bench.dictionary(recipe.dictionary) if known else cdl.start(self.train, recipe.dictionary)
        how = {"lam": recipe.lam, "lowpass": recipe.lowpass, "pad": recipe.pad, "boundary": recipe.boundary}
        layer = SparseTransform(d, gap_tol=recipe.gap_tol, **how).to(self.bench.device)
        with torch.no_grad():
            return seconds(lambda: layer(self.x)) / len(self.x)

    def _competitor(self, recipe: DefenseRecipe) -> float:
        """As it was fitted, or fitted for seconds, with settings as published, if it was not yet."""
        if not _fitted(recipe) or self.bench.store.has("defense", recipe, digest=self.train.digest):
            defense = self.bench.defense(recipe)
        else:
            network, images = self._network(ClassifierRecipe()), self.train[: self._count(_FEWER)]
            defense = defense_speed.briefly(recipe.name, network, images)
        if isinstance(defense, Around):
            return 0.0  # beside the network that it stands around, it costs little
        with torch.no_grad():
            # The first call of some takes twice as long.
            few = self.x[: self._count(_FEW)]
            return seconds(lambda: defense(few), repeat=2) / len(few)


def _by_speed(timed: Callable[[ClassifierRecipe], float]) -> Callable[[ClassifierRecipe], float]:
    """Times one network of all that are equally fast: what it is trained on, and how long, does not matter."""
    once = cache(timed)
    return lambda recipe: once(replace(recipe, epochs=1, adversarial=None, transform=None))


def _fitted(recipe: DefenseRecipe) -> bool:
    """Whether it is fitted to images at all."""
    return type(unfitted(recipe)).fit is not Defense.fit

"""Profiles: the four sizes of the whole lab, from a test's seconds to a GPU's hours."""

import os
from dataclasses import dataclass, field, replace

from labkit.core import recipes
from labkit.core.errors import InputError
from labkit.core.wording import here, whole

STL = recipes.TransformRecipe | recipes.StratifiedRecipe
_LAM = (0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.8)
# Atoms and sparsity of the three that the paper names.
_D3 = tuple(("d3", (("atoms", atoms), ("sparsity", k))) for atoms, k in ((40_000, 5), (10_000, 5), (10_000, 4)))

# As published for 224 pixels, and in proportion: crops as large a share as networks of small images are trained on, and
# as many deflections for a pixel (200 of 224×224), from as near.
_SMALL = {"crops": (("share", 0.875),), "deflection": (("deflections", 0.004), ("window", 2))}
_BOTH = tuple((name, options) for name, small in _SMALL.items() for options in ((), small))


@dataclass(frozen=True)
class Adaptive:
    """Adaptive attacks: on `n` test images, steps of PGD, queries, AutoAttack (hours) or not, `AttackRecipe.gap`."""

    n: int | None = 100
    steps: int = 20
    queries: int = 100
    autoattack: bool = False
    gap: float = 0.0


@dataclass(frozen=True)
class Baselines:
    """The baselines: on how many test images each is measured, and with which settings.

    fast, slow, slowest  test images, by what an image costs (`catalogue.DEFENSES`); None means all
    trained              those with a network of their own: of `baselines.hardened`'s, "stl-adversarial" (STL followed
                         by adversarial training) and "stl-dimmed" (STL with half of its low-pass part)
    retrained            those on whose output a network is trained for the paper's Tables 1 to 3, as on STL's
    options              what differs from published settings: (name, options of its DefenseRecipe); twice is two rows
    """

    fast: int | None
    slow: int
    slowest: int
    trained: tuple[str, ...] = (
        "adversarial", "thermometer", "thermometer-adversarial", "stl-adversarial", "stl-dimmed",
    )  # fmt: skip
    retrained: tuple[str, ...] = ()
    options: tuple[tuple[str, tuple], ...] = (_D3[1], _D3[2])


@dataclass(frozen=True)
class Tradeoff:
    """What notebook 06 varies, on `n` test images (None means all), and the values it tries.

    lam        of the paper's Figure 5, in front of a vanilla network
    K, S, M    of its Figure 7; M = 1 is one dictionary for all
    retrained  whether a network is trained for each of these, as in Figure 7, or the vanilla one kept
    silent     unspecified choices (`ablations.CHOICES`), and what else they could be
    """

    n: int | None = 100
    retrained: bool = False
    lam: tuple[float, ...] = (0.05, 0.1, 0.2, 0.4, 0.8)
    K: tuple[int, ...] = (16, 64, 128)
    S: tuple[int, ...] = (4, 8, 12)
    M: tuple[int, ...] = (1, 2, 4)
    silent: tuple[tuple[str, tuple], ...] = (
        ("lowpass", (1.0, float("inf"))), ("pad", (0,)), ("boundary", ("reflect",)), ("norm", ("channel",)),
        ("gap_tol", (0.1,)), ("bits", (8,)),
    )  # fmt: skip


@dataclass(frozen=True)
class Causes:
    """What may have made the paper's numbers (`experiments.causes`), tried on `n` test images.

    epochs  of its networks; None means as many as the profile's
    widths  of networks; all else is tried with the profile's own
    seeds   how many networks of each width, up to the profile's own
    """

    n: int | None = 100
    epochs: int | None = None
    widths: tuple[float, ...] = (0.125, 0.25)
    seeds: int = 1


@dataclass(frozen=True)
class Holding:
    """What may hold against who knows it (`experiments.holding`), on `n` test images.

    images, epochs  of the networks that compare ways of adversarial training: as many for each; None means all
    held            training images kept out, by which the best epoch is chosen
    top             coefficients of an image that a T of few keeps
    noise           of the network that is smoothed, for pixels in [0, 1]
    certified       images that are certified by smoothing, with `draws` each
    """

    n: int | None = 100
    images: int | None = 5000
    epochs: int = 8
    held: int = 250
    top: int = 100
    noise: float = 0.25
    certified: int = 50
    draws: int = 1000


@dataclass(frozen=True)
class Profile:
    """One size of the whole lab. `smoke` is for tests, `quick` the default, `lab` a CPU's hours, `paper` a GPU's.

    retraining  epochs of the networks trained on T(x) or adversarially; None means as many as the vanilla one gets
    """

    name: str
    data: recipes.DataRecipe
    transform: recipes.TransformRecipe
    stratified: recipes.StratifiedRecipe
    classifier: recipes.ClassifierRecipe
    attacks: tuple[recipes.AttackRecipe, ...]
    adaptive: Adaptive
    baselines: Baselines
    tradeoff: Tradeoff = field(default_factory=Tradeoff)
    causes: Causes = Causes()
    holding: Holding = Holding()
    retraining: int | None = None

    @property
    def released(self) -> "Profile":
        """This profile by what the authors released, not by what the paper states: attacks and T.

        `AttackRecipe.released` are the attacks. Their script divides each T(x) by its largest pixel, in 8 bits.
        """
        T = replace(self.transform, stretched=True, bits=8)
        attacks = tuple(attack.released for attack in self.attacks)
        stratified = replace(self.stratified, transform=T)
        return replace(self, transform=T, stratified=stratified, attacks=attacks)

    @property
    def defenses(self) -> tuple[STL, ...]:
        """What precedes the classifier in the defense tables."""
        return self.transform, self.stratified

    def named(self, spec: str):
        """The recipe of "lab:vanilla", "lab:stl" or "lab:stl-cluster"; any other word as it is, and None for ""."""
        own = {"lab:vanilla": self.classifier, "lab:stl": self.transform, "lab:stl-cluster": self.stratified}
        return own.get(spec, spec or None)

    def attack(self, label: str) -> recipes.AttackRecipe:
        """The attack of that name in tables, such as "Clean" or "FGSM-0.08"."""
        known = {attack.label: attack for attack in self.attacks}
        if label not in known:
            raise InputError(f"profile {self.name} has no attack {label!r}; it has {', '.join(known)}")
        return known[label]

    @property
    def strongest(self) -> recipes.AttackRecipe:
        """The last of the attacks with several steps, which white-box attackers repeat."""
        return [attack for attack in self.attacks if attack.steps > 1][-1]

    def retrained(self, transform: STL | None = None) -> recipes.ClassifierRecipe:
        """The same classifier, trained on T(x) (paper, Section 3.5)."""
        return self.trained(transform=transform or self.transform)

    def copy(self, knowledge: str) -> recipes.ClassifierRecipe | None:
        """What a grey-box attacker's surrogate is (`Case.copy`) where it is not the victim's `undefended`."""
        return self.classifier if knowledge == "transfer" and self.retraining else None

    def shorter(self, epochs: int) -> "Profile":
        """The same with networks that are trained for so many epochs at most, for a machine or a day that is short."""
        retraining = self.retraining and min(self.retraining, epochs)
        causes = replace(self.causes, epochs=self.causes.epochs and min(self.causes.epochs, epochs))
        classifier = replace(self.classifier, epochs=min(self.classifier.epochs, epochs))
        return replace(self, classifier=classifier, retraining=retraining, causes=causes)

    def judging(self, network: recipes.ClassifierRecipe) -> "Profile":
        """The same with somebody else's network, of which none is trained in another way."""
        few = replace(self.baselines, trained=(), retrained=())
        return replace(self, classifier=recipes.rebase(network, self.data), baselines=few)

    def trained(self, **how) -> recipes.ClassifierRecipe:
        """The same classifier, trained in another way: fields of its recipe; the epochs are `retraining`.

        Somebody else's network is not trained here, so not on T(x) either.
        """
        if self.classifier.foreign:
            return replace(self.classifier, **how | {"transform": None})
        return replace(self.classifier, epochs=self.retraining or self.classifier.epochs, **how)


def _profile(name, *, train, test, dictionary, dae, classifier, bim_steps, adaptive, strata=None, **rest) -> Profile:
    data = recipes.DataRecipe(train=train, test=test)
    transform = recipes.TransformRecipe(dictionary=recipes.DictionaryRecipe(data=data, **dictionary))
    attacks = ("clean", 0.0, 0), ("fgsm", 0.04), ("fgsm", 0.08)
    strongest = recipes.AttackRecipe("bim", 0.03, bim_steps, gap=adaptive.gap)
    attacks = (*(recipes.AttackRecipe(*attack) for attack in attacks), strongest)
    strata = recipes.StrataRecipe(recipes.DaeRecipe(data, **dae), **strata or {})
    classifier = recipes.ClassifierRecipe(data=data, **classifier)
    stratified = recipes.StratifiedRecipe(strata, transform)
    return Profile(name, data, transform, stratified, classifier, attacks, adaptive, **rest)


SMOKE = _profile(
    "smoke", train=600, test=60, bim_steps=3, dictionary=dict(K=12, images=60, passes=1, batch=30),
    dae=dict(width=8, epochs=1), strata=dict(clusters=2, components=16, neighbours=5),
    classifier=dict(width=0.125, epochs=3, batch=32), adaptive=Adaptive(n=30, steps=3, queries=5, gap=0.002),
    baselines=Baselines(
        fast=20, slow=4, slowest=2, retrained=("magnet",),
        options=(
            ("d3", (("atoms", 200), ("sparsity", 4))), ("magnet", (("epochs", 1),)),
            ("magnet-detector", (("epochs", 1), ("rate", 0.1))), ("quilting", (("patches", 2000),)),
            ("crops", (("crops", 4), ("patches", 2000))), ("tvm-quilting", (("patches", 2000),)),
            ("deflection", (("draws", 2),)), ("pixeldefend", (("epochs", 1), ("width", 8), ("blocks", 1))),
        ),
    ),
    tradeoff=Tradeoff(n=20, lam=(0.1, 0.4), K=(6, 12), S=(4, 8), M=(1, 2),
                      silent=(("boundary", ("reflect",)), ("bits", (8,)))),
    causes=Causes(n=20, widths=(0.125,)),
    holding=Holding(n=20, images=200, epochs=2, held=40, top=30, certified=6, draws=100),
)  # fmt: skip
QUICK = _profile(
    "quick", train=6000, test=300, bim_steps=10,
    dictionary=dict(images=200, passes=3), dae=dict(epochs=3), classifier=dict(width=0.25, epochs=8), retraining=6,
    adaptive=Adaptive(n=60, gap=0.002),
    baselines=Baselines(
        fast=100, slow=16, slowest=6, trained=(),
        options=(
            ("d3", (("atoms", 2000), ("sparsity", 5))), ("magnet", (("epochs", 8),)),
            ("magnet-detector", (("epochs", 8), ("rate", 0.005))), ("quilting", (("patches", 50_000),)),
            ("crops", (("crops", 10), ("patches", 50_000))), ("tvm-quilting", (("patches", 50_000),)),
            ("pixeldefend", (("epochs", 1), ("width", 32))),
        ),
    ),
    tradeoff=Tradeoff(n=60), holding=Holding(n=60, images=1000, epochs=3, held=100, certified=8, draws=100),
)  # fmt: skip
LAB = _profile(
    "lab", train=None, test=1000, bim_steps=20, dictionary=dict(images=2000, passes=6), dae=dict(epochs=10),
    classifier=dict(width=0.25, epochs=60, batch=128, lr=0.1, erase=0.25), retraining=20,
    adaptive=Adaptive(n=200, steps=50, queries=1000, autoattack=True),
    baselines=Baselines(
        fast=200, slow=200, slowest=50, retrained=("magnet", "tvm"), options=_D3 + _BOTH,
        trained=("adversarial", "thermometer", "stl-adversarial", "stl-dimmed"),
    ),
    tradeoff=Tradeoff(n=1000, retrained=True, lam=_LAM),
    causes=Causes(n=1000, epochs=8, widths=(0.125, 0.25, 0.5), seeds=3), holding=Holding(n=200, held=500),
)  # fmt: skip
PAPER = _profile(
    "paper", train=None, test=None, bim_steps=20, dictionary=dict(images=10_000, passes=10), dae=dict(epochs=20),
    classifier=dict(width=1.0, epochs=100, batch=128, lr=0.1, erase=0.25),
    adaptive=Adaptive(n=None, steps=100, queries=5000, autoattack=True),
    baselines=Baselines(
        fast=None, slow=1000, slowest=200, options=_D3 + _BOTH,
        retrained=("magnet", "pixeldefend", "tvm", "quilting", "crops", "tvm-quilting", "deflection", "d3"),
    ),
    tradeoff=Tradeoff(n=None, retrained=True, lam=_LAM, K=(16, 32, 64, 128, 256), S=(4, 6, 8, 12, 16), M=(1, 2, 4, 8)),
    causes=Causes(n=None, widths=(0.125, 0.25, 0.5, 1.0), seeds=3),
    holding=Holding(n=1000, images=None, epochs=30, held=1000, certified=500, draws=10_000),
)  # fmt: skip
PROFILES = {p.name: p for p in (SMOKE, QUICK, LAB, PAPER)}


def profile(name: str, *, dataset: str | None = None, resolution: int | None = None) -> Profile:
    """A profile by name, on another data set or at another resolution if asked for.

    What is not given is $LABKIT_PROFILE (or quick), $LABKIT_DATASET (or the profile's) and $LABKIT_RESOLUTION pixels
    (or as stored). A notebook's parameters may come as papermill types them. Raises InputError for other words.
    """
    name = str(name or "") or os.environ.get("LABKIT_PROFILE") or "quick"
    if name not in PROFILES:
        raise InputError(f"unknown profile {name!r}; the known ones are {', '.join(PROFILES)}")
    side = whole("resolution", resolution) or whole("$LABKIT_RESOLUTION", os.environ.get("LABKIT_RESOLUTION"))
    data = PROFILES[name].data
    dataset = here(str(dataset or "") or os.environ.get("LABKIT_DATASET") or data.name)
    return recipes.rebase(PROFILES[name], replace(data, name=dataset, resolution=side or None))

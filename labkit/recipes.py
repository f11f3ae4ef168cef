"""Recipes: frozen settings of everything that can be built, and the four profiles that bundle them.

A recipe names everything that changes an artifact and nothing else: never the device, the number of
processes or the place of the data. Nesting gives the tree of what depends on what; `store` hashes it.
"""

import dataclasses
import json
import math
import os
from dataclasses import dataclass, field, replace
from typing import Any

from labkit.errors import InputError


@dataclass(frozen=True)
class DataRecipe:
    """Which images. `name` as for `data.load`; sizes None mean all; `resolution` None means as stored."""

    name: str = "fashion"
    resolution: int | None = None
    train: int | None = None
    test: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class DictionaryRecipe:
    """How one convolutional dictionary is learned (paper, Eq. 2; the paper's K, S and λ are the defaults).

    `images` training images are drawn and read up to `passes` times in batches of `batch`; `held` others are kept
    aside, and learning stops when a pass lowers their objective by less than the share `stop`. `method` is one of
    `cdl.METHODS`. Fields below `lam` are choices on which the paper is silent.
    """

    data: DataRecipe = field(default_factory=DataRecipe)
    K: int = 64
    S: int = 8
    lam: float = 0.2
    lowpass: float = 5.0
    pad: int = 16
    boundary: str = "circular"
    images: int = 1000
    passes: int = 4
    batch: int = 50
    gap_tol: float = 0.02
    method: str = "online"
    held: int = 50
    stop: float = 0.002
    seed: int = 0
    version: int = 2


@dataclass(frozen=True)
class TransformRecipe:
    """The Sparse Transformation Layer T(x): a dictionary, and how images are coded with it."""

    dictionary: DictionaryRecipe = field(default_factory=DictionaryRecipe)
    lam: float = 0.2
    lowpass: float = 5.0
    pad: int = 16
    boundary: str = "circular"
    gap_tol: float = 0.01
    version: int = 2

    label = "STL"  # the paper's name in tables

    @property
    def data(self) -> DataRecipe:
        return self.dictionary.data


@dataclass(frozen=True)
class Weights:
    """A file of weights, known by its content; made by `networks.fingerprint`."""

    path: str
    digest: str


@dataclass(frozen=True)
class DaeRecipe:
    """The denoising autoencoder whose features make the clusters: three blocks of `width` channels and their mirror.

    noise  standard deviation of the Gaussian noise, for pixels in [0, 1]
    held   share of the training images that is kept aside to measure the reconstruction on
    """

    data: DataRecipe = field(default_factory=DataRecipe)
    width: int = 32
    epochs: int = 10
    batch: int = 128
    lr: float = 1e-3
    noise: float = 0.15
    held: float = 0.05
    seed: int = 0
    version: int = 1


@dataclass(frozen=True)
class StrataRecipe:
    """The clusters of the training images (paper, Section 3.4), and how an image is voted to one of them.

    clusters    M: 4 for CIFAR-10 and ImageNet-10 in the paper, 10 for ImageNet
    components  of the principal component analysis before k-means; fewer where there are fewer features or images
    neighbours  k of the vote, on which the paper is silent
    """

    dae: DaeRecipe = field(default_factory=DaeRecipe)
    clusters: int = 4
    components: int = 128
    neighbours: int = 15
    seed: int = 0
    version: int = 1


@dataclass(frozen=True)
class StratifiedRecipe:
    """STL (cluster): an image is voted to a cluster, and coded with the dictionary learned from that cluster alone.

    `transform` says how each cluster's dictionary is learned (from up to `images` images of the cluster) and used.
    """

    strata: StrataRecipe = field(default_factory=StrataRecipe)
    transform: TransformRecipe = field(default_factory=TransformRecipe)
    version: int = 1

    label = "STL (cluster)"

    @property
    def data(self) -> DataRecipe:
        return self.transform.data


@dataclass(frozen=True)
class ClusterRecipe:
    """The dictionary of one cluster, counted from 0, of a StratifiedRecipe."""

    strata: StrataRecipe
    cluster: int
    dictionary: DictionaryRecipe


@dataclass(frozen=True)
class ClassifierRecipe:
    """A trained network. With `transform`, it is trained on T(x) ("retrained"); without, on x ("vanilla").

    With `weights`, it is not trained but loaded, and the fields of training count for nothing.
    """

    data: DataRecipe = field(default_factory=DataRecipe)
    network: str = "vgg16"
    width: float = 0.25
    epochs: int = 12
    batch: int = 64
    lr: float = 0.05
    weight_decay: float = 5e-4
    augment: bool = True
    transform: TransformRecipe | StratifiedRecipe | None = None
    weights: Weights | None = None
    seed: int = 0
    version: int = 2


@dataclass(frozen=True)
class AttackRecipe:
    """An attack by its name in `labkit.attacks`, how far it may go, and how long it tries.

    size   in the unit of `norm`; 0 for the clean image
    norm   "dissimilarity", ‖x_adv − x‖₂ / ‖x‖₂, the paper's relative L2 measure, for each image; "average", its mean
           over the whole set (Table 3); "l2" and "linf", absolute, for pixels in [0, 1]; "none", as far as it takes
    steps  of iterative attacks; queries of those that only ask
    """

    name: str = "fgsm"
    size: float = 0.08
    steps: int = 1
    norm: str = "dissimilarity"
    restarts: int = 1
    version: int = 2

    @property
    def label(self) -> str:
        """The name used in tables, as the paper writes it: `FGSM-0.08`, or `Clean`."""
        if self.name == "clean":
            return "Clean"
        size = {
            "l2": f"-L2-{self.size:g}",
            "linf": f"-L∞-{self.size:.3f}",
            "none": "",
            "average": f"-{self.size:.2f} avg",
        }
        return self.name.upper() + size.get(self.norm, f"-{self.size:.2f}")


@dataclass(frozen=True)
class Adaptive:
    """How hard the adaptive attackers try: on `n` test images, with so many steps of PGD, and so many queries.

    autoattack  whether AutoAttack, which takes hours through T on a CPU, is among them
    """

    n: int | None = 100
    steps: int = 20
    queries: int = 100
    autoattack: bool = False


@dataclass(frozen=True)
class Profile:
    """One size of the whole lab. `smoke` is for tests, `quick` the default, `lab` a CPU's hours, `paper` a GPU's."""

    name: str
    data: DataRecipe
    transform: TransformRecipe
    stratified: StratifiedRecipe
    classifier: ClassifierRecipe
    attacks: tuple[AttackRecipe, ...]
    adaptive: Adaptive

    @property
    def defenses(self) -> tuple[TransformRecipe | StratifiedRecipe, ...]:
        """What the defense tables put before the classifier."""
        return self.transform, self.stratified

    def retrained(self, transform: TransformRecipe | StratifiedRecipe | None = None) -> ClassifierRecipe:
        """The same classifier, trained on T(x) (paper, Section 3.5)."""
        return replace(self.classifier, transform=transform or self.transform)


def _profile(
    name: str, *, train, test, dictionary: dict, dae: dict, strata: dict, classifier, bim_steps, adaptive
) -> Profile:
    data = DataRecipe(train=train, test=test)
    transform = TransformRecipe(dictionary=DictionaryRecipe(data=data, **dictionary))
    return Profile(
        name=name,
        data=data,
        transform=transform,
        stratified=StratifiedRecipe(StrataRecipe(DaeRecipe(data, **dae), **strata), transform),
        classifier=ClassifierRecipe(data=data, **classifier),
        attacks=(
            AttackRecipe("clean", 0.0, 0),
            AttackRecipe("fgsm", 0.04),
            AttackRecipe("fgsm", 0.08),
            AttackRecipe("bim", 0.03, bim_steps),
        ),
        adaptive=Adaptive(**adaptive),
    )


SMOKE = _profile(
    "smoke",
    train=600,
    test=60,
    bim_steps=3,
    adaptive=dict(n=30, steps=3, queries=5),
    dictionary=dict(K=12, images=60, passes=1, batch=30),
    dae=dict(width=8, epochs=1),
    strata=dict(clusters=2, components=16, neighbours=5),
    classifier=dict(width=0.125, epochs=3, batch=32),
)
QUICK = _profile(
    "quick",
    train=8000,
    test=500,
    bim_steps=10,
    adaptive=dict(),
    dictionary=dict(images=400, passes=4),
    dae=dict(epochs=5),
    strata=dict(),
    classifier=dict(width=0.25, epochs=8),
)
LAB = _profile(
    "lab",
    train=None,
    test=2000,
    bim_steps=20,
    adaptive=dict(n=1000, steps=100, queries=1000, autoattack=True),
    dictionary=dict(images=2000, passes=6),
    dae=dict(epochs=10),
    strata=dict(),
    classifier=dict(width=0.25, epochs=30, batch=128, lr=0.1),
)
PAPER = _profile(
    "paper",
    train=None,
    test=None,
    bim_steps=20,
    adaptive=dict(n=None, steps=100, queries=5000, autoattack=True),
    dictionary=dict(images=10_000, passes=10),
    dae=dict(epochs=20),
    strata=dict(),
    classifier=dict(width=1.0, epochs=100, batch=128, lr=0.1),
)
PROFILES = {p.name: p for p in (SMOKE, QUICK, LAB, PAPER)}


def profile(name: str, *, dataset: str | None = None, resolution: int | None = None) -> Profile:
    """A profile by name ("" is $LABKIT_PROFILE, or quick), on another data set or at another resolution if asked for.

    Raises InputError naming the known profiles when `name` is not one of them.
    """
    name = name or os.environ.get("LABKIT_PROFILE") or "quick"
    if name not in PROFILES:
        raise InputError(f"unknown profile {name!r}; the known ones are {', '.join(PROFILES)}")
    chosen = PROFILES[name]
    data = replace(chosen.data, name=dataset or chosen.data.name, resolution=resolution or None)
    return rebase(chosen, data)


def rebase(recipe: Any, data: DataRecipe) -> Any:
    """The same recipe with every DataRecipe inside it replaced by `data`."""
    if isinstance(recipe, DataRecipe):
        return data
    if not dataclasses.is_dataclass(recipe):
        return recipe
    return replace(recipe, **{f.name: rebase(getattr(recipe, f.name), data) for f in dataclasses.fields(recipe)})


def plain(recipe: Any, digest: str = "") -> Any:
    """A recipe as nested dicts, lists and scalars, each dataclass tagged with its class in `"recipe"`.

    With `digest`, each DataRecipe becomes that digest: an artifact depends on the images, not on where they lie.
    """
    if digest and isinstance(recipe, DataRecipe):
        return {"recipe": "Images", "digest": digest}
    if isinstance(recipe, Weights):
        return {"recipe": "Weights", "digest": recipe.digest}
    if dataclasses.is_dataclass(recipe):
        fields = {f.name: plain(getattr(recipe, f.name), digest) for f in dataclasses.fields(recipe)}
        return {"recipe": type(recipe).__name__, **fields}
    if isinstance(recipe, (tuple, list)):
        return [plain(item, digest) for item in recipe]
    if isinstance(recipe, dict):
        return {key: plain(item, digest) for key, item in recipe.items()}
    if isinstance(recipe, float) and not math.isfinite(recipe):
        return str(recipe)  # JSON has no infinity, but no low-pass part at all is one (`split`)
    return recipe


def canonical(recipe: Any, digest: str = "") -> str:
    """`plain` as JSON with sorted keys and no spaces: equal recipes give equal text, which `store` hashes."""
    return json.dumps(plain(recipe, digest), sort_keys=True, separators=(",", ":"), allow_nan=False)

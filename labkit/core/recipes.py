"""Recipes: frozen settings of everything that can be built.

A recipe names everything that changes an artifact and nothing else: never the device, the number of processes or the
place of the data. Nesting gives the tree of what depends on what; `store` hashes it.
"""

from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any

from labkit.core.canonical import LATER, DataRecipe, Weights, canonical, listed, plain, rebase, reseed  # noqa: F401 (for others)
from labkit.core.catalogue import ATTACKS, DATASETS, DEFENSES, FAULTS, Folder, Named, folder  # noqa: F401 (for others)
from labkit.core.errors import InputError
from labkit.core.limits import Limited

# How the size of an attack is written in each norm; in all others, as a relative L2 measure.
_SIZES = {"l2": "-L2-{:g}", "linf": "-L∞-{:.3f}", "none": "", "average": "-{:.2f} avg", "levels": "-{:g}/255"}


@dataclass(frozen=True)
class DictionaryRecipe(Limited):
    """How one convolutional dictionary is learned (paper, Eq. 2; the paper's K, S and λ are the defaults).

    `images` training images are drawn and read up to `passes` times in batches of `batch`; `held` others are kept
    aside, and learning stops when a pass lowers their objective by less than the share `stop`. Fields below `lam` are
    unspecified choices. `method` is one of `cdl.METHODS`, `norm` of `cdl.NORMS`: a filter has unit norm over all
    channels ("whole", as in the authors' released dictionaries) or each channel by itself ("channel", as in Eq. 2).
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
    norm: str = field(default="whole", metadata=LATER)
    seed: int = 0
    version: int = 2


@dataclass(frozen=True)
class TransformRecipe(Limited):
    """The Sparse Transformation Layer T(x): a dictionary, and how images are coded with it.

    dim        share of the low-pass part's contrast, about each image's mean, that T outputs; 1 in the paper
    bits       a channel to which T(x) is rounded; 0 for not rounded
    stretched  whether each T(x) is divided by its largest pixel, as the authors' script does
    top        how many coefficients of an image T keeps, the largest; 0 for all (Bakiskan et al., 2021)
    shaken     how far each call draws: λ times or by up to 2 to this power, and up to half as large a share of filters
               left out; 0 for the paper's T, which draws nothing
    relative   whether λ is a share of the smallest λ that leaves nothing of an image, so another for each image
    """

    dictionary: DictionaryRecipe = field(default_factory=DictionaryRecipe)
    lam: float = 0.2
    lowpass: float = 5.0
    pad: int = 16
    boundary: str = "circular"
    gap_tol: float = 0.01
    dim: float = field(default=1.0, metadata=LATER)
    bits: int = field(default=0, metadata=LATER)
    stretched: bool = field(default=False, metadata=LATER)
    top: int = field(default=0, metadata=LATER)
    shaken: float = field(default=0.0, metadata=LATER)
    relative: bool = field(default=False, metadata=LATER)
    version: int = 2
    data = property(attrgetter("dictionary.data"))

    @property
    def label(self) -> str:
        """The paper's name in tables, and how it differs from the paper's."""
        told = [f"low-pass ×{self.dim:g}"] * (self.dim != 1) + [f"top {self.top}"] * bool(self.top)
        told += ["random"] * bool(self.shaken) + ["λ per image"] * self.relative
        return f"STL ({', '.join(told)})" if told else "STL"


@dataclass(frozen=True)
class DaeRecipe(Limited):
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
class StrataRecipe(Limited):
    """The clusters of the training images (paper, Section 3.4), and how an image is voted to one of them.

    clusters    M: 4 for CIFAR-10 and ImageNet-10 in the paper, 10 for ImageNet
    components  of the principal component analysis before k-means; fewer where there are fewer features or images
    neighbours  k of the vote, an unspecified choice
    """

    dae: DaeRecipe = field(default_factory=DaeRecipe)
    clusters: int = 4
    components: int = 128
    neighbours: int = 15
    seed: int = 0
    version: int = 1
    data = property(attrgetter("dae.data"))


@dataclass(frozen=True)
class StratifiedRecipe:
    """STL (cluster): each image is coded with the dictionary of the cluster it is voted to, learned from that alone."""

    strata: StrataRecipe = field(default_factory=StrataRecipe)
    transform: TransformRecipe = field(default_factory=TransformRecipe)
    version: int = 1
    data = property(attrgetter("transform.data"))

    @property
    def label(self) -> str:
        """The paper's name in tables."""
        return "STL (cluster)" if self.transform.dim == 1 else f"STL (cluster, low-pass ×{self.transform.dim:g})"

    @property
    def dictionaries(self) -> "tuple[ClusterRecipe, ...]":
        """The dictionary of every cluster."""
        return tuple(ClusterRecipe(self.strata, m, self.transform.dictionary) for m in range(self.strata.clusters))


@dataclass(frozen=True)
class ClusterRecipe:
    """The dictionary of one cluster (from 0) of a StratifiedRecipe."""

    strata: StrataRecipe
    cluster: int
    dictionary: DictionaryRecipe
    data = property(attrgetter("dictionary.data"))


@dataclass(frozen=True)
class AdversarialTraining(Limited):
    """Part of every batch is replaced by adversarial images made against the network as it is at that moment.

    Kurakin, Goodfellow & Bengio, "Adversarial machine learning at scale", ICLR 2017, Section 3; they draw the size
    anew for each image. The defaults are those of the paper's comparison (Table 8). Those of Madry et al. (ICLR 2018),
    and of thermometer encoding at its best: `AdversarialTraining("pgd", 0.031, "linf", steps=7, share=1.0)`.

    attack   "fgsm", "bim" or "pgd" (`attacks.climb`; of one step, the cheap one of Wong et al., ICLR 2020), against
             the true classes. Accuracy under FGSM does not tell how robust a network trained with it is: it may read
             the class off what the one step has done (label leaking; Kurakin et al.)
    norm     "dissimilarity", "l2" or "linf", as for AttackRecipe
    steps    of "bim" and "pgd"
    share    of each batch that is adversarial
    weight   of the loss of an adversarial image; that of a clean one is 1
    beta     weight of the divergence of TRADES (Zhang et al., ICML 2019); 0 for the cross-entropy of attacked images
    held     training images kept out, on which each epoch is tried; the epoch most robust there is kept. 0 for none
    through  whether a network trained on T(x) is attacked through T, by its exact gradient, and T taken of the outcome
    """

    attack: str = "fgsm"
    size: float = 0.08
    norm: str = "dissimilarity"
    steps: int = 1
    share: float = 0.5
    weight: float = 0.3
    beta: float = field(default=0.0, metadata=LATER)
    held: int = field(default=0, metadata=LATER)
    through: bool = field(default=False, metadata=LATER)

    @property
    def label(self) -> str:
        """The paper's name of it, and how it differs from the paper's."""
        if self.attack == "fgsm":
            return "Adv Training"
        one = "one step" if self.steps == 1 else f"{self.steps} steps"
        return f"{'TRADES' if self.beta else 'Adv Training'} ({one}{', through T' * self.through})"


@dataclass(frozen=True)
class ClassifierRecipe(Limited):
    """A trained network. With `transform`, it is trained on T(x) ("retrained"); without, on x ("vanilla").

    weights      loaded instead of training, whose fields then count for nothing
    erase        side of a square that is blanked in each training image, as a share of the image's; 0 for none
    levels       thermometer encoding of the input in so many levels (Buckman et al., 2018); 0 for none
    adversarial  how adversarial images are mixed into its training; None for not at all
    mirrored     whether it decides by the mean of its logits for an image and for its mirror image (once trained)
    dropout      share of the features after each pooling of a VGG that are dropped while it trains
    noise        standard deviation of Gaussian noise on each training image, which is then clipped to [0, 1] again
    """

    data: DataRecipe = field(default_factory=DataRecipe)
    network: str = "vgg16"
    width: float = 0.25
    epochs: int = 12
    batch: int = 64
    lr: float = 0.05
    weight_decay: float = 5e-4
    augment: bool = True
    transform: "TransformRecipe | StratifiedRecipe | DefenseRecipe | None" = None
    weights: Weights | None = None
    erase: float = field(default=0.0, metadata=LATER)
    levels: int = field(default=0, metadata=LATER)
    adversarial: AdversarialTraining | None = field(default=None, metadata=LATER)
    mirrored: bool = field(default=False, metadata=LATER)
    dropout: float = field(default=0.0, metadata=LATER)
    noise: float = field(default=0.0, metadata=LATER)
    seed: int = 0
    version: int = 2

    @property
    def label(self) -> str:
        """The paper's name of a defense in the network itself; "" for none."""
        trained = self.adversarial and ("Adv Training" if self.levels else self.adversarial.label)
        return " + ".join(filter(None, ("TE" * bool(self.levels), "noise" * bool(self.noise), trained)))

    @property
    def foreign(self) -> bool:
        """Whether it is somebody else's, as "torchvision:resnet18" (`models.foreign`); only `weights` counts then."""
        return ":" in self.network

    @property
    def undefended(self) -> "ClassifierRecipe":
        """The same network without any defense in it or before it."""
        return replace(self, transform=None, levels=0, adversarial=None)


@dataclass(frozen=True)
class DefenseRecipe:
    """A baseline by its name in `labkit.defenses`, fitted to training images where it needs any.

    options  what differs from its published settings, as (keyword, value) pairs
    like     the STL whose mean PSNR on training images a plain blur is given
    victim   the network whose activations a detector looks at
    """

    name: str
    data: DataRecipe = field(default_factory=DataRecipe)
    options: tuple[tuple[str, Any], ...] = ()
    like: TransformRecipe | None = None
    victim: ClassifierRecipe | None = None
    version: int = 1

    @property
    def label(self) -> str:
        """The paper's name in tables, where it has one."""
        name = DEFENSES[self.name].label if self.name in DEFENSES else self.name
        told = dict(self.options)
        if self.name == "d3" and "atoms" in told:
            return f"D3 ({told['atoms'] / 1000:g}K-{told['sparsity']})"
        shares = (("share", "crops of {:.0%}"), ("deflections", "{:.1%} of pixels"))
        return name + "".join(f" ({words.format(told[key])})" for key, words in shares if told.get(key, 1) < 1)


@dataclass(frozen=True)
class SurrogateRecipe(Limited):
    """A network that learns what a defense makes of images, for attackers to differentiate; hidden layers of `width`.

    images  training images that it learns from; the share `held` of them is kept aside to measure it on
    noise   largest standard deviation of their Gaussian noise, for pixels in [0, 1]: where attacks will ask it
    """

    defense: DefenseRecipe | None = None
    images: int = 2000
    width: int = 32
    epochs: int = 20
    batch: int = 64
    lr: float = 2e-3
    noise: float = 0.03
    held: float = 0.1
    seed: int = 0
    version: int = 1
    data = property(attrgetter("defense.data"))


@dataclass(frozen=True)
class AttackRecipe(Limited):
    """An attack by its name in `labkit.attacks`, how far it may go, and how long it tries.

    size    in the unit of `norm`; 0 for the clean image
    norm    "dissimilarity", ‖x_adv − x‖₂ / ‖x‖₂, the paper's relative L2 measure, for each image; "average", its mean
            over the whole set (Table 3); "l2" and "linf", absolute, for pixels in [0, 1]; "levels", grey levels of 255
            in L∞, or for those that look for the smallest L2 change the mean dissimilarity that so many levels in every
            pixel are; "none", as far as it takes
    steps   of iterative attacks; queries of black-box ones; AutoAttack sets its own
    draws   EOT samples of a random defense for each gradient
    loss    of "pgd": "log-odds" or "margin" (`attacks.common`)
    gap     relative duality gap of T's codes while T is differentiated (`Defense.approximate`); 0 for T as it is judged
    faults  what is wrong with it on purpose (`catalogue.FAULTS`), for `experiments.causes` alone
    stored  whether the images are rounded to 8 bits in the end, as a file would, and still within the size
    after   of "pgd": the attack of the same size, by who knows no defense, where it starts
    """

    name: str = "fgsm"
    size: float = 0.08
    steps: int = 1
    norm: str = "dissimilarity"
    restarts: int = 1
    draws: int = field(default=20, metadata=LATER)
    loss: str = field(default="log-odds", metadata=LATER)
    stored: bool = field(default=False, metadata=LATER)
    gap: float = field(default=0.0, metadata=LATER)
    faults: tuple[str, ...] = field(default=(), metadata=LATER)
    after: str = field(default="", metadata=LATER)
    version: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.after and (self.name != "pgd" or self.after not in ATTACKS):
            raise InputError(f"{self.name} cannot start from what {self.after!r} made; use pgd, after a known attack")
        if unknown := set(self.faults) - set(FAULTS):
            raise InputError(f"unknown faults {', '.join(sorted(unknown))}; the known ones are {', '.join(FAULTS)}")
        # AutoAttack does not use `steps`: all have the 50 that the profile `lab` always had. What CW finds has changed.
        self.__dict__.update({"autoattack": {"steps": 50}, "cw": {"version": 3}}.get(self.name, {}))

    @property
    def label(self) -> str:
        """The name used in tables, as the paper writes it: `FGSM-0.08`, or `Clean`."""
        if self.name == "clean":
            return "Clean"
        size = _SIZES.get(self.norm, "-{:.2f}").format(self.size)
        loss, after = self.loss * (self.loss != "log-odds"), self.after and f"after {ATTACKS[self.after].label}"
        name = ATTACKS[self.name].label if self.name in ATTACKS else self.name.partition("@")[0]
        wrong = f"({', '.join(FAULTS[fault] for fault in self.faults)})" * bool(self.faults)
        stored = "8 bits" * (self.stored and self.norm != "levels")
        return " ".join(filter(None, (name + size, loss, after, stored, wrong)))

    @property
    def released(self) -> "AttackRecipe":
        """As the authors' released images have it, where the paper's text says relative L2: 0.08 is 8/255, in 8 bits.

        Its Table 3's average of 0.06 agrees with 4/255, by Guo et al.'s measure, of images less their mean. Attacks
        that stop at the boundary are not rounded, which would undo most of them; nothing is known of the paper's.
        """
        if self.name == "clean" or self.norm not in ("dissimilarity", "average"):
            return self
        size = 4.0 if self.norm == "average" else round(100 * self.size, 6)
        return replace(self, norm="levels", size=size, stored=self.name not in ("deepfool", "cw", "ddn"))

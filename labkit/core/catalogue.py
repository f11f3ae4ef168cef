"""Attacks, defenses and data sets by the names that recipes use: where each is, and its words. Loads none of them."""

import importlib
import os
import re
from typing import Any, NamedTuple


class Named(NamedTuple):
    """One attack, defense or data set.

    where  module:function, or module:class
    label  its name in tables; of a data set, a sentence on where its pixels come from
    cost   of a defense: how many test images its rows rest on, "fast", "slow" or "slowest" (`profiles.Baselines`)
    given  of a defense: what its recipe needs besides the name, "like" or "victim" (`recipes.DefenseRecipe`)
    """

    where: str
    label: str
    cost: str = "fast"
    given: str = ""

    def load(self) -> Any:
        """The function or class itself."""
        module, _, name = self.where.partition(":")
        return getattr(importlib.import_module(module), name)


ATTACKS = {
    "fgsm": Named("labkit.attacks.gradient_based:fgsm", "FGSM"),
    "bim": Named("labkit.attacks.gradient_based:bim", "BIM"),
    "pgd": Named("labkit.attacks.gradient_based:pgd", "PGD"),
    "mi_di": Named("labkit.attacks.gradient_based:mi_di", "MI-DI"),
    "deepfool": Named("labkit.attacks.minimum_norm:deepfool", "DeepFool"),
    "cw": Named("labkit.attacks.minimum_norm:cw", "CW"),
    "ddn": Named("labkit.attacks.minimum_norm:ddn", "DDN"),
    "universal": Named("labkit.attacks.universal_perturbation:universal", "Uni"),
    "lowfreq": Named("labkit.attacks.gradient_based:lowfreq", "Low-pass PGD"),
    "square": Named("labkit.attacks.auto_attack:square", "Square"),
    "hopskipjump": Named("labkit.attacks.minimum_norm:hopskipjump", "HopSkipJump"),
    "autoattack": Named("labkit.attacks.auto_attack:autoattack", "AutoAttack"),
    "ladder": Named("labkit.attacks.ladder:ladder", "PGD ladder"),
    "noise": Named("labkit.attacks.auto_attack:noise", "Noise"),
}
# What may be wrong with an attack: made on purpose by `experiments.causes`, and by nobody else.
FAULTS = {
    "batch-100": "batch statistics of up to 100", "batch-8": "batch statistics of up to 8", "dropout": "dropout active",
    "predicted": "predicted labels", "jpeg": "saved as JPEG",
}  # fmt: skip
# In the order of their rows.
DEFENSES = {
    "jpeg": Named("labkit.defenses.filters:JPEG", "JPEG"),
    "bits": Named("labkit.defenses.filters:BitDepth", "Bit depth"),
    "median": Named("labkit.defenses.filters:Median", "Median"),
    "nlm": Named("labkit.defenses.filters:NonLocalMeans", "Non-local means"),
    "lowpass": Named("labkit.defenses.filters:LowPass", "Blur of STL's PSNR", given="like"),
    "tvm": Named("labkit.defenses.tvm:TVM", "TVM"),
    "quilting": Named("labkit.defenses.quilting:Quilting", "Quilting", "slow"),
    "tvm-quilting": Named("labkit.defenses.crops:tvm_quilting", "TVM+quilt", "slow"),
    "crops": Named("labkit.defenses.crops:crops", "Crop-Ens", "slow"),
    "deflection": Named("labkit.defenses.deflection:PixelDeflection", "PD-Ens", "slow"),
    "magnet": Named("labkit.defenses.magnet:MagNet", "MagNet"),
    "pixeldefend": Named("labkit.defenses.pixeldefend:PixelDefend", "PixelDefend", "slowest"),
    "d3": Named("labkit.defenses.d3:D3", "D3", "slow"),
    "sap": Named("labkit.defenses.sap:SAP", "SAP"),
    "magnet-detector": Named("labkit.defenses.magnet:magnet_detector", "MagNet detector"),
    "lid": Named("labkit.defenses.lid:LID", "LID", given="victim"),
}
# Each a function `Ask -> Images` (`datasets.loaders`), under the data set's name.
DATASETS = {name: Named(f"labkit.datasets.loaders:_{name}", label) for name, label in {
    "fashion": "Fashion-MNIST (Zalando, MIT): 1,000 train and 200 test images a class, padded to 32×32.",
    "photos": "Crops of ten photographs (three of them JPEG), the class being the photograph; train and test crops "
              "come from different halves.",
    "cifar10": "CIFAR-10 (Krizhevsky, 2009) as published, through torchvision.",
    "imagenet10": "Ten coarse classes of ILSVRC-2012, chosen here (the paper does not publish its own); validation "
                  "images as test; pixels come from (lossy) JPEG files.",
    "imagenet": "ILSVRC-2012, validation images as test; pixels come from (lossy) JPEG files.",
}.items()}  # fmt: skip

_FOLDER = re.compile(r"folder:(.+?)(\?(?:(?:layout=[^&]+|allow-duplicates)(?:&|$))+)?", re.DOTALL)


class Folder(NamedTuple):
    """A folder or zip, `folder:PATH?layout=LAYOUT&allow-duplicates`: `layout` as in `datasets.layouts` or "", whether
    test images may be `duplicates` of training images, and as `label` the same without the path, which is private.
    """

    path: str
    layout: str
    duplicates: bool
    label: str


def folder(name: str) -> Folder | None:
    """The folder or zip that a data set's name names, if any."""
    if not (found := _FOLDER.fullmatch(name)):
        return None
    path, options = found[1], dict(option.partition("=")[::2] for option in (found[2] or "?")[1:].split("&"))
    label = f"folder:{os.path.basename(os.path.abspath(os.path.expanduser(path)))}{found[2] or ''}"
    return Folder(path, options.get("layout", ""), "allow-duplicates" in options, label)

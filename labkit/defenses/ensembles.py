"""Defenses that are made of others, as published."""

from labkit.defenses.crops import CropEnsemble
from labkit.defenses.magnet import MagNet, MagNetDetector
from labkit.defenses.quilting import Quilting
from labkit.defenses.tvm import TVM


def crops(*, patches: int = 1_000_000, **options) -> CropEnsemble:
    """Crops of the image after total-variation minimisation and after quilting: the paper's Crop-Ens."""
    return CropEnsemble(TVM(), Quilting(patches=patches), **options)


def tvm_quilting(*, patches: int = 1_000_000) -> CropEnsemble:
    """The mean opinion on the whole image after each of the two, without crops: the paper's TVM+quilt."""
    return CropEnsemble(TVM(), Quilting(patches=patches), crops=2, share=1.0)


def magnet_detector(*, epochs: int | None = None, **options) -> MagNetDetector:
    """The detector and the reformer that it measures, which is trained for `epochs`."""
    return MagNetDetector(reformer=MagNet(epochs=epochs), **options)

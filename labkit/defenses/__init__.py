"""The defenses that the Sparse Transformation Layer is compared with, each built from its own publication."""

from labkit.defense import Around, Defense, Detector
from labkit.defenses.crops import CropEnsemble
from labkit.defenses.d3 import D3
from labkit.defenses.deflection import PixelDeflection
from labkit.defenses.lid import LID
from labkit.defenses.magnet import MagNet, MagNetDetector
from labkit.defenses.nonlocal_means import NonLocalMeans
from labkit.defenses.pixeldefend import PixelDefend
from labkit.defenses.quilting import Quilting
from labkit.defenses.sap import SAP
from labkit.defenses.simple import JPEG, BitDepth, LowPass, Median
from labkit.defenses.tvm import TVM
from labkit.errors import InputError


def _crop_ens(*, patches: int = 1_000_000, **options) -> CropEnsemble:
    """Crops of the image after total-variation minimisation and after quilting: the paper's Crop-Ens."""
    return CropEnsemble(TVM(), Quilting(patches=patches), **options)


def _tvm_quilting(*, patches: int = 1_000_000) -> CropEnsemble:
    """The mean opinion on the whole image after each of the two, without crops: the paper's TVM+quilt."""
    return CropEnsemble(TVM(), Quilting(patches=patches), crops=2, share=1.0)


def _magnet_detector(*, epochs: int | None = None, **options) -> MagNetDetector:
    return MagNetDetector(reformer=MagNet(epochs=epochs), **options)


DEFENSES = {
    "jpeg": JPEG,
    "bits": BitDepth,
    "median": Median,
    "lowpass": LowPass,
    "nlm": NonLocalMeans,
    "tvm": TVM,
    "quilting": Quilting,
    "crops": _crop_ens,
    "tvm-quilting": _tvm_quilting,
    "deflection": PixelDeflection,
    "magnet": MagNet,
    "magnet-detector": _magnet_detector,
    "pixeldefend": PixelDefend,
    "d3": D3,
    "sap": SAP,
    "lid": LID,
}


def build(name: str, **options) -> Defense:
    """A defense by its name, not yet fitted; `options` are the keywords of its class."""
    if name not in DEFENSES:
        raise InputError(f"unknown defense {name!r}; the known ones are {', '.join(DEFENSES)}")
    try:
        return DEFENSES[name](**options)
    except TypeError as error:
        raise InputError(f"{name} cannot be set so ({error}); see {DEFENSES[name].__module__}") from None


__all__ = [
    "D3", "DEFENSES", "JPEG", "LID", "SAP", "TVM", "Around", "BitDepth", "CropEnsemble", "Defense", "Detector",
    "LowPass", "MagNet", "MagNetDetector", "Median", "NonLocalMeans", "PixelDefend", "PixelDeflection", "Quilting",
    "build",
]  # fmt: skip

"""torchvision, importable beside any torch: `from labkit.core.torchvision_shim import torchvision`.

The registry's torchvision is built for CUDA. Beside a CPU-only torch its compiled ops do not load, and a plain
`import torchvision` fails because the ops `nms` and `qnms` have no schema. Given the schemas, everything the lab
uses works (models, datasets, transforms.v2, utils, models.feature_extraction); calling `ops.nms`,
`io.read_image` and `v2.JPEG` does not: pictures are read and written with Pillow.
"""

import importlib
import sys
from types import ModuleType

import torch

__all__ = ["torchvision"]

# Schemas live as long as the Library that defined them, so this must not be garbage collected.
_schemas: list[torch.library.Library] = []


def _load() -> ModuleType:
    # The plain import comes first, so that a matching installation stays exactly as it was built.
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "operator torchvision::nms does not exist" not in str(error):
            raise
    # What the failed import left behind would be found again, half made, by the next one.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for op in ("nms", "qnms"):
        library.define(f"{op}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.append(library)
    return importlib.import_module("torchvision")


torchvision = _load()

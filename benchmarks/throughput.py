"""How many images a second each defense takes, beside STL, measured in one process on the same images."""

from collections.abc import Sequence

from labkit import defenses
from labkit.core.recipes import ClassifierRecipe, DictionaryRecipe
from labkit.csc import cdl
from labkit.datasets import loaders
from labkit.experiments.cost_estimate import briefly
from labkit.experiments.solvers import seconds
from labkit.models import SparseTransform, networks

import pandas as pd
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

_FITTED_ON = 400
_BATCHES = (4, 16, 64, 256)
# Seconds for a batch: after which its time is believed, and a larger one tried only if this one was a tenth faster an
# image; and after which no larger one is tried at all.
_ENOUGH, _LONG = 1.0, 5.0


def table(
    dataset: str, *, sizes: Sequence[int] = (32, 64), data_root: str | None = None, names: Sequence[str] | None = None
) -> pd.DataFrame:
    """One row per defense and size: defense, size, images (a batch), per_second.

    names  of `defenses.DEFENSES`; None for all

    Defenses that wrap a network are timed with it (a quarter-width VGG-16, listed as "network alone"). Batches
    grow, up to 256 images, as long as that helps; the best rate counts.
    """
    rows, names = [], defenses.DEFENSES if names is None else names
    for size in sizes:
        images = loaders.load(dataset, "train", n=_FITTED_ON, resolution=size, data_root=data_root)
        network = networks.build(ClassifierRecipe(), len(images.classes), images.x.shape[1], size)
        d = cdl.learn(images, DictionaryRecipe(images=100, passes=1, held=0))
        systems = {"network alone": networks.frozen(network, "cpu"), "STL": SparseTransform(d)}
        for name in tqdm(names, desc=f"fitting defenses at {size}×{size}", delay=2):
            systems[name] = briefly(name, network, images)
        for name, system in tqdm(systems.items(), desc=f"timing defenses at {size}×{size}", delay=2):
            rows.append({"defense": name, "size": size, **_timed(system, images.x[: _BATCHES[-1]])})
    return pd.DataFrame(rows)


@torch.no_grad()
def _timed(system: nn.Module, x: Tensor) -> dict:
    system(x[:2])  # warm: loops compiled, indices built
    best = {"images": 0, "per_second": 0.0}
    for count in dict.fromkeys(min(count, len(x)) for count in _BATCHES):
        call = lambda count=count: system(x[:count])  # noqa: E731
        if (took := seconds(call, repeat=1)) < _ENOUGH:
            took = min(took, seconds(call, repeat=2))
        gain = count / took > 1.1 * best["per_second"]
        best = max(best, {"images": count, "per_second": count / took}, key=lambda found: found["per_second"])
        if took > _LONG or (took > _ENOUGH and not gain):
            break
    return best

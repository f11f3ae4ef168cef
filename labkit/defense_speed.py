"""How many images a second each defense takes, beside STL, measured in one process on the same images."""

import pandas as pd
import torch
from tqdm.auto import tqdm

from labkit import cdl, data, defenses, networks
from labkit.defenses.base import Around
from labkit.recipes import ClassifierRecipe, DictionaryRecipe
from labkit.solvers import seconds
from labkit.stl import SparseTransform

_FITTED_ON = 400
_BATCHES = (4, 16, 64, 256)
_ENOUGH = 0.5  # seconds that a batch must take for its time to be believed
# Fitted briefly: how long a defense needs does not depend on how well it has been fitted.
_BRIEF = {
    "lowpass": {"sigma": 1.0},
    "magnet": {"epochs": 1},
    "magnet-detector": {"epochs": 1, "rate": 0.1},
    "pixeldefend": {"epochs": 1},
}


def table(dataset: str, *, sizes=(32, 64), data_root: str | None = None, names=None) -> pd.DataFrame:
    """One row per defense and size: defense, size, images (a batch), per_second.

    Defenses that stand around a network are timed with it (a quarter-width VGG-16, listed as "network alone").
    """
    rows = []
    for size in sizes:
        images = data.load(dataset, "train", n=_FITTED_ON, resolution=size, data_root=data_root)
        network = networks.build(ClassifierRecipe(), len(images.classes), images.x.shape[1], size).eval()
        d = cdl.learn(images, DictionaryRecipe(images=100, passes=1, held=0))
        systems = {"network alone": network, "STL": SparseTransform(d)}
        for name in tqdm(names or defenses.DEFENSES, desc=f"fitting defenses at {size}×{size}", delay=2):
            defense = defenses.build(name, **_BRIEF.get(name, {}))
            more = {"classifier": network, "attack": lambda model, x, y: x} if name == "lid" else {}
            defense.fit(images, **more)  # no state to come back to: seconds
            systems[name] = defense.around(network).eval() if isinstance(defense, Around) else defense.eval()
        for name, system in tqdm(systems.items(), desc=f"timing defenses at {size}×{size}", delay=2):
            rows.append({"defense": name, "size": size, **_timed(system, images.x)})
    return pd.DataFrame(rows)


@torch.no_grad()
def _timed(system, x) -> dict:
    system(x[:2])  # warm
    for count in _BATCHES:
        count = min(count, len(x))
        took = seconds(lambda count=count: system(x[:count]), repeat=1)
        if took >= _ENOUGH:
            break
    return {"images": count, "per_second": count / took}

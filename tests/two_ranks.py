"""What tests ask of several ranks: run by torchrun, this file does it at every rank and leaves the answers in a folder.

torchrun --nproc-per-node=2 two_ranks.py FOLDER
"""

import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from labkit.core import distributed
from labkit.core.errors import InputError
from labkit.core.recipes import AdversarialTraining, ClassifierRecipe, DictionaryRecipe
from labkit.csc import cdl
from labkit.datasets.loaders import Images
from labkit.models import classifiers, networks

import torch
from safetensors.torch import save_file

FILTERS = DictionaryRecipe(K=5, S=3, lam=0.1, images=23, passes=2, batch=9, held=7, stop=-1)
WAYS = {
    "online": FILTERS,
    "batch": replace(FILTERS, method="batch", boundary="reflect"),
    "one image a batch": replace(FILTERS, images=3, batch=1, held=1),
    "more filters than are of use": replace(FILTERS, K=40, lam=0.8),
}
NETWORK = ClassifierRecipe(network="vgg11", width=0.125, epochs=4, batch=15, lr=0.05, augment=False)


def textures(n: int = 60) -> Images:
    """Small colour images of two classes: stripes that lie and stripes that stand, in noise."""
    g = torch.Generator().manual_seed(3)
    y = torch.arange(n) % 2
    wave = 0.5 + 0.4 * torch.sin(torch.arange(32) * 1.3 + 6 * torch.rand(n, 1, generator=g))
    x = torch.where(y[:, None, None] > 0, wave[:, :, None], wave[:, None, :])[:, None].expand(n, 3, 32, 32)
    return Images((x + 0.1 * torch.randn(x.shape, generator=g)).clamp(0, 1), y, ("lie", "stand"), "textures")


def learned(name: str) -> tuple[torch.Tensor, list[float]]:
    """Filters, and the objective of every batch and of the images kept aside."""
    images, seen = SimpleNamespace(x=textures().x[:, :2, :14, :11]), []
    d = cdl.learn(images, WAYS[name], callback=lambda p: seen.extend(o for o in (p.objective, p.held) if o is not None))
    return d, seen


def trained(folder: Path | None = None, recipe: ClassifierRecipe = NETWORK) -> classifiers.Classifier:
    model = networks.build(recipe, 2, 3, 32)
    return classifiers.train(model, textures(), recipe, checkpoint=folder, progress=False)


def spoken() -> dict:
    """What ranks tell each other."""
    mine = distributed.rank()
    ones = torch.full((mine + 2, 3), float(mine))
    total, count = distributed.all_reduce(torch.tensor([[1.5, mine]]), torch.tensor(mine + 1))
    found = distributed.first(lambda: ({"a": torch.tensor([1.0, mine])}, {"from": mine}))
    with distributed.apart():
        apart = [distributed.rank(), distributed.world(), distributed.gather("x"), distributed.tell(mine)]
    return {
        "world": distributed.world(),
        "shard": distributed.shard(list("abcde")),
        "sum": [total.tolist(), count.tolist(), str(count.dtype)],
        "join": distributed.join(ones).tolist(),
        "gather": distributed.gather({"name": "é" * mine, "n": mine}),
        "tell": distributed.tell(["of", mine]),
        "first": [found[0]["a"].tolist(), found[1]],
        "none": distributed.first(lambda: None),
        "apart": apart,
        "threads": torch.get_num_threads(),
        "device": distributed.device(),
    }


def refused(recipe: ClassifierRecipe) -> str:
    try:
        trained(recipe=recipe)
    except InputError as error:
        return str(error)
    return ""


def main(folder: Path) -> None:
    warnings.simplefilter("error")
    with distributed.session():
        answers = {"spoken": spoken(), "refused": refused(replace(NETWORK, batch=3))}
        tensors = {}
        for name in WAYS:
            tensors[name], answers[name] = learned(name)
        for name, how in (("plain", None), ("adversarial", AdversarialTraining())):
            short = replace(NETWORK, adversarial=how, augment=True, epochs=4 if how is None else 1)
            state = trained(folder / f"network-{name}", short).state_dict()
            tensors[name] = torch.cat([t.double().flatten() for t in state.values()])
        distributed.barrier()
        save_file(tensors, folder / f"rank{distributed.rank()}.safetensors")
        (folder / f"rank{distributed.rank()}.json").write_text(json.dumps(answers))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

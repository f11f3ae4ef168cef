"""What the clusters are worth: how stable the vote is under attack, and what a dictionary of one's own gains."""

from collections.abc import Iterable

import pandas as pd
import torch
from torch import Tensor

from labkit.core import metrics
from labkit.core.profiles import Profile
from labkit.core.recipes import AttackRecipe
from labkit.csc import split
from labkit.evaluation import Workbench, adversarial_examples

_BATCH = 250


def votes(lab: Profile, bench: Workbench, x: Tensor) -> Tensor:
    """The cluster that each image is voted to: (n,), counted from 0."""
    strata = bench.strata(lab.stratified.strata)
    return torch.cat([strata.vote(part.to(bench.device)).cpu() for part in x.split(_BATCH)])


def stability(lab: Profile, bench: Workbench, attacks: Iterable[AttackRecipe] | None = None) -> pd.DataFrame:
    """How often an attacked test image is voted to the cluster of its clean twin, one row per attack.

    The paper says that they “usually live closely” (Section 3.4). The attacks are on the undefended network, by
    someone who does not know about the clusters; noise of the same size as each is the yardstick.

    attacks  the profile's, unless given
    """
    x = bench.images(lab.data, "test").x[:]
    home, rows = votes(lab, bench, x), []
    generator = torch.Generator().manual_seed(0)
    for attack in lab.attacks if attacks is None else attacks:
        if attack.name == "clean":
            continue
        x_adv = adversarial_examples.adversarial(
            adversarial_examples.Attempt(lab.classifier, None, attack, "classifier"), bench
        )
        size = (x_adv - x).flatten(1).norm(dim=1)
        noise = torch.randn(x.shape, generator=generator)
        noise = noise * (size / noise.flatten(1).norm(dim=1))[:, None, None, None]
        for name, moved in ((attack.label, x_adv), (f"noise as large as {attack.label}", (x + noise).clamp(0, 1))):
            found = metrics.accuracy(votes(lab, bench, moved) == home)
            rows.append(
                {
                    "attack": name,
                    "dissimilarity": float(metrics.dissimilarity(moved, x).mean()),
                    "same cluster": found.value,
                    "low": found.low,
                    "high": found.high,
                    "n": found.n,
                }
            )
    return pd.DataFrame(rows)


def gain(lab: Profile, bench: Workbench, *, n: int = 500) -> pd.DataFrame:
    """What test images lose and cost with the dictionary of their own cluster, of all images, and of other clusters.

    All dictionaries have K filters. One row per cluster and one for all: images, then PSNR of T(x) in dB and objective
    per image for each choice; "others" is the mean over the other clusters' dictionaries.
    """
    x = bench.images(lab.data, "test").x[: min(n, len(bench.images(lab.data, "test")))]
    home, recipe = votes(lab, bench, x), lab.stratified
    several = bench.transform(recipe).transforms
    one = bench.transform(recipe.transform)
    own, single, others = (torch.zeros(len(x), 2) for _ in range(3))
    for m, layer in enumerate(several):
        seen, mine = _quality(layer, x, bench), home == m
        own[mine] = seen[mine]
        others[~mine] += seen[~mine] / max(len(several) - 1, 1)
    single[:] = _quality(one, x, bench)
    rows = []
    for m in [*range(len(several)), None]:
        mine = torch.ones(len(x), dtype=torch.bool) if m is None else home == m
        if not mine.any():
            continue
        row = {"cluster": "all" if m is None else str(m + 1), "n": int(mine.sum())}
        for name, table in (("own", own), ("one for all", single), ("others", others)):
            row[f"PSNR {name}, dB"], row[f"objective {name}"] = (float(v) for v in table[mine].mean(0))
        rows.append(row)
    return pd.DataFrame(rows)


def _quality(layer, x: Tensor, bench: Workbench) -> Tensor:
    """PSNR of T(x) to x, and the objective of its code, per image: (n, 2)."""
    found = []
    with torch.no_grad():
        for part in x.split(_BATCH):
            part = part.to(bench.device)
            high = split(part, layer.lowpass, layer.pad)[1]
            code = layer.parts(part)[2]
            found.append(
                torch.stack([metrics.psnr(layer(part), part), code.objective(layer._wide(high), layer.lam)], 1)
            )
    return torch.cat(found).cpu()

"""What the clusters are worth: how stable the vote is under attack, and what a dictionary of one's own gains."""

from collections.abc import Iterable
from dataclasses import dataclass

from labkit.core import metrics
from labkit.core.profiles import Profile
from labkit.core.recipes import AttackRecipe, StrataRecipe, rebase
from labkit.csc import split
from labkit.evaluation import Case, Workbench
from labkit.evaluation.adversarial_examples import Attempt, adversarial

import pandas as pd
import torch
from torch import Tensor

_BATCH = 250


@dataclass(frozen=True)
class Votes:
    """What `stability` is asked: which attacked images are voted, and to which clusters."""

    attempts: tuple[Attempt, ...]
    strata: StrataRecipe
    version: int = 1


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
    tried = tuple(a for a in (lab.attacks if attacks is None else attacks) if a.name != "clean")
    asked = Votes(tuple(Attempt(lab.classifier, None, attack, "classifier") for attack in tried), lab.stratified.strata)
    build = lambda _: ({}, {"rows": _stability(asked.attempts, lab, bench)})  # noqa: E731
    found = bench.store.fetch("votes", asked, build, digest=bench.digest(lab.data))
    return pd.DataFrame(found.facts["rows"], columns=["attack", "dissimilarity", "same cluster", "low", "high", "n"])


def of_table(cases: Iterable[Case], lab: Profile, bench: Workbench) -> pd.DataFrame:
    """`stability` under the attacks on the undefended network among some cases; no rows where none is of clusters."""
    cases, by_data = list(cases), {}
    if lab.stratified not in {case.defense for case in cases}:
        return pd.DataFrame()
    for case in cases:
        if case.defense is None and rebase(case.classifier, lab.data) == lab.classifier:
            by_data.setdefault(case.data, []).append(case.attack)
    return pd.concat([stability(rebase(lab, few), bench, tried) for few, tried in by_data.items()] or [pd.DataFrame()])


def _stability(attempts: Iterable[Attempt], lab: Profile, bench: Workbench) -> list[tuple]:
    x = bench.images(lab.data, "test").x[:]
    home, rows = votes(lab, bench, x), []
    generator = torch.Generator().manual_seed(0)
    for attempt in attempts:
        attack, x_adv = attempt.attack, adversarial(attempt, bench)
        size = (x_adv - x).flatten(1).norm(dim=1)
        noise = torch.randn(x.shape, generator=generator)
        noise *= (size / noise.flatten(1).norm(dim=1))[:, None, None, None]
        for name, moved in ((attack.label, x_adv), (f"noise as large as {attack.label}", (x + noise).clamp(0, 1))):
            same = metrics.accuracy(votes(lab, bench, moved) == home)
            rows.append((name, float(metrics.dissimilarity(moved, x).mean()), *same))
    return rows


def gain(lab: Profile, bench: Workbench, *, n: int = 500) -> pd.DataFrame:
    """What test images lose and cost with the dictionary of their own cluster, of all images, and of other clusters.

    All dictionaries have K filters. One row per cluster and one for all: images, then PSNR of T(x) in dB and objective
    per image for each choice; "others" is the mean over the other clusters' dictionaries.
    """
    x = bench.images(lab.data, "test").x[:n]
    home, several = votes(lab, bench, x), bench.transform(lab.stratified).transforms
    single = _quality(bench.transform(lab.stratified.transform), x, bench)
    own, others = torch.zeros(2, len(x), 2)
    for m, layer in enumerate(several):
        seen, mine = _quality(layer, x, bench), home == m
        own[mine] = seen[mine]
        others[~mine] += seen[~mine] / max(len(several) - 1, 1)
    rows = []
    groups = {str(m + 1): home == m for m in home.unique().tolist()} | {"all": torch.ones(len(x), dtype=torch.bool)}
    for cluster, mine in groups.items():
        row = {"cluster": cluster, "n": int(mine.sum())}
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
            objective = layer.parts(part)[2].objective(layer._wide(split(part, layer.lowpass, layer.pad)[1]), layer.lam)
            found.append(torch.stack([metrics.psnr(layer(part), part), objective], 1))
    return torch.cat(found).cpu()

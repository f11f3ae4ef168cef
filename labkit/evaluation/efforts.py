"""Efforts: which attacks are tried on somebody's classifier, and how long they take."""

import timeit
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from labkit.attacks import Budget
from labkit.core.recipes import AttackRecipe, ClassifierRecipe
from labkit.evaluation import threat_models
from labkit.evaluation.adversarial_examples import passes
from labkit.evaluation.measurement import Case
from labkit.evaluation.workbench import AnyDefense
from labkit.models import Defense

import pandas as pd
import torch
from torch import Tensor, nn


class Effort(NamedTuple):
    """How hard is tried: test images at most, steps of BIM and MI-DI, of PGD, queries, `ladder` or not, AutoAttack."""

    n: int | None
    climbs: int
    steps: int
    queries: int
    ladder: bool = True
    autoattack: bool = False


EFFORTS = {
    "fast": Effort(100, 10, 20, 100, ladder=False),
    "standard": Effort(200, 20, 50, 1000),
    "full": Effort(None, 20, 50, 1000, autoattack=True),
}


def against(
    network: ClassifierRecipe, before: AnyDefense | None, cleaner: Defense | None, budget: Budget | None, how: Effort,
    other: ClassifierRecipe | None = None, own: Sequence[str] = (),
) -> Iterable[Case]:  # fmt: skip
    """What is tried at one budget against a network behind a defense; at none, what looks for the smallest change.

    cleaner     the defense that `before` names
    other, own  a network to transfer attacks from, and names of more attacks

    As for baselines, each gradient of a random defense is of one EOT sample.
    """
    known = threat_models.sensible(cleaner) or ("classifier",)
    draws = {"draws": 1} if cleaner is not None and cleaner.stochastic else {}
    norm, size = ("dissimilarity" if budget.relative else budget.norm, budget.size) if budget else ("none", 0.0)

    def case(knowledge: str, name: str, steps: int, **more) -> Case:
        copy = other if knowledge == "transfer" else None
        return Case(network, before, AttackRecipe(name, size, steps, norm, **more), knowledge, copy=copy)

    if budget is None:
        yield from (case(knowledge, "ddn", 2 * how.steps, **draws) for knowledge in known)
        return
    yield from (case(known[-1], name, 1) for name in own)
    yield case("classifier", "bim", how.climbs)
    if other is not None:
        yield case("transfer", "mi_di", how.climbs)
    yield from (case(knowledge, "pgd", how.steps, loss="margin", **draws) for knowledge in known)
    yield case("queries", "square", how.queries, **draws)
    if how.ladder:
        yield case(known[-1], "ladder", how.steps, **draws)
        if norm != "linf":  # it looks for small L2 changes
            yield case("decisions", "hopskipjump", how.queries, **draws)
    if how.autoattack:
        yield case(known[-1], "autoattack", how.steps, **draws)


def takes(
    planned: Mapping[str, tuple[int, Sequence[Case]]], tried: Sequence[Case], costs: pd.DataFrame, n: int, wall: float
) -> dict[str, float]:
    """Seconds that some cases on so many images should take, by name, from what those `tried` cost on n images.

    costs  as of `measurement.costs`
    wall   seconds that everything took

    A pass costs what it did for the same threat model or, if that was not tried, for the dearest. What is no attack
    (probing, the sanity checks) takes as long as it did.
    """
    took, made = Counter(), Counter()
    for case, cost in zip(tried, costs.seconds, strict=True):
        if cost is not None and cost == cost:
            took[case.knowledge] += cost
            made[case.knowledge] += passes(case.attack) + 0.5  # it is judged, too
    rates = {knowledge: took[knowledge] / made[knowledge] for knowledge in took}
    rest, dearest = max(0.0, wall - n * float(costs.seconds.sum())), max(rates.values(), default=0.0)
    return {
        name: round(rest + m * sum((passes(c.attack) + 0.5) * rates.get(c.knowledge, dearest) for c in cases), 1)
        for name, (m, cases) in planned.items()
    }


@torch.no_grad()
def seconds(system: nn.Module, x: Tensor) -> float:
    """What an image of x takes, the better of two calls."""
    return min(timeit.repeat(lambda: system(x), number=1, repeat=2)) / len(x)

"""The trade-off: what λ, K, S, M and every choice that the paper leaves unspecified cost and buy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from labkit.core import InputError, metrics
from labkit.core.metrics import Point
from labkit.core.profiles import Profile
from labkit.core.recipes import DataRecipe, StratifiedRecipe, rebase
from labkit.evaluation import Case, Workbench, measurement, threat_models
from labkit.evaluation.adversarial_examples import adversarial
from labkit.evaluation.workbench import AnyTransform
from labkit.models import SparseTransform, predict
from labkit.models.strata import StratifiedTransform

import pandas as pd
import torch
from torch import Tensor

# What can be changed: what a reader calls it, and which recipe has it ("both": T and its dictionary).
CHOICES = {
    "lam": ("λ", "both"), "K": ("K, filters", "dictionary"), "S": ("S, pixels a side", "dictionary"),
    "M": ("M, clusters", "strata"), "lowpass": ("weight of the low-pass filter", "both"),
    "pad": ("padding of the low-pass filter", "both"), "boundary": ("boundary", "both"),
    "norm": ("filters of unit norm", "dictionary"), "gap_tol": ("gap at which the solver stops", "transform"),
    "bits": ("bits T(x) is rounded to, 0 for none", "transform"),
    "dim": ("share of the low-pass part that is kept", "transform"),
}  # fmt: skip
_BATCH = 100


def varied(recipe: AnyTransform, what: str, value) -> AnyTransform:
    """T with one of CHOICES changed, in its dictionary as well where both have it; every cluster's, of a stratified T.

    One cluster (M = 1) leaves nothing to vote on: that is the T with one dictionary for all.
    Raises InputError when there is no such choice, or when M is asked of a T without clusters.
    """
    place = _choice(what)[1]
    if isinstance(recipe, StratifiedRecipe):
        if place != "strata":
            return replace(recipe, transform=varied(recipe.transform, what, value))
        return recipe.transform if value == 1 else replace(recipe, strata=replace(recipe.strata, clusters=value))
    if place == "strata":
        raise InputError("M counts clusters, of which a TransformRecipe has none; use a StratifiedRecipe")
    if place in ("dictionary", "both"):
        recipe = replace(recipe, dictionary=replace(recipe.dictionary, **{what: value}))
    return recipe if place == "dictionary" else replace(recipe, **{what: value})


def own(lab: Profile, what: str):
    """The value that the profile's T has."""
    if _choice(what)[1] == "strata":
        return lab.stratified.strata.clusters
    return getattr(lab.transform if hasattr(lab.transform, what) else lab.transform.dictionary, what)


def sweep(
    lab: Profile, bench: Workbench, what: str, values: Sequence[Any], *, retrained: bool = False, aware: bool = True
) -> pd.DataFrame:
    """Three rows of `measurement.run` for every value: "clean", "attacked" and "aware".

    retrained  whether the network is trained anew on each T(x), as in the paper's Figure 7
    aware      whether there is a row "aware"

    "attacked" is FGSM-0.08 in the grey box (weights), as in the paper's Figures 5 to 7; "aware" the profile's strongest
    iterative attack, as large, in the white box (exact gradient). Columns before `measurement.COLUMNS`: what, value,
    own (whether the profile's T has it), asked (as above); and after:

    fidelity, fidelity_low, fidelity_high  PSNR of T(x) in dB, mean over images and its 95 % interval
    active                                 share of the code's coefficients that are not zero
    """
    found = []
    for value in values:
        asked = cases(lab, what, value, retrained=retrained, aware=aware)
        rows = measurement.run(asked.values(), bench)
        first = {"what": what, "value": value, "own": value == own(lab, what), "asked": list(asked)}
        found.append(pd.DataFrame(first).join(rows).assign(**_fidelity(asked["clean"], bench)))
    return pd.concat(found, ignore_index=True)


def cases(lab: Profile, what: str, value, *, retrained: bool = False, aware: bool = True) -> dict[str, Case]:
    """What `sweep` asks of one value: "clean", "attacked" and, where asked for, "aware"."""
    small = rebase(lab, lab.data.at_most(lab.tradeoff.n))
    T = _tried(small, what, value)
    network, fgsm = small.retrained(T) if retrained else small.classifier, lab.attack("FGSM-0.08")
    found = {"clean": Case(network, T, lab.attack("Clean")), "attacked": Case(network, T, fgsm)}
    if aware:
        found["aware"] = Case(network, T, replace(lab.strongest, size=fgsm.size), "exact")
    return found


def silent(lab: Profile, bench: Workbench) -> pd.DataFrame:
    """`sweep` of every unspecified choice of the paper, the profile's own value first; vanilla, clean and attacked.

    Of grey images, the two norms of filters are one, and left out.
    """
    grey = bench.images(lab.data, "test").x.shape[1] == 1
    tried = {what: (own(lab, what), *more) for what, more in lab.tradeoff.silent if not (what == "norm" and grey)}
    return pd.concat([sweep(lab, bench, *choice, aware=False) for choice in tried.items()], ignore_index=True)


def named(what: str, value) -> str:
    """A value of a choice by the paper's symbol, such as "λ = 0.2"."""
    return f"{_choice(what)[0].split(',')[0]} = {metrics.said(value)}"


def strip(lab: Profile, bench: Workbench, what: str, values: Sequence[Any]) -> tuple[dict, dict, dict]:
    """Columns, notes and codes for `dashboards.moving`: one image, clean and attacked, as each T outputs it.

    The first test image that the vanilla network has right clean and wrong under FGSM-0.08, or the first of all. Notes
    give what that network makes of each, and the PSNR to the clean image (paper, Figure 5a).
    """
    small = rebase(lab, lab.data.at_most(lab.tradeoff.n))
    test, network = bench.images(small.data, "test"), bench.classifier(small.classifier)
    attacked = Case(small.classifier, None, lab.attack("FGSM-0.08"))
    one, x_adv = measurement.telling(attacked, bench), adversarial(attacked.attempt(), bench)
    pair = torch.stack([test.x[one], x_adv[one]])
    columns, notes, codes = {"image": pair}, {}, {}
    for value in values:
        layer, name = bench.transform(_tried(small, what, value)), named(what, value)
        columns[name] = threat_models.turned(network, layer, pair)
        if isinstance(layer, SparseTransform):
            codes[name] = layer.parts(pair.to(bench.device))[2].z.abs().sum(1)
    for name, seen in columns.items():
        decided = [test.classes[int(c)] for c in predict(network, seen).argmax(1)]
        near = metrics.psnr(seen, pair[:1].expand_as(pair)).tolist()
        fidelity = [f"{dB:.1f} dB" if dB < metrics.MOST else "" for dB in near]
        notes[name] = [f"{word}\n{words}" for word, words in zip(decided, fidelity, strict=True)]
    return columns, notes, codes


def gaps(rows: pd.DataFrame) -> list[Point]:
    """For every value of `sweep`, by how much the attacked accuracy lies below the clean one, with its interval."""
    numbers = rows[["value", "accuracy", "low", "high"]]
    points = [map(Point._make, numbers[rows.asked == asked].to_numpy(object)) for asked in ("clean", "attacked")]
    return list(map(metrics.difference, *points))


@dataclass(frozen=True)
class Fidelity:
    """How true T is to the test images of `data`: what is kept of it."""

    transform: AnyTransform
    data: DataRecipe
    version: int = 1


def _fidelity(case: Case, bench: Workbench) -> dict[str, float]:
    """PSNR of T(x) with its interval, and the share of active coefficients, of a case's T on its test images."""

    def build(_scratch):
        near, active, size, layer = [], 0, 0, bench.transform(case.defense)
        with torch.no_grad():
            for part in bench.images(case.data, "test").x[:].split(_BATCH):
                part = part.to(bench.device)
                near.append(metrics.psnr(layer(part), part).clamp_max(metrics.MOST).cpu())
                for T, mine in _by_layer(layer, part):
                    z = T.parts(mine)[2].z
                    active, size = active + int(metrics.sparsity(z).sum()), size + z.numel()
        mean, low, high = metrics.mean(torch.cat(near))
        return {}, {"fidelity": mean, "fidelity_low": low, "fidelity_high": high, "active": active / size}

    return bench.store.fetch("fidelity", Fidelity(case.defense, case.data), build, digest=bench.digest(case.data)).facts


def _by_layer(layer: SparseTransform | StratifiedTransform, x: Tensor) -> list[tuple[SparseTransform, Tensor]]:
    if isinstance(layer, SparseTransform):
        return [(layer, x)]
    home = layer.strata.vote(x)
    return [(T, x[home == m]) for m, T in enumerate(layer.transforms) if (home == m).any()]


def _choice(what: str) -> tuple[str, str]:
    if what not in CHOICES:
        raise InputError(f"there is no choice {what!r} of T; choose from {', '.join(CHOICES)}")
    return CHOICES[what]


def _tried(lab: Profile, what: str, value) -> AnyTransform:
    return varied(lab.stratified if what == "M" else lab.transform, what, value)

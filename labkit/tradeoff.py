"""The trade-off: what λ, K, S, M and every choice on which the paper is silent cost and buy."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from labkit import apart, experiment, metrics, tables, threat
from labkit.apart import Point
from labkit.artifacts import Workbench
from labkit.attempts import adversarial
from labkit.classifiers import predict
from labkit.errors import InputError
from labkit.experiment import Case
from labkit.profiles import Profile
from labkit.recipes import DataRecipe, StratifiedRecipe, TransformRecipe, rebase
from labkit.stl import SparseTransform
from labkit.strata import StratifiedTransform

# What can be changed: what a reader calls it, and which recipe has it ("both": T and its dictionary).
CHOICES = {
    "lam": ("λ", "both"),
    "K": ("K, filters", "dictionary"),
    "S": ("S, pixels a side", "dictionary"),
    "M": ("M, clusters", "strata"),
    "lowpass": ("weight of the low-pass filter", "both"),
    "pad": ("padding of the low-pass filter", "both"),
    "boundary": ("boundary", "both"),
    "norm": ("filters of unit norm", "dictionary"),
    "gap_tol": ("gap at which the solver stops", "transform"),
    "bits": ("bits T(x) is rounded to, 0 for none", "transform"),
    "dim": ("share of the low-pass part handed on", "transform"),
}
# What the paper says happens as each grows (Sections 5.4 and C): -1 falls, 0 stays, 1 rises. Of M it says nothing.
CLAIMS = {
    "lam": {"clean": -1, "gap": -1},
    "K": {"clean": 1, "attacked": -1},
    "S": {"clean": 0, "attacked": 0},
}
_ALIKE = 0.1  # accuracies that surely differ by less are what the paper calls “not sensitive”; the number is ours
_BATCH = 100
_GROWS = ("lam", "K", "S", "M")


def varied(recipe: TransformRecipe | StratifiedRecipe, what: str, value) -> TransformRecipe | StratifiedRecipe:
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
        raise InputError("M counts the clusters of a StratifiedRecipe; a TransformRecipe has none")
    changed = {what: value}
    dictionary = recipe.dictionary if place == "transform" else replace(recipe.dictionary, **changed)
    return replace(recipe, dictionary=dictionary, **({} if place == "dictionary" else changed))


def own(lab: Profile, what: str):
    """The value that the profile's T has."""
    place, T = _choice(what)[1], lab.transform
    return (
        lab.stratified.strata.clusters if place == "strata" else getattr(T if hasattr(T, what) else T.dictionary, what)
    )


def sweep(
    lab: Profile, bench: Workbench, what: str, values: Sequence[Any], *, retrained: bool = False, aware: bool = True
) -> pd.DataFrame:
    """Three rows of `experiment.run` for every value: clean, attacked by who does not know T, and by who does.

    retrained  whether the network is trained anew on each T(x), as in the paper's Figure 7
    aware      whether the attacker who knows T is asked

    "attacked" is FGSM-0.08 by an attacker who has the network's weights and does not know T, as in the paper's Figures
    5 to 7; "aware" the profile's strongest iterative attack, as large, by one who differentiates T exactly. There are
    columns before `experiment.COLUMNS`: what, value, own (whether the profile's T has it), asked (as above); and after:

    fidelity, fidelity_low, fidelity_high  PSNR of T(x) in dB, mean over images and its 95 % interval
    active                                 share of the code's coefficients that are not zero
    """
    found = []
    for value in values:
        asked = cases(lab, what, value, retrained=retrained, aware=aware)
        rows = experiment.run(asked.values(), bench)
        for at, (name, column) in enumerate({"what": what, "value": value, "own": value == own(lab, what)}.items()):
            rows.insert(at, name, column)
        rows.insert(3, "asked", list(asked))
        found.append(rows.assign(**_fidelity(asked["clean"], bench)))
    return pd.concat(found, ignore_index=True)


def cases(lab: Profile, what: str, value, *, retrained: bool = False, aware: bool = True) -> dict[str, Case]:
    """What `sweep` asks of one value: "clean", "attacked" and, where asked for, "aware"."""
    small = rebase(lab, replace(lab.data, test=_least(lab)))
    T = varied(small.stratified if what == "M" else small.transform, what, value)
    network, fgsm = small.retrained(T) if retrained else small.classifier, lab.attack("FGSM-0.08")
    found = {"clean": Case(network, T, lab.attack("Clean")), "attacked": Case(network, T, fgsm)}
    if aware:
        found["aware"] = Case(network, T, replace(lab.strongest, size=fgsm.size), "exact")
    return found


def silent(lab: Profile, bench: Workbench) -> pd.DataFrame:
    """`sweep` of every choice on which the paper is silent, the profile's own value first; vanilla, clean and attacked.

    Of grey images, the two norms of filters are one, and left out.
    """
    grey = bench.images(lab.data, "test").x.shape[1] == 1
    tried = [(what, values) for what, values in lab.tradeoff.silent if not (what == "norm" and grey)]
    return pd.concat(
        [sweep(lab, bench, what, (own(lab, what), *values), aware=False) for what, values in tried], ignore_index=True
    )


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per choice and value: PSNR of T(x), active coefficients, and each accuracy with its interval."""
    lines = []
    for (what, value), part in rows.groupby(["what", "value"], sort=False):
        first = part.iloc[0]
        psnr = Point(value, first.fidelity, first.fidelity_low, first.fidelity_high)
        line = {
            "choice": CHOICES[what][0],
            "value": f"{apart.said(value)}{' (the lab’s)' if first.own else ''}",
            "PSNR of T(x)": apart.told(psnr, " dB"),
            "active, %": f"{100 * first.active:.3g}",
        }
        lines.append(line | {_asked(row): tables.cell(row) for row in part.itertuples()})
    return pd.DataFrame(lines)


def caption(rows: pd.DataFrame) -> str:
    """What a reader must know to judge a sweep: data, n, network, attackers."""
    first = rows.iloc[0]
    network = "retrained on T(x) for every value" if first.retrained else "vanilla: trained on natural images"
    known = [f"“{threat.SHORT[k]}”: {threat.KNOWLEDGE[k]}" for k in threat.KNOWLEDGE if k in set(rows.knowledge)]
    return (
        f"{first.data}; n = {first.n:,} test images, the same for every value; {first.classifier}, {network}. "
        "Brackets: 95 % intervals, Wilson's for accuracies, mean ± 1.96 standard errors for PSNR. "
        f"Attackers: {'; '.join(known)}. Sizes are relative L2 dissimilarities."
    )


def strip(lab: Profile, bench: Workbench, what: str, values: Sequence[Any]) -> tuple[dict[str, Tensor], dict]:
    """Columns and notes for `show.strips`: one image, clean above and attacked below, as T of each value hands it on.

    The first test image that the vanilla network has right clean and wrong under FGSM-0.08, or the first of all. Notes
    give what that network makes of each, and the PSNR to the clean image (paper, Figure 5a).
    """
    small = rebase(lab, replace(lab.data, test=_least(lab)))
    test, network = bench.images(small.data, "test"), bench.classifier(small.classifier)
    attacked = Case(small.classifier, None, lab.attack("FGSM-0.08"))
    one, x_adv = experiment.telling(attacked, bench), adversarial(attacked.attempt(), bench)
    pair = torch.stack([test.x[one], x_adv[one]])
    columns, notes = {"image": pair}, {}
    for value in values:
        layer = bench.transform(varied(small.stratified if what == "M" else small.transform, what, value))
        columns[f"{_name(what)} = {apart.said(value)}"] = threat.turned(network, layer, pair)
    for name, seen in columns.items():
        decided = [test.classes[int(c)] for c in predict(network, seen).argmax(1)]
        near = metrics.psnr(seen, pair[:1].expand_as(pair)).tolist()
        notes[name] = [
            f"{word}\n{dB:.1f} dB" if dB < metrics.MOST else f"{word}\n" for word, dB in zip(decided, near, strict=True)
        ]
    return columns, notes


def reading(rows: pd.DataFrame, what: str) -> str:
    """What the rows of `sweep` say of one choice, in sentences made from them: Markdown, one bullet each.

    λ, K, S and M are read from the smallest to the largest value, and beside what the paper says of them; every other
    choice against the value that the lab has. `apart` says when two numbers are told apart.
    """
    rows = rows[rows.what == what]
    if what not in _GROWS:
        return "\n".join(f"- {line}" for line in _beside_own(rows, what))
    found, name = _measured(rows.sort_values("value", kind="stable")), _name(what)
    lines = [f"**{_capital(words)}** {apart.course(points, name, unit)}." for words, unit, points in found.values()]
    return "\n".join(f"- {line}" for line in [*lines, _claims(found, what)])


def gaps(rows: pd.DataFrame) -> list[Point]:
    """For every value of `sweep`, by how much the attacked accuracy lies below the clean one, with its interval."""
    points = {
        asked: [Point(*numbers) for numbers in zip(part.value, part.accuracy, part.low, part.high, strict=True)]
        for asked, part in rows.groupby("asked", sort=False)
    }
    return [apart.difference(*pair) for pair in zip(points["clean"], points["attacked"], strict=True)]


def _measured(rows: pd.DataFrame) -> dict[str, tuple[str, str, list[Point]]]:
    """What was measured, in the order of a sentence: what to call it, its unit, and the points."""
    points = {
        asked: [Point(*numbers) for numbers in zip(part.value, part.accuracy, part.low, part.high, strict=True)]
        for asked, part in rows.groupby("asked", sort=False)
    }
    found = {asked: (_asked(rows[rows.asked == asked].iloc[0], "accuracy"), "", mine) for asked, mine in points.items()}
    clean = rows[rows.asked == "clean"]
    psnr = zip(clean.value, clean.fidelity, clean.fidelity_low, clean.fidelity_high, strict=True)
    return {
        "psnr": ("the PSNR of T(x)", " dB", [Point(*numbers) for numbers in psnr]),
        "clean": found.pop("clean"),
        "attacked": found.pop("attacked"),
        "gap": ("the gap between these two", "", gaps(rows)),
        **found,
    }


def _claims(found: dict, what: str) -> str:
    """Whether what the paper says of a choice holds on these rows."""
    if what not in CLAIMS:
        return f"**The paper** gives no curve for {_name(what)}, so there is nothing to hold this against."
    words, verdicts = [], set()
    for measure, way in CLAIMS[what].items():
        label, _, points = found[measure]
        if way:
            verdict = {way: "yes", -way: "no", 0: "not told apart"}[apart.moved(points[0], points[-1])]
            words.append(f"{label} {apart.VERBS[way]}: {verdict}")
        else:
            verdict = {True: "yes", False: "no", None: "neither sure nor ruled out"}[apart.alike(points, _ALIKE)]
            words.append(f"{label} stays within {_ALIKE:g}: {verdict}")
        verdicts.add(verdict)
    decided = "holds here" if verdicts == {"yes"} else "holds in part" if "yes" in verdicts else "does not hold here"
    if verdicts.isdisjoint({"yes", "no"}):
        decided = "is not decided by these rows"
    return f"**The paper's statement {decided}.** As {_name(what)} grows, {'; '.join(words)}."


def _beside_own(rows: pd.DataFrame, what: str) -> list[str]:
    """Each value of a choice beside the lab's own."""
    found, own_value = _measured(rows), rows[rows.own].value.iloc[0]
    lines = []
    for at, value in enumerate(dict.fromkeys(rows.value)):
        if value == own_value:
            continue
        words = []
        for measure, (label, unit, points) in found.items():
            if measure != "gap":
                mine = next(p for p in points if p.at == own_value)
                verdict = {1: "higher", -1: "lower", 0: "not told apart"}[apart.moved(mine, points[at])]
                words.append(f"{label} {apart.told(points[at], unit)} for {apart.told(mine, unit)} ({verdict})")
        title = f"{_capital(CHOICES[what][0])}: {apart.said(value)} instead of {apart.said(own_value)}."
        lines.append(f"**{title}** {_capital('; '.join(words))}.")
    return lines


@dataclass(frozen=True)
class Fidelity:
    """How true T is to the test images of `data`: what is kept of it."""

    transform: TransformRecipe | StratifiedRecipe
    data: DataRecipe
    version: int = 1


def _fidelity(case: Case, bench: Workbench) -> dict[str, float]:
    """PSNR of T(x) with its interval, and the share of active coefficients, of a case's T on its test images."""
    test = bench.images(case.data, "test")

    def build(_scratch):
        near, active, size, layer = [], 0, 0, bench.transform(case.defense)
        with torch.no_grad():
            for part in test.x[:].split(_BATCH):
                part = part.to(bench.device)
                near.append(metrics.psnr(layer(part), part).clamp_max(metrics.MOST).cpu())
                for T, mine in _by_layer(layer, part):
                    z = T.parts(mine)[2].z
                    active, size = active + int(metrics.sparsity(z).sum()), size + z.numel()
        mean, low, high = metrics.mean(torch.cat(near))
        return {}, {"fidelity": mean, "fidelity_low": low, "fidelity_high": high, "active": active / size}

    recipe = Fidelity(case.defense, case.data)
    return bench.store.fetch("fidelity", recipe, build, digest=bench.digest(case.data)).facts


def _by_layer(layer: SparseTransform | StratifiedTransform, x: Tensor) -> list[tuple[SparseTransform, Tensor]]:
    if isinstance(layer, SparseTransform):
        return [(layer, x)]
    home = layer.strata.vote(x)
    return [(T, x[home == m]) for m, T in enumerate(layer.transforms) if (home == m).any()]


def _choice(what: str) -> tuple[str, str]:
    if what not in CHOICES:
        raise InputError(f"there is no choice {what!r} of T; choose from {', '.join(CHOICES)}")
    return CHOICES[what]


def _least(lab: Profile) -> int | None:
    return min((n for n in (lab.tradeoff.n, lab.data.test) if n is not None), default=None)


def _asked(row, noun: str = "") -> str:
    """A column's name, or the subject of a sentence: which images, by whom."""
    if row.asked == "clean":
        return f"clean {noun}".strip()
    return f"{noun} under {row.attack}".strip() + f" (attacker has {threat.SHORT[row.knowledge]})"


def _name(what: str) -> str:
    return CHOICES[what][0].split(",")[0]


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:] if words[:1] != "λ" else words

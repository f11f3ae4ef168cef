"""Questions: which measured numbers are compared with which, for every claim that the pages answer.

Each function takes rows or cells and gives a table of `verdicts`; none of them writes a sentence.
"""

import math
from collections.abc import Mapping
from itertools import product

from labkit.core import metrics
from labkit.core.metrics import Point, said
from labkit.evaluation import ThreatModel
from labkit.evaluation.threat_models import inside_network
from labkit.experiments import paper_tables
from labkit.experiments.ablations import CHOICES, gaps
from labkit.experiments.published_numbers import by_resolution, kept
from labkit.reporting import tables
from labkit.reporting.figures import NUMERIC
from labkit.reporting.verdicts import HIGHER, LOWER, SAME, beside, claim, holds, markdown, summary, table  # noqa: F401

import pandas as pd

STL = ("STL", "STL (cluster)")
# What the paper says happens as each grows (Sections 5.4 and C): -1 falls, 0 stays, 1 rises. Of M it says nothing.
CLAIMS = {"lam": {"clean": -1, "gap": -1}, "K": {"clean": 1, "attacked": -1}, "S": {"clean": 0, "attacked": 0}}
_ALIKE = 0.1  # accuracies that surely differ by less are what the paper calls “not sensitive”; the number is ours
_NUMBERS = ["accuracy", "low", "high"]
_SAID = {True: "holds", False: "does not hold", None: "not decided"}
_NONE = pd.DataFrame()


def labelled(frame: pd.DataFrame) -> pd.DataFrame:
    """Cells or rows with what a verdict names: name (the defense), case (the attack), where (the threat model)."""
    blocks = frame.block if "block" in frame else ["ours"] * len(frame)
    models = map(tables.threat_model, blocks, frame.knowledge, frame.defense)
    where = ["clean images" if attack == "Clean" else m for attack, m in zip(frame.attack, models, strict=True)]
    exact = frame.assign(low=frame.low.fillna(frame.accuracy), high=frame.high.fillna(frame.accuracy))
    return exact.assign(name=frame.defense, case=frame.attack, where=where)


def of_table(cells: pd.DataFrame, votes: pd.DataFrame = _NONE) -> pd.DataFrame:
    """Of cells (`measured`): attack strength, relative robust accuracy, leaking, ranking; `votes` as in `stability`."""
    attacked = labelled(cells)[cells.attack != "Clean"]
    ours, paper = (attacked[attacked.block == block].assign(name=block) for block in ("ours", "paper"))
    asked = "How strong are the attacks on the undefended network (lower is stronger)?"
    found = [beside(asked, *(part[part.defense == "No Defense"] for part in (ours, paper)), "case")]
    shares = [_of(part.assign(kept=kept(cells)), "kept") for part in (ours, paper)]
    for name in STL:
        asked = f"What is the relative robust accuracy (robust / clean) of {name}?"
        found.append(beside(asked, *(part[part.defense == name] for part in shares), "case", ""))
    found += [_leaking(labelled(cells)), ranking(cells[cells.attack != "Clean"])]
    return table([*found, *([stability(votes)] if len(votes) else [])])


def _leaking(cells: pd.DataFrame) -> pd.DataFrame:
    """Which attacks tell a defense the class: it is right more often on attacked images than on clean ones."""
    found = []
    clean = cells[(cells.attack == "Clean") & (cells.block == "ours")].drop_duplicates("defense").assign(name="clean")
    attacked = cells[(cells.attack != "Clean") & (cells.block != "paper")].assign(name="attacked")
    for name, mine in attacked.groupby("defense", sort=False):
        asked = f"Does an attack tell {name} the class (“label leaking”, Kurakin et al. 2017)?"
        lines = beside(asked, mine, clean, "defense")
        leaks = lines.case[(lines.verdict == HIGHER) & (lines["where"] != ThreatModel.WORST_CASE.label)]
        if len(leaks):
            warned = lines[lines.case.isin(leaks)].assign(p=math.nan)  # at 5 % each: not among what is corrected
            found += [warned, claim(asked, "yes", "this accuracy says nothing of robustness")]
    return table(found)


def ranking(cells: pd.DataFrame) -> pd.DataFrame:
    """Whether each STL beats every other defense, attack by attack, and whether stratification helps.

    cells  from `published_numbers.measured`: ours are compared within one threat model, the worst case with itself
    """
    own, found = labelled(cells[cells.block != "paper"]), []
    others = [name for name in dict.fromkeys(own.defense) if not name.startswith("STL")]
    for ours, other in [*product(STL, others), STL[::-1]]:
        asked = "Does stratification help?" if other == "STL" else f"Does {ours} beat {other}?"
        # What has no T to know of is attacked in one way only.
        on = "block case" if inside_network(other) else "block knowledge case"
        found.append(beside(asked, own[own.defense == ours], own[own.defense == other], on))
    return table(found)


def retraining(retrained: pd.DataFrame, vanilla: pd.DataFrame) -> pd.DataFrame:
    """Whether retraining helps each STL, by threat model: cells of two tables.

    The vanilla network is attacked by its weights. The same attacked images are the surrogate's against the retrained
    network; another attacker has the retrained weights.
    """
    old = labelled(vanilla[vanilla.block != "paper"]).assign(name="vanilla")
    new = labelled(retrained[retrained.block != "paper"]).assign(name="retrained")
    new = new[(new.attack != "Clean") | (new.knowledge == "transfer")]
    return table(
        beside(f"Does retraining help {name}?", new[(new.defense == name) & (new.knowledge == after)],
               old[(old.defense == name) & (old.knowledge == before)], "case")
        for name in STL for before, after in (("classifier", "transfer"), ("classifier", "classifier"), ("", ""))
    )  # fmt: skip


def stability(votes: pd.DataFrame) -> pd.DataFrame:
    """Of `cluster_stability.stability`: do attacked images keep their clean twins' clusters (paper, Section 3.4)?"""
    asked = "Do attacked images keep their clusters (“usually live closely”)?"
    votes = votes.assign(accuracy=votes["same cluster"], where="share that keeps its cluster", case=votes.attack)
    attacked = votes[::2].assign(name="attacked")
    noise = votes[1::2].assign(name="noise of that size", case=list(attacked.case))
    return table(
        [
            beside(asked, attacked, noise, "case"),
            claim(asked, "the paper's statement", _SAID[bool(attacked.low.min() > 0.5)]),
        ]
    )


def grid(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of `paper_tables.grid`: what a defense costs and brings, and what retraining and knowledge change."""
    rows, found = labelled(rows), []
    kind, bare = rows.retrained.map({True: "retrained", False: "vanilla"}), rows[rows.defense == "No Defense"]
    knows = rows.knowledge.map(lambda word: ThreatModel(word).knows_defense)
    for name in dict.fromkeys(rows.defense[rows.defense != "No Defense"]):
        placed = rows.assign(where=kind + " network, " + rows["where"])[rows.defense == name]
        found.append(beside(f"Does {name} beat No Defense?", placed, bare, "case"))
        mine = rows.assign(name=kind)[(rows.defense == name) & ~knows]
        first = mine[~mine.retrained & (mine.knowledge != "transfer")]
        found.append(beside(f"Does retraining help {name}?", mine[mine.retrained], first, "case"))
    rows = rows.assign(name=rows["where"], where=rows.defense)
    best = rows[knows].nsmallest(1, "accuracy")
    other = rows[~knows].merge(best[["attack", "retrained", "defense"]]).nlargest(1, "accuracy")
    found.append(beside("What does it change that the attacker knows the defense?", best, other, "case"))
    return table(found)


def baselines(rows: pd.DataFrame, worst: pd.DataFrame) -> pd.DataFrame:
    """Each STL beside every other defense of `baselines.cases`: clean, the strongest grey box, and the `worst` case.

    A network that is its own defense is known to whoever has its weights: it has no grey box.
    """
    rows = labelled(rows).assign(case=lambda found: found["where"] + found.n.map(", n = {:,}".format))
    blind, found = paper_tables.strongest(rows)[0], []
    label = f"{ThreatModel.WORST_CASE.label} of size {blind.budget.iloc[0]:g}"
    least = worst.assign(name=worst.defense, case=worst.n.map("n = {:,}".format))
    asked = {"clean images": rows[rows.attack == "Clean"], f"{blind.attack.iloc[0]}, defense unknown": blind}
    asked[label] = least
    for name in (name for name in STL if name in set(rows.defense)):
        question = f"How does {name} compare with the other defenses?"
        for where, part in asked.items():
            mine = part[part.defense == name].drop(columns="case").assign(where=where)
            found.append(beside(question, mine, part[part.defense != name]))
    return table(found)


def sweep(rows: pd.DataFrame, what: str) -> pd.DataFrame:
    """Of the rows of `ablations.sweep`: what one choice changes, and whether what the paper says of it holds.

    λ, K, S and M are read from the smallest value to the largest; every other choice beside the lab's own value.
    """
    rows, choice = rows[rows.what == what], CHOICES[what][0]
    rows = rows.sort_values("value", kind="stable") if what in NUMERIC else rows
    clean = rows[rows.asked == "clean"]
    gap = pd.DataFrame(gaps(rows)).rename(columns={"at": "value", "number": "accuracy"})
    parts = {
        "psnr": _of(clean, "fidelity", where="PSNR of T(x)", unit=" dB"),
        **{asked: part.assign(where=tables.asked(part.iloc[0])) for asked, part in rows.groupby("asked", sort=False)},
        "gap": gap.assign(where="gap between clean and attacked accuracy", n=rows.n.iloc[0]),
    }
    if what in NUMERIC:
        name = choice.split(",")[0]
        return table([*(_course(f"What does {name} change?", part, name) for part in parts.values()),
                      _held(parts, what, name)])  # fmt: skip
    every = pd.concat([part.assign(name=part.value.map(said)) for at, part in parts.items() if at != "gap"])
    (own,) = rows.value[rows.own].unique()
    return table(
        beside(f"{choice[:1].upper()}{choice[1:]}: {said(value)} instead of {said(own)}?",
               every[every.value == value], every[every.value == own], "where")
        for value in dict.fromkeys(rows.value) if value != own
    )  # fmt: skip


def _held(parts: Mapping[str, pd.DataFrame], what: str, name: str) -> pd.DataFrame:
    """What the paper says of a choice, part by part, and as a whole."""
    question, found = f"Does what the paper says of {name} hold?", []
    for measure, way in CLAIMS.get(what, {}).items():
        part = parts[measure]
        points = _points(part)
        if way:
            verdict = {way: _SAID[True], -way: _SAID[False], 0: SAME}[metrics.moved(points[0], points[-1])]
        else:
            part = part.sort_values("accuracy")
            verdict = _SAID[metrics.alike(points, _ALIKE)]
        expected = {-1: " falls", 0: f" stays within {_ALIKE:g}", 1: " rises"}[way]
        found.append(_ends(question, part.assign(where=part["where"] + expected), name, verdict))
    if not found:
        return claim(question, "the paper", f"no curve for {name}")
    return table([*found, claim(question, "all in all", holds([part.verdict.item() for part in found]))])


def psnr_accuracy(found: pd.DataFrame) -> pd.DataFrame:
    """Of `paper_tables.intervals`: has an STL “both the highest PSNR and most preferable characteristic interval”?"""
    found, lines = found.assign(name=found.defense), []
    for name in (name for name in STL if name in set(found.defense)):
        asked = f"Has {name} “both the highest PSNR and most preferable characteristic interval”?"
        mine, others = found[found.defense == name], found[~found.defense.str.startswith("STL")]
        near = beside(asked, *(_of(part, "psnr", where="PSNR of T(x_adv)", unit=" dB") for part in (mine, others)))
        lines.append(near.assign(verdict=["lower" if gap < 0 else "higher" for gap in near.difference]))
        nearer = others.psnr[others.defense != "No Defense"].max() > mine.psnr.item()
        for what in ("attacked", "clean"):
            lines.append(beside(asked, *(_of(part, what, where=f"{what} accuracy") for part in (mine, others))))
        sure = not (nearer or (lines[-2].verdict == LOWER).any())
        lines.append(claim(asked, "the paper's statement", _SAID[sure]))
    return table(lines)


def attenuation(rows: pd.DataFrame) -> pd.DataFrame:
    """Of the rows of `attenuation.table`: how much of a perturbation T leaves, of an attack and of noise as large."""
    left = _of(rows.assign(name=rows.change, value=rows["λ"], case="λ = " + rows["λ"].map(said)), "kept")
    changes = [part.assign(where=f"share of {change}") for change, part in left.groupby("change", sort=False)]
    found = [_course("How much of a perturbation does T leave?", part, "λ") for part in changes]
    if len(changes) == 2:
        pair = (part.assign(where="share that T leaves") for part in changes)
        found.append(beside("Does T leave more of an attack than of noise?", *pair, "case"))
    near = _of(changes[0], "psnr", where="PSNR of T(x)", unit=" dB")
    return table([*found, _course("How near does T(x) stay to x?", near, "λ")])


def resolutions(measured: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """As images grow: how each STL fares, what it keeps, whom it beats; `measured` as for `by_resolution`."""
    cells, found = labelled(by_resolution(measured)), []
    cells = cells[cells.attack != "Clean"].assign(where=cells.attack + ", " + cells["where"])
    ours, paper = cells[cells.block != "paper"], cells[cells.block == "paper"]
    for name in STL:
        asked, mine = f"Does {name} hold at every resolution?", ours[ours.defense == name]
        found += [_course(asked, part, "pixels") for _, part in mine.groupby("where", sort=False)]
        mine = mine.assign(case=mine.value.map("{} pixels".format))
        share = _of(mine, "kept", name="ours", where="relative robust accuracy, " + mine["where"])
        found.append(beside(asked, share, _of(paper[paper.defense == name], "kept", name="paper"), "attack value", ""))
    for name, other in product(STL, dict.fromkeys(ours.defense[~ours.defense.isin(STL)])):
        on = "attack block value" + ("" if inside_network(other) else " knowledge")
        pair = ours[ours.defense == name].assign(case=ours.value.map("{} pixels".format)), ours[ours.defense == other]
        found.append(beside(f"Does {name} beat {other} at every resolution?", *pair, on))
    return table(found)


def repeats(twice: pd.DataFrame) -> pd.DataFrame:
    """Whether the two measurements of `measurement.repeated` agree."""
    asked, one = "Do two runs of one recipe agree?", labelled(twice)
    kind = twice.retrained.map({True: ", retrained, ", False: ", "})
    one = one.assign(case=one.defense + kind + one.attack + ", " + one["where"], name="first", where="accuracies")
    again = twice[["recipe"]].assign(name="again", **{name: twice[f"{name}_again"] for name in _NUMBERS})
    far = (twice.accuracy - twice.accuracy_again).abs()
    told = f"{far.median():.3f} in the median, at most {far.max():.3f}"
    return table([beside(asked, one, again, "recipe"), claim(asked, f"distance of all {len(twice)} pairs", told)])


def _of(rows: pd.DataFrame, column: str, **labels) -> pd.DataFrame:
    """Rows whose number to compare is in another column, with its interval where there is one; without the empty."""
    ends = {end: rows.get(f"{column}_{end}", rows[column]) for end in ("low", "high")}
    return rows.assign(accuracy=rows[column], right=None, **ends, **labels).dropna(subset="accuracy")


def _course(question: str, part: pd.DataFrame, name: str) -> pd.DataFrame:
    """How a number moves from its first value to its last, and between the two that differ most where these do not."""
    found = _ends(question, part, name)
    if found.verdict.item() == SAME and (pair := metrics.farthest(_points(part))):
        found = table([found, _ends(question, part[part.value.isin([point.at for point in pair])], name)])
    return found


def _ends(question: str, part: pd.DataFrame, name: str, verdict: str | None = None) -> pd.DataFrame:
    """The last value of a setting beside the first."""
    named = part.assign(name=[f"{name} = {said(value)}" for value in part.value])
    return beside(question, named.tail(1), named.head(1), "", verdict)


def _points(part: pd.DataFrame) -> list[Point]:
    return [Point(*row) for row in part[["value", *_NUMBERS]].itertuples(index=False)]

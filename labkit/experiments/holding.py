"""What does hold? Adversarial training, T before it and in it, and other Ts, under every attacker who knows them."""

from collections.abc import Collection
from dataclasses import replace

from labkit.core.profiles import Profile
from labkit.core.recipes import AdversarialTraining, AttackRecipe, ClassifierRecipe, TransformRecipe, rebase
from labkit.evaluation import Case, ThreatModel, Workbench, measurement
from labkit.experiments import certified  # noqa: F401 (for pages)
from labkit.experiments.baselines import Baseline
from labkit.experiments.paper_tables import CLEAN, Asked

import pandas as pd

HOLDS = "holds"  # the name of the table, which is none of the paper's
BUDGETS = ("l2", 0.5), ("dissimilarity", 0.03), ("linf", 4 / 255)  # the first is RobustBench's, and trained for
# T with a λ for each image: as near to CIFAR-10's training images as T with λ = 0.2 (30.1 and 29.7 dB).
_SHARE = 0.1
FEW = ", few images"  # networks that are compared on fewer training images say so


def everyone(lab: Profile) -> dict[str, Baseline]:
    """What is judged, by its name: the undefended network and Ts before it, networks trained to hold, and T with them.

    Those that compare ways of training have `lab.holding.images` training images, T's filters too, as many epochs, and
    FEW in their name.
    """
    how, vanilla = lab.holding, lab.classifier
    one = AdversarialTraining("pgd", BUDGETS[0][1], BUDGETS[0][0], share=1.0, weight=1.0, held=how.held)
    hard, T = _trained(lab, one), _transforms(lab)
    found: dict[str, tuple] = {"No Defense": (vanilla, None), **{name: (vanilla, other) for name, other in T.items()}}
    found |= {_joined(name, hard): (hard, T.get(name)) for name in ("", "STL", "STL (random)")}
    few = rebase(lab, replace(lab.data, train=how.images))
    for way in (one, replace(one, steps=3), replace(one, steps=3, beta=6.0), AdversarialTraining(held=how.held)):
        network = replace(_trained(few, way), epochs=how.epochs)
        found[network.label + FEW] = (network, None)
    for name in ("STL", "STL (low-pass ×0.5)"):
        other = _transforms(few)[name]
        network = replace(_trained(few, replace(one, through=True), transform=other), epochs=how.epochs)
        found[_joined(name, network) + FEW] = (network, other)
    return {name: Baseline(*parts, how.n) for name, parts in found.items()}


def _transforms(lab: Profile) -> dict[str, TransformRecipe]:
    """The paper's T, and others: the low-pass part coded or dimmed, few coefficients, draws, a λ for each image."""
    T, inf = lab.transform, float("inf")
    coded = replace(T, lowpass=inf, dictionary=replace(T.dictionary, lowpass=inf))
    how = {"dim": 0.5}, {"top": lab.holding.top}, {"shaken": 0.5}, {"relative": True, "lam": _SHARE}
    changed = (replace(T, **each) for each in how)
    return {"STL": T, "STL (all coded)": coded, **{other.label: other for other in changed}}


def _joined(before: str, network: ClassifierRecipe) -> str:
    return " + ".join(filter(None, (before, network.label)))


def _trained(lab: Profile, way: AdversarialTraining, **how) -> ClassifierRecipe:
    return lab.trained(adversarial=way, erase=0.0, **how)  # a small network has enough to learn


def against(lab: Profile, baseline: Baseline, norm: str, size: float) -> list[tuple[AttackRecipe, str]]:
    """What is tried within one budget, and by whom: transfer, PGD by each gradient, `ladder`, queries, AutoAttack.

    AutoAttack, thousands of passes an image, is for networks without a T before them; T gets the queries that it has.
    """
    how, known = lab.adaptive, baseline.known or ("classifier",)
    draws = {"draws": 1} if baseline.random else {}
    pgd = AttackRecipe("pgd", size, how.steps, norm, loss="margin", gap=how.gap, **draws)
    tried = [(pgd, knowledge) for knowledge in known]
    if baseline.network.data == lab.classifier.data and (baseline.network, baseline.defense) != (lab.classifier, None):
        blind = "classifier" if baseline.network == lab.classifier else "transfer"
        tried.insert(0, (replace(pgd, name="mi_di", loss="log-odds", gap=0.0), blind))
    if not how.autoattack:
        return tried
    tried.append((replace(pgd, name="ladder", loss="log-odds"), known[-1]))
    if baseline.defense is None:
        return [*tried, (AttackRecipe("autoattack", size, norm=norm), "classifier")]
    return [*tried, (replace(pgd, name="square", steps=how.queries, loss="log-odds", gap=0.0), "queries")]


def cases(lab: Profile) -> dict[str, list[Case]]:
    """All cases of each name; the first budget's come first, and each has the clean images before it."""
    found = {}
    for name, baseline in everyone(lab).items():
        clean = Case(baseline.network, baseline.defense, CLEAN)
        mine = [clean]
        for norm, size in BUDGETS:
            for attack, knowledge in against(lab, baseline, norm, size):
                copy = lab.classifier if knowledge == "transfer" else None
                mine.append(replace(clean, attack=attack, knowledge=knowledge, copy=copy))
        found[name] = [rebase(case, case.data.at_most(lab.holding.n)) for case in mine]
    return found


def asked(lab: Profile) -> Asked:
    """All of them, each budget a worst case."""
    mine = [case for every in cases(lab).values() for case in every]
    return Asked(tuple(mine), tuple(mine))


def rows(lab: Profile, bench: Workbench, chosen: Collection[Case]) -> pd.DataFrame:
    """`measurement.run` of the cases, as far as `chosen`; the defense has its name in `everyone`. A column `norm`."""
    parts = [pd.DataFrame(columns=[*measurement.COLUMNS, "norm"])]
    for name, every in cases(lab).items():
        if mine := [case for case in every if case in chosen]:
            norms = [case.attack.norm if case.attack.size else "" for case in mine]
            parts.append(measurement.run(mine, bench).assign(defense=name, norm=norms))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def worst(lab: Profile, bench: Workbench, chosen: Collection[Case]) -> pd.DataFrame:
    """`measurement.worst_case` of each name in each budget of which all cases are `chosen`; columns norm and size."""
    parts = [measurement.worst_case([], bench).assign(norm="", size=0.0)]
    for name, every in cases(lab).items():
        for norm, size in BUDGETS:
            mine = [
                case for case in every if not case.attack.size or (case.attack.norm, case.attack.size) == (norm, size)
            ]
            if set(mine) <= set(chosen):
                found = measurement.worst_case(mine, bench)
                parts.append(found.assign(defense=name, norm=norm, size=size))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def pairs(found: pd.DataFrame) -> list[tuple[str, str, str]]:
    """What is compared with what, in the worst case: a question, and the names of ours and of the other."""
    there = set(found.defense)
    hard = next((name for name in there if name.startswith("Adv Training (one step)") and not name.endswith(FEW)), "")
    asked = [(f"Does {name} hold better than No Defense?", name, "No Defense") for name in found.defense.unique()
             if name.startswith("STL") and "Adv" not in name]  # fmt: skip
    asked += [("Does the adversarial training hold better than No Defense?", hard, "No Defense")]
    asked += [(f"Does a T before it add to the adversarial training ({name.partition(' + ')[0]})?", name, hard)
              for name in found.defense.unique() if name.endswith(f"+ {hard}")]  # fmt: skip
    plain = hard + FEW
    asked += [(f"Is {name.removesuffix(FEW)} better than one step, at as many epochs on as few images?", name, plain)
              for name in found.defense.unique() if name.endswith(FEW) and name != plain]  # fmt: skip
    return [line for line in dict.fromkeys(asked) if {*line[1:]} <= there]


def front(worst: pd.DataFrame, clean: dict[str, float]) -> list[str]:
    """The defenses that no other beats in both clean and worst-case accuracy, the cleanest first."""
    left = sorted(((clean[row.defense], row.accuracy, row.defense) for row in worst.itertuples()), reverse=True)
    best, found = -1.0, []
    for _, robust, name in left:
        if robust > best:
            best = robust
            found.append(name)
    return found


def partly(rows: pd.DataFrame, worst: pd.DataFrame) -> pd.DataFrame:
    """Of defenses without a whole worst case in the first budget, what the best attack of a white box leaves so far."""
    norm = BUDGETS[0][0]
    tried = rows[(rows.norm == norm) & ~rows.defense.isin(worst.defense[worst.norm == norm])]
    who = zip(tried.knowledge, tried.defense, strict=True)
    tried = tried.loc[["white box" in ThreatModel.of(*pair).label for pair in who]]
    return tried.loc[tried.groupby("defense", sort=False).accuracy.idxmin()]

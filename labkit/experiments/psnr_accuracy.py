"""The paper's Figure 6: how near T(x_adv) comes to the image, against what is left of accuracy, for every defense."""

from dataclasses import replace

import pandas as pd

from labkit.core import metrics
from labkit.core.profiles import Profile
from labkit.defenses import unfitted
from labkit.evaluation import Case, ThreatModel
from labkit.experiments import baselines, paper_tables


def cases(lab: Profile) -> list[Case]:
    """What `intervals` needs of `paper_tables.grid` and `baselines.cases`: vanilla network, clean and FGSM-0.08.

    Defenses that wrap the network are left out: they output no image whose PSNR could be taken.
    """
    return [
        case
        for case in [*paper_tables.grid(lab), *baselines.cases(lab)]
        if case.attack in (lab.attack("Clean"), lab.attack("FGSM-0.08"))
        and case.knowledge == "classifier"
        and case.classifier == replace(lab.classifier, data=case.data)
        and (case.defense is None or unfitted(case.defense).maps)
    ]


def intervals(rows: pd.DataFrame, attack: str = "FGSM-0.08") -> pd.DataFrame:
    """Where each defense lies on the paper's Figure 6: PSNR of T(x_adv) to x, and the characteristic interval.

    rows  from `measurement.run(cases(lab))`; of others, only those of a vanilla network in a grey box are taken, and of
          a defense measured twice, those on more images

    Columns: defense, n, psnr, clean and attacked (accuracies, each with _low and _high), low and high (the interval),
    clean_recipe and attacked_recipe (the hashes of their rows).
    The undefended network has its place, too, to compare.
    """
    knows = rows.knowledge.map(lambda word: ThreatModel(word).knows_defense)
    plain = rows[~rows.retrained & ~knows].sort_values("n", ascending=False, kind="stable")
    lines = []
    for defense in dict.fromkeys(rows.defense):
        mine = plain[plain.defense == defense]
        clean, attacked = (mine[mine.attack == name].head(1) for name in ("Clean", attack))
        if clean.empty or attacked.empty:
            continue
        line = {"defense": defense, "n": attacked.n.item(), "psnr": attacked.psnr.item()}
        for name, row in (("clean", clean), ("attacked", attacked)):
            line |= {name: row.accuracy.item(), f"{name}_low": row.low.item(), f"{name}_high": row.high.item()}
        line["low"], line["high"] = metrics.characteristic_interval(line["clean"], line["attacked"])
        lines.append(line | {"clean_recipe": clean.recipe.item(), "attacked_recipe": attacked.recipe.item()})
    return pd.DataFrame(lines)

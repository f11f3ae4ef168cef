"""The paper's Figure 6: how near T(x_adv) comes to the image, against what is left of accuracy, for every defense."""

from dataclasses import replace

from labkit.core import metrics
from labkit.core.profiles import Profile
from labkit.defenses import unfitted
from labkit.evaluation import Case, ThreatModel
from labkit.experiments import baselines, paper_tables

import pandas as pd


def cases(lab: Profile) -> list[Case]:
    """What `intervals` needs of `paper_tables.grid` and `baselines.cases`: vanilla network, clean and FGSM-0.08.

    Defenses that wrap the network are left out: they output no image whose PSNR could be taken.
    """
    asked, attacks = [*paper_tables.grid(lab), *baselines.cases(lab)], (lab.attack("Clean"), lab.attack("FGSM-0.08"))
    grey = [case for case in asked if case.attack in attacks and case.knowledge == "classifier"]
    vanilla = [case for case in grey if case.classifier == replace(lab.classifier, data=case.data)]
    return [case for case in vanilla if case.defense is None or unfitted(case.defense).maps]


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
    found = {(row.defense, row.attack): row for row in plain[::-1].itertuples()}  # of several, the first stays
    lines = []
    for defense in dict.fromkeys(rows.defense):
        pair = {name: found.get((defense, of)) for name, of in (("clean", "Clean"), ("attacked", attack))}
        if None in pair.values():
            continue
        line = {"defense": defense, "n": pair["attacked"].n, "psnr": pair["attacked"].psnr}
        for name, row in pair.items():
            line |= {name: row.accuracy, f"{name}_low": row.low, f"{name}_high": row.high}
        line["low"], line["high"] = metrics.characteristic_interval(line["clean"], line["attacked"])
        lines.append(line | {f"{name}_recipe": row.recipe for name, row in pair.items()})
    return pd.DataFrame(lines)

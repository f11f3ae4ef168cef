"""The paper's Figure 6: how near T(x_adv) comes to the image, against what is left of accuracy, for every defense."""

from dataclasses import replace

import pandas as pd

from labkit import apart, experiment, metrics, rivals, threat
from labkit.apart import Point
from labkit.defenses import unfitted
from labkit.experiment import Case
from labkit.profiles import Profile

# What a reader must know of `intervals`.
CAPTION = (
    "Vanilla network; “attacked” is FGSM-0.08 by one who has its weights and knows no defense. Brackets: 95 % Wilson "
    "intervals. What wraps the network, and outputs no image, is left out; slow defenses have fewer images."
)


def cases(lab: Profile) -> list[Case]:
    """What `intervals` needs of `experiment.grid` and `rivals.cases`: vanilla network, clean and FGSM-0.08.

    Defenses that wrap the network are left out: they output no image whose PSNR could be taken.
    """
    return [
        case
        for case in [*experiment.grid(lab), *rivals.cases(lab)]
        if case.attack in (lab.attack("Clean"), lab.attack("FGSM-0.08"))
        and case.knowledge == "classifier"
        and case.classifier == replace(lab.classifier, data=case.data)
        and (case.defense is None or unfitted(case.defense).maps)
    ]


def intervals(rows: pd.DataFrame, attack: str = "FGSM-0.08") -> pd.DataFrame:
    """Where each defense lies on the paper's Figure 6: PSNR of T(x_adv) to x, and the characteristic interval.

    rows  from `experiment.run(cases(lab))`; among others, those of a vanilla network are taken, and of an attacker
          who does not know the defense; of a defense measured twice, those on more images

    Columns: defense, n, psnr, clean and attacked (accuracies, each with _low and _high), low and high (the interval),
    clean_recipe and attacked_recipe (the hashes of their rows).
    The undefended network has its place, too, to compare.
    """
    plain = rows[~rows.retrained & ~rows.knowledge.isin(threat.AWARE)].sort_values("n", ascending=False, kind="stable")
    lines = []
    for defense in dict.fromkeys(rows.defense):
        mine = plain[plain.defense == defense]
        clean, attacked = (mine[mine.attack == name].head(1) for name in ("Clean", attack))
        if clean.empty or attacked.empty:
            continue
        line = {"defense": defense, "n": attacked.n.item(), "psnr": attacked.psnr.item()}
        for name, row in (("clean", clean), ("attacked", attacked)):
            line |= {name: row.accuracy.item(), f"{name}_low": row.low.item(), f"{name}_high": row.high.item()}
        line |= dict(
            zip(("low", "high"), metrics.characteristic_interval(line["clean"], line["attacked"]), strict=True)
        )
        lines.append(line | {"clean_recipe": clean.recipe.item(), "attacked_recipe": attacked.recipe.item()})
    return pd.DataFrame(lines)


def reading(found: pd.DataFrame) -> str:
    """What `intervals` says of the paper's sentence on its Figure 6, for each STL: Markdown, one bullet each."""
    lines = []
    for name in (name for name in ("STL", "STL (cluster)") if name in set(found.defense)):
        (mine,) = found[found.defense == name].itertuples()
        others = found[~found.defense.str.startswith("STL")].sort_values("psnr", ascending=False)
        better = others[(others.psnr > mine.psnr) & (others.defense != "No Defense")]
        nearer = [f"{row.defense} {row.psnr:.1f} dB" for row in better.itertuples()]
        words = [f"**{name}**: T(x_adv) is at {mine.psnr:.1f} dB to x, nearer are: {', '.join(nearer) or 'none'}"]
        above = {}
        for asked in ("attacked", "clean"):
            own = _at(mine, asked)
            above[asked] = [at for at in (_at(row, asked) for row in others.itertuples()) if apart.moved(own, at) > 0]
            more = ", ".join(f"{at.at} {apart.told(at)}" for at in above[asked])
            words.append(f"{asked}, {apart.told(own)} are right, surely more with: {more or 'none'}")
        holds = "does not hold here" if nearer or above["attacked"] else "holds here"
        claim = "The paper's “both the highest PSNR and most preferable characteristic interval”"
        lines.append(f"- {'; '.join(words)}. {claim} {holds}.")
    return "\n".join(lines)


def _at(row, asked: str) -> Point:
    """An accuracy on the map, "clean" or "attacked", at its defense's name."""
    return Point(row.defense, *(getattr(row, f"{asked}{end}") for end in ("", "_low", "_high")))

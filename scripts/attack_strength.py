"""The table of docs/ATTACKS.md on how strong an attack must be: `python scripts/attack_strength.py`, ten minutes."""

from dataclasses import replace

from labkit.core import profiles
from labkit.core.recipes import AttackRecipe, rebase
from labkit.evaluation import Case, ThreatModel, Workbench, measurement
from labkit.experiments import baselines

import pandas as pd

N, SIZE = 100, 0.08
ATTACKS = {
    "clean": AttackRecipe("clean", 0.0, 0),
    "BIM, 20 steps": AttackRecipe("bim", SIZE, 20),
    "PGD on the margin, 20 steps": AttackRecipe("pgd", SIZE, 20, loss="margin"),
    "the same, 100 steps": AttackRecipe("pgd", SIZE, 100, loss="margin"),
    "ladder, 50 steps": AttackRecipe("ladder", SIZE, 50),
}


def main() -> None:
    """Prints the table: accuracy with its interval, and the recipe's hash."""
    lab, bench = profiles.profile("quick"), Workbench()
    few, lines = rebase(lab, lab.data.at_most(N)), []
    for name in ("jpeg", "bits", "median", "tvm"):
        (baseline,) = baselines.before(few, name)
        for knowledge in baseline.known:
            line = {}
            for words, attack in ATTACKS.items():
                case = Case(few.classifier, baseline.defense, replace(attack, draws=1), knowledge)
                (row,) = measurement.run([case], bench).itertuples()
                line |= {"defense": f"{case.label}, {ThreatModel.of(case.knowledge).label}"} if not line else {}
                line[words] = f"{row.accuracy:.2f} [{row.low:.2f}, {row.high:.2f}] `{row.recipe[:8]}`"
            lines.append(line)
    print(pd.DataFrame(lines).to_markdown(index=False))


if __name__ == "__main__":
    main()

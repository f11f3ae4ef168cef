"""The arena: every defense under every attack and threat model, the worst cell of each, and one image in any cell."""

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd
from torch import Tensor

from labkit.core import metrics
from labkit.core.profiles import Profile
from labkit.evaluation import Case, ThreatModel, Workbench, threat_models
from labkit.evaluation.adversarial_examples import adversarial
from labkit.experiments import baselines, paper_tables
from labkit.models import predict


def cases(lab: Profile) -> list[Case]:
    """All that notebooks 05 and 07 measure: the grid, the baselines, and the adaptive attacks; each case once."""
    return list(dict.fromkeys([*paper_tables.grid(lab), *baselines.cases(lab), *paper_tables.adaptive(lab)]))


def table(rows: pd.DataFrame, *, retrained: bool) -> pd.DataFrame:
    """Rows of `measurement.run` as a grid: one line per defense, one column per (attack, threat model).

    Cells are (accuracy, low, high, n, worst), or None where nothing was measured; of a case on several numbers of
    images, the one on most. `worst` marks each line's lowest accuracy. Networks are vanilla or `retrained`; the
    undefended one stands in both.
    """
    mine = rows[(rows.retrained == retrained) | (rows.defense == "No Defense")].sort_values("n", kind="stable")
    names = [(row.attack, ThreatModel.of(row.knowledge, row.defense).label) for row in mine.itertuples()]
    attacks, models = rows.attack.drop_duplicates().tolist(), [model.label for model in ThreatModel]
    columns = sorted(set(names), key=lambda name: (attacks.index(name[0]), models.index(name[1])))
    cells: dict[str, dict] = {defense: {} for defense in dict.fromkeys(rows.defense) if defense in set(mine.defense)}
    for name, row in zip(names, mine.itertuples(), strict=True):
        cells[row.defense][name] = (row.accuracy, row.low, row.high, row.n)
    lines = []
    for found in cells.values():
        least = min(value[0] for value in found.values())
        lines.append([(*found[c], found[c][0] == least) if c in found else None for c in columns])
    return pd.DataFrame(lines, index=list(cells), columns=pd.MultiIndex.from_tuples(columns))


@dataclass(frozen=True)
class Face:
    """One test image in one case; `face` says what is kept of it."""

    case: Case
    index: int
    version: int = 1


def face(case: Case, index: int, bench: Workbench) -> dict[str, Tensor]:
    """One test image: x, x_adv and seen (C, H, W), before and after (classes,); kept in the store.

    seen    what the network gets of x_adv: the defense's output, or x_adv itself where a defense outputs no image. T
            solves for it alone; among other images it may end elsewhere within its gap
    before  the probabilities of the network alone for x
    after   those of the judged system for x_adv; a detector has one class more, "rejected"
    """
    test = bench.images(case.data, "test")

    def build(_scratch):
        x, x_adv = test.x[index : index + 1], adversarial(case.attempt(), bench)[index : index + 1]
        defense, network = bench.transform(case.defense), bench.classifier(case.classifier)
        seen, logits = threat_models.decide(network, defense, x_adv)
        odds = {"before": predict(network, x).softmax(1)[0], "after": logits.softmax(1)[0]}
        return {"x": x[0].clone(), "x_adv": x_adv[0].clone(), "seen": seen[0].clone(), **odds}, {}

    return bench.store.fetch("face", Face(case, index), build, digest=bench.digest(case.data)).tensors


def told(case: Case, found: dict[str, Tensor], classes: Iterable[str]) -> str:
    """A line about a face: the defense, the class decided for, and the PSNR of what the network gets."""
    names = [*classes, "rejected"]
    near = float(metrics.psnr(found["seen"][None], found["x"][None]))
    return f"{case.label}: {names[int(found['after'].argmax())]}, {near:.1f} dB"

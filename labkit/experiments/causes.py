"""What made the paper's numbers? Readings of its attacks, right and wrong, each beside the ten cells of its Table 1."""

import itertools
from collections.abc import Collection
from dataclasses import replace

from labkit.core.profiles import STL, Profile
from labkit.core.recipes import AttackRecipe, ClassifierRecipe, rebase
from labkit.evaluation import Case, Workbench, measurement
from labkit.evaluation.adversarial_examples import faulty
from labkit.evaluation.sanity_checks import restless
from labkit.experiments import paper_tables, published_numbers

import numpy as np
import pandas as pd

CAUSES = "causes"  # the name of the table, which is none of the paper's
RIGHT = "L∞ k/255, 8 bits"  # the hypothesis that each other one differs from in what its name says
_TABLE, _JUDGED = "1_released", ["No Defense", "STL"]
_CURVE = (2.0, 12.0, 20.0)  # grey levels, beside those of Table 1
_DROPPED = 0.3
_DRAWN = 10_000  # samples of what chance allows


def hypotheses(lab: Profile) -> dict[str, tuple[Case, ...]]:
    """The cases of each reading: No Defense, and STL followed by a network trained on T(x), from a surrogate.

    The surrogate is the undefended network. Only FGSM is also asked at 2, 12 and 20/255, of the undefended one; CW has
    `lab.adaptive.n` images at most.
    """
    how, plain, script = lab.causes, lab.transform, lab.released.transform
    own = _own(lab)
    other = replace(own, width=next((w for w in how.widths[::-1] if w != own.width), own.width), seed=own.seed + 1)
    dropping = replace(own, dropout=_DROPPED)

    def read(network=own, T=plain, faults=(), *, stated=False, copy=None) -> tuple[Case, ...]:
        return _read(lab, network, T, faults, stated=stated, copy=copy)

    found = {
        "relative L2, as the text says": read(stated=True),
        RIGHT: read(),
        "T as in the authors' script": read(T=script),
        "training mode, batches of up to 100": read(faults=("batch-100",)),
        "training mode, batches of up to 8": read(faults=("batch-8",)),
        "training mode (100), T as in the script": read(T=script, faults=("batch-100",)),
        "network with dropout": read(dropping),
        "dropout active": read(dropping, faults=("dropout",)),
        "training mode (100) and dropout active": read(dropping, faults=("batch-100", "dropout")),
        "predicted labels": read(faults=("predicted",)),
        "attacked images saved as JPEG": read(faults=("jpeg",)),
        f"made on another network (×{other.width:g})": read(copy=other),
        "no augmentation": read(replace(own, augment=False, erase=0.0)),
    }
    for seed in range(own.seed, own.seed + how.seeds):
        for width in how.widths:
            if (width, seed) != (own.width, own.seed) and (seed == own.seed or width <= own.width):
                network = replace(own, width=width, seed=seed)
                name = f"width ×{width:g}" + f", seed {seed}" * (seed != own.seed)
                found[name] = read(network)
                found[f"training mode (100), {name}"] = read(network, faults=("batch-100",))
    return found


def asked(lab: Profile, *, trained: bool = True) -> paper_tables.Asked:
    """The cases of all hypotheses; there is no worst case. With trained=False, those of one undefended network."""
    cases = dict.fromkeys(itertools.chain(*hypotheses(lab).values()))
    one = {case for case in cases if {case.classifier, case.copy} <= {rebase(_own(lab), case.data), None}}
    return paper_tables.Asked(tuple(case for case in cases if trained or case in one), ())


def rows(lab: Profile, bench: Workbench, chosen: Collection[Case]) -> pd.DataFrame:
    """`measurement.run` of each hypothesis, as far as `chosen`; more columns: hypothesis, and fault.

    `fault` is what the sanity checks call what the attacker differentiates; "" where they find nothing.
    """
    parts = []
    for name, cases in hypotheses(lab).items():
        if mine := [case for case in cases if case in chosen]:
            attempt = mine[-1].attempt()
            wrong = restless(faulty(bench.classifier(attempt.victim), attempt.attack.faults))
            parts.append(measurement.run(mine, bench).assign(hypothesis=name, fault=", ".join(wrong)))
    return pd.concat(parts or [pd.DataFrame(columns=[*measurement.COLUMNS, "hypothesis", "fault"])], ignore_index=True)


def relative(found: pd.DataFrame) -> pd.DataFrame:
    """Relative robust accuracy (robust / clean), a line per hypothesis, a column per cell: (defense, attack).

    The paper's is the last line; attacks have its names. A cell that is not measured is missing.
    """
    attacks = dict(zip(published_numbers.table(_TABLE), published_numbers.table("1"), strict=True))
    known = {**attacks, **{name: name for name in attacks.values()}}
    cells = found.assign(attack=found.attack.str.replace(r" \(.*", "", regex=True).map(known))
    clean = cells[cells.attack == "Clean"].set_index(["hypothesis", "defense", "n"]).accuracy
    cells = cells[cells.attack.notna() & (cells.attack != "Clean")]
    cells = cells.join(clean.rename("clean"), on=["hypothesis", "defense", "n"])
    cells = cells.assign(kept=cells.accuracy / cells.clean.where(cells.clean > 0))
    table = cells.pivot_table("kept", "hypothesis", ["defense", "attack"], aggfunc="first", sort=False)
    printed = published_numbers.table("1").loc[_JUDGED]
    table.loc["the paper"] = printed.div(printed.Clean, axis=0).drop(columns="Clean").stack()
    return table.reindex(columns=[pair for pair in itertools.product(_JUDGED, attacks.values()) if pair[1] != "Clean"])


def distances(found: pd.DataFrame) -> pd.DataFrame:
    """How far each hypothesis is from the paper, nearest first: the mean absolute difference over the cells.

    Rows: hypothesis, fault, cells (ten when all are measured), distance, chance, most. If the paper's numbers were ours
    in truth, sampling alone would give a distance of `chance` on average, and less than `most` in 95 of 100 cases (its
    n is taken to be 10,000).
    """
    table = relative(found)
    paper, lines, generator = table.loc["the paper"], [], np.random.default_rng(0)
    counts = found.groupby("hypothesis").n.min()
    for name, line in table.drop(index="the paper").iterrows():
        there = line.notna()
        if there.any():
            spread = np.sqrt((paper * (1 - paper).clip(lower=0))[there].to_numpy() * (1 / counts[name] + 1e-4))
            drawn = np.abs(generator.normal(0, spread, (_DRAWN, there.sum()))).mean(1)
            fault = found.fault[found.hypothesis == name].iloc[0]
            far = float((line - paper)[there].abs().mean())
            lines.append((name, fault, int(there.sum()), far, float(drawn.mean()), float(np.quantile(drawn, 0.95))))
    columns = ["hypothesis", "fault", "cells", "distance", "chance", "most"]
    return pd.DataFrame(lines, columns=columns).sort_values("distance", ignore_index=True)


def changes(found: pd.DataFrame, attacks: tuple[str, ...] = ("FGSM-0.08", "BIM-0.03")) -> pd.DataFrame:
    """What each cause does to relative robust accuracy, beside `RIGHT`: a line per cause, a column per cell.

    The first line is `RIGHT` itself, the last one what is missing from it to the paper.
    """
    table = relative(found)
    table = table[[cell for cell in table if cell[1] in attacks]]
    if RIGHT not in table.index:
        return pd.DataFrame()
    base = table.loc[RIGHT]
    return pd.concat([base.to_frame().T, table.drop(index=RIGHT) - base])


def curves(found: pd.DataFrame) -> pd.DataFrame:
    """FGSM on the undefended network against grey levels: rows with a column `value`, of hypotheses in levels."""
    levels = found.attack.str.extract(r"^FGSM-(\d+)/255")[0].astype(float)
    return found[levels.notna() & (found.defense == "No Defense")].assign(value=levels)


def _own(lab: Profile) -> ClassifierRecipe:
    return replace(lab.classifier, epochs=lab.causes.epochs or lab.classifier.epochs)


def _read(
    lab: Profile, network: ClassifierRecipe, T: STL, faults: tuple[str, ...], *,
    stated: bool, copy: ClassifierRecipe | None,
) -> tuple[Case, ...]:  # fmt: skip
    """The cases of one reading, on undefended and retrained network; `copy` is attacked where it is not `network`."""
    bare, behind = Case(network, None, paper_tables.CLEAN), Case(replace(network, transform=T), T, paper_tables.CLEAN)
    transfer = {"knowledge": "transfer", "copy": copy or network}
    cases, most = [bare, behind], lab.data.at_most(lab.causes.n)
    for attack in paper_tables.attacks_of(lab if stated else lab.released, "1")[1:]:
        few = most.at_most(lab.adaptive.n) if attack.name == "cw" else most
        if few != most and attack.name == "cw":
            cases += [rebase(bare, few), rebase(behind, few)]  # what its accuracy is a share of
        wrong = replace(attack, faults=faults)
        cases.append(rebase(replace(bare, attack=wrong, **transfer if copy else {}), few))
        cases.append(rebase(replace(behind, attack=wrong, **transfer), few))
    for size in () if stated else _CURVE:
        attack = AttackRecipe("fgsm", size, 1, "levels", stored=True, faults=faults)
        cases.append(replace(bare, attack=attack, **transfer if copy else {}))
    return tuple(rebase(case, most.at_most(case.data.test)) for case in cases)

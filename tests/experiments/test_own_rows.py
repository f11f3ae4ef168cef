"""What `evaluate` measures of the lab's own layer is what the lab measures itself."""

import shutil
from dataclasses import replace

from labkit.attacks import Budget
from labkit.core.recipes import rebase
from labkit.evaluation import Workbench, evaluate, measurement, own
from labkit.evaluation.efforts import Effort
from labkit.experiments import baselines, paper_tables

import pandas as pd


def test_our_own_layer_gives_the_rows_of_notebook_05(lab, bench, tmp_path, monkeypatch):
    """Measured twice, in two stores that share networks and dictionaries alone."""
    how = replace(lab.adaptive, gap=0.0, autoattack=True)  # as the profile `lab` has it
    small = replace(rebase(lab, lab.data.at_most(lab.baselines.fast)), adaptive=how)
    mine = [case for case in (*paper_tables.grid(small), *baselines.cases(small))
            if (case.classifier, case.defense) == (small.classifier, small.transform)
            and case.attack.name in ("clean", "bim", "pgd", "ladder")]  # fmt: skip
    rows = measurement.run(dict.fromkeys(mine), bench)

    shutil.copytree(bench.store.root, tmp_path / "store", ignore=shutil.ignore_patterns("row", "attack", "checks"))
    effort = Effort(small.data.test, small.strongest.steps, how.steps, how.queries)
    monkeypatch.setattr(own, "EFFORTS", {"fast": effort})
    store = Workbench(tmp_path / "store", progress=False)
    size = Budget.dissimilarity(small.strongest.size)
    found = evaluate(small.classifier, small.data, defense=small.transform, effort="fast", budgets=[size], store=store)

    both = sorted(set(rows.recipe) & set(found.rows.recipe))
    ours, theirs = (part.set_index("recipe").loc[both].drop(columns=["seconds", "run"]) for part in (rows, found.rows))
    pd.testing.assert_frame_equal(ours, theirs)
    assert sorted(zip(ours.attack, ours.knowledge, strict=True)) == [
        ("BIM-0.03", "classifier"), ("Clean", "–"), ("PGD ladder-0.03", "exact"), ("PGD-0.03 margin", "exact"),
        ("PGD-0.03 margin", "identity"),
    ]  # fmt: skip

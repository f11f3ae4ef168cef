"""A lab so small that a page answers at once, and a workbench with its networks and dictionaries."""

from dataclasses import replace

from labkit.core import profiles, recipes
from labkit.evaluation.workbench import Workbench

import pytest


@pytest.fixture(scope="session")
def tiny_lab():
    small = recipes.rebase(profiles.SMOKE, recipes.DataRecipe("fashion", train=200, test=12))
    trade = replace(small.tradeoff, n=12, lam=(0.1, 0.2, 0.4), K=(6, 12), S=(4, 8), M=(1, 2))
    return replace(small, classifier=replace(small.classifier, epochs=1), tradeoff=trade)


@pytest.fixture(scope="session")
def tiny_bench(tmp_path_factory, tiny_lab):
    made = Workbench(tmp_path_factory.mktemp("store"), progress=False)
    made.classifier(tiny_lab.classifier)
    for T in tiny_lab.defenses:
        made.transform(T)
    return made

"""A small lab that several test files share: real images, real training, once a session."""

from dataclasses import replace

import pytest

from labkit import profiles, recipes
from labkit.artifacts import Workbench


@pytest.fixture(scope="session")
def lab():
    small = recipes.rebase(profiles.SMOKE, recipes.DataRecipe("fashion", train=1000, test=100))
    return replace(small, classifier=replace(small.classifier, epochs=6, width=0.125, batch=32))


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    return Workbench(tmp_path_factory.mktemp("store"), progress=False)

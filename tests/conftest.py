"""A small lab that several test files share: real images, real training, once a session."""

from dataclasses import replace

from labkit.core import profiles, recipes
from labkit.evaluation.workbench import Workbench

import pytest
import torch


@pytest.fixture(scope="session")
def lab():
    small = recipes.rebase(profiles.SMOKE, recipes.DataRecipe("fashion", train=1000, test=100))
    return replace(small, classifier=replace(small.classifier, epochs=6, width=0.125, batch=32))


@pytest.fixture(scope="session")
def bench(tmp_path_factory):
    return Workbench(tmp_path_factory.mktemp("store"), progress=False)


@pytest.fixture(scope="module")
def one_thread():
    """For layers so small that they gain nothing from threads which wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)

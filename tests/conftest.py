"""A small lab that several test files share: real images, real training, once a session."""

from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from xml.etree import ElementTree

from labkit.core import profiles, recipes
from labkit.evaluation.workbench import Workbench

import pytest
import torch

RECORD = Path(__file__).parent.parent / ".pytest_cache" / "tests.xml"  # of the last `make test`
FAST = 120  # seconds of one worker


def pytest_addoption(parser):
    parser.addoption("--fast", action="store_true", help="the files that took least in `make test`, two minutes in all")


def pytest_collection_modifyitems(config, items):
    """Puts the files first that take longest, so that no worker is left with one of them at the end.

    With --fast, leaves those out. Where nothing was recorded, they are what is marked as slow, and the notebooks.
    """
    took, recorded = Counter(), []
    with suppress(OSError, ElementTree.ParseError):  # none, or one that was interrupted
        recorded = list(ElementTree.parse(RECORD).iter("testcase"))
    for case in recorded:
        took[case.get("classname").rsplit(".Test", 1)[0]] += float(case.get("time"))
    name = lambda item: ".".join(item.path.relative_to(config.rootpath).with_suffix("").parts)  # noqa: E731
    slow = [item for item in items if item.get_closest_marker("slow") or item.get_closest_marker("browser")]
    files = {item.path for item in slow} | {item.path for item in items if item.path.suffix == ".ipynb"}
    items.sort(key=lambda item: -took[name(item)] if took else item.path not in files)
    if config.getoption("--fast"):
        total = dict(zip(ranked := sorted(took, key=took.get), accumulate(took[file] for file in ranked), strict=True))
        left_out = {item for item in items if total.get(name(item), 0) > FAST} if took else {*slow}
        config.hook.pytest_deselected(items=[*left_out])
        items[:] = [item for item in items if item not in left_out]


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

"""Steps on a busy machine: idle, beside a busy loop, and beside a second process like it, as it is and as it was."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import labkit
from labkit.attacks import Budget, pgd
from labkit.core import distributed
from labkit.core.profiles import QUICK
from labkit.core.recipes import ClassifierRecipe, DictionaryRecipe
from labkit.csc import cdl
from labkit.datasets import loaders
from labkit.evaluation import threat_models
from labkit.models import SparseTransform, networks

import torch
from torch.nn import functional

_BATCH, _STEPS, _WARM = 128, 10, 3
_ROOT = Path(__file__).resolve().parent.parent  # where children find this module
_BEFORE = 8  # seconds until another training has begun
# Before labkit decided how threads wait, they spun as long as libgomp's default has it.
_AS_IT_WAS = {"GOMP_SPINCOUNT": "300000"}
_GAP = QUICK.adaptive.gap
_LOOP = [sys.executable, "-c", "while True: pass"]


def training() -> list[dict]:
    """Median milliseconds of a training step (quarter-width VGG-16, batch 128) of ten, each condition in new processes.

    What runs beside it began some seconds before, and is killed after.

    Rows: threads ("as they are", "as they were": spinning), beside ("nothing", "a busy loop", "another training"), ms.
    """
    rows = []
    for threads, told in (("as they are", {}), ("as they were", _AS_IT_WAS)):
        for beside, others in (
            ("nothing", []),
            ("a busy loop", [_LOOP]),
            ("another training", [child(_BATCH, 10**6, 0)]),
        ):
            where = {"env": {**silent(), **told}, "cwd": _ROOT}
            running = [subprocess.Popen(other, stdout=subprocess.DEVNULL, **where) for other in others]
            try:
                time.sleep(_BEFORE * len(running))
                found = subprocess.run(_command(), stdout=subprocess.PIPE, text=True, check=True, **where)
            finally:
                for one in running:
                    one.kill()
                    one.wait()
            rows.append({"threads": threads, "beside": beside, "ms": json.loads(found.stdout)})
    return rows


def steps(batch: int, count: int, warm: int) -> float:
    """Median milliseconds of `count` training steps in this process, after `warm` others."""
    network = networks.build(ClassifierRecipe(), 10, 3, 32).to(memory_format=networks.LAYOUT).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    x, y, took = torch.rand(batch, 3, 32, 32), torch.arange(batch) % 10, []
    for _ in range(warm + count):
        started = time.perf_counter()
        optimizer.zero_grad()
        functional.cross_entropy(network(x), y).backward()
        optimizer.step()
        took.append(1e3 * (time.perf_counter() - started))
    return median(took[warm:])


def attack(dataset: str, data_root: str | None, n: int = 100, iterations: int = 20) -> list[dict]:
    """Milliseconds an image and step of PGD on one thread: the network alone, through T as judged, and approximated.

    Filters are learned from training images; the network is not trained, which its time does not depend on. Times are
    of this process alone, so that others count little. Rows: through, ms, ratio (to the network alone).
    """
    load = {"resolution": 32, "data_root": data_root}
    train, test = loaders.load(dataset, "train", n=400, **load), loaders.load(dataset, "test", n=n, **load)
    T = SparseTransform(cdl.learn(train, DictionaryRecipe(images=200, passes=2))).eval()
    network = networks.frozen(networks.build(ClassifierRecipe(), 10, test.x.shape[1], 32), "cpu")
    views = {"the network alone": (None, 0.0), "T as it is judged": (T, 0.0), "T approximated": (T, _GAP)}
    rows = []
    with distributed.threads(1):
        for through, (defense, gap) in views.items():
            system = threat_models.view(network, defense, "exact", gap=gap)
            started = time.process_time()
            pgd(system, test.x[:], test.y, budget=Budget.dissimilarity(0.02), steps=iterations)
            ms = 1e3 * (time.process_time() - started) / n / (iterations + 1)
            rows.append({"through": through, "ms": ms, "ratio": ms / rows[0]["ms"] if rows else 1.0})
    return rows


def child(batch: int, count: int, warm: int) -> list[str]:
    """The command that prints `steps`."""
    call = f"busy.steps({batch}, {count}, {warm})"
    return [sys.executable, "-c", f"import json; from benchmarks import busy; print(json.dumps({call}))"]


def _command() -> list[str]:
    return child(_BATCH, _STEPS, _WARM)


def silent() -> dict[str, str]:
    """This environment without what labkit has decided on threads, for children that decide themselves."""
    decided = {*labkit.THREADS.environment(1), "GOMP_SPINCOUNT"}
    return {name: value for name, value in os.environ.items() if name not in decided}

from datetime import UTC, datetime

from labkit.core import hardware, metrics
from labkit.csc import cbpdn, cdl
from labkit.csc.tikhonov import split
from labkit.evaluation import Workbench
from labkit.experiments import solvers
from labkit.models.stl import SparseTransform

import pandas as pd
import pytest
import torch
from pandas.testing import assert_frame_equal


@pytest.fixture(scope="module")
def case():
    x = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    high = split(x)[1]
    return x, high, cdl.patches(high, 6, 4, torch.Generator().manual_seed(1))


def test_every_solver_is_timed_to_a_gap_of_its_own(case):
    _, high, d = case
    rows = solvers.race(high, d, 0.1, tolerances=(0.1, 1e-3), iterations=(5, 200), progress=False)
    assert list(rows.solver) == ["cd", "cd", "admm", "admm", "sporco", "sporco"]
    assert list(rows.n) == [3, 3, 3, 3, 2, 2]
    assert (rows.seconds > 0).all()
    ours = rows[rows.solver != "sporco"].set_index("solver").gap
    assert (ours.loc["cd"].to_numpy() <= [0.1, 1e-3]).all() and (ours.loc["admm"].to_numpy() <= [0.1, 1e-3]).all()
    few, many = rows[rows.solver == "sporco"].gap
    assert many < few
    # The gap in the table is that of the codes, and a bound: recomputed here from a solution far closer.
    code = cbpdn.solve(high, d, 0.1, gap_tol=0.1)
    best = cbpdn.solve(high.double(), d.double(), 0.1, gap_tol=1e-9).objective(high, 0.1)
    distance = (code.objective(high, 0.1) - best) / (0.5 * high.square().flatten(1).sum(1))
    assert distance.max() <= ours.loc["cd"].iloc[0] + 1e-6


def test_the_first_to_a_gap_is_the_fastest_that_is_there():
    rows = pd.DataFrame(
        [("a", 4.0, 0.001), ("a", 2.0, 0.01), ("a", 1.0, 0.5), ("b", 6.0, 0.005), ("c", 0.1, 0.02)],
        columns=["solver", "seconds", "gap"],
    ).assign(n=2)
    found = solvers.first(rows, 0.01)
    assert list(found.solver) == ["a", "b"]
    assert list(found.ms) == [2000.0, 6000.0] and list(found.ratio) == [1.0, 3.0]


def test_costs_vary_one_quantity_at_a_time(case):
    x, _, _ = case
    rows = solvers.costs(
        x, {"K": (4, 8), "lam": (0.05, 0.5), "resolution": (16, 24)}, K=6, S=4, lam=0.1, progress=False
    )
    assert list(zip(rows.what, rows.value, strict=True)) == [
        ("K", 4), ("K", 8), ("lam", 0.05), ("lam", 0.5), ("resolution", 16), ("resolution", 24),
    ]  # fmt: skip
    assert (rows.ms > 0).all()
    loose, tight = rows[rows.what == "lam"].active
    assert loose > tight
    high = split(x)[1]
    d = cdl.patches(high, 4, 4, torch.Generator().manual_seed(0))
    assert rows.active[0] == float(metrics.sparsity(cbpdn.solve(high, d, 0.1).z).float().mean())


def test_exactness_is_the_distance_to_the_converged_transform(case):
    x, _, d = case
    rows = solvers.exactness(x, d, 0.1, tolerances=(0.1, 1e-3))
    T = SparseTransform(d.double(), lam=0.1, gap_tol=1e-7)
    psnr = metrics.psnr(SparseTransform(d, lam=0.1, gap_tol=0.1)(x), T(x.double()).float())
    assert abs(rows.psnr[0] - float(psnr.mean())) < 0.2 and rows.worst[0] <= rows.psnr[0]
    assert rows.psnr[1] > rows.psnr[0]


def test_what_was_measured_on_this_machine_is_not_measured_again(tmp_path, monkeypatch):
    made = []

    def measure(x, sizes, *, lam):
        made.append(lam)
        return pd.DataFrame({"size": sizes, "ms": [float(x.sum()), lam]})

    bench, x = Workbench(tmp_path, progress=False), torch.ones(2, 3)
    first = solvers.kept(bench, measure, x, [1, 2], lam=0.1)
    again = solvers.kept(bench, measure, x.clone(), [1, 2], lam=0.1)
    assert_frame_equal(first, again)
    assert len(made) == 1 and first.attrs["day"] == datetime.now(UTC).date().isoformat()
    solvers.kept(bench, measure, x, [1, 2], lam=0.2)
    solvers.kept(bench, measure, 2 * x, [1, 2], lam=0.1)
    monkeypatch.setattr(hardware, "processor", lambda: "another")
    solvers.kept(bench, measure, x, [1, 2], lam=0.1)
    assert made == [0.1, 0.2, 0.1, 0.1]

"""sporco, beside which labkit is measured, solves the same problem."""

from benchmarks import bench
from labkit.csc import cbpdn
from labkit.experiments import solvers

import numpy as np
import pytest
import torch

LAM = 0.2


@pytest.mark.peer
@pytest.mark.parametrize("channels", [1, 3])
def test_sporcos_objective_counts_as_ours(channels):
    """The codes read from sporco reproduce its own objective, so that the comparison is of the same thing."""
    from sporco.admm.cbpdn import ConvBPDN

    g = torch.Generator().manual_seed(0)
    x, d = torch.randn(1, channels, 12, 10, generator=g), torch.randn(4, channels, 3, 3, generator=g)
    d = d / d.flatten(1).norm(dim=1)[:, None, None, None]
    _, z = solvers.sporco(x, d, LAM)
    options = ConvBPDN.Options({"MaxMainIter": 200, "RelStopTol": 5e-3, "Verbose": False})
    filters, pixels = d.numpy().transpose(2, 3, 1, 0), x[0].numpy().transpose(1, 2, 0)
    if channels == 1:
        filters, pixels = filters[:, :, 0], pixels[:, :, 0]
    solver = ConvBPDN(filters, pixels, LAM, options, dimK=0)
    code = solver.solve()
    residual = pixels - solver.reconstruct().squeeze()
    theirs = 0.5 * (residual**2).sum() + LAM * np.abs(code).sum()
    assert abs(float(cbpdn.objective(z, x, d, LAM)) - theirs) < 1e-3 * theirs


@pytest.mark.peer
@pytest.mark.parametrize("channels", [1, 3])
def test_sporco_learns_filters_that_we_read(channels):
    """Its default, proximal gradient with a fixed step, diverges when it goes on for longer (seen at 30 iterations)."""
    g = torch.Generator().manual_seed(0)
    x, d = torch.randn(3, channels, 12, 10, generator=g), torch.randn(4, channels, 3, 3, generator=g)
    d = d / d.flatten(1).norm(dim=1)[:, None, None, None]
    for consensus, iterations in ((True, 30), (False, 5)):
        _, found = bench.learn_by_sporco(x, d, 0.3, iterations=iterations, consensus=consensus)
        assert found.shape == d.shape
        codes = cbpdn.solve(x, d, 0.3, gap_tol=1e-4), cbpdn.solve(x, found, 0.3, gap_tol=1e-4)
        before, after = (float(code.objective(x, 0.3).sum()) for code in codes)
        assert after < before

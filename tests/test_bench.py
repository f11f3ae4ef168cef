import json

import pytest

from labkit import bench


def test_a_small_bench_is_written_and_fair(tmp_path):
    record = bench.run(tmp_path, dataset="fashion", sizes=(16,), images=2)
    assert json.loads((tmp_path / "bench.json").read_text()) == record
    row = record["rows"][0]
    assert min(row["ours_ms"], row["sporco_ms"], row["least_ms"], row["backward_ratio"]) > 0
    # A faster solver that stops earlier would be no faster solver.
    assert row["objective_ratio"] <= 1.001
    assert (row["size"], row["channels"], row["n"]) == (16, 1, 8)
    text = (tmp_path / "bench.md").read_text()
    assert f"{row['sporco_ms'] / row['ours_ms']:.0f}×" in text and "16×16×1" in text


@pytest.mark.peer
def test_sporcos_objective_counts_as_ours(tmp_path):
    """The codes read from sporco reproduce its own objective, so that the comparison is of the same thing."""
    import numpy as np
    import torch
    from sporco.admm.cbpdn import ConvBPDN

    from labkit import cbpdn

    g = torch.Generator().manual_seed(0)
    x, d = torch.randn(1, 3, 12, 10, generator=g), torch.randn(4, 3, 3, 3, generator=g)
    d = d / d.flatten(1).norm(dim=1)[:, None, None, None]
    _, z = bench._sporco(x, d)
    options = ConvBPDN.Options({"MaxMainIter": 200, "RelStopTol": 5e-3, "Verbose": False})
    solver = ConvBPDN(d.numpy().transpose(2, 3, 1, 0), x[0].numpy().transpose(1, 2, 0), bench.LAM, options, dimK=0)
    code = solver.solve()
    assert np.allclose(np.squeeze(code).transpose(2, 0, 1), z[0].numpy(), atol=1e-6)
    residual = x[0].numpy().transpose(1, 2, 0) - solver.reconstruct().squeeze()
    theirs = 0.5 * (residual**2).sum() + bench.LAM * np.abs(code).sum()
    assert abs(float(cbpdn.objective(z, x, d, bench.LAM)) - theirs) < 1e-3 * theirs

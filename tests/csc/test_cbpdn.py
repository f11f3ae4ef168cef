import os
import subprocess
import sys

from labkit.core import metrics
from labkit.core.errors import InputError
from labkit.csc import batch_solver, cbpdn, conv, load_dictionary
from labkit.csc.codes import Codes
from labkit.csc.tikhonov import split
from labkit.models import SparseTransform

import numpy as np
import oracles
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

METHODS = ["cd", "admm"]


def problem(B=2, C=3, H=12, W=10, K=5, S=3, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(B, C, H, W, generator=g, dtype=torch.float64)
    d = torch.randn(K, C, S, S, generator=g, dtype=torch.float64)
    return x.to(dtype), (d / d.flatten(1).norm(dim=1)[:, None, None, None]).to(dtype)


@pytest.mark.parametrize("method", METHODS)
def test_one_pixel_filter_is_soft_thresholding(method):
    x, _ = problem(C=1)
    z = cbpdn.solve(x, torch.ones(1, 1, 1, 1, dtype=x.dtype), 0.3, method=method, gap_tol=1e-12).z
    assert_close(z, torch.sign(x) * (x.abs() - 0.3).clamp_min(0), atol=1e-6, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_code_vanishes_at_lambda_max(method):
    x, d = problem()
    top = cbpdn.lambda_max(x, d)
    assert not cbpdn.solve(x, d, 1.001 * top, method=method, gap_tol=1e-9).z.any()
    assert cbpdn.solve(x, d, 0.98 * top, method=method, gap_tol=1e-9).z.flatten(1).any(1).all()


@pytest.mark.parametrize("method", METHODS)
def test_the_optimum_is_the_dense_lassos(method):
    x, d = problem(B=1, C=2, H=7, W=6, K=3)
    best = oracles.objective(oracles.lasso(x[0].numpy(), d.numpy(), 0.4), x[0].numpy(), d.numpy(), 0.4)
    found = cbpdn.solve(x, d, 0.4, method=method, gap_tol=1e-8, max_iter=5000)
    assert_close(float(cbpdn.objective(found.z, x, d, 0.4)), best, rtol=1e-6, atol=0)
    assert_close(found.objective(x, 0.4), cbpdn.objective(found.z, x, d, 0.4))
    assert float(cbpdn.objective(found.z, x, d, 0.4) - found.gap) <= best + 1e-9


@pytest.mark.parametrize("method", METHODS)
def test_gap_is_a_bound_and_the_stopping_rule(method):
    x, d = problem(seed=3)
    optimum = cbpdn.objective(cbpdn.solve(x, d, 0.5, gap_tol=1e-10).z, x, d, 0.5)
    for tol in (0.3, 0.03, 0.003):
        found = cbpdn.solve(x, d, 0.5, method=method, gap_tol=tol)
        assert (cbpdn.objective(found.z, x, d, 0.5) - found.gap <= optimum + 1e-9).all()
        assert (found.gap <= tol * 0.5 * x.square().flatten(1).sum(1)).all()
        assert_close(found.gap, cbpdn.duality_gap(found.z, x, d, 0.5), rtol=1e-3, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(
    C=st.integers(1, 3),
    H=st.integers(4, 19),
    W=st.integers(4, 19),
    K=st.integers(1, 6),
    S=st.integers(1, 4),
    share=st.floats(0.05, 0.9),
    single=st.booleans(),
    seed=st.integers(0, 99),
)
def test_any_shape_is_solved_to_its_gap(C, H, W, K, S, share, single, seed):
    x, d = problem(2, C, H, W, K, S, torch.float32 if single else torch.float64, seed)
    lam = share * cbpdn.lambda_max(x, d)
    found = cbpdn.solve(x, d, lam, gap_tol=1e-3)
    assert found.z.dtype == x.dtype
    assert (found.gap <= 1e-3 * 0.5 * x.square().flatten(1).sum(1)).all()
    true = cbpdn.duality_gap(found.z.double(), x.double(), d.double(), lam.double())
    assert_close(found.gap.double(), true, rtol=1e-2, atol=1e-4 * float(x.square().sum()))


@pytest.mark.parametrize("method", METHODS)
def test_orthonormal_filters_are_soft_thresholding_in_their_basis(method):
    """Filters of one pixel that rotate the channels: with all their shifts they are an orthonormal basis."""
    x, _ = problem(C=4)
    Q = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=x.dtype))[0]
    z = cbpdn.solve(x, Q.T[:, :, None, None].contiguous(), 0.3, method=method, gap_tol=1e-12).z
    seen = torch.einsum("ck,bchw->bkhw", Q, x)
    assert_close(z, torch.sign(seen) * (seen.abs() - 0.3).clamp_min(0), atol=1e-6, rtol=0)


def test_both_methods_agree_per_image_lambda_and_norms():
    x, d = problem(B=3)
    d = d * torch.tensor([0.5, 1, 2, 3, 0], dtype=d.dtype)[:, None, None, None]
    lam = torch.tensor([0.2, 0.5, 0.9], dtype=x.dtype)
    cd, admm = (cbpdn.solve(x, d, lam, method=m, gap_tol=1e-6) for m in METHODS)
    assert_close(conv.synthesize(cd.z, d), conv.synthesize(admm.z, d), atol=1e-3, rtol=0)
    assert not cd.z[:, 4].any() and not admm.z[:, 4].any()
    single = cbpdn.solve(x[1:2], d, 0.5, gap_tol=1e-8)
    assert_close(conv.synthesize(single.z, d), conv.synthesize(cd.z[1:2], d), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_warm_start_at_the_optimum_is_kept(method):
    x, d = problem()
    first = cbpdn.solve(x, d, 0.4, method=method, gap_tol=1e-6, max_iter=3000)
    again = cbpdn.solve(x, d, 0.4, method=method, gap_tol=1.5e-6, z0=first.z)
    assert again.iterations <= 10 and first.iterations > again.iterations - 10
    assert_close(again.z, first.z, atol=1e-3, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_a_black_image_has_no_code(method):
    x, d = problem()
    x[1] = 0
    found = cbpdn.solve(x, d, 0.3, method=method)
    assert not found.z[1].any() and found.gap[1] == 0 and found.z[0].any()


def test_strides_do_not_matter():
    x, d = problem(B=2, H=10, W=10)
    turned = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert_close(cbpdn.solve(turned, d.flip(0).flip(0), 0.4).z, cbpdn.solve(x, d, 0.4).z)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_stored_dictionary_gives_sporcos_projection(channels, tmp_path):
    """Low-pass, code and loader together, on a photograph, against sporco's own at 1,000 iterations."""
    from skimage.data import astronaut
    from sporco.admm.cbpdn import ConvBPDN
    from sporco.signal import tikhonov_filter

    photo = astronaut()[60:92, 200:230].astype(np.float32) / 255
    photo = photo if channels == 3 else photo.mean(2, keepdims=True)
    low, high = tikhonov_filter(photo, 5.0, 16)
    g = np.random.default_rng(0)
    corners = zip(g.integers(24, size=16), g.integers(22, size=16), strict=True)
    patches = [high[i : i + 8, j : j + 8] for i, j in corners]
    stored = np.stack([p / np.linalg.norm(p) for p in patches], axis=-1).astype(np.float32)
    np.save(tmp_path / "filters.npy", stored if channels == 3 else stored[:, :, 0])
    solver = ConvBPDN(
        stored if channels == 3 else stored[:, :, 0],
        high if channels == 3 else high[..., 0],
        0.05,
        ConvBPDN.Options({"MaxMainIter": 1000, "RelStopTol": 1e-9, "AutoRho": {"Enabled": False}, "rho": 1.0}),
        dimK=0,
    )
    z = torch.tensor(np.squeeze(np.asarray(solver.solve())).transpose(2, 0, 1).copy())[None]
    T = SparseTransform(load_dictionary(tmp_path / "filters.npy"), lam=0.05, gap_tol=1e-4)
    x = torch.tensor(photo).permute(2, 0, 1)[None]
    _, ours_high, found = T.parts(x)
    theirs = float(cbpdn.objective(z, ours_high, T.d, 0.05))
    assert_close(float(cbpdn.objective(found.z, ours_high, T.d, 0.05)), theirs, rtol=1e-3, atol=0)
    reference = torch.tensor(low + solver.reconstruct().reshape(high.shape)).permute(2, 0, 1)[None].clamp(0, 1)
    assert float(metrics.psnr(T(x), reference)) > 60


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(lam=0.0), "positive"),
        (dict(lam=-1.0), "positive"),
        (dict(lam=float("nan")), "positive"),
        (dict(x=torch.full((1, 3, 8, 8), torch.nan)), "NaN"),
        (dict(x=torch.zeros(1, 3, 8, 8, dtype=torch.float16)), "float"),
        (dict(x=torch.zeros(1, 3, 8, 8).half(), d=torch.ones(5, 3, 3, 3).half()), "float"),
        (dict(x=torch.zeros(1, 3, 8, 8).double()), "float"),
        (dict(x=torch.zeros(3, 8, 8)), r"x\[None\]"),
        (dict(x=torch.zeros(1, 1, 8, 8)), "channel"),
        (dict(x=torch.zeros(1, 3, 2, 8)), "larger than the image"),
        (dict(method="magic"), "unknown method"),
        (dict(z0=torch.zeros(1, 2, 8, 8)), "z0 must be"),
    ],
)
def test_bad_input_is_explained(change, words):
    _, d = problem(dtype=torch.float32)
    call = {"x": torch.zeros(1, 3, 8, 8), "d": d, "lam": 0.2, **change}
    with pytest.raises(InputError, match=words):
        cbpdn.solve(call.pop("x"), call.pop("d"), call.pop("lam"), **call)


@pytest.mark.parametrize("rough", [True, False])
def test_passes_in_bfloat16_change_nothing_that_is_certified(rough, monkeypatch):
    """Whether or not the processor is one on which they are used."""
    monkeypatch.setattr(batch_solver, "_HAS_ROUGH", rough)
    x, d = problem(3, 3, 20, 17, 9, 4, torch.float32)
    lam = 0.2 * cbpdn.lambda_max(x, d)
    best = cbpdn.solve(x.double(), d.double(), lam.double(), gap_tol=1e-9).objective(x, lam)
    for tol in (0.1, 1e-2, 1e-4):
        found = cbpdn.solve(x, d, lam, gap_tol=tol)
        assert (found.gap <= tol * 0.5 * x.square().flatten(1).sum(1)).all()
        reached = cbpdn.objective(found.z, x, d, lam)
        assert (reached - found.gap <= best * (1 + 1e-5)).all()
        assert_close(found.objective(x, lam), reached, rtol=1e-5, atol=0)
        assert_close(found.synthesis, conv.synthesize(found.z, d), atol=1e-5, rtol=0)


def test_a_batch_larger_than_the_window_is_solved_image_by_image_alike(monkeypatch):
    x, d = problem(9, dtype=torch.float64)
    whole = cbpdn.solve(x, d, 0.4, gap_tol=1e-6)
    monkeypatch.setattr(batch_solver, "_WINDOW_BYTES", 1)
    monkeypatch.setattr(batch_solver, "_CALL_BYTES", 1)
    few = cbpdn.solve(x, d, 0.4, gap_tol=1e-6)
    assert_close(few.z, whole.z, atol=1e-6, rtol=0)
    assert few.iterations == whole.iterations


def test_a_limit_on_passes_is_kept_and_the_gap_is_that_of_the_code():
    x, d = problem(dtype=torch.float32)
    for limit in (0, 1, 3):
        found = cbpdn.solve(x, d, 0.3, gap_tol=1e-6, max_iter=limit)
        assert found.iterations == limit
        assert (found.gap >= 0).all()
        assert_close(found.gap, cbpdn.duality_gap(found.z, x, d, 0.3), rtol=1e-3, atol=1e-4)


def test_the_first_compilation_is_announced(tmp_path):
    code = "from labkit.csc import cbpdn; cbpdn.prepare()"
    said = []
    for _ in range(2):
        run = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}, capture_output=True,
            text=True, check=True,
        )  # fmt: skip
        said.append(run.stderr)
    assert "compiling" in said[0] and said[1] == ""


def test_what_is_not_active_is_exactly_zero(lab, bench):
    # A coefficient that rounding leaves at 1e-19 counts as active for T's gradient, and turns it.
    layer = bench.transform(lab.transform).double()
    high = split(bench.images(lab.data, "test").x[:32].double())[1]
    code = cbpdn.solve(high, layer.d, layer.lam, gap_tol=1e-14)
    slack = 1 - conv.analyze(high - code.synthesis, layer.d).abs() / layer.lam
    active = code.z != 0
    assert active.any(dim=(1, 2, 3)).all()
    assert slack[active].abs().max() < 1e-5


@pytest.mark.parametrize("method", METHODS)
def test_a_start_may_be_a_list_of_coefficients(method):
    x, d = problem()
    first = cbpdn.solve(x, d, 0.4, method=method, gap_tol=1e-4)
    dense = cbpdn.solve(x, d, 0.3, method=method, gap_tol=1e-4, z0=first.z)
    listed = cbpdn.solve(x, d, 0.3, method=method, gap_tol=1e-4, z0=Codes.of(first.z))
    assert_close(listed.z, dense.z)


def test_admm_counts_its_steps_and_stops_at_the_first_gap_that_is_small_enough():
    g = torch.Generator().manual_seed(3)
    x = 3 * torch.randn(2, 2, 9, 8, generator=g, dtype=torch.float64)
    d = 2 * torch.randn(4, 2, 3, 3, generator=g, dtype=torch.float64)  # filters of any norm
    energy = 0.5 * x.square().flatten(1).sum(1)
    one = cbpdn.solve(x, d, 0.5, method="admm", max_iter=1, gap_tol=0)
    assert one.iterations == 1 and one.z.any()
    found = cbpdn.solve(x, d, 0.5, method="admm", max_iter=5000, gap_tol=1e-3)
    sooner = cbpdn.solve(x, d, 0.5, method="admm", max_iter=found.iterations - 10, gap_tol=1e-3)
    assert found.iterations % 10 == 0 and sooner.iterations == found.iterations - 10 > 10
    assert (found.gap / energy).max() <= 1e-3 < (sooner.gap / energy).max()
    again = cbpdn.solve(x, d, 0.5, method="admm", max_iter=0, z0=found.z)  # no step at all: what it was given
    assert again.iterations == 0
    assert_close(again.z, found.z)
    assert_close(again.gap, found.gap)


@pytest.mark.parametrize(("scale", "most"), [(1, (190, 60, 40)), (0.01, (180, 40, 20))])
def test_admm_balances_its_penalty_so_that_few_steps_do_at_any_scale(scale, most):
    x, d = problem()
    for lam, steps in zip((0.05, 0.3, 1.0), most, strict=True):
        found = cbpdn.solve(scale * x, d, scale * lam, method="admm", gap_tol=1e-4)
        assert found.iterations <= steps
        assert_close(found.objective(scale * x, scale * lam), cbpdn.objective(found.z, scale * x, d, scale * lam))

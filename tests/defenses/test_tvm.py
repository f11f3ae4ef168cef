"""TVM against scikit-image, a general convex solver, a closed form and finite differences."""

from labkit.core.errors import InputError
from labkit.datasets import loaders
from labkit.defenses.tvm import TVM

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from skimage.restoration import denoise_tv_bregman, denoise_tv_chambolle
from torch.testing import assert_close

LAM = 0.03


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def objective(z, x, kept=1.0, smoothing=0.0):
    """‖M ⊙ (z − x)‖² + λ Σ √(‖∇z‖² + smoothing), of arrays (..., H, W): one number, and its gradient in z."""
    right, down = np.zeros_like(z), np.zeros_like(z)
    right[..., :, :-1] = np.diff(z, axis=-1)
    down[..., :-1, :] = np.diff(z, axis=-2)
    length = np.sqrt(right**2 + down**2 + smoothing)
    value = (kept * (z - x) ** 2).sum() + LAM * length.sum()
    if not smoothing:
        return value
    right, down = LAM * right / length, LAM * down / length
    return value, 2 * kept * (z - x) + np.roll(right, 1, -1) - right + np.roll(down, 1, -2) - down


def which_kept(layer, x):
    """The mask, seen from outside: which pixels have any influence on what comes out."""
    x = x.clone().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return torch.autograd.grad((weights * layer(x)).sum(), x)[0] != 0


def pictures(name, n):
    return loaders.load(name, "test", n=n, resolution=32).x.double()


def noise(*shape):
    return 0.1 + 0.8 * torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("name", ["fashion", "photos"])
def test_without_drops_the_objective_is_that_of_scikit_image(name):
    for x in pictures(name, 4):
        x, ours = x.numpy(), objective(TVM(drop=0)(x[None])[0].numpy(), x.numpy())
        # Its equations have weight/2 before the data term, its documentation has weight. Ours is below both.
        for weight in (1 / LAM, 2 / LAM):
            theirs = [denoise_tv_bregman(plane, weight, max_num_iter=1000, eps=1e-6) for plane in x]
            assert ours <= 1.01 * objective(np.stack(theirs), x)
        # Its other solver, on the dual, reaches the minimum itself.
        best = [denoise_tv_chambolle(plane, LAM / 2, eps=1e-12, max_num_iter=1500) for plane in x]
        assert ours <= 1.01 * objective(np.stack(best), x)


def test_with_drops_it_finds_what_a_general_solver_finds():
    x = loaders.load("photos", "test", n=1, resolution=16).x.double()[..., :12, :10]
    layer = TVM(drop=0.5)
    kept = which_kept(layer.seeded(3), x).numpy()

    def smoothed(flat):
        value, gradient = objective(flat.reshape(x.shape), x.numpy(), kept, 1e-8)
        return value, gradient.ravel()

    found = minimize(smoothed, np.full(x.numel(), 0.5), jac=True, method="L-BFGS-B", options=dict(maxiter=5000))
    best = objective(found.x.reshape(x.shape), x.numpy(), kept)
    assert objective(layer.seeded(3)(x).numpy(), x.numpy(), kept) <= 1.01 * best
    tight = TVM(drop=0.5, tolerance=1e-7, outer=1500).seeded(3)
    assert objective(tight(x).numpy(), x.numpy(), kept) <= (1 + 1e-5) * best


def test_a_step_loses_height_as_computed_by_hand():
    H, W = 6, 10
    x = torch.full((1, 1, H, W), 0.3, dtype=torch.float64)
    x[..., W // 2 :] = 0.7
    # Both halves move by s: H·W·s² + λ·H·(jump − 2s) is least at s = λ/W.
    assert_close(TVM(drop=0, tolerance=1e-10, outer=3000)(x), x + LAM / W * torch.sign(0.5 - x), rtol=0, atol=1e-7)


def test_what_is_dropped_has_no_influence():
    x, layer = noise(2, 3, 20, 17), TVM(drop=0.3)
    kept = which_kept(layer.seeded(5), x)
    assert 0.66 < kept.double().mean() < 0.74  # 2,040 draws
    assert (kept[:, 0] != kept[:, 1]).any()  # each channel by itself
    assert torch.equal(layer.seeded(5)(x), layer.seeded(5)(torch.where(kept, x, 1 - x)))
    assert not torch.equal(layer.seeded(5)(x), layer.seeded(5)(1 - x))


@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_gradient(drop):
    layer = TVM(drop=drop, tolerance=0, inner=3, outer=4)
    assert layer.differentiable
    x = noise(2, 2, 6, 5).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: layer.seeded(2)(x), x)


def test_gradient_is_finite_on_flat_images_and_where_images_finish_apart():
    x = torch.cat([torch.full((1, 1, 32, 32), 0.4), loaders.load("fashion", "test", n=5).x]).requires_grad_()
    layer = TVM()
    out = layer.seeded(0)(x)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    assert gradient.isfinite().all() and gradient.flatten(1).any(1).all()
    with torch.no_grad():
        assert torch.equal(layer.seeded(0)(x), out)


def test_seeds_reproduce_and_draws_differ():
    x, layer = loaders.load("photos", "test", n=3).x, TVM()
    assert layer.stochastic and not TVM(drop=0).stochastic
    first, second = layer.seeded(1)(x), layer(x)
    assert torch.equal(layer.seeded(1)(x), first) and not torch.equal(first, second)
    state = torch.get_rng_state()
    layer(x)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_image_does_not_depend_on_its_batch():
    x = torch.cat([torch.full((1, 3, 32, 32), 0.4), loaders.load("photos", "test", n=40, resolution=32).x])
    layer = TVM(drop=0)
    together = layer(x)
    assert_close(together[0], x[0])
    assert_close(together, torch.cat([layer(one) for one in x.split(1)]), rtol=0, atol=1e-6)


def test_small_images_and_nearly_nothing_kept():
    for shape in ((1, 1, 2, 2), (2, 3, 3, 5)):
        out = TVM(drop=0.99)(noise(*shape).float())
        assert out.shape == shape and out.isfinite().all() and 0 <= out.min() and out.max() <= 1


def test_errors():
    for wrong in (dict(drop=1), dict(drop=-0.1), dict(weight=0), dict(inner=0), dict(outer=0), dict(tolerance=-1)):
        with pytest.raises(InputError, match=r"drop|weight|tolerance|inner|outer"):
            TVM(**wrong)
    with pytest.raises(InputError, match="at least 2 pixels a side, got 1×9"):
        TVM()(torch.rand(1, 3, 1, 9))
    with pytest.raises(InputError, match=r"within|in \[0, 1\]"):
        TVM()(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))

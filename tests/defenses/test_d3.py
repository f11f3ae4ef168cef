"""D3: its codes are those of scikit-learn's pursuit, its gradient is that of finite differences."""

from labkit.core.errors import InputError
from labkit.datasets import loaders
from labkit.datasets.loaders import Images
from labkit.defenses.d3 import D3, choose, pursue

import numpy as np
import pytest
import torch
from sklearn.linear_model import orthogonal_mp
from torch.testing import assert_close


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Matrices this small gain nothing from threads that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def photos():
    return loaders.load("photos", "train", n=40, resolution=32)


@pytest.fixture(scope="module")
def fitted(photos):
    defense = D3(atoms=200, sparsity=3, patch=4, overlap=2).fit(photos).double()
    defense.d = of_unit_norm(defense.d)  # to double precision, which scikit-learn takes for granted
    return defense


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def of_unit_norm(a):
    return a / a.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("sparsity", [1, 4, 5])
def test_codes_are_scikit_learns(sparsity):
    p, d = random(60, 27, seed=1), of_unit_norm(random(90, 27, seed=2))
    basis = pursue(p, d, sparsity)
    theirs = orthogonal_mp(d.T.numpy(), p.T.numpy(), n_nonzero_coefs=sparsity).reshape(90, 60).T
    code = torch.einsum("nsi,ns->ni", basis, torch.einsum("nsi,ni->ns", basis, p))
    for spanned, their, coded in zip(basis, theirs, code, strict=True):
        mine = d[np.flatnonzero(their)]
        assert len(mine) == sparsity and torch.linalg.matrix_rank(torch.cat([spanned, mine]), rtol=1e-9) == sparsity
        coefficients = torch.linalg.lstsq(mine.T, coded[:, None]).solution[:, 0]
        assert_close(coefficients, torch.from_numpy(their[their != 0]), rtol=1e-9, atol=1e-9)
        assert_close(mine.T @ coefficients, coded, rtol=1e-9, atol=1e-9)


def test_codes_of_image_patches_are_scikit_learns(fitted):
    # Here atoms are alike, where those of random numbers are not. Test images: a patch that is itself an atom leaves
    # nothing but rounding, which scikit-learn would go on to code.
    x = loaders.load("photos", "test", n=2, resolution=32).x.double()
    patches = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    p = (patches - patches.mean((2, 3), keepdim=True)).flatten(1)
    p = p[p.norm(dim=1) > 0.2]
    code = (orthogonal_mp(fitted.d.T.numpy(), p.T.numpy(), n_nonzero_coefs=3).T) @ fitted.d.numpy()
    basis = pursue(p, fitted.d, 3)
    assert_close(torch.einsum("nsi,nsj,nj->ni", basis, basis, p), torch.from_numpy(code), rtol=0, atol=1e-9)


def test_a_combination_of_few_atoms_is_found():
    d = of_unit_norm(random(40, 64))
    p = 2 * d[[3]] - d[[17]]
    basis = pursue(p, d, 5)
    assert torch.linalg.matrix_rank(torch.cat([basis[0], d[[3, 17]]]), rtol=1e-9) == 2
    assert not basis[0, 2:].any()
    assert not pursue(torch.zeros(1, 64).double(), d, 5).any()


def test_an_image_is_the_mean_of_its_coded_patches(photos, fitted):
    x = photos.x[3:4, :, :13, :11].double()  # neither side fits a stride of 2 evenly
    total, count = np.zeros((3, 13, 11)), np.zeros((13, 11))
    for top in (0, 2, 4, 6, 8, 9):
        for left in (0, 2, 4, 6, 7):
            patch = x[0, :, top : top + 4, left : left + 4].numpy()
            mean = patch.mean((1, 2), keepdims=True)
            p = (patch - mean).ravel()
            code = orthogonal_mp(fitted.d.T.numpy(), p, n_nonzero_coefs=3)
            total[:, top : top + 4, left : left + 4] += (fitted.d.T.numpy() @ code).reshape(3, 4, 4) + mean
            count[top : top + 4, left : left + 4] += 1
    assert_close(fitted(x)[0], torch.from_numpy((total / count).clip(0, 1)), rtol=0, atol=1e-9)


def test_gradient_is_that_of_finite_differences(photos, fitted):
    x = (0.25 + 0.5 * photos.x[5:7, :, :10, :9].double() + 0.01 * random(2, 3, 10, 9)).requires_grad_()
    weights, direction = random(2, 3, 10, 9, seed=3), random(2, 3, 10, 9, seed=4)
    (gradient,) = torch.autograd.grad((weights * fitted(x)).sum(), x)
    h = 1e-7
    with torch.no_grad():
        difference = (weights * (fitted(x + h * direction) - fitted(x - h * direction))).sum() / (2 * h)
    assert_close((gradient * direction).sum(), difference, rtol=1e-6, atol=0)
    assert gradient.abs().sum() > 0 and fitted.differentiable


def test_atoms_are_training_patches_that_differ(photos, fitted):
    d = fitted.d
    assert d.shape == (200, 48)
    assert_close(d.norm(dim=1), torch.ones(200).double(), rtol=1e-6, atol=0)
    assert d.reshape(200, 3, 16).mean(2).abs().max() < 1e-5
    off = (d @ d.T).abs() - torch.eye(200)
    assert off.max() <= 0.9 + 1e-6
    patches = photos.x.unfold(2, 4, 1).unfold(3, 4, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    patches = (patches - patches.mean((2, 3), keepdim=True)).flatten(1)
    patches = patches[patches.norm(dim=1) > 1e-3]
    nearest = torch.cat([(part @ d.float().T).amax(0)[None] / 1 for part in of_unit_norm(patches).split(4000)]).amax(0)
    assert (nearest > 1 - 1e-5).all()


def test_choice_is_the_slow_one():
    patches = of_unit_norm(random(1500, 5))  # more than are looked at together
    taken = []
    for i, patch in enumerate(patches):
        if all(abs(float(patch @ patches[j])) <= 0.8 for j in taken):
            taken.append(i)
    n = len(taken)
    assert choose(patches, n, 0.8).tolist() == taken
    assert choose(patches, n - 2, 0.8).tolist() == taken[:-2]
    more = choose(patches, n + 20, 0.8).tolist()
    assert more[:n] == taken and len(set(more)) == n + 20
    assert max(abs(float(patches[more[n]] @ patches[j])) for j in taken if j < more[n]) < 0.81


def test_more_atoms_in_a_patch_leave_less_behind(photos):
    x = loaders.load("photos", "test", n=8, resolution=32).x
    errors = [float((D3(atoms=400, sparsity=s).fit(photos)(x) - x).square().mean()) for s in (1, 2, 5)]
    assert errors[0] > errors[1] > errors[2]


def test_noise_is_removed(photos):
    x = loaders.load("photos", "test", n=8, resolution=32).x
    noisy = (x + 0.06 * random(*x.shape).float()).clamp(0, 1)
    cleaned = D3(atoms=1000, sparsity=5).fit(photos)(noisy)
    assert (cleaned - x).square().mean() < 0.7 * (noisy - x).square().mean()


def test_fit_reproduces_and_is_stored(photos):
    again = D3(atoms=200, sparsity=3, patch=4, overlap=2).fit(photos)
    other = D3(atoms=200, sparsity=3, patch=4, overlap=2).seeded(1).fit(photos)
    assert torch.equal(again.d, D3(atoms=200, sparsity=3, patch=4, overlap=2).fit(photos).d) and not torch.equal(
        again.d, other.d
    )
    loaded = D3(atoms=200, sparsity=3, patch=4, overlap=2)
    loaded.load_state_dict(again.state_dict())
    x = photos.x[:2]
    assert torch.equal(loaded(x), again(x))


def test_an_image_does_not_depend_on_its_batch(photos, fitted):
    x = photos.x[:6].double()
    assert_close(fitted(x)[2:3], fitted(x[2:3]), rtol=0, atol=1e-12)


def test_grey_images_of_any_shape():
    grey = loaders.load("fashion", "train", n=60)
    defense = D3(atoms=300, sparsity=5).fit(grey)
    x = loaders.load("fashion", "test", n=4).x
    assert defense(x).shape == x.shape and (defense(x) - x).square().mean() < 0.005
    assert defense(x[..., :7, :20]).shape == (4, 1, 7, 20)
    flat = torch.full((1, 1, 9, 6), 0.4)
    assert_close(defense(flat), flat)


def test_errors(photos, fitted):
    with pytest.raises(InputError, match="not fitted yet"):
        D3()(photos.x)
    with pytest.raises(InputError, match="fitted to 3 channels and got 1"):
        fitted(photos.x[:, :1].double())
    with pytest.raises(InputError, match="at least 4 pixels a side, got 3×32"):
        fitted(photos.x[:, :, :3].double())
    with pytest.raises(InputError, match="at least 40 pixels"):
        D3(patch=40, overlap=0).fit(photos)
    flat = Images(torch.full((3, 1, 8, 8), 0.5), torch.zeros(3, dtype=torch.int64), ("flat",), "flat")
    with pytest.raises(InputError, match="0 patches that are not flat"):
        D3(atoms=10).fit(flat)
    for wrong in (dict(atoms=0), dict(sparsity=0), dict(patch=4, overlap=4), dict(similarity=0)):
        with pytest.raises(InputError, match=r"D3 (needs|got overlap=4; choose)"):
            D3(**wrong)

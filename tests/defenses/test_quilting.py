"""Quilting: every seam and every neighbour, checked by looking at all of them."""

from itertools import pairwise, product

from labkit.core.errors import InputError
from labkit.datasets import loaders
from labkit.datasets.loaders import Images
from labkit.defenses.quilting import Quilting, _scan, _sew, cheapest_path

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors
from torch.testing import assert_close


@pytest.fixture(scope="module")
def photos():
    return loaders.load("photos", "train", n=12, resolution=32)


@pytest.fixture(scope="module")
def fitted(photos):
    return Quilting(patches=3000).fit(photos)


def noisy(x, level=0.05):
    return (x + level * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))).clamp(0, 1)


def paths(rows, columns):
    """Every path down a field of numbers whose steps are of at most one column."""
    every = product(range(columns), repeat=rows)
    return [path for path in every if all(abs(a - b) < 2 for a, b in pairwise(path))]


@pytest.mark.parametrize("name", ["fashion", "photos"])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (31, 18), (9, 5)])
def test_an_image_whose_patches_are_in_the_index_is_reproduced(name, height, width):
    images = loaders.load(name, "train", n=3)
    cut = Images(images.x[..., :height, :width], images.y, images.classes, images.digest)
    assert torch.equal(Quilting().fit(cut)(cut.x), cut.x)


@pytest.mark.parametrize("columns", [1, 2, 4])
def test_the_cut_is_the_cheapest_of_all_paths(columns):
    rng = np.random.default_rng(0)
    every = paths(5, columns)
    for _ in range(50):
        error = rng.integers(0, 20, (5, columns))
        path = cheapest_path(error)
        assert tuple(path) in every
        assert sum(error[range(5), path]) == min(sum(error[range(5), p]) for p in every)


def test_two_patches_meet_along_the_cheapest_cut():
    chosen = np.random.default_rng(0).integers(0, 256, (4, 1, 2, 3, 5, 5), dtype=np.uint8)
    beside, below = np.empty((4, 3, 5, 7), np.uint8), np.empty((4, 3, 7, 5), np.uint8)
    owner = np.empty((4, 1, 5, 7), np.int64)
    _sew(chosen, np.array([0]), np.array([0, 2]), beside, owner)
    turned = np.ascontiguousarray(chosen.transpose(0, 2, 1, 3, 5, 4))
    _sew(turned, np.array([0, 2]), np.array([0]), below, np.empty((4, 1, 7, 5), np.int64))
    for image, (left, right) in zip(beside, chosen[:, 0].astype(int), strict=True):
        error = ((left[:, :, 2:] - right[:, :, :3]) ** 2).sum(0)
        best = min(paths(5, 3), key=lambda path: sum(error[range(5), path]))
        whole = np.concatenate([left[:, :, :2], right], 2)
        for row, column in enumerate(best):
            whole[:, row, 2 : 2 + column] = left[:, row, 2 : 2 + column]
        assert (image == whole).all()
    assert (below == beside.transpose(0, 1, 3, 2)).all()
    places = chosen.transpose(0, 3, 1, 2, 4, 5).reshape(4, 3, -1)
    assert (np.take_along_axis(places, owner.reshape(4, 1, -1), 2) == beside.reshape(4, 3, -1)).all()


@pytest.mark.parametrize("neighbours", [1, 4])
@pytest.mark.parametrize("level", [0, 0.1, 0.5])
def test_neighbours_are_those_of_scikit_learn(photos, neighbours, level):
    defense = Quilting(patches=2000, neighbours=neighbours).fit(photos)
    queries = noisy(loaders.load("photos", "test", n=4, resolution=32).x, level).unfold(2, 5, 9).unfold(3, 5, 9)
    queries = queries.permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
    known = defense.index.flatten(1).double() / 255
    peer = NearestNeighbors(n_neighbors=neighbours, algorithm="brute").fit(known)
    distances, ids = peer.kneighbors(queries.flatten(1).double())
    found = defense.nearest(queries)
    # What a GPU does in its place.
    scanned = _scan(queries.flatten(1), defense.index.flatten(1), neighbours)
    for these in (found, scanned):
        assert_close((known[these] - queries.flatten(1)[:, None].double()).norm(dim=2).numpy(), distances)
        # Between 8-bit patches there are ties.
        assert not level or (these.numpy() == ids).all()


def test_the_index_holds_different_patches_of_the_images(photos):
    defense = Quilting(patches=50).fit(photos)
    there = photos.x.unfold(2, 5, 1).unfold(3, 5, 1).permute(0, 2, 3, 1, 4, 5).flatten(0, 2).mul(255).round().byte()
    there = {patch.numpy().tobytes() for patch in there}
    kept = [patch.numpy().tobytes() for patch in defense.index]
    assert len(set(kept)) == len(kept) <= 50
    assert set(kept) <= there
    assert len(Quilting().fit(photos).index) == len(there)


def test_patches_are_drawn_by_the_seed(photos):
    first, again, other = (Quilting(patches=50).seeded(seed).fit(photos).index for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_one_of_several_neighbours_is_drawn_by_the_seed(photos):
    x = noisy(photos.x[:2])
    defense = Quilting(patches=500, neighbours=5).fit(photos)
    first, second, again = defense.seeded(7)(x), defense(x), defense.seeded(7)(x)
    assert defense.stochastic and torch.equal(first, again) and not torch.equal(first, second)


def test_the_answer_for_an_image_does_not_depend_on_its_batch(fitted, photos):
    x = noisy(photos.x[:4])
    assert not fitted.stochastic
    assert_close(fitted(x), torch.cat([fitted(part) for part in x.split(1)]), rtol=0, atol=0)


def test_asking_for_a_gradient_changes_nothing(fitted, photos):
    x = noisy(photos.x[:2])
    assert not fitted.differentiable
    assert torch.equal(fitted(x.clone().requires_grad_()).detach(), fitted(x))


def test_a_loaded_state_answers_alike(fitted, photos):
    x = noisy(photos.x[:2])
    other = Quilting().fit(photos[:2])
    other(x)
    other.load_state_dict(fitted.state_dict())
    assert torch.equal(other(x), fitted(x))


def test_errors_say_what_to_do(fitted, photos):
    with pytest.raises(InputError, match=r"not fitted yet; call fit"):
        Quilting()(photos.x)
    with pytest.raises(InputError, match="fitted to 3 channels and got 1"):
        fitted(photos.x[:, :1])
    with pytest.raises(InputError, match="at least 5 pixels a side"):
        fitted(photos.x[..., :4])
    with pytest.raises(InputError, match=r"overlap in \[0, 5\)"):
        Quilting(overlap=5)
    with pytest.raises(InputError, match="neighbours in"):
        Quilting(neighbours=0)
    with pytest.raises(InputError, match="patches differ, not 99"):
        Quilting(neighbours=99).fit(Images(torch.zeros(1, 1, 8, 8), torch.zeros(1).long(), ("none",), ""))


@pytest.mark.parametrize("shape", [(32, 32), (13, 22)])
def test_the_stand_in_tends_to_quilting_as_the_temperature_falls(fitted, photos, shape, monkeypatch):
    x = noisy(photos.x[:3, :, : shape[0], : shape[1]]).double()
    off = []
    for temperature in (10, 1, 0.1, 0.01, 1e-5):
        monkeypatch.setattr(fitted, "temperature", temperature)
        off.append(float((fitted.smooth(x) - fitted(x)).abs().mean()))
    assert off == sorted(off, reverse=True) and off[-1] < 0.01 * off[0] < 0.2
    assert torch.equal(fitted.both(x)[0], fitted(x))


def test_the_stand_in_mixes_the_ten_nearest_patches_within_the_seams(fitted, photos):
    x = noisy(photos.x[:2, :, :8, :5]).double()  # two patches, one above the other
    seen = torch.stack([x[:, :, :5], x[:, :, 3:]], 1).flatten(0, 1)
    near = fitted.index[fitted.nearest(seen, 10)].double() / 255
    apart = (near - seen[:, None]).square().flatten(2).sum(2)
    weights = (-apart / (apart.mean(1) - apart.amin(1))[:, None]).softmax(1)
    mean = (weights[:, :, None, None, None] * near).sum(1).reshape(2, 2, 3, 5, 5)
    soft = fitted.smooth(x)
    assert_close(soft[:, :, :3], mean[:, 0, :, :3])
    assert_close(soft[:, :, 5:], mean[:, 1, :, 2:])
    above, below = mean[:, 0, :, 3:], mean[:, 1, :, :2]
    assert torch.minimum((soft[:, :, 3:5] - above).abs(), (soft[:, :, 3:5] - below).abs()).max() < 1e-12


@pytest.mark.parametrize("neighbours", [1, 4])
def test_smoothed_it_answers_alike_by_one_search_and_has_the_stand_ins_gradient(photos, neighbours, monkeypatch):
    defense = Quilting(patches=2000, neighbours=neighbours).fit(photos)
    x = noisy(photos.x[:2]).requires_grad_()
    upstream = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    hard = defense.seeded(3)(x)
    (slope,) = torch.autograd.grad(defense.seeded(3).smooth(x), x, upstream)
    searches = []
    search = Quilting.nearest
    monkeypatch.setattr(Quilting, "nearest", lambda *given: searches.append(1) or search(*given))
    out = defense.seeded(3).smoothed()(x)
    assert_close(out, hard)
    assert_close(*torch.autograd.grad(out, x, upstream), slope)
    assert len(searches) == 1 and slope.any() and slope.isfinite().all()


def test_the_gradient_of_the_stand_in_is_that_of_its_weights(photos, monkeypatch):
    """By finite differences, with their unit held: far below a step no patch becomes another one's neighbour."""
    defense = Quilting(patches=500).fit(photos)
    x = noisy(photos.x[:1, :, :5, :5]).double().requires_grad_()
    monkeypatch.setattr(defense, "temperature", 1e9)  # weights are all but equal: only the first order is left
    (slope,) = torch.autograd.grad(defense.smooth(x).sum(), x)
    near = defense.index[defense.nearest(x.detach(), 10)[0]].double() / 255
    apart = (near - x.detach()).square().flatten(1).sum(1)
    unit = 1e9 * (apart.mean() - apart.amin())
    mass = near.sum((1, 2, 3))
    known = 2 / unit * ((mass - mass.mean())[:, None, None, None] * near).mean(0)
    assert_close(slope[0] / known.norm(), known / known.norm(), rtol=1e-4, atol=1e-5)

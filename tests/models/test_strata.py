"""Clusters, votes and the transform that follows them, and that nothing of it is fitted on test images."""

from collections import Counter
from dataclasses import replace

from labkit.core.errors import InputError
from labkit.core.recipes import (
    ClassifierRecipe,
    DaeRecipe,
    DataRecipe,
    DictionaryRecipe,
    StrataRecipe,
    StratifiedRecipe,
    TransformRecipe,
)
from labkit.datasets import loaders
from labkit.datasets.loaders import Images, Lazy
from labkit.evaluation.workbench import Workbench
from labkit.models import autoencoder
from labkit.models.stl import SparseTransform
from labkit.models.strata import Strata, StratifiedTransform

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

DAE = DaeRecipe(width=4)
RECIPE = StrataRecipe(dae=DAE, clusters=3, components=6, neighbours=5)


def kinds(n=30, channels=3, size=(12, 10), seed=0) -> Images:
    """Three kinds of images that no eye confuses: dark, bright, and dark above with bright below; each a bit noisy."""
    generator = torch.Generator().manual_seed(seed)
    H, W = size
    y = torch.arange(n) % 3
    below = (torch.arange(H) >= H // 2).float()[:, None].expand(H, W)
    ground = torch.stack([torch.zeros(H, W), torch.ones(H, W), below])
    x = 0.3 + 0.4 * ground[y][:, None] + 0.1 * torch.rand(n, channels, H, W, generator=generator)
    return Images(x, y, ("dark", "bright", "both"), f"kinds-{n}-{channels}-{size}-{seed}")


def strata(images=None, recipe=RECIPE, **changes) -> Strata:
    images = images or kinds()
    recipe = replace(recipe, **changes)
    return Strata(autoencoder.build(recipe.dae, images.x.shape[1]), recipe).fit(images)


def dictionary(seed, K=5, C=3, S=3):
    d = torch.randn(K, C, S, S, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return d / d.flatten(1).norm(dim=1)[:, None, None, None]


def transforms(M=3, **options):
    return [SparseTransform(dictionary(seed), lam=0.05, gap_tol=1e-12, **options) for seed in range(M)]


def test_clusters_that_lie_apart_are_found():
    images = kinds()
    fitted = strata(images)
    assert fitted.sizes() == [10, 10, 10]
    pairs = set(zip(fitted.labels.tolist(), images.y.tolist(), strict=True))
    assert len(pairs) == 3  # one cluster for each kind, and one kind in each cluster
    means = torch.stack([fitted.training_features[fitted.labels == m].mean(0) for m in range(3)])
    assert_close(fitted.centroids, means)
    unseen = kinds(60, seed=1)
    assert set(zip(fitted.vote(unseen.x).tolist(), unseen.y.tolist(), strict=True)) == pairs


def test_features_are_principal_components_of_the_codes():
    images = kinds()
    all_of_them = strata(images, components=500)
    assert all_of_them.components.shape == (30, 64)  # as many as there are images
    with torch.no_grad():
        codes = all_of_them.autoencoder.encode(images.x)
    assert_close(all_of_them.mean, codes.mean(0))
    # All components together keep every distance; the first few are uncorrelated, the greatest spread first.
    assert_close(torch.pdist(all_of_them.training_features), torch.pdist(codes), rtol=1e-3, atol=1e-4)
    few = strata(images)
    assert few.training_features.shape == (30, 6)
    spread = few.training_features.double().T.cov()
    top = torch.linalg.eigvalsh(codes.double().T.cov()).flip(0)[:6]
    assert_close(spread, top.diag(), rtol=1e-3, atol=1e-4 * top[0].item())
    assert_close(few.features(images.x), few.training_features)


def test_few_features_make_few_components():
    narrow = replace(RECIPE, dae=replace(DAE, width=2))
    assert strata(kinds(100), narrow, components=128).components.shape == (32, 32)


def test_the_nearest_training_image_of_a_training_image_is_itself():
    images = kinds()
    fitted = strata(images, neighbours=1)
    fitted.labels.copy_(torch.arange(30) % 3 * (torch.arange(30) % 2))  # labels that no cluster explains
    assert torch.equal(fitted.vote(images.x), fitted.labels)


@pytest.mark.parametrize("k", [1, 2, 4, 5, 7, 30, 1000])
def test_vote_is_the_majority_of_the_nearest(k):
    fitted, unseen = strata(neighbours=k), kinds(50, seed=1)
    # Labels drawn by lot, so that neighbours disagree and ties are common.
    lots = torch.randint(0, 3, (30,), generator=torch.Generator().manual_seed(3))
    fitted.labels.copy_(lots)
    known, expected, tied = fitted.training_features.double(), [], 0
    for feature in fitted.features(unseen.x).double():
        row = [int(lots[i]) for i in (known - feature).norm(dim=1).argsort()[:k]]
        counts = Counter(row)
        best = [label for label in row if counts[label] == max(counts.values())]
        tied += len(set(best)) > 1
        expected.append(best[0])
    assert fitted.vote(unseen.x).tolist() == expected
    assert tied or k not in (2, 4, 5, 7)  # the rule for ties was put to the test


def test_votes_do_not_depend_on_the_company(monkeypatch):
    fitted, unseen = strata(), kinds(40, seed=1)
    together = fitted.vote(unseen.x)
    assert torch.equal(torch.cat([fitted.vote(x[None]) for x in unseen.x]), together)
    monkeypatch.setattr("labkit.models.strata._DISTANCES_AT_ONCE", 100)
    monkeypatch.setattr("labkit.models.strata._ENCODED_AT_ONCE", 7)
    assert torch.equal(fitted.vote(unseen.x), together)


def test_perturbed_images_are_voted_where_their_twins_are_as_far_as_they_stay_what_they_are():
    fitted, images = strata(), kinds(30, seed=1)
    noise = torch.randn(images.x.shape, generator=torch.Generator().manual_seed(2))
    home = fitted.vote(images.x)
    assert torch.equal(fitted.vote((images.x + 0.03 * noise).clamp(0, 1)), home)
    swapped = images.x.clone()
    swapped[:6] = images.x[1:7]  # of 30 images, six become the next one, which is of another kind
    assert int((fitted.vote(swapped) == home).sum()) == 24


def test_fit_is_the_same_again_and_from_lazy_images():
    images = kinds()
    lazy = Lazy(images.x.shape, lambda at: (images.x[at] * 255).round().to(torch.uint8))
    one, two = strata(Images(lazy, images.y, images.classes, "lazy")), strata(replace(images, x=lazy[:]))
    for name, value in one.state_dict().items():
        assert_close(value, two.state_dict()[name], rtol=1e-4, atol=1e-5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    again = strata(images)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(again.labels, strata(images).labels)


def test_gradients_pass_through_the_features_and_not_through_the_vote():
    fitted = strata().double()
    generator = torch.Generator().manual_seed(0)
    x = kinds(2, seed=1).x.double().requires_grad_()
    direction, weights = (torch.randn(s, generator=generator, dtype=torch.float64) for s in (x.shape, (2, 6)))
    (slope,) = torch.autograd.grad((fitted.features(x) * weights).sum(), x)
    step = 1e-8  # so short that no ReLU and no maximum changes sides on the way
    with torch.no_grad():
        ahead, behind = fitted.features(x + step * direction), fitted.features(x - step * direction)
    difference = ((ahead - behind) * weights).sum() / (2 * step)
    assert slope.any()
    assert_close((slope * direction).sum(), difference, rtol=1e-5, atol=1e-6)
    assert not fitted.vote(x).requires_grad


def test_a_stored_strata_is_the_same(tmp_path):
    fitted, unseen = strata(), kinds(20, seed=1)
    save_file(fitted.state_dict(), tmp_path / "strata.safetensors")
    found = Strata(autoencoder.build(replace(DAE, seed=9), 3), RECIPE)  # weights come from the file, too
    found.load_state_dict(load_file(tmp_path / "strata.safetensors"))
    assert torch.equal(found.features(unseen.x), fitted.features(unseen.x))
    assert torch.equal(found.vote(unseen.x), fitted.vote(unseen.x))
    assert found.sizes() == fitted.sizes()
    # And inside the transform, whose names have a prefix.
    whole = StratifiedTransform(fitted, transforms())
    save_file(whole.state_dict(), tmp_path / "transform.safetensors")
    other = StratifiedTransform(
        Strata(autoencoder.build(DAE, 3), RECIPE), [SparseTransform(dictionary(9), lam=0.05)] * 3
    )
    other = StratifiedTransform(other.strata, transforms()[::-1])
    other.load_state_dict(load_file(tmp_path / "transform.safetensors"))
    assert torch.equal(other(unseen.x), whole(unseen.x))


def test_each_image_gets_the_transform_of_its_cluster(monkeypatch):
    fitted, layers = strata(), transforms()
    T, x = StratifiedTransform(fitted, layers), kinds(7, seed=1).x.double()
    stratum = fitted.vote(x)
    assert len(stratum.unique()) == 3
    by_hand = torch.cat([layers[m](one[None]) for m, one in zip(stratum.tolist(), x, strict=True)])
    assert_close(voted := T(x), by_hand)
    fixed = torch.tensor([2, 0, 0, 2, 0, 2, 2])  # an empty cluster, and an order that is not its own inverse
    by_hand = torch.cat([layers[m](one[None]) for m, one in zip(fixed.tolist(), x, strict=True)])
    monkeypatch.setattr(fitted, "vote", lambda x: fixed)
    assert_close(T(x), by_hand)
    assert not torch.allclose(T(x), voted)


def test_each_cluster_is_solved_in_one_batch(monkeypatch):
    T, x = StratifiedTransform(strata(), transforms()), kinds(7, seed=1).x
    seen = []
    for m, layer in enumerate(T.transforms):
        layer.register_forward_hook(lambda module, inputs, output, m=m: seen.append((m, len(inputs[0]))))
    monkeypatch.setattr(T.strata, "vote", lambda x: torch.tensor([2, 0, 0, 2, 0, 2, 2]))
    T(x)
    assert seen == [(0, 3), (2, 4)]


@pytest.mark.parametrize("fixed", [False, True], ids=["free vote", "fixed vote"])
def test_exact_gradient_is_the_finite_difference_within_a_stratum(fixed, monkeypatch):
    T = StratifiedTransform(strata(), transforms())
    if fixed:
        monkeypatch.setattr(T.strata, "vote", lambda x: torch.tensor([1, 2, 0, 2, 1]))
    x = kinds(5, seed=1).x.double().requires_grad_()
    generator = torch.Generator().manual_seed(9)
    weights, direction = (torch.randn(x.shape, generator=generator, dtype=x.dtype) for _ in range(2))
    (slope,) = torch.autograd.grad((T(x) * weights).sum(), x)
    h = 1e-6
    with torch.no_grad():
        ahead, behind = x + h * direction, x - h * direction
        assert torch.equal(T.strata.vote(ahead), T.strata.vote(behind))
        difference = (T(ahead) - T(behind)) * weights
    # Image by image: a gradient that went to the wrong one would not show in the sum over all.
    assert_close((slope * direction).flatten(1).sum(1), difference.flatten(1).sum(1) / (2 * h), rtol=1e-4, atol=1e-6)


def test_backward_modes_are_those_of_the_transforms():
    x = kinds(5).x.double().requires_grad_()
    (g,) = torch.autograd.grad(StratifiedTransform(strata(), transforms(backward="identity"))(x).sum(), x)
    assert_close(g, torch.ones_like(x))
    with pytest.raises(RuntimeError, match="none"):
        torch.autograd.grad(StratifiedTransform(strata(), transforms(backward="none"))(x).sum(), x)


def test_one_cluster_is_the_plain_transform():
    fitted, (layer,) = strata(clusters=1), transforms(1)
    T, x = StratifiedTransform(fitted, [layer]), kinds(7, seed=1).x
    assert fitted.sizes() == [30] and not fitted.vote(x).any()
    assert torch.equal(T(x), layer(x))


def test_it_is_a_defense():
    T = StratifiedTransform(strata(), transforms())
    assert T.stochastic is False and T.fit(None) is T


# Fitted on train only.


def refuse(at):
    raise AssertionError("a test image was read while fitting")


def sealed(images: Images) -> Images:
    """The same images, but whoever looks at one fails."""
    return Images(Lazy(images.x.shape, refuse), images.y, images.classes, images.digest)


def test_a_seal_breaks_when_an_image_is_read():
    test = sealed(kinds())
    for fit in (strata, lambda images: autoencoder.train(autoencoder.build(DAE, 3), images, DAE, progress=False)):
        with pytest.raises(AssertionError, match="test image"):
            fit(test)


def test_no_test_image_reaches_a_fit(tmp_path, monkeypatch):
    real = loaders.load_recipe

    def load(recipe, split, **options):
        images = real(recipe, split, **options)
        return images if split == "train" else sealed(images)

    monkeypatch.setattr(loaders, "load_recipe", load)
    bench = Workbench(tmp_path, device="cpu", progress=False)
    recipe = DataRecipe(train=60, test=20)
    clusters = replace(RECIPE, dae=replace(DAE, data=recipe, epochs=1))
    learned = DictionaryRecipe(data=recipe, K=3, S=4, images=6, passes=1, batch=3, held=2)
    defense = StratifiedRecipe(clusters, TransformRecipe(learned))
    test = bench.images(recipe, "test")
    with pytest.raises(AssertionError, match="test image"):
        test.x[:1]
    # Everything that is built of images, from the autoencoder to the retrained network.
    for transform in (None, TransformRecipe(learned), defense):
        bench.classifier(ClassifierRecipe(data=recipe, width=1 / 32, epochs=1, transform=transform))
    layer = bench.transform(defense)
    assert torch.equal(layer.strata.labels, bench.strata(clusters).labels) and len(layer.strata.labels) == 60
    layer.fit(test)  # which has nothing to fit, and must not look


def test_voting_and_transforming_teach_the_layer_nothing():
    T = StratifiedTransform(strata(), transforms()).train()  # batch normalisation would learn here, if it could
    before = {name: value.clone() for name, value in T.state_dict().items()}
    x = kinds(20, seed=1).x
    in_training, home = T(x), T.strata.vote(x)
    assert [name for name, value in T.state_dict().items() if not torch.equal(value, before[name])] == []
    T.eval()
    assert torch.equal(T(x), in_training) and torch.equal(T.strata.vote(x), home)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Strata(autoencoder.build(DAE, 3), RECIPE).vote(kinds().x), "not fitted"),
        (lambda: Strata(autoencoder.build(DAE, 3), RECIPE).features(kinds().x), "not fitted"),
        (lambda: Strata(autoencoder.build(DAE, 3), RECIPE).sizes(), "not fitted"),
        (lambda: StratifiedTransform(Strata(autoencoder.build(DAE, 3), RECIPE), transforms())(kinds().x), "not fitted"),
        (lambda: strata(clusters=0), "clusters ≥ 1"),
        (lambda: strata(neighbours=0), "neighbours ≥ 1"),
        (lambda: strata(kinds(2)), "too few training images"),
        (lambda: strata(replace(kinds(), x=torch.full((30, 3, 8, 8), 0.5))), "1 distinct clusters, not 3"),
        (lambda: strata(kinds(), replace(RECIPE, dae=replace(DAE, width=1))), "1 distinct clusters, not 3"),
        (lambda: strata().vote(kinds(channels=1).x), "built for images"),
        (lambda: strata().vote(255 * kinds().x), "by 255"),
        (lambda: strata(kinds(channels=1)).fit(kinds()), "built for images"),
        (lambda: StratifiedTransform(strata(), transforms(2)), "as many transforms, got 2"),
        (lambda: StratifiedTransform(strata(), transforms())(kinds(3).x[:0]), "N > 0"),
    ],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_votes_on_cuda_are_those_on_the_cpu():
    fitted, unseen = strata(), kinds(60, seed=1)
    expected = fitted.vote(unseen.x)
    assert torch.equal(fitted.to("cuda").vote(unseen.x).cpu(), expected)
    layers = [SparseTransform(dictionary(m).float(), lam=0.2) for m in range(3)]
    on_cpu = StratifiedTransform(fitted.cpu(), layers)(unseen.x)
    on_cuda = StratifiedTransform(fitted, layers).cuda()(unseen.x.cuda())
    assert_close(on_cuda.cpu(), on_cpu, atol=0.05, rtol=0)  # two solvers, each within its own gap
    refitted = Strata(autoencoder.build(DAE, 3).cuda(), RECIPE).fit(kinds())
    assert refitted.labels.is_cuda and refitted.sizes() == [10, 10, 10]

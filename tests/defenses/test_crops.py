"""The ensemble of crops: its mean, its places, its gradients, and what it is retrained on."""

from copy import deepcopy

from labkit import defenses
from labkit.core.errors import InputError
from labkit.datasets import loaders
from labkit.defenses.crops import CropEnsemble
from labkit.defenses.quilting import Quilting
from labkit.defenses.tvm import TVM

import pytest
import torch
from PIL import Image
from torch import nn
from torch.testing import assert_close


@pytest.fixture(scope="module")
def images():
    return loaders.load("photos", "train", n=6, resolution=32)


@pytest.fixture(scope="module")
def full(images):
    return CropEnsemble(TVM(outer=5), Quilting(patches=2000), crops=6).fit(images)


@pytest.fixture(scope="module")
def classifier():
    return linear(3 * 32 * 32)


def linear(inputs):
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, 4))
    weight = torch.randn(4, inputs, generator=torch.Generator().manual_seed(0))
    model[1].weight.data, model[1].bias.data = 0.3 * weight, torch.zeros(4)
    return model


class Counted(nn.Module):
    """Counts the images that it is shown, by the level of each, and answers alike to all."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen += [round(level, 3) for level in x.mean((1, 2, 3)).tolist()]
        return torch.zeros(len(x), 2)


class Shifted(TVM):
    """A cleaner that is told apart by the level it adds."""

    stochastic = False

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, x):
        return x + self.by


def test_a_crop_is_what_pillow_cuts_and_enlarges():
    x = torch.rand(2, 3, 32, 24, generator=torch.Generator().manual_seed(0))
    defense = CropEnsemble()
    for image, crop in zip(x, defense.crop(x), strict=True):
        pixels = [Image.fromarray(channel.numpy(), mode=None) for channel in image]
        best = float("inf")
        for top in range(32 - 13 + 1):
            for left in range(24 - 10 + 1):
                box = (left, top, left + 10, top + 13)
                cut = [p.crop(box).resize((24, 32), Image.Resampling.BILINEAR) for p in pixels]
                peer = torch.tensor([list(c.get_flattened_data()) for c in cut]).reshape(3, 32, 24)
                best = min(best, float((peer - crop).abs().max()))
        assert best < 1e-5


def test_tvm_and_quilting_without_crops_is_the_mean_opinion_on_both_whole_images(images, classifier):
    both = defenses.build("tvm-quilting", patches=2000).fit(images)
    tvm, quilting = both.cleaners
    x = images.x[:3]
    said = both.seeded(3).around(classifier)(x)
    opinions = [classifier(cleaner.seeded(3)(x)).softmax(1) for cleaner in (tvm, quilting)]
    assert not torch.equal(*opinions)
    assert_close(said.exp(), torch.stack(opinions).mean(0))


def test_crops_reach_every_place_alike():
    # An image that says where it is: a plane is its own bilinear enlargement, away from the border.
    plane = torch.arange(6).expand(3000, 1, 6, 6) / 10
    crops = CropEnsemble(share=0.5).crop(plane)
    starts = (crops.mean((1, 2, 3)) * 10 - 1).round().long()
    counts = torch.bincount(starts, minlength=4)
    assert len(counts) == 4
    assert (counts - 750).abs().max() < 5 * (3000 * 0.25 * 0.75) ** 0.5


def test_the_whole_image_as_the_only_crop_leaves_the_classifier(images, classifier):
    system = CropEnsemble(crops=3, share=1).around(classifier)
    assert_close(system(images.x), classifier(images.x).log_softmax(1), rtol=1e-4, atol=1e-4)


def test_the_answer_is_the_log_of_the_mean_probability(full, images, classifier):
    x = images.x[:3]
    answer = full.seeded(5).around(classifier)(x)
    full.seeded(5)
    first, second = full.versions(x)
    mean = sum(classifier(full.crop((first, second)[i % 2])).softmax(1) for i in range(6)) / 6
    assert_close(answer.exp(), mean)
    assert_close(answer.exp().sum(1), torch.ones(3))


def test_confident_networks_give_finite_answers(images, classifier):
    loud = deepcopy(classifier)
    loud[1].weight.data *= 1e4
    assert (loud(images.x).softmax(1) == 0).any()
    assert CropEnsemble(crops=2).around(loud)(images.x).isfinite().all()


def test_half_of_the_crops_are_of_either_cleaned_image():
    counted = Counted()
    CropEnsemble(Shifted(0.1), Shifted(0.2), crops=10).around(counted)(torch.zeros(1, 1, 8, 8))
    assert sorted(counted.seen) == 5 * [0.1] + 5 * [0.2]
    drawn = CropEnsemble(Shifted(0.1), Shifted(0.2)).sample(torch.zeros(400, 1, 8, 8)).mean((1, 2, 3))
    share = (drawn > 0.15).float().mean()
    assert abs(share - 0.5) < 5 * 0.5 / 20
    assert CropEnsemble().sample(torch.zeros(2, 1, 8, 8)).shape == (2, 1, 8, 8)


def test_seeds_reproduce(full, images, classifier):
    system = full.around(classifier)
    answers = [full.seeded(seed) and system(images.x) for seed in (1, 1, 2)]
    assert full.stochastic and torch.equal(answers[0], answers[1]) and not torch.equal(answers[0], answers[2])
    samples = [full.seeded(seed).sample(images.x) for seed in (1, 1, 2)]
    assert torch.equal(samples[0], samples[1]) and not torch.equal(samples[0], samples[2])


def test_the_gradient_of_crops_is_exact():
    defense = CropEnsemble(crops=3)
    system = defense.around(linear(1 * 8 * 8).double())
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.8 + 0.1
    assert defense.differentiable
    assert torch.autograd.gradcheck(lambda x: defense.seeded(0) and system(x), x.requires_grad_())


def test_quilting_passes_gradients_unchanged(images, classifier):
    quilting = Quilting(patches=500).fit(images)
    x = images.x[:2].clone().requires_grad_()
    defense = CropEnsemble(quilting=quilting, crops=2)
    (seen,) = defense.versions(x)
    assert not defense.differentiable
    assert torch.equal(seen, quilting(x))
    upstream = torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    assert torch.equal(*torch.autograd.grad(seen, x, upstream), upstream)


def test_smoothed_it_is_the_same_ensemble_with_its_cleaners_stand_ins(full, images):
    twin, x = full.smoothed(), images.x[:2].clone().requires_grad_()
    assert full.has_smooth and not CropEnsemble().has_smooth and full.backward == "identity"
    assert twin.cleaners is full.cleaners and twin.generator is full.generator
    quilting, upstream = full.cleaners[1], torch.rand(x.shape, generator=torch.Generator().manual_seed(0))
    for ensemble, slope in ((full, upstream), (twin, torch.autograd.grad(quilting.smooth(x), x, upstream)[0])):
        flat, quilted = ensemble.seeded(3).versions(x)
        assert_close(flat, full.seeded(3).versions(x)[0])
        assert_close(quilted, quilting(x))
        assert_close(*torch.autograd.grad(quilted, x, upstream), slope)


def test_the_state_holds_what_quilting_learned(full, images, classifier):
    other = CropEnsemble(TVM(outer=5), Quilting(), crops=6)
    other.load_state_dict(full.state_dict())
    assert torch.equal(full.seeded(3).around(classifier)(images.x), other.seeded(3).around(classifier)(images.x))


def test_grey_images_of_another_shape(classifier):
    x = loaders.load("fashion", "test", n=2).x[..., :20]
    images = loaders.load("fashion", "train", n=5)
    defense = CropEnsemble(TVM(outer=3), Quilting(patches=500), crops=2).fit(images)
    assert defense.around(linear(32 * 20))(x).shape == (2, 4)
    assert defense.sample(x).shape == x.shape


def test_errors_say_what_to_do(full, images, classifier):
    with pytest.raises(InputError, match="not fitted yet"):
        CropEnsemble(quilting=Quilting()).around(classifier)(images.x)
    with pytest.raises(InputError, match="fitted to 3 channels and got 1"):
        full.around(classifier)(images.x[:, :1])
    with pytest.raises(InputError, match="at least 5 pixels a side"):
        full.sample(images.x[..., :4])
    with pytest.raises(InputError, match="around"):
        full(images.x)
    with pytest.raises(InputError, match=r"in \(0, 1\]"):
        CropEnsemble(share=0)
    with pytest.raises(InputError, match="fewer than one of each"):
        CropEnsemble(TVM(), Quilting(), crops=1)

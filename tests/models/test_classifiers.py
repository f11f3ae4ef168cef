"""Classifiers: what the network is, what it learns, and that a killed training ends as if it had not been killed."""

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

from labkit.attacks import climb, fgsm
from labkit.attacks.budget import Budget
from labkit.core import metrics
from labkit.core.errors import InputError
from labkit.core.recipes import AdversarialTraining, canonical
from labkit.datasets import loaders
from labkit.datasets.loaders import Lazy
from labkit.models import classifiers, hardening, networks
from labkit.models.training import Training

import pytest
import torch
from striped import TINY, assert_same, stripes, trained
from torch.testing import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

MADRY = AdversarialTraining("pgd", 0.05, "linf", steps=2, share=1.0)


def test_learns_what_a_line_separates():
    model = trained(stripes(), replace(TINY, epochs=12))
    unseen = stripes(60, seed=1)
    assert torch.equal(classifiers.predict(model, unseen.x).argmax(1), unseen.y)


def test_a_network_behind_a_thermometer_learns():
    model = trained(stripes(), replace(TINY, epochs=8, levels=16))
    unseen = stripes(60, seed=1)
    assert torch.equal(classifiers.predict(model, unseen.x).argmax(1), unseen.y)


def test_adversarial_training_helps_against_fgsm():
    """By more than the 95 % interval, on a few hundred photographs of clothes."""
    train, test = (loaders.load("fashion", split, n=n, resolution=32) for split, n in (("train", 500), ("test", 400)))
    plain = replace(TINY, network="vgg11", epochs=8, augment=False)
    how, found = AdversarialTraining(size=0.25), []
    for recipe in (plain, replace(plain, adversarial=how)):
        model = trained(train, recipe)
        x_adv = fgsm(model, test.x, test.y, budget=Budget.dissimilarity(how.size))
        found.append(metrics.accuracy(classifiers.predict(model, x_adv).argmax(1) == test.y))
    assert found[1].low > found[0].high


@pytest.mark.parametrize("how", [AdversarialTraining(), MADRY], ids=["Kurakin", "Madry"])
def test_part_of_a_batch_is_attacked_as_the_network_stands(how, monkeypatch):
    monkeypatch.setattr("labkit.core.hardware.has_bfloat16", lambda device: False)
    images = stripes(17)
    model = trained(images, replace(TINY, epochs=1)).train()
    state = {name: t.clone() for name, t in model.state_dict().items()}
    x, weights = hardening.mixed(model, images.x, images.y, how, seed=3)
    assert model.training and model.network.features.training
    assert all(torch.equal(state[name], t) for name, t in model.state_dict().items())
    k = 9 if how.share == 0.5 else 17
    model.eval()
    if how is MADRY:
        expected = climb(model, images.x, images.y, budget=Budget.linf(0.05), steps=2, seed=3)
    else:
        expected = fgsm(model, images.x, images.y, budget=Budget.dissimilarity(0.08))
    assert_close(x[:k], expected[:k])
    assert torch.equal(x[k:], images.x[k:]) and not torch.equal(x[:k], images.x[:k])
    assert_close(weights, torch.tensor([0.3] * k + [1.0] * (17 - k)))


def test_the_loss_of_a_mixed_batch_is_kurakins():
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(5, 3, generator=generator), torch.tensor([0, 2, 1, 1, 0])
    each = [-float(row.log_softmax(0)[c]) for row, c in zip(logits, y, strict=True)]
    mixed = hardening.loss(logits, y, torch.tensor([0.3, 0.3, 1, 1, 1]))
    assert_close(float(mixed), (sum(each[2:]) + 0.3 * sum(each[:2])) / (3 + 0.3 * 2))
    assert_close(float(hardening.loss(logits, y, None)), sum(each) / 5)


def test_normalisation_is_measured_on_the_training_images():
    images = stripes()
    model = trained(images, replace(TINY, epochs=1))
    assert_close(model.mean.flatten(), images.x.mean((0, 2, 3)))
    assert_close(model.std.flatten(), images.x.std((0, 2, 3), correction=0))


def test_verdicts_do_not_depend_on_the_company():
    images = stripes()
    model = trained(images, TINY)
    together = classifiers.predict(model, images.x)
    assert torch.equal(together, classifiers.predict(model, images.x))
    assert_close(classifiers.predict(model, images.x, batch=7), together)
    lazy = Lazy(images.x.shape, lambda at: (images.x[at] * 255).round().to(torch.uint8))
    assert_close(classifiers.predict(model, lazy, batch=50), classifiers.predict(model, lazy[:], batch=50))


def test_global_random_state_is_neither_read_nor_moved():
    images = stripes(40)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = trained(images, TINY)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same(one, trained(images, TINY))
    other = trained(images, replace(TINY, seed=1))
    assert not torch.equal(one.network.classifier.weight, other.network.classifier.weight)


class Interrupted(Exception):
    """Stands for a kill in the middle of an epoch."""


def interrupt_after(monkeypatch, batches):
    real, seen = classifiers.augment, []

    def augment(x, generator):
        seen.append(len(x))
        if len(seen) > batches:
            raise Interrupted
        return real(x, generator)

    monkeypatch.setattr(classifiers, "augment", augment)


HOWS = {"plain": {}, "Kurakin": {"adversarial": AdversarialTraining()}, "Madry": {"adversarial": MADRY},
        "dropout": {"dropout": 0.3}}  # fmt: skip


@pytest.mark.parametrize("how", HOWS.values(), ids=HOWS)
def test_a_resumed_run_ends_bit_for_bit_like_one_never_stopped(tmp_path, monkeypatch, how):
    images, recipe = stripes(40), replace(TINY, **how)
    whole = trained(images, recipe)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        interrupt_after(patch, 4)  # 3 batches an epoch: in the second of the second epoch
        trained(images, recipe, checkpoint=tmp_path)
    calls = []
    monkeypatch.setattr(classifiers, "augment", lambda x, g, real=classifiers.augment: calls.append(x) or real(x, g))
    assert_same(trained(images, recipe, checkpoint=tmp_path), whole)
    assert len(calls) == 6  # two epochs, and not the first again
    assert_same(trained(images, recipe, checkpoint=tmp_path), whole)
    assert len(calls) == 6


@pytest.mark.slow
def test_a_killed_process_can_be_resumed(tmp_path):
    code = textwrap.dedent("""
        import sys
        sys.path.insert(0, sys.argv[2])
        from labkit.core import checkpoint
        from dataclasses import replace
        from striped import TINY, stripes, trained
        real = checkpoint.write
        def save(*arguments):
            real(*arguments)
            print("saved", flush=True)
        checkpoint.write = save
        trained(stripes(40), replace(TINY, epochs=400), checkpoint=sys.argv[1])
    """)
    here = os.path.dirname(os.path.dirname(__file__))
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), here], stdout=subprocess.PIPE, text=True)
    with process:
        for _ in range(2):
            assert process.stdout.readline() == "saved\n"
        process.send_signal(signal.SIGKILL)
    recipe = replace(TINY, epochs=400)
    model = networks.build(recipe, 3, 1, 32)
    run = {"recipe": canonical(recipe, stripes(40).digest), "images": [40, 1, 32, 32]}
    # Whatever the kill interrupted, the checkpoint is whole and of an epoch that was finished.
    assert Training(model, classifiers._optimizer(model, recipe), run, tmp_path).done >= 2


def test_augmentation_shifts_mirrors_and_flips():
    x = torch.arange(10.0)[None, None, None, :] + 100 * torch.arange(16.0)[None, None, :, None]
    x = torch.cat([x, -x], 1).expand(400, 2, 16, 10)  # shifts of at most 2 rows and 1 column
    seen = classifiers.augment(x, torch.Generator().manual_seed(0))
    assert torch.equal(seen[:, 1], -seen[:, 0])  # the channels move together
    found = {(int(image[8, 5]), int(image[8, 5] - image[8, 4])) for image in seen[:, 0]}
    expected = {(100 * (8 + dy) + 5 + dx, 1) for dy in range(-2, 3) for dx in (-1, 0, 1)}
    expected |= {(100 * (8 + dy) + 4 + dx, -1) for dy in range(-2, 3) for dx in (-1, 0, 1)}
    assert found == expected
    for image in seen[:, 0]:
        rows = (image[:, 5] // 100).int().tolist()
        assert rows in ([abs(r) for r in range(-2, 14)], [abs(r) for r in range(-1, 15)], list(range(16)),
                        [15 - abs(15 - r) for r in range(1, 17)], [15 - abs(15 - r) for r in range(2, 18)])  # fmt: skip


def test_no_batch_is_left_with_a_single_image():
    trained(stripes(17), replace(TINY, epochs=1))  # 16 + 1 would leave batch normalisation without a variance


def against(**how):
    return trained(stripes(), replace(TINY, adversarial=AdversarialTraining(**how)))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: classifiers.train(networks.build(TINY, 2, 1, 32), stripes(), TINY), "built for 2 classes"),
        (lambda: classifiers.train(networks.build(TINY, 3, 3, 32), stripes(), TINY), "built for 3 channels"),
        (lambda: trained(stripes(1), TINY), "two images"),
        (lambda: trained(stripes(), replace(TINY, lr=1e30)), "learning rate"),
        (lambda: against(attack="cw"), "fgsm, bim, pgd"),
        (lambda: against(norm="average"), "dissimilarity, l2, linf"),
        (lambda: against(share=0), "share"),
        (lambda: against(weight=0), "weight"),
        (lambda: against(size=-1), "at least 0"),
    ],
    ids=["classes", "channels", "one image", "diverged", "attack", "norm", "share", "weight", "size"],
)
def test_bad_input_says_what_to_do(build, message):
    with pytest.raises(InputError, match=message):
        build()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_learns_on_cuda():
    images = stripes()
    model = trained(images, replace(TINY, epochs=8), device="cuda")
    assert next(model.parameters()).is_cuda and model.mean.is_cuda
    assert torch.equal(classifiers.predict(model, images.x).argmax(1), images.y)


def test_an_erased_square_has_its_size_its_place_is_random_and_the_rest_stays():
    x = torch.rand(400, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    erased = classifiers.erase(x, 0.25, torch.Generator().manual_seed(1))
    changed = (erased != x).all(1)
    assert torch.equal(changed, (erased != x).any(1))  # in all channels or in none
    assert changed.flatten(1).sum(1).max() == 16  # four pixels a side, fewer at a border
    assert (changed.any(2).sum(1) <= 4).all() and (changed.any(1).sum(1) <= 4).all()
    assert changed.any(0).all()  # everywhere, sometimes
    assert_close(erased.movedim(1, -1)[changed], x.mean((2, 3))[:, None, None].expand(-1, 16, 16, -1)[changed])
    assert torch.equal(classifiers.erase(x, 0.25, torch.Generator().manual_seed(1)), erased)

"""The denoising autoencoder: what it learns, and that a killed training ends as if it had not been killed."""

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace

from labkit.core.errors import InputError
from labkit.core.recipes import DaeRecipe
from labkit.datasets.loaders import Images, Lazy
from labkit.models import autoencoder

import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

pytestmark = pytest.mark.usefixtures("one_thread")

TINY = DaeRecipe(width=8, epochs=3, batch=16, held=0.1)


def squares(n=40, channels=1, size=32, seed=0) -> Images:
    """Bright squares of a quarter of the side, anywhere on dark ground: the mean image knows nothing of any of them."""
    generator = torch.Generator().manual_seed(seed)
    side = size // 4
    top, left = torch.randint(0, size - side + 1, (2, n, 1, 1, 1), generator=generator)
    row, column = torch.arange(size)[:, None], torch.arange(size)
    x = 0.1 + 0.8 * ((row >= top) & (row < top + side) & (column >= left) & (column < left + side)).float()
    x = x.expand(n, channels, size, size).contiguous()
    return Images(x, torch.zeros(n, dtype=torch.int64), ("square",), f"squares-{n}-{channels}-{size}-{seed}")


def trained(images, recipe=TINY, **options):
    model = autoencoder.build(recipe, images.x.shape[1])
    course = autoencoder.train(model, images, recipe, progress=False, **options)
    return model, course


def assert_same(one, other):
    (mine, my_course), (theirs, their_course) = one, other
    mine, theirs = mine.state_dict(), theirs.state_dict()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []
    assert my_course == their_course


def test_reconstructs_unseen_images_far_better_than_the_mean_image_does():
    images, unseen = squares(160), squares(40, seed=1)
    recipe = replace(TINY, epochs=30, lr=3e-3)
    model, course = trained(images, recipe)
    mean = (unseen.x - images.x.mean(0)).square().mean()
    assert autoencoder.reconstruction_error(model, unseen.x).mean() < 0.3 * mean
    assert len(course["loss"]) == len(course["held_out"]) == 30
    assert course["held_out"][-1] < 0.3 * mean < course["held_out"][0]
    # What a denoiser is for: less noise comes out than went in.
    noisy = autoencoder.corrupt(unseen.x, 0.3, torch.Generator().manual_seed(5))
    assert (model(noisy) - unseen.x).square().mean() < 0.5 * (noisy - unseen.x).square().mean()


def test_parameter_count():
    C, width = 3, 8
    blocks = [(C, width), (width, width), (width, width)] + [(width, width)] * 3
    expected = sum(9 * a * b + b + 2 * b for a, b in blocks) + 9 * width * C + C
    assert sum(p.numel() for p in autoencoder.build(TINY, C).parameters()) == expected


@pytest.mark.parametrize("size", [16, 32, 64, 96])
def test_it_sees_images_of_any_size_at_32_pixels(size):
    model = autoencoder.build(TINY, 3).eval()
    x = torch.rand(2, 3, size, size + 8, generator=torch.Generator().manual_seed(0))
    shrunk = functional.interpolate(x, (32, 32), mode="bilinear", antialias=True)
    assert model(x).shape == (2, 3, 32, 32) and 0 <= model(x).min() and model(x).max() <= 1
    assert model.encode(x).shape == (2, model.features) == (2, 8 * 16)
    assert_close(model.encode(x), model.encode(shrunk))
    assert_close(model(x), model(shrunk))


def test_enlarged_images_have_nearly_the_features_of_the_small_ones():
    model = autoencoder.build(TINY, 1).eval()
    small, other = squares(2).x.split(1)
    large = small.repeat_interleave(4, 2).repeat_interleave(4, 3)
    assert torch.dist(model.encode(large), model.encode(small)) < 0.3 * torch.dist(
        model.encode(other), model.encode(small)
    )


def test_features_are_what_the_decoder_gets():
    model = autoencoder.build(TINY, 1).eval()
    x = squares(3).x
    assert_close(model.decoder(model.encode(x).reshape(3, 8, 4, 4)), model(x))


def test_error_is_measured_against_the_clean_image():
    class Echo(autoencoder.Autoencoder):
        def forward(self, x):
            return x

    x = torch.full((700, 1, 32, 32), 0.5)  # too far from 0 and 1 for the noise to be clipped
    model = Echo(1, 2)
    error = autoencoder.reconstruction_error(model, x, noise=0.1)
    assert error.shape == (700,) and len(error.unique()) == 700  # each image has noise of its own
    assert_close(error.mean(), torch.tensor(0.01), rtol=0.01, atol=0)
    assert torch.equal(error, autoencoder.reconstruction_error(model, x, noise=0.1))
    assert not torch.equal(error, autoencoder.reconstruction_error(model, x, noise=0.1, seed=1))
    assert not autoencoder.reconstruction_error(model, x, noise=0.0).any()
    large = torch.rand(3, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert not autoencoder.reconstruction_error(
        model, large, noise=0.0
    ).any()  # of what it sees: the image at 32 pixels


def test_corrupted_images_are_images():
    x = squares(10).x
    noisy = autoencoder.corrupt(x, 0.5, torch.Generator().manual_seed(0))
    assert 0 <= noisy.min() and noisy.max() <= 1 and not torch.equal(noisy, x)
    assert torch.equal(autoencoder.corrupt(x, 0.0, torch.Generator().manual_seed(0)), x)


def test_images_kept_aside_are_never_trained_on():
    images = squares(40)
    held = autoencoder.held_out(TINY, 40)
    assert len(held) == 4 and len(held.unique()) == 4
    assert not torch.equal(held, autoencoder.held_out(replace(TINY, seed=1), 40))
    x = images.x.clone()
    x[held] = 0.5
    other = replace_images(images, x)
    (one, course), (two, other_course) = trained(images), trained(other)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    assert course["loss"] == other_course["loss"] and course["held_out"] != other_course["held_out"]


def replace_images(images, x):
    return Images(x, images.y, images.classes, images.digest + "'")


def test_held_out_error_is_that_of_the_model_it_returns():
    images = squares(40)
    model, course = trained(images)
    error = autoencoder.reconstruction_error(model, images.x[autoencoder.held_out(TINY, 40)])
    assert_close(course["held_out"][-1], error.mean().item(), rtol=1e-5, atol=0)


def test_large_and_lazy_images_are_shrunk_once():
    images = squares(20, channels=3, size=64)
    reads = []

    def pixels(at):
        reads.extend(at.tolist())
        return (images.x[at] * 255).round().to(torch.uint8)

    lazy = Images(Lazy(images.x.shape, pixels), images.y, images.classes, images.digest)
    one = trained(lazy)
    assert sorted(reads) == list(range(20))  # three epochs, but each file is decoded once
    shrunk = functional.interpolate(lazy.x[:], (32, 32), mode="bilinear", antialias=True)
    eight_bits = (shrunk * 255).round() / 255
    assert_same(one, trained(Images(eight_bits, images.y, images.classes, "shrunk")))


def test_global_random_state_is_neither_read_nor_moved():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = trained(squares())
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert_same(one, trained(squares()))
    other, _ = trained(squares(), replace(TINY, seed=1))
    assert not torch.equal(one[0].encoder[0].weight, other.encoder[0].weight)


class Interrupted(Exception):
    """Stands for a kill in the middle of an epoch."""


def counted(monkeypatch, stop_after=None):
    """Counts the batches that are trained on or measured, and stops at one of them."""
    real, seen = autoencoder.corrupt, []

    def corrupt(x, noise, generator):
        seen.append(len(x))
        if stop_after is not None and len(seen) > stop_after:
            raise Interrupted
        return real(x, noise, generator)

    monkeypatch.setattr(autoencoder, "corrupt", corrupt)
    return seen


def test_a_resumed_run_ends_bit_for_bit_like_one_never_stopped(tmp_path, monkeypatch):
    images = squares(40)
    whole = trained(images)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        counted(patch, stop_after=6)  # 3 batches and a measurement an epoch: in the second epoch
        trained(images, checkpoint=tmp_path)
    seen = counted(monkeypatch)
    assert_same(trained(images, checkpoint=tmp_path), whole)
    assert len(seen) == 8  # two epochs, and not the first again
    assert_same(trained(images, checkpoint=tmp_path), whole)
    assert len(seen) == 8


def test_a_killed_process_is_resumed_bit_for_bit(tmp_path):
    code = textwrap.dedent("""
        import os, signal, sys
        sys.path.insert(0, sys.argv[2])
        import torch
        from test_autoencoder import autoencoder, squares, trained
        torch.set_num_threads(1)
        real, seen = autoencoder.corrupt, []
        def corrupt(*arguments):
            seen.append(1)
            if len(seen) == 7:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments)
        autoencoder.corrupt = corrupt
        trained(squares(40), checkpoint=sys.argv[1])
    """)
    here = os.path.dirname(__file__)
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path), here], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert [file.name for file in tmp_path.iterdir()] == ["training.safetensors"]
    assert_same(trained(squares(40), checkpoint=tmp_path), trained(squares(40)))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: autoencoder.build(replace(TINY, width=0), 1), "width ≥ 1, got 0"),
        (lambda: autoencoder.build(TINY, 3).encode(squares().x), "built for images"),
        (lambda: autoencoder.build(TINY, 1)(torch.rand(1, 32, 32)), "built for images"),
        (lambda: autoencoder.train(autoencoder.build(TINY, 3), squares(), TINY, progress=False), "built for images"),
        (lambda: trained(squares(2)), "give it more"),
        (lambda: trained(squares(), replace(TINY, held=0.0)), "held in"),
        (lambda: trained(squares(), replace(TINY, batch=1)), "batch ≥ 2"),
        (lambda: trained(replace_images(squares(), squares().x * torch.nan)), "learning rate"),
    ],
    ids=["width", "channels", "no batch", "training channels", "two images", "none held", "batch", "diverged"],
)
def test_bad_input_says_what_to_do(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_learns_on_cuda():
    images = squares(160)
    model, course = trained(images, replace(TINY, epochs=30, lr=3e-3), device="cuda")
    assert next(model.parameters()).is_cuda
    assert course["held_out"][-1] < 0.3 * (images.x - images.x.mean(0)).square().mean()
    assert autoencoder.reconstruction_error(model, images.x).device.type == "cpu"

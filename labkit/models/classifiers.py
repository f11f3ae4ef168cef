"""Classifiers: training, and decisions in batches."""

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from labkit.core import InputError, distributed
from labkit.core.checkpoint import draws
from labkit.core.hardware import autocast
from labkit.core.recipes import ClassifierRecipe, canonical
from labkit.datasets import Images
from labkit.models import hardening
from labkit.models.networks import LAYOUT, Classifier, classes_of
from labkit.models.training import Training

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

_MOMENTUM = 0.9
_WARMUP = 0.25
_MEASURED_AT_ONCE = 1000


def train(
    model: Classifier, images: Images, recipe: ClassifierRecipe, *,
    layer: Callable[[Tensor], Tensor] | None = None,
    checkpoint: str | Path | None = None, progress: bool = True, device: str | torch.device = "cpu",
) -> Classifier:  # fmt: skip
    """Trains `model` in place on `images` and returns it, in evaluation mode, on the device.

    Stochastic gradient descent with Nesterov's momentum on the cross-entropy; the step size rises linearly for a
    quarter of the steps to `recipe.lr` and falls to 0 along a cosine. To retrain on T(x), pass projected images;
    augmentation (`augment`, `erase`, `noise`) comes after T. With `recipe.adversarial`, a part of each batch is then
    replaced by adversarial examples, made against the network as it is at that moment; no gradient passes T, unless
    `adversarial.through`: then pass the images as they are, and T as `layer`. `checkpoint` is as for `Training`, with a
    `model` from the same `networks.build`. `model.history` is then that of the training, epoch by epoch.

    Within `distributed.session` each rank takes its share of every batch, and gradients are averaged over all. Batch
    normalisation and augmentations are each rank's own, so it matters how many there are; all return the same network.

    Everything random is drawn from (recipe.seed, epoch), and the rank. Raises InputError when the images do not fit the
    model, the ranks are too many, or the loss is no longer finite.
    """
    device = torch.device(device)
    _check(model, images, recipe)
    ranks, least = distributed.world(), len(images) // math.ceil(len(images) / recipe.batch)
    if ranks > 1 and least // ranks < 2:
        raise InputError(f"a batch of {least} among {ranks} ranks is less than two images each; start fewer ranks")

    model.to(device, memory_format=LAYOUT).train()
    run = {"recipe": canonical(recipe, images.digest), "images": [*images.x.shape]}
    training, how = Training(model, _optimizer(model, recipe), run, checkpoint, shared=True), recipe.adversarial
    order = torch.randperm(len(images), generator=draws(recipe.seed, -1)) if how and how.held else torch.arange(0)
    held = order[: how.held] if how else order
    if len(held) and len(held) > len(images) / 2:
        raise InputError(f"{len(held)} of {len(images)} images are more than half to keep out; choose fewer")
    if not training.done:
        mean = _mean(images, lambda x: x)
        model.mean.copy_(mean)
        # A channel that never changes carries nothing; dividing by its spread would.
        model.std.copy_(_mean(images, lambda x: (x - mean).square()).sqrt().clamp_min(1 / 255))
    network = model if ranks == 1 else DistributedDataParallel(model, forward_sync_buffers=False)

    def prepare(at: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, int]:
        x = images.x[at]
        if recipe.augment:
            x = augment(x, generator)
        if recipe.erase:
            x = erase(x, recipe.erase, generator)
        if recipe.noise:
            x = (x + recipe.noise * torch.randn(x.shape, generator=generator)).clamp(0, 1)
        seed = int(torch.randint(2**31, (), generator=generator)) if recipe.dropout else generator.initial_seed()
        return x.to(device, memory_format=LAYOUT), images.y[at].to(device), seed

    def loss(ready: tuple[Tensor, Tensor, int]) -> tuple[Tensor, dict[str, Tensor]]:
        (x, y, seed), weights = ready, None
        if how:
            x, weights = hardening.mixed(model, x, y, how, seed, layer)
        with autocast(device), _drawing(seed if recipe.dropout else None, device):
            logits = network(x)
        found = hardening.loss(logits.float(), y, weights, how.beta if how else 0.0)
        return found, {"loss": found, "accuracy": (logits[: len(y)].argmax(1) == y).float().mean()}

    best = hardening.Best(model, run, checkpoint)

    def measure() -> dict[str, float]:
        """Of held-out images; the network as it is when it is most robust there is kept."""
        if not len(held):
            return {}
        x, y = images.x[held].to(device, memory_format=LAYOUT), images.y[held].to(device)
        found = hardening.watched(model, x, y, how, layer)
        best.seen(found[hardening.WATCHED], training.history)
        return found

    name = f"training {recipe.network} × {recipe.width:g}"
    told = {"draw": partial(draws, recipe.seed), "warmup": _WARMUP, "name": name, "progress": progress}
    rest = order[len(held) :].sort().values if len(held) else torch.arange(len(images))
    model.history = training.run(recipe.epochs, rest, recipe.batch, prepare, loss, measure=measure, **told)
    if len(held):
        best.restore()
    return model


@contextmanager
def _drawing(seed: int | None, device: torch.device) -> Iterator[None]:
    """Dropout drawn from `seed` alone, which leaves torch's random state as it was; nothing where that is None."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, *, batch: int = 500) -> Tensor:
    """Logits (N, classes), on the CPU, of x (N, C, H, W) in [0, 1], tensor or `Lazy`; the model stays where it is."""
    device = device_of(model)
    return torch.cat([model(x[start : start + batch].to(device)).cpu() for start in range(0, len(x), batch)])


def device_of(model: nn.Module) -> torch.device:
    """Where its parameters, or else its buffers, lie; the CPU if it has none."""
    return next(itertools.chain(model.parameters(), model.buffers()), torch.empty(0)).device


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image of x (B, C, H, W) shifted by up to an eighth of its size, mirrored at the edges, and half flipped."""
    B, _, H, W = x.shape
    rows, columns = _shifts(B, H, generator), _shifts(B, W, generator)
    columns = torch.where(torch.rand(B, 1, generator=generator) < 0.5, columns.flip(1), columns)
    # One gather with channels last instead of padding, cropping and flipping each image.
    pixels = x.permute(0, 2, 3, 1)
    return pixels[torch.arange(B)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def erase(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Each image of x (B, C, H, W) with a square of `share` of its sides at a random place, its own mean inside.

    "Cutout" (DeVries & Taylor, 2017). The square's middle lies anywhere in the image, so that some may lie outside.
    """
    draw = lambda n: (torch.arange(n) + 0.5 - n * torch.rand(len(x), 1, generator=generator)).abs()  # noqa: E731
    rows, columns = (draw(size) <= share * size / 2 for size in x.shape[2:])
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], x.mean((2, 3), keepdim=True), x)


def _shifts(B: int, size: int, generator: torch.Generator) -> Tensor:
    """(B, size) positions 0 … size − 1, moved by up to size // 8 and mirrored back at either end."""
    reach = size // 8
    position = (torch.arange(size) + torch.randint(-reach, reach + 1, (B, 1), generator=generator)).abs()
    return size - 1 - (size - 1 - position).abs()


def _check(model: Classifier, images: Images, recipe: ClassifierRecipe) -> None:
    channels, classes = len(model.mean), classes_of(model)
    if len(images) < 2:
        raise InputError(f"training needs at least two images, got {len(images)}; give more")
    if images.x.shape[1] != channels:
        raise InputError(f"the network was built for {channels} channels, not {images.x.shape[1]}; build another")
    if not 0 <= int(images.y.min()) <= int(images.y.max()) < classes:
        most = int(images.y.max())
        raise InputError(f"the network was built for {classes} classes, the labels go up to {most}; build another")
    if recipe.adversarial:
        hardening.check(recipe.adversarial)


def _mean(images: Images, seen: Callable[[Tensor], Tensor]) -> Tensor:
    """The mean (C, 1, 1) of what is `seen` of each pixel."""
    total = sum(seen(x.double()).mean((2, 3)).sum(0) for x, _ in images.batches(_MEASURED_AT_ONCE))
    return total[:, None, None] / len(images)


def _optimizer(model: nn.Module, recipe: ClassifierRecipe) -> torch.optim.SGD:
    # Decay pulls weights; biases and the scales of batch normalisation have no size to keep in check.
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=_MOMENTUM, nesterov=True)

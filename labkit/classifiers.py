"""Classifiers: training, and decisions in batches."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel
from tqdm.auto import tqdm

from labkit import checkpoint as checkpoint_file
from labkit import parallel
from labkit.attacks import ATTACKS
from labkit.budget import Budget
from labkit.data import Images
from labkit.errors import InputError
from labkit.networks import LAYOUT, Classifier, classes_of
from labkit.precision import has_bfloat16
from labkit.recipes import AdversarialTraining, ClassifierRecipe, canonical

_MOMENTUM = 0.9
_WARMUP = 0.25
_MEASURED_AT_ONCE = 1000
_FILE = "training.safetensors"
_BUDGETS = {"dissimilarity": Budget.dissimilarity, "l2": Budget.l2, "linf": Budget.linf}


def train(
    model: Classifier,
    images: Images,
    recipe: ClassifierRecipe,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    device: str | torch.device = "cpu",
) -> Classifier:
    """Trains `model` in place on `images` and returns it, in evaluation mode, on the device.

    Stochastic gradient descent with Nesterov's momentum on the cross-entropy; the step size rises linearly for a
    quarter of the steps to `recipe.lr` and falls to 0 along a cosine. To retrain on T(x), pass images that have been
    projected; augmentation (random shifts by up to an eighth of the image, mirrored edges, random horizontal flips)
    comes after it. With `recipe.adversarial`, a part of each batch is then replaced by adversarial images, made
    against the network as it is at that moment: against it alone, so that with projected images it is T(x) which is
    attacked, and no gradient passes T.

    checkpoint  folder that holds the state after the last whole epoch. A run that was killed, called again on a
                `model` from the same `networks.build`, goes on from there and ends bit for bit as if never interrupted
                (on the same machine). A state that is damaged, or is of another recipe or other images, is
                discarded with a warning.

    Within `parallel.session` each rank takes its share of every batch, and gradients are averaged over all
    (DistributedDataParallel). What comes out is as good as one rank's, but not the same: batch normalisation is by
    each rank's share of a batch, the averages it keeps being those of all ranks; and each rank draws augmentations of
    its own. Every rank returns the same network.

    Everything random is drawn from (recipe.seed, epoch), and the rank. Raises InputError when the images do not fit the
    model, the ranks are too many, or the loss is no longer finite.
    """
    device = torch.device(device)
    _check(model, images, recipe)
    steps_per_epoch = math.ceil(len(images) / recipe.batch)
    total = steps_per_epoch * recipe.epochs
    ranks, least = parallel.world(), len(images) // steps_per_epoch
    if ranks > 1 and least // ranks < 2:
        raise InputError(f"a batch of {least} among {ranks} ranks is less than two images each; start fewer ranks")

    half = has_bfloat16(device)
    model.to(device, memory_format=LAYOUT).train()
    optimizer = _optimizer(model, recipe)
    run = {"recipe": canonical(recipe, images.digest), "images": [*images.x.shape]}
    file = Path(checkpoint) / _FILE if checkpoint is not None else None
    first = _resume(file, run, model, optimizer) if file is not None else 0
    if first == 0:
        model.mean.copy_(mean := _mean(images.x)), model.std.copy_(_std(images.x, mean))
    network = model if ranks == 1 else DistributedDataParallel(model, forward_sync_buffers=False)

    bar = tqdm(
        total=total,
        initial=first * steps_per_epoch,
        desc=f"training {recipe.network} × {recipe.width:g}",
        unit="batch",
        disable=not progress,
        delay=2,
    )
    with bar:
        for epoch in range(first, recipe.epochs):
            # A generator for each epoch, and not one for all: the random state need not be part of a checkpoint.
            seed = recipe.seed * 1_000_003 + epoch
            generator = torch.Generator().manual_seed(seed)
            order = torch.randperm(len(images), generator=generator)
            if parallel.rank():
                generator.manual_seed(seed + 1_000_000_007 * parallel.rank())
            loss_sum, right = 0.0, 0
            # Nearly equal batches: a last batch of one image would leave batch normalisation without a variance.
            for step, batch in enumerate(order.tensor_split(steps_per_epoch)):
                mine = parallel.shard(batch)
                x, y = images.x[mine], images.y[mine].to(device)
                if recipe.augment:
                    x = augment(x, generator)
                if recipe.erase:
                    x = erase(x, recipe.erase, generator)
                x = x.to(device, memory_format=LAYOUT)
                for group in optimizer.param_groups:
                    group["lr"] = recipe.lr * _schedule((epoch * steps_per_epoch + step + 1) / total)
                weights = None
                if recipe.adversarial:
                    x, weights = _mixed(model, x, y, recipe.adversarial, half, seed)
                with torch.autocast(device.type, torch.bfloat16, enabled=half):
                    logits = network(x)
                loss = _loss(logits.float(), y, weights)
                optimizer.zero_grad()
                # Gradients will be averaged over ranks, whose shares may differ by one image.
                (loss if ranks == 1 else loss * (ranks * len(mine) / len(batch))).backward()
                optimizer.step()
                loss_sum += loss.item() * len(mine)
                right += int((logits.argmax(1) == y).sum())
                bar.update()
            if ranks > 1:
                loss_sum, right = _everyones(model, loss_sum, right)
            if not math.isfinite(loss_sum):
                raise InputError(f"training diverged in epoch {epoch + 1}; choose a learning rate below {recipe.lr:g}")
            bar.set_postfix(
                epoch=f"{epoch + 1}/{recipe.epochs}",
                loss=f"{loss_sum / len(images):.3f}",
                accuracy=f"{right / len(images):.3f}",
            )
            if file is not None and parallel.rank() == 0:
                checkpoint_file.write(file, run, _state(model, optimizer), {"epochs": epoch + 1})
    return model.to(memory_format=torch.contiguous_format).eval()


@torch.no_grad()
def predict(model: nn.Module, x: Tensor, *, batch: int = 500, progress: bool = False) -> Tensor:
    """Logits (N, classes), on the CPU, of x (N, C, H, W) in [0, 1], a tensor or a `data.Lazy`, `batch` at a time.

    The model runs where its parameters (or buffers) lie, in the mode it is in.
    """
    tensor = next(model.parameters(), None)
    tensor = next(model.buffers(), torch.empty(0)) if tensor is None else tensor
    starts = tqdm(range(0, len(x), batch), desc="classifying", unit="batch", disable=not progress, delay=2)
    return torch.cat([model(x[start : start + batch].to(tensor.device)).cpu() for start in starts])


def augment(x: Tensor, generator: torch.Generator) -> Tensor:
    """Each image of x (B, C, H, W) shifted by up to an eighth of its size, mirrored at the edges, and half flipped."""
    B, _, H, W = x.shape
    rows = _shifts(B, H, generator)
    columns = _shifts(B, W, generator)
    flipped = torch.rand(B, generator=generator) < 0.5
    columns = torch.where(flipped[:, None], columns.flip(1), columns)
    # One gather with channels last instead of padding, cropping and flipping each image.
    pixels = x.permute(0, 2, 3, 1)
    return pixels[torch.arange(B)[:, None, None], rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def erase(x: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Each image of x (B, C, H, W) with a square of `share` of its sides at a random place, its own mean inside.

    "Cutout" (DeVries & Taylor, 2017), which keeps a network from resting on a single part of an object. The middle of
    the square lies anywhere in the image, so that some of it may lie outside.
    """
    B, _, H, W = x.shape
    inside = []
    for size in (H, W):
        middle = torch.rand(B, 1, generator=generator) * size
        inside.append((torch.arange(size) + 0.5 - middle).abs() <= share * size / 2)
    square = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return torch.where(square, x.mean((2, 3), keepdim=True), x)


def _shifts(B: int, size: int, generator: torch.Generator) -> Tensor:
    """(B, size) positions 0 … size − 1, moved by up to size // 8 and mirrored back at either end."""
    reach = size // 8
    shift = torch.randint(-reach, reach + 1, (B, 1), generator=generator)
    position = (torch.arange(size) + shift).abs()
    return size - 1 - (size - 1 - position).abs()


def _check(model: Classifier, images: Images, recipe: ClassifierRecipe) -> None:
    channels, classes = len(model.mean), classes_of(model)
    if len(images) < 2:
        raise InputError(f"training needs at least two images, got {len(images)}")
    if images.x.shape[1] != channels:
        raise InputError(f"the network was built for {channels} channels, the images have {images.x.shape[1]}")
    if not 0 <= int(images.y.min()) <= int(images.y.max()) < classes:
        raise InputError(f"the network was built for {classes} classes, the labels go up to {int(images.y.max())}")
    if recipe.batch < 2 or recipe.epochs < 1 or recipe.lr <= 0:
        raise InputError(
            "a classifier recipe needs batch >= 2, epochs >= 1 and lr > 0, "
            f"got {recipe.batch}, {recipe.epochs} and {recipe.lr:g}"
        )
    if recipe.weight_decay < 0:
        raise InputError(f"weight decay is at least 0, got {recipe.weight_decay:g}")
    if not 0 <= recipe.erase < 1:
        raise InputError(f"the erased share of an image's sides lies in [0, 1), got {recipe.erase:g}")
    if how := recipe.adversarial:
        if how.attack not in (known := _options(how, 0)):
            raise InputError(f"adversarial training with {how.attack!r} is not offered; use {', '.join(known)}")
        if how.norm not in _BUDGETS:
            raise InputError(f"adversarial training in the norm {how.norm!r} is not offered; use {', '.join(_BUDGETS)}")
        if not (0 < how.share <= 1 and 0 < how.weight < math.inf and how.steps >= 1):
            raise InputError(
                "adversarial training needs 0 < share <= 1, weight > 0 and steps >= 1, "
                f"got {how.share:g}, {how.weight:g} and {how.steps}"
            )


def _mixed(
    model: Classifier, x: Tensor, y: Tensor, how: AdversarialTraining, half: bool, seed: int
) -> tuple[Tensor, Tensor]:
    """The batch with its first images made adversarial, and each image's weight in the loss (B,).

    They are made with the network in evaluation mode, on which the papers are silent: in training mode an image's
    gradient would depend on the others, and each step of an attack would move the averages that batch normalisation
    keeps. So the attack is on the function that will be judged. The loss is then taken in training mode, on clean and
    adversarial images together, as Kurakin et al. (2017) ask for.
    """

    def answers(x: Tensor) -> Tensor:
        # A context of its own for each call: autocast keeps weights it has cast, without their gradient if in no_grad.
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            return model(x).float()

    count = math.ceil(how.share * len(x))
    model.eval()
    made = ATTACKS[how.attack](
        answers, x[:count], y[:count], budget=_BUDGETS[how.norm](how.size), **_options(how, seed)[how.attack]
    )
    model.train()
    weights = torch.ones(len(x), device=x.device)
    weights[:count] = how.weight
    return torch.cat([made, x[count:]]), weights


def _options(how: AdversarialTraining, seed: int) -> dict[str, dict]:
    """The attacks that are cheap enough to train with, and what they are told."""
    return {"fgsm": {}, "bim": {"steps": how.steps}, "pgd": {"steps": how.steps, "seed": seed}}


def _loss(logits: Tensor, y: Tensor, weights: Tensor | None) -> Tensor:
    """Mean cross-entropy, weighted as in Kurakin et al. (2017, Section 3): (Σ clean + λ Σ adversarial) / (m − k + λ k).

    That is for k of m images adversarial, and λ their weight.
    """
    if weights is None:
        return functional.cross_entropy(logits, y)
    return (weights * functional.cross_entropy(logits, y, reduction="none")).sum() / weights.sum()


def _everyones(model: nn.Module, loss_sum: float, right: int) -> tuple[float, int]:
    """Sums over all ranks; the model's buffers, such as what batch normalisation keeps, become their means."""
    buffers = list(model.buffers())
    sums = torch.tensor([loss_sum, right], dtype=torch.float64, device=buffers[0].device)
    (loss_sum, right), *totals = parallel.all_reduce(sums, *buffers)
    for buffer, total in zip(buffers, totals, strict=True):
        buffer.copy_(total / parallel.world())
    return float(loss_sum), int(right)


def _chunks(x):
    for start in range(0, len(x), _MEASURED_AT_ONCE):
        yield x[start : start + _MEASURED_AT_ONCE].double()


def _mean(x) -> Tensor:
    return sum(chunk.mean((2, 3)).sum(0) for chunk in _chunks(x))[:, None, None] / len(x)


def _std(x, mean: Tensor) -> Tensor:
    variance = sum((chunk - mean).square().mean((2, 3)).sum(0) for chunk in _chunks(x)) / len(x)
    # A channel that never changes carries nothing; dividing by its spread would.
    return variance.sqrt().clamp_min(1 / 255)[:, None, None]


def _optimizer(model: nn.Module, recipe: ClassifierRecipe) -> torch.optim.SGD:
    # Decay pulls weights; biases and the scales of batch normalisation have no size to keep in check.
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": weights, "weight_decay": recipe.weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=_MOMENTUM, nesterov=True)


def _schedule(done: float) -> float:
    """The step size, as a share of the largest, when the share `done` in (0, 1] of all steps is done."""
    if done < _WARMUP:
        return done / _WARMUP
    return (1 + math.cos(math.pi * (done - _WARMUP) / (1 - _WARMUP))) / 2


def _state(model: nn.Module, optimizer: torch.optim.SGD) -> dict[str, Tensor]:
    """The tensors that training changes, by name: the model's own, and the momentum of each parameter."""
    momentum = {
        f"momentum.{name}": optimizer.state[p]["momentum_buffer"]
        for name, p in model.named_parameters()
        if p in optimizer.state
    }
    return {**{f"model.{name}": t for name, t in model.state_dict().items()}, **momentum}


def _resume(file: Path, run: dict, model: nn.Module, optimizer: torch.optim.SGD) -> int:
    """Restores the state in `file`; returns the number of epochs it has behind it, 0 when it cannot be used."""
    found = parallel.first(lambda: checkpoint_file.read(file, run))
    if found is None:
        return 0
    tensors, facts = found
    parts = {"model.": {}, "momentum.": {}}
    for name, tensor in tensors.items():
        part = name.partition(".")[0] + "."
        parts[part][name.removeprefix(part)] = tensor
    model.load_state_dict(parts["model."])
    for name, p in model.named_parameters():
        momentum = parts["momentum."][name].to(p.device)
        # In the memory layout of its parameter, as SGD would have made it.
        optimizer.state[p]["momentum_buffer"] = torch.empty_like(p).copy_(momentum)
    return facts["epochs"]

"""The denoising autoencoder (DAE) whose features make the clusters, and its training."""

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

from labkit.core import InputError
from labkit.core.checkpoint import draws
from labkit.core.hardware import autocast
from labkit.core.recipes import DaeRecipe, canonical
from labkit.datasets import Images, Lazy, settle
from labkit.models.training import Training

SIZE = 32  # pixels; the paper downsamples to it (Section 5.1)

_AT_ONCE = 500


class Autoencoder(nn.Module):
    """Reconstructs images at 32×32, whatever their own size: (B, C, H, W) in [0, 1] -> (B, C, 32, 32) in [0, 1].

    Three blocks of convolution, batch normalisation, ReLU and pooling, and their mirror, which repeats pixels where
    the blocks pool. Between them lie `features` numbers an image, 512 at width 32, which `encode` returns.

    Raises InputError when the images do not have `channels` channels.
    """

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.channels, self.features = channels, width * (SIZE // 8) ** 2
        self.encoder = nn.Sequential(
            *_block(channels, width, nn.MaxPool2d(2)),
            *_block(width, width, nn.MaxPool2d(2)),
            *_block(width, width, nn.MaxPool2d(2)),
        )
        self.decoder = nn.Sequential(
            *_block(width, width, nn.Upsample(scale_factor=2)),
            *_block(width, width, nn.Upsample(scale_factor=2)),
            *_block(width, width, nn.Upsample(scale_factor=2)),
            nn.Conv2d(width, channels, kernel_size=3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(self.shrink(x)))

    def encode(self, x: Tensor) -> Tensor:
        """Features (B, F) of images (B, C, H, W) in [0, 1]."""
        return self.encoder(self.shrink(x)).flatten(1)

    def shrink(self, x: Tensor) -> Tensor:
        """The images (B, C, H, W) at 32×32, bilinear and antialiased: what the autoencoder sees and reconstructs."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise InputError(
                f"the autoencoder was built for images (B, {self.channels}, H, W), got {tuple(x.shape)}; "
                "train one on images of this kind"
            )
        if x.shape[-2:] == (SIZE, SIZE):
            return x
        return functional.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)


def _block(inputs: int, outputs: int, resample: nn.Module) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), resample


def build(recipe: DaeRecipe, channels: int) -> Autoencoder:
    """An untrained autoencoder for images of that many channels, its weights drawn from `recipe.seed`."""
    if recipe.width < 1:
        raise InputError(f"the width of the autoencoder is its number of channels, at least 1, got {recipe.width}")
    # Made without storage and filled below: torch's constructors would draw from the global random state.
    with torch.device("meta"):
        model = Autoencoder(channels, recipe.width)
    model.to_empty(device="cpu")
    generator = torch.Generator().manual_seed(recipe.seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            module.reset_parameters()
    return model


def held_out(recipe: DaeRecipe, n: int) -> Tensor:
    """Positions, ascending, of those of n training images that `train` keeps aside and never trains on."""
    order = torch.randperm(n, generator=draws(recipe.seed, -1))
    return order[: math.ceil(recipe.held * n)].sort().values


def train(
    model: Autoencoder,
    images: Images,
    recipe: DaeRecipe,
    *,
    checkpoint: str | Path | None = None,
    progress: bool = True,
    device: str | torch.device = "cpu",
) -> dict[str, list[float]]:
    """Trains `model` in place on `images` and leaves it in evaluation mode on the device; returns how it went.

    Adam on the mean squared error between the clean image and the reconstruction of its noisy version. Returned are,
    for each epoch, `"loss"`, that error while training, and `"held_out"`, the mean `reconstruction_error` after the
    epoch of the images at `held_out`, which are never trained on.

    checkpoint  folder from which a run that was killed, called again on a `model` from the same `build`, goes on; see
                `training.Training`

    Everything random is drawn from (recipe.seed, epoch). Raises InputError when the images do not fit the model, are
    too few, or the loss is no longer finite.
    """
    device = torch.device(device)
    held, kept = _shares(images, recipe)
    steps = math.ceil(len(kept) / recipe.batch)
    # Measured on a CPU: with the channels last an epoch takes a third less time, in bfloat16 half of that again.
    layout = torch.channels_last
    model.to(device, memory_format=layout).train()
    run = {"recipe": canonical(recipe, images.digest), "images": [*images.x.shape]}
    training = Training(model, torch.optim.Adam(model.parameters(), lr=recipe.lr), run, checkpoint)
    small = _small(model, images.x, progress) if training.done < recipe.epochs else images.x

    def batches(epoch: int) -> tuple[torch.Generator, Sequence[Tensor]]:
        generator = draws(recipe.seed, epoch)
        # Nearly equal batches: a last batch of one image would be normalised by its own figures alone.
        return generator, kept[torch.randperm(len(kept), generator=generator)].tensor_split(steps)

    def loss(at: Tensor, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        x = small[at]
        noisy = corrupt(x, recipe.noise, generator).to(device, memory_format=layout)
        with autocast(device):
            seen = model(noisy)
        error = functional.mse_loss(seen.float(), x.to(device))
        return error, {"loss": error}

    measure = lambda: {"held_out": _held_error(model, small, held, recipe)}  # noqa: E731
    name = "training the autoencoder"
    return training.run(recipe.epochs, steps, batches, loss, measure=measure, name=name, progress=progress)


@torch.no_grad()
def reconstruction_error(
    model: Autoencoder, x: Tensor | Lazy, *, noise: float = DaeRecipe.noise, seed: int = 0
) -> Tensor:
    """Mean squared error (N,), on the CPU, between images at 32×32 and the reconstructions of their noisy versions.

    x      (N, C, H, W) in [0, 1], a tensor or a `images.Lazy`
    noise  standard deviation of the Gaussian noise, which is drawn from `seed`; 0 is none

    The model runs where its parameters lie, in the mode it is in.
    """
    here = next(model.parameters())
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for start in range(0, len(x), _AT_ONCE):
        clean = model.shrink(x[start : start + _AT_ONCE].to(here.dtype))
        seen = model(corrupt(clean, noise, generator).to(here.device)).cpu()
        errors.append((seen - clean.cpu()).square().mean((1, 2, 3)))
    return torch.cat(errors)


def corrupt(x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Images x in [0, 1] with Gaussian noise of that standard deviation, clipped to [0, 1]: images again."""
    drawn = torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)
    return (x + noise * drawn).clamp_(0, 1)


def _shares(images: Images, recipe: DaeRecipe) -> tuple[Tensor, Tensor]:
    """Positions of the images that are kept aside, and of those that are trained on."""
    if recipe.batch < 2 or recipe.epochs < 1 or recipe.lr <= 0 or recipe.noise < 0 or not 0 < recipe.held < 1:
        raise InputError(
            "an autoencoder recipe needs batch >= 2, epochs >= 1, lr > 0, noise >= 0 and held in (0, 1), got "
            f"{recipe.batch}, {recipe.epochs}, {recipe.lr:g}, {recipe.noise:g} and {recipe.held:g}"
        )
    held = held_out(recipe, len(images))
    kept = torch.ones(len(images), dtype=torch.bool)
    kept[held] = False
    if kept.sum() < 2:
        raise InputError(f"the autoencoder needs two training images beside {len(held)} kept aside; give it more")
    return held, kept.nonzero()[:, 0]


@torch.no_grad()
def _small(model: Autoencoder, x: Tensor | Lazy, progress: bool) -> Tensor | Lazy:
    """The images at 32×32, rounded to 8 bits where that is not their size, so that each file is decoded once."""
    if x.shape[-2:] == (SIZE, SIZE):
        return x
    small = torch.empty((len(x), model.channels, SIZE, SIZE), dtype=torch.uint8)
    for start in tqdm(range(0, len(x), _AT_ONCE), desc="shrinking images", disable=not progress, delay=2):
        part = model.shrink(x[start : start + _AT_ONCE])
        small[start : start + len(part)] = part.mul(255).round_().clamp_(0, 255)
    return settle(small)


def _held_error(model: Autoencoder, small: Tensor | Lazy, held: Tensor, recipe: DaeRecipe) -> float:
    model.eval()
    error = sum(
        reconstruction_error(model, small[at], noise=recipe.noise, seed=recipe.seed).sum().item()
        for at in held.split(_AT_ONCE)
    )
    model.train()
    return error / len(held)

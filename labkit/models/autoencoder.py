"""The denoising autoencoder (DAE) whose features make the clusters, and its training."""

import math
from functools import partial
from pathlib import Path

from labkit.core import InputError
from labkit.core.checkpoint import draws
from labkit.core.hardware import autocast
from labkit.core.recipes import DaeRecipe, canonical
from labkit.datasets import Images, Lazy, settle
from labkit.models.networks import blank, initialise
from labkit.models.training import Training

import torch
from torch import Tensor, nn
from torch.nn import functional
from tqdm.auto import tqdm

SIZE = 32  # pixels; the paper downsamples to it (Section 5.1)

_AT_ONCE = 500


class Autoencoder(nn.Module):
    """Reconstructs images at 32×32, whatever their own size: (B, C, H, W) in [0, 1] -> (B, C, 32, 32) in [0, 1].

    Three blocks of convolution, batch normalisation, ReLU and pooling, and their mirror, which repeats pixels. Between
    them lie `features` numbers an image, 512 at width 32, which `encode` returns.
    """

    def __init__(self, channels: int, width: int = 32):
        super().__init__()
        self.channels, self.features = channels, width * (SIZE // 8) ** 2
        down = [layer for inputs in (channels, width, width) for layer in _block(inputs, width, nn.MaxPool2d(2))]
        up = [layer for _ in range(3) for layer in _block(width, width, nn.Upsample(scale_factor=2))]
        self.encoder = nn.Sequential(*down)
        self.decoder = nn.Sequential(*up, nn.Conv2d(width, channels, kernel_size=3, padding=1), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(self.shrink(x)))

    def encode(self, x: Tensor) -> Tensor:
        """Features (B, F) of images (B, C, H, W) in [0, 1]."""
        return self.encoder(self.shrink(x)).flatten(1)

    def shrink(self, x: Tensor) -> Tensor:
        """The images (B, C, H, W) at 32×32, bilinear and antialiased: what the autoencoder sees and reconstructs."""
        if x.ndim != 4 or x.shape[1] != self.channels:
            wanted, got = f"(B, {self.channels}, H, W)", tuple(x.shape)
            raise InputError(f"the autoencoder was built for images {wanted}, got {got}; train one on such images")
        if x.shape[-2:] == (SIZE, SIZE):
            return x
        return functional.interpolate(x, (SIZE, SIZE), mode="bilinear", antialias=True)


def _block(inputs: int, outputs: int, resample: nn.Module) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), resample


def build(recipe: DaeRecipe, channels: int) -> Autoencoder:
    """An untrained autoencoder for images of that many channels, its weights drawn from `recipe.seed`."""
    model = blank(lambda: Autoencoder(channels, recipe.width))
    initialise(model, recipe.seed, mode="fan_in")
    return model


def held_out(recipe: DaeRecipe, n: int) -> Tensor:
    """Positions, ascending, of those of n training images that `train` keeps aside and never trains on."""
    order = torch.randperm(n, generator=draws(recipe.seed, -1))
    return order[: math.ceil(recipe.held * n)].sort().values


def train(
    model: Autoencoder, images: Images, recipe: DaeRecipe, *,
    checkpoint: str | Path | None = None, progress: bool = True, device: str | torch.device = "cpu",
) -> dict[str, list[float]]:  # fmt: skip
    """Trains `model` in place on `images` and leaves it in evaluation mode on the device; returns how it went.

    Adam on the mean squared error between the clean image and the reconstruction of its noisy version. For each epoch
    it returns this error while training, `"loss"`, and `"held_out"`, the mean `reconstruction_error` of the images at
    `held_out`, which are never trained on. `checkpoint` is as for `Training`, with a `model` from the same `build`.
    Everything random is drawn from (recipe.seed, epoch).

    Raises InputError when the images do not fit the model, are too few, or the loss is no longer finite.
    """
    device, held = torch.device(device), held_out(recipe, len(images))
    if len(images) - len(held) < 2:
        raise InputError(f"the autoencoder needs two training images beside {len(held)} kept aside; give it more")
    layout = torch.channels_last  # measured on a CPU: a third less time; bfloat16 halves that again
    model.to(device, memory_format=layout).train()
    run = {"recipe": canonical(recipe, images.digest), "images": [*images.x.shape]}
    training = Training(model, torch.optim.Adam(model.parameters(), lr=recipe.lr), run, checkpoint)
    small = _small(model, images.x, progress) if training.done < recipe.epochs else images.x

    def prepare(at: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = small[at]
        return x.to(device), corrupt(x, recipe.noise, generator).to(device, memory_format=layout)

    def loss(ready: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        x, noisy = ready
        with autocast(device):
            seen = model(noisy)
        error = functional.mse_loss(seen.float(), x)
        return error, {"loss": error}

    def measure() -> dict[str, float]:
        model.eval()
        error = lambda at: reconstruction_error(model, small[at], noise=recipe.noise, seed=recipe.seed)  # noqa: E731
        total = sum(error(at).sum().item() for at in held.split(_AT_ONCE))
        model.train()
        return {"held_out": total / len(held)}

    how = {"draw": partial(draws, recipe.seed), "measure": measure, "name": "training the autoencoder"}
    kept = torch.ones(len(images)).index_fill(0, held, 0).nonzero()[:, 0]
    return training.run(recipe.epochs, kept, recipe.batch, prepare, loss, progress=progress, **how)


@torch.no_grad()
def reconstruction_error(model: Autoencoder, x: Tensor | Lazy, *, noise=DaeRecipe.noise, seed: int = 0) -> Tensor:
    """Mean squared error (N,), on the CPU, between images at 32×32 and the reconstructions of their noisy versions.

    x      (N, C, H, W) in [0, 1], a tensor or `Lazy`; the model runs where its parameters lie, in the mode it is in
    noise  standard deviation of the Gaussian noise, which is drawn from `seed`; 0 is none
    """
    here, generator, errors = next(model.parameters()), torch.Generator().manual_seed(seed), []
    for start in range(0, len(x), _AT_ONCE):
        clean = model.shrink(x[start : start + _AT_ONCE].to(here.dtype))
        seen = model(corrupt(clean, noise, generator).to(here.device)).cpu()
        errors.append((seen - clean.cpu()).square().mean((1, 2, 3)))
    return torch.cat(errors)


def corrupt(x: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Images x in [0, 1] with Gaussian noise of that standard deviation, clipped to [0, 1]: images again."""
    return (x + noise * torch.randn(x.shape, generator=generator, dtype=x.dtype).to(x.device)).clamp_(0, 1)


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

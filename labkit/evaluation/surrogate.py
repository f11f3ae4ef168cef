"""A learned surrogate: a small network that does nearly what a defense does, for attackers to differentiate."""

from functools import partial
from pathlib import Path

from labkit.core import checkpoint, metrics
from labkit.core.recipes import SurrogateRecipe, canonical
from labkit.datasets import Images
from labkit.evaluation.threat_models import learnable, turned
from labkit.models import Defense, predict
from labkit.models.autoencoder import corrupt
from labkit.models.classifiers import device_of
from labkit.models.networks import blank, initialise
from labkit.models.training import Training

import torch
from torch import Tensor, nn
from torch.nn import functional


class Surrogate(nn.Module):
    """Images (B, C, H, W) in [0, 1] to nearly what a defense makes of them: x + network(x), and x before training."""

    def __init__(self, channels: int, width: int, seed: int = 0):
        super().__init__()
        sizes = ((channels, width, 1), (width, width, 2), (width, width, 4), (width, channels, 1))
        layers = blank(lambda: [nn.Conv2d(*ends, 3, padding=apart, dilation=apart) for *ends, apart in sizes])
        self.network = nn.Sequential(*(part for layer in layers for part in (layer, nn.SiLU())))[:-1]
        initialise(self.network, seed, mode="fan_in")
        nn.init.zeros_(self.network[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.network(x)


def train(
    model: Surrogate, defense: Defense, images: Images, recipe: SurrogateRecipe, scratch: Path, progress: bool
) -> dict[str, list[float] | float]:
    """Trains `model` in place on pairs of a noisy image and what the defense makes of it, by the mean squared error.

    Returns the `"loss"` of every epoch and the `"psnr"` to what the defense makes of images kept aside, a mean in dB;
    `"unlearned"` is that of the images themselves, so of BPDA. A killed run goes on from what lies in `scratch`.
    """
    learnable(defense)
    draws = partial(checkpoint.draws, recipe.seed)
    chosen = images.x[torch.randperm(len(images), generator=draws(-1))[: recipe.images]]
    held, kept = torch.arange(len(chosen)).tensor_split([max(1, int(recipe.held * len(chosen)))])

    def pairs() -> Tensor:
        noisy = corrupt(chosen, recipe.noise * torch.rand(len(chosen), 1, 1, 1, generator=draws(-2)), draws(-3))
        return torch.stack([noisy, turned(model, defense.seeded(recipe.seed), noisy)])

    x, y = checkpoint.kept(scratch / "pairs.safetensors", pairs)

    def loss(at: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        error = functional.mse_loss(model(x[at].to(device_of(model))), y[at].to(device_of(model)))
        return error, {"loss": error}

    def fidelity(near: Tensor) -> float:
        return float(metrics.psnr(near, y[held]).clamp_max(metrics.MOST).mean())

    run = {"recipe": canonical(recipe, images.digest)}
    training = Training(model, torch.optim.Adam(model.parameters(), lr=recipe.lr), run, scratch)
    history = training.run(
        recipe.epochs, kept, recipe.batch, lambda at, _: at, loss, draw=draws, warmup=0.05, progress=progress,
        name="training the surrogate", measure=lambda: {"psnr": fidelity(predict(model, x[held]))},
    )  # fmt: skip
    return {"loss": history["loss"], "psnr": history["psnr"][-1], "unlearned": fidelity(x[held])}

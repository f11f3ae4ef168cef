"""MagNet: an autoencoder of natural images, which reforms what it is given and rejects what it cannot rebuild."""

import math
from itertools import pairwise
from typing import Self

from labkit.datasets import Images
from labkit.models import Defense
from labkit.models.autoencoder import corrupt
from labkit.models.defense import Detector
from labkit.models.networks import blank
from labkit.models.training import Training

import torch
from torch import Tensor, nn
from torch.nn import functional

_BATCHES = 2000
_AT_ONCE = 500
_PIXELS = 32**2  # of the images for which the strength of the regularisation was published


class MagNet(Defense):
    """The reformer of "MagNet: a two-pronged defense against adversarial examples" (Meng & Chen, CCS 2017).

    x is replaced by its reconstruction. The autoencoder is the one published for CIFAR-10: three 3×3 convolutions,
    each followed by a sigmoid. It learns to undo Gaussian noise, by Adam on the mean squared error.

    noise           standard deviation of the noise, which is drawn anew for every batch
    width           channels of the two hidden layers: 3 as in the authors' code, which is for MNIST
    epochs          by default as many as 2,000 batches take; published are 400 of 176 batches, hours on a CPU
    lr              of Adam; published is 1e-3, which takes five times as many batches to CIFAR-10's 27 dB
    batch           images in one step
    regularisation  weight of the squared outputs of the layers, summed over an image of 32×32, as in the authors' code

    Initial weights, open in the publication, are Glorot's, as in its authors' library.
    """

    limits = "noise, regularisation in [0, inf); lr in (0, inf); width, epochs, batch in [1, inf)"

    def __init__(self, *, noise=0.025, width=3, epochs: int | None = None, lr=1e-2, batch=256, regularisation=1e-9):
        super().__init__(noise=noise, width=width, epochs=epochs, lr=lr, batch=batch, regularisation=regularisation)
        self.register_module("autoencoder", None)
        self.register_buffer("here", torch.empty(0), persistent=False)  # where it is, before there is an autoencoder

    def fit(self, images: Images, *, progress: bool = False) -> Self:
        """Trains the autoencoder on these images, which must be training images alone. Returns self."""
        self.autoencoder = self._build(images.x.shape[1])
        for layer in self.autoencoder[::2]:
            # Drawn on the CPU, and in single precision, whatever the device.
            layer.weight.data.copy_(nn.init.xavier_uniform_(torch.empty(layer.weight.shape), generator=self.generator))
            nn.init.zeros_(layer.bias)
        self.autoencoder.to(memory_format=torch.channels_last)  # a third of the time on a CPU

        def prepare(at: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
            x = images.x[at]
            return x.to(self.here), corrupt(x, self.noise, generator).to(self.here, memory_format=torch.channels_last)

        def loss(ready: tuple[Tensor, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
            (x, seen), energy = ready, 0.0
            for layer, sigmoid in zip(self.autoencoder[::2], self.autoencoder[1::2], strict=True):
                seen = sigmoid(layer(seen))
                energy = energy + seen.square().sum(1).mean() * _PIXELS
            error = functional.mse_loss(seen, x)
            return error + self.regularisation * energy, {"error": error}

        training = Training(self.autoencoder, torch.optim.Adam(self.autoencoder.parameters(), lr=self.lr), {})
        epochs = self.epochs or math.ceil(_BATCHES / math.ceil(len(images) / self.batch))
        how = {"draw": lambda _: self.generator, "even": False, "name": "training MagNet", "progress": progress}
        training.run(epochs, torch.arange(len(images)), self.batch, prepare, loss, **how)
        self.autoencoder.requires_grad_(False)
        return self

    def forward(self, x: Tensor) -> Tensor:
        self._check_fitted(self.autoencoder is not None)
        self._check(x, self.autoencoder[0].in_channels)
        return self.autoencoder(x)

    def _build(self, channels: int) -> nn.Sequential:
        sizes = [channels, self.width, self.width, channels]
        layer = lambda *ends: (nn.Conv2d(*ends, kernel_size=3, padding=1), nn.Sigmoid())  # noqa: E731
        net = blank(lambda: nn.Sequential(*(part for pair in pairwise(sizes) for part in layer(*pair))))
        return net.to(self.here).requires_grad_()

    def _prepare(self, stored: dict[str, Tensor]) -> None:
        if (first := stored.get("autoencoder.0.weight")) is not None:
            self.width = len(first)
            self.autoencoder = self._build(first.shape[1]).requires_grad_(False)


class MagNetDetector(Detector):
    """MagNet's detector by reconstruction error: ‖x − AE(x)‖ₚᵖ a pixel value (Meng & Chen, CCS 2017).

    rate      share of clean images that may be rejected
    p         of the norm; 1 for CIFAR-10
    held      share of the training images that sets the threshold and does not train the autoencoder
    reformer  the `MagNet` that is trained and measured: for CIFAR-10 detector and reformer have the same structure.
              `detector.around(nn.Sequential(detector.reformer, classifier))` is both prongs together

    The detectors by divergence, which are published beside it and need the classifier, are not part of this one.
    """

    limits = "p in (0, inf); held in (0, 1); " + Detector.limits

    def __init__(self, rate: float = 0.001, *, p: float = 1, held: float = 0.1, reformer: MagNet | None = None):
        super().__init__(rate, p=p, held=held)
        self.reformer = MagNet() if reformer is None else reformer
        self.least = math.floor((math.ceil(1 / rate) - 1) / held) + 1  # of which the share `held` is enough

    def fit(self, images: Images, *, progress: bool = False) -> Self:
        """Trains the autoencoder on most of these training images and sets the threshold by the rest. Returns self."""
        order = torch.randperm(len(images), generator=self.generator)
        held, kept = order.split([n := math.ceil(self.held * len(images)), len(images) - n])
        self._check_held(n if len(kept) else 0)  # said before the training rather than after it
        self.reformer.generator = self.generator
        self.reformer.fit(images[kept], progress=progress)
        with torch.no_grad():
            scores = [self.score(images.x[part].to(self.threshold)) for part in held.split(_AT_ONCE)]
        self.calibrate(torch.cat(scores))
        return self

    def score(self, x: Tensor) -> Tensor:
        """Mean over the pixel values of |x − AE(x)|ᵖ: (B,)."""
        return (x - self.reformer(x)).abs().pow(self.p).mean((1, 2, 3))


def magnet_detector(*, epochs: int | None = None, **options) -> MagNetDetector:
    """The detector and the reformer that it measures, which is trained for `epochs`."""
    return MagNetDetector(reformer=MagNet(epochs=epochs), **options)

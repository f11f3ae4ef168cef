"""PixelDefend: every sub-pixel becomes the most likely value near it, by a PixelCNN of clean images."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Self

from labkit.datasets import Images
from labkit.defenses import pixelcnn
from labkit.models import Defense

import torch
from torch import Tensor

_AT_ONCE = 200


class PixelDefend(Defense):
    """Song, Kim, Nowozin, Ermon & Kushman, "PixelDefend: leveraging generative models to understand and defend against
    adversarial examples", ICLR 2018, Algorithm 1.

    In raster order, channel by channel, each sub-pixel is set to the value within ±ε of the input that the PixelCNN
    holds for the most likely, given the sub-pixels that were already set.

    epsilon  ε_defend, published: 16/255 for CIFAR-10, 32/255 for Fashion-MNIST; whole 8-bit steps within it are used
    width, blocks, mixtures, epochs
             of `pixelcnn.PixelCNN` and its training, chosen here so that it fits to 8,000 images of 32×32×3 in minutes
             on two cores: some 3.2 bits per dimension. The publication uses a far larger PixelCNN++ (2.92 on CIFAR-10)

    Images are rounded to 8 bits first. Adaptive PixelDefend, which leaves likely images alone, is not built.
    """

    differentiable = False
    resumable = True
    limits = "epsilon in [0, 1]"

    def __init__(self, epsilon=16 / 255, *, width=48, blocks=6, mixtures=5, epochs=4):
        super().__init__(epsilon=epsilon, epochs=epochs)
        self.settings = {"width": width, "blocks": blocks, "mixtures": mixtures}
        self.network: pixelcnn.PixelCNN | None = None
        self.register_buffer("channels", torch.tensor(0))  # of the images it was fitted to; 0 before

    def fit(self, images: Images, *, progress: bool = False, checkpoint: str | Path | None = None) -> Self:
        """Trains the PixelCNN, from the seed of `seeded`. `checkpoint`: a folder, as for `pixelcnn.train`."""
        seed = self.generator.initial_seed()
        network = pixelcnn.build(images.x.shape[1], **self.settings, seed=seed)
        how = {"epochs": self.epochs, "seed": seed, "checkpoint": checkpoint, "progress": progress}
        pixelcnn.train(network, images, device=self.channels.device, **how)
        self.network = network.requires_grad_(False)
        self.channels.fill_(network.channels)
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        self._check_fitted(self.network is not None)
        self._check(x, int(self.channels))
        reach = int(self.epsilon * 255 + 1e-6)
        levels = (255 * x).round().double()
        return (torch.cat([_greedy(self.network, part, reach) for part in levels.split(_AT_ONCE)]) / 255).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, {self.settings}"

    def _prepare(self, stored: dict[str, Tensor]) -> None:
        channels = int(stored.get("channels", self.channels))
        if channels != int(self.channels):
            network = pixelcnn.build(channels, **self.settings) if channels else None
            self.network = network and network.to(self.channels.device).requires_grad_(False).eval()


def _greedy(network: pixelcnn.PixelCNN, levels: Tensor, reach: int) -> Tensor:
    """The likeliest levels within ± reach of those given, (B, C, H, W), decided one after the other."""
    C, out = network.channels, levels.clone()
    offsets = torch.arange(min(2 * reach + 1, 256), device=levels.device)
    walk = Walk(network, *levels.shape[:1], *levels.shape[2:])
    for (i, j), theta in walk:
        known, decided = pixelcnn.mixture_weights(theta, C), []
        for c in range(C):
            given = levels[:, c, i, j, None]
            # A window of values of one size for all images, pushed back inside 0 … 255 where it reaches over.
            window = (given - reach).clamp(0, 256 - len(offsets)) + offsets
            logs = pixelcnn.channel_logs(theta, window, decided, C)
            score = (known[:, None] + logs).logsumexp(-1).masked_fill((window - given).abs() > reach, -torch.inf)
            best = score.argmax(1, keepdim=True)
            decided.append(window.gather(1, best)[:, 0])
            known = known + logs[torch.arange(len(logs), device=logs.device), best[:, 0]]
        out[:, :, i, j] = torch.stack(decided, 1)
        walk.put(out[:, :, i, j])
    return out


class Walk:
    """A PixelCNN evaluated pixel by pixel, in raster order, at the cost of about one pass over the image.

    Iterating gives ((row, column), theta), theta (B, P) as `network` gives it at that pixel from the pixels before;
    after each, `put` says what the pixel is. What knows only the rows above is computed a row at a time; only the
    stack that knows the pixels to the left goes pixel by pixel. In double precision, lest between values that are
    nearly as likely the order of summation decide, which changes with the size of the batch.
    """

    def __init__(self, network: pixelcnn.PixelCNN, B: int, H: int, W: int):
        weight = network.out.weight
        new = lambda *shape: torch.zeros(shape, dtype=torch.float64, device=weight.device)  # noqa: E731
        rows, columns = network.above.kernel_size
        self.reach, self.size = (rows, columns, network.left.kernel_size[1]), (B, H, W)
        self.u = new(B, rows + H, W + 2 * (columns // 2), network.channels + 1)
        self.width = width = len(network.above.weight)
        # What the blocks saw in the row above, and one pixel to the left; zero, as the padding, at the edges.
        self.row = [new(B, 2, W + 2, width) for _ in network.blocks]
        self.pixel = [new(B, 2, width) for _ in network.blocks]
        pair = lambda a, b: torch.cat([_matrix(a), _matrix(b)], 1)  # noqa: E731
        # The network's two first layers of each kind in one product: features, then the linear prediction.
        self.above = pair(network.above, network.predict_above), network.above.bias.double()
        self.left = pair(network.left, network.predict_left), network.left.bias.double()
        self.blocks = [_matrices(block) for block in network.blocks]
        self.out = _matrix(network.out), network.out.bias.double()

    def __iter__(self) -> Iterator[tuple[tuple[int, int], Tensor]]:
        B, H, W = self.size
        (rows, columns, left), middle = self.reach, self.reach[1] // 2
        for i in range(H):
            patch = self.u[:, i : i + rows].unfold(2, columns, 1)  # (B, rows, W, C + 1, columns)
            seen = patch.permute(0, 2, 1, 4, 3).reshape(B * W, -1) @ self.above[0]
            predicted = seen[:, self.width :].view(B, W, -1)
            v = seen[:, : self.width] + self.above[1]
            links = []
            for block, row in zip(self.blocks, self.row, strict=True):
                row[:, 0] = row[:, 1]
                row[:, 1, 1:-1] = v.view(B, W, -1)
                patch = torch.cat([row[:, a, b : b + W] for a in range(2) for b in range(3)], 2).view(B * W, -1)
                seen = (patch @ block.above + block.above_bias).relu_()
                v = v + torch.addmm(block.above_out_bias, seen, block.above_out)
                links.append((v @ block.link + block.left_bias).view(B, W, -1).transpose(0, 1).contiguous())
            for pixel in self.pixel:
                pixel.zero_()
            for j in range(W):
                near = self.u[:, i + rows, j + middle - left : j + middle].reshape(B, -1) @ self.left[0]
                h = near[:, : self.width] + self.left[1]
                for block, pixel, link in zip(self.blocks, self.pixel, links, strict=True):
                    pixel[:, 0] = pixel[:, 1]
                    pixel[:, 1] = h
                    seen = torch.addmm(link[j], pixel.view(B, -1), block.left).relu_()
                    h = h + torch.addmm(block.left_out_bias, seen, block.left_out)
                theta = torch.addmm(self.out[1], h.relu(), self.out[0])
                self.at = i + rows, j + middle
                yield (i, j), torch.cat([theta, predicted[:, j] + near[:, self.width :]], 1)

    def put(self, levels: Tensor) -> None:
        """The levels (B, C) that the pixel which came last has."""
        row, column = self.at
        self.u[:, row, column] = pixelcnn.network_input(levels[:, :, None, None] / 255)[:, :, 0, 0]


def _matrices(block: pixelcnn.Block) -> SimpleNamespace:
    """The kernels of a block as matrices, and its biases, in double precision."""
    layers = dict(block.named_children())
    biases = {f"{name}_bias": layer.bias.double() for name, layer in layers.items() if layer.bias is not None}
    return SimpleNamespace(**biases, **{name: _matrix(layer) for name, layer in layers.items()})


def _matrix(layer: torch.nn.Conv2d) -> Tensor:
    """(rows · columns · inputs, outputs), for products with patches whose channels come last."""
    return layer.weight.permute(2, 3, 1, 0).flatten(0, 2).double()

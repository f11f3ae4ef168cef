"""A small PixelCNN: the probability of an image, each sub-pixel given those before it."""

import math
from pathlib import Path

from labkit.core import InputError
from labkit.core.checkpoint import draws
from labkit.core.hardware import autocast
from labkit.datasets import Images, Lazy, check_pixels
from labkit.models.defense import check
from labkit.models.networks import blank
from labkit.models.training import Training

import torch
from torch import Tensor, nn
from torch.nn import functional

_UNIT = 2 / 255  # one 8-bit step, where pixels run from −1 to 1
_ABOVE = (2, 5)  # rows and columns that the first layer sees above a pixel …
_LEFT = 2  # … and columns left of it
_BETAS = (0.9, 0.99)
_WARMUP = 0.1
_STARTED_FROM = 500  # images
_AT_ONCE = 50


class PixelCNN(nn.Module):
    """Says of every pixel how likely each 8-bit value is, from the pixels above and left of it.

    van den Oord et al., "Conditional image generation with PixelCNN decoders", NIPS 2016: one stack of convolutions
    sees all rows above, a second one, fed by the first, the pixels to the left. Nothing but kernels lets one pixel act
    on another, so there is no normalisation. Residual blocks are rectified, not gated.

    Salimans et al., "PixelCNN++", ICLR 2017, which Song et al. use: a pixel is a mixture of discretised logistics;
    the mean of each channel shifts with the channels before it. Chosen here: means are relative to a linear prediction
    from the neighbours, started at least squares, which spares the network numbers that bfloat16 cannot hold.

    Maps (B, C, H, W), pixels in [0, 1], to parameters (B, H, W, P) that `channel_logs` reads.
    """

    def __init__(self, channels: int, width: int = 48, blocks: int = 6, mixtures: int = 5):
        super().__init__()
        self.channels, self.mixtures = channels, mixtures
        inputs = channels + 1  # one that is 1 inside the image tells black from the padding
        self.predict_above = nn.Conv2d(inputs, channels, _ABOVE, bias=False)
        self.predict_left = nn.Conv2d(inputs, channels, (1, _LEFT), bias=False)
        self.above = nn.Conv2d(inputs, width, _ABOVE)
        self.left = nn.Conv2d(inputs, width, (1, _LEFT))
        self.blocks = nn.ModuleList(Block(width) for _ in range(blocks))
        self.out = nn.Conv2d(width, mixtures * _outputs(channels), 1)

    def forward(self, x: Tensor) -> Tensor:
        upper, before = _neighbours(network_input(x))
        v, h = self.above(upper), self.left(before)
        for block in self.blocks:
            v, h = block(v, h)
        # In full precision, because it ends in pixel values and bfloat16 tells no more than 256 numbers apart.
        with torch.autocast(x.device.type, enabled=False):
            base = self.predict_above(upper) + self.predict_left(before)
            theta = self.out(functional.relu(h).to(base.dtype))
        return torch.cat([theta, base], 1).permute(0, 2, 3, 1)


class Block(nn.Module):
    """A residual step of both stacks: `v` knows the rows above, `h` the pixels to the left as well."""

    def __init__(self, width: int):
        super().__init__()
        self.above, self.above_out = nn.Conv2d(width, width, (2, 3)), nn.Conv2d(width, width, 1)
        self.left, self.left_out = nn.Conv2d(width, width, (1, 2)), nn.Conv2d(width, width, 1)
        self.link = nn.Conv2d(width, width, 1, bias=False)

    def forward(self, v: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        v = v + self.above_out(functional.relu(self.above(functional.pad(v, (1, 1, 1, 0)))))
        h = h + self.left_out(functional.relu(self.left(functional.pad(h, (1, 0, 0, 0))) + self.link(v)))
        return v, h


def network_input(x: Tensor) -> Tensor:
    """(B, C + 1, H, W): the pixels from −1 to 1, and a channel of ones."""
    return torch.cat([2 * x - 1, torch.ones_like(x[:, :1])], 1)


def _neighbours(u: Tensor) -> tuple[Tensor, Tensor]:
    """u padded above, and to the left, so that a kernel ends in the row above, and in the pixel to the left."""
    rows, columns = _ABOVE
    return functional.pad(u, (columns // 2, columns // 2, rows, -1)), functional.pad(u, (_LEFT, -1, 0, 0))


def channel_logs(theta: Tensor, levels: Tensor, earlier: list[Tensor], channels: int) -> Tensor:
    """log pₘ(level of channel c | channels before it) for each component m: (..., V, M), with c = len(earlier).

    theta    (..., P)  from the network
    levels   (..., V)  of channel c, whole numbers 0 … 255
    earlier  c tensors (...), levels of the channels before it
    """
    C, c, base = channels, len(earlier), theta[..., -channels:]
    part = theta[..., :-C].unflatten(-1, (_outputs(C), -1))  # rows: weight, C means, C log scales, coefficients
    mean = base[..., c, None] + part[..., 1 + c, :]
    first = 1 + 2 * C + c * (c - 1) // 2
    for d, level in enumerate(earlier):
        mean = mean + part[..., first + d, :] * (level * _UNIT - 1 - base[..., d])[..., None]
    rate = torch.exp(-part[..., 1 + C + c, :].clamp(-8, 4))[..., None, :]
    off = (levels * _UNIT - 1)[..., None] - mean[..., None, :]
    # log(σ(b) − σ(a)) = log σ(b) + log σ(−a) + log(1 − exp(a − b)): exact, and finite however far from the mean.
    # The first and the last value take the tails.
    lowest, highest = (levels <= 0)[..., None], (levels >= 255)[..., None]
    below = functional.logsigmoid((off + _UNIT / 2) * rate).masked_fill(highest, 0)
    beyond = functional.logsigmoid((_UNIT / 2 - off) * rate).masked_fill(lowest, 0)
    width = torch.log(-torch.expm1(-_UNIT * rate))
    return below + beyond + torch.where(lowest | highest, 0, width)


def mixture_weights(theta: Tensor, channels: int) -> Tensor:
    """Logarithms (..., M) of the weights of the components before the first channel is known."""
    M = (theta.shape[-1] - channels) // _outputs(channels)
    return theta[..., :M].log_softmax(-1)


def _outputs(C: int) -> int:
    """Numbers a component: weight, means, log scales, and a coefficient for each pair of channels."""
    return 1 + 2 * C + C * (C - 1) // 2


def _pixel_logs(model: PixelCNN, x: Tensor) -> Tensor:
    """log p(pixel | pixels before it), (B, H, W), of 8-bit images x in [0, 1]."""
    theta = model(x)
    levels = (255 * x).unbind(1)
    total = mixture_weights(theta, model.channels)
    for c, level in enumerate(levels):
        total = total + channel_logs(theta, level[..., None], list(levels[:c]), model.channels)[..., 0, :]
    return total.logsumexp(-1)


@torch.no_grad()
def bits_per_dimension(model: PixelCNN, x: Tensor | Lazy) -> Tensor:
    """−log₂ p(x) / (C·H·W), (B,), on the CPU, of x (B, C, H, W) in [0, 1] rounded to 8 bits; 8 for knowing nothing."""
    _check(model, x)
    here, size, found = next(model.parameters()), math.prod(x.shape[1:]), []
    for start in range(0, len(x), _AT_ONCE):
        logs = _pixel_logs(model, to_8_bits(x[start : start + _AT_ONCE].to(here)))
        found.append(-logs.double().sum((1, 2)).cpu() / (size * math.log(2)))
    return torch.cat(found)


def to_8_bits(x: Tensor) -> Tensor:
    return (255 * x).round() / 255


def build(channels: int, *, width: int = 48, blocks: int = 6, mixtures: int = 5, seed: int = 0) -> PixelCNN:
    """An untrained PixelCNN for images of that many channels, its weights drawn from `seed`."""
    settings = {"channels": channels, "width": width, "blocks": blocks, "mixtures": mixtures}
    check("a PixelCNN", settings, "channels, width, blocks, mixtures in [1, inf)")
    model = blank(lambda: PixelCNN(**settings))
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.ndim == 1 or name.startswith("predict"):
            nn.init.zeros_(p)
        elif name.endswith("_out.weight") or name == "out.weight":
            # Near zero: the blocks begin as the identity, the means as the linear prediction.
            nn.init.normal_(p, std=0.1 / math.sqrt(p.shape[1]), generator=generator)
        else:
            nn.init.kaiming_normal_(p, nonlinearity="relu", generator=generator)
    # Components that differ in scale, from a third of an 8-bit step to seventeen, so that they part company.
    scales = torch.linspace(-6, -2, mixtures)
    with torch.no_grad():
        model.out.bias.unflatten(0, (-1, mixtures))[1 + channels : 1 + 2 * channels] = scales
    return model


def train(
    model: PixelCNN, images: Images, *, epochs: int = 4, batch: int = 8, lr: float = 3e-3, crop: int = 32,
    seed: int = 0, checkpoint: str | Path | None = None, progress: bool = True, device: str | torch.device = "cpu",
) -> list[float]:  # fmt: skip
    """Trains `model` in place on `images` and leaves it in evaluation mode on the device.

    Adam on −log p, from the least-squares linear prediction; the step size rises for a tenth of the steps to `lr` and
    falls to 0 along a cosine. Returns the mean bits per dimension of each epoch, measured while training.

    crop        of larger images, each epoch takes a random window of this side: the network reaches less far
    checkpoint  as for `Training`, with a `model` from the same `build`

    Everything random is drawn from (seed, epoch). Raises InputError for images that do not fit, or a loss not finite.
    """
    device = torch.device(device)
    _check(model, images.x)
    settings = {"epochs": epochs, "batch": batch, "lr": lr, "crop": crop, "seed": seed}
    check("training", settings, "epochs, batch, crop in [1, inf); lr in (0, inf]")
    layout = torch.channels_last  # three quarters of the time, measured on a CPU
    model.to(device, memory_format=layout).train()
    shapes = {name: [*p.shape] for name, p in model.named_parameters()}
    run = {"model": shapes, "images": [images.digest, *images.x.shape], **settings}
    training = Training(model, torch.optim.Adam(model.parameters(), lr=lr, betas=_BETAS), run, checkpoint)
    if not training.done:
        sample = images.x[torch.linspace(0, len(images) - 1, min(len(images), _STARTED_FROM)).long()]
        _start(model, _crop(sample, crop, torch.Generator().manual_seed(seed)))

    def prepare(at: Tensor, generator: torch.Generator) -> Tensor:
        return to_8_bits(_crop(images.x[at], crop, generator)).to(device, memory_format=layout)

    def loss(x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        with autocast(device):
            logs = _pixel_logs(model, x)
        bits = -logs.mean() / (model.channels * math.log(2))
        return bits, {"bits_per_dimension": bits}

    how = {"warmup": _WARMUP, "name": "training a PixelCNN", "progress": progress}
    how["draw"] = lambda epoch: draws(seed, epoch + 1)
    return training.run(epochs, torch.arange(len(images)), batch, prepare, loss, **how)["bits_per_dimension"]


@torch.no_grad()
def _start(model: PixelCNN, x: Tensor) -> None:
    """Sets the linear prediction, and what a channel adds to the next, to least squares on images x (N, C, H, W)."""
    C, x = model.channels, to_8_bits(x)
    upper, before = _neighbours(network_input(x))
    upper, before = functional.unfold(upper, _ABOVE), functional.unfold(before, (1, _LEFT))
    # (N, features, H·W); sums of squares in double precision, image by image.
    features = [torch.cat(pair).double() for pair in zip(upper, before, strict=True)]
    values = (2 * x - 1).flatten(2).double()
    F = len(features[0])
    gram = sum(f @ f.T for f in features)
    moments = sum(f @ v.T for f, v in zip(features, values, strict=True))
    ridge = 1e-6 * gram.trace() / F  # columns that are always alike, as in grey or black images, share their weight
    w = torch.linalg.solve(gram + ridge * torch.eye(F, dtype=gram.dtype), moments).T
    split = upper.shape[1]
    model.predict_above.weight.copy_(w[:, :split].reshape_as(model.predict_above.weight))
    model.predict_left.weight.copy_(w[:, split:].reshape_as(model.predict_left.weight))
    covariance = sum(r @ r.T for r in [v - w @ f for f, v in zip(features, values, strict=True)])
    covariance += (1e-6 * covariance.trace() + 1e-12) * torch.eye(C, dtype=gram.dtype)
    coefficients = model.out.bias.unflatten(0, (-1, model.mixtures))[1 + 2 * C :]
    for c in range(1, C):
        first = c * (c - 1) // 2
        coefficients[first : first + c] = torch.linalg.solve(covariance[:c, :c], covariance[:c, c]).float()[:, None]


def _crop(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """A window of `size` × `size` of each image x, or of what there is of it, anywhere."""
    H, W = x.shape[-2:]
    if max(H, W) <= size:
        return x
    h, w = min(H, size), min(W, size)
    top, left = (torch.randint(0, n + 1, (len(x),), generator=generator).tolist() for n in (H - h, W - w))
    return torch.stack([one[:, i : i + h, j : j + w] for one, i, j in zip(x, top, left, strict=True)])


def _check(model: PixelCNN, x: Tensor | Lazy) -> None:
    check_pixels(x)
    if x.shape[1] != model.channels:
        raise InputError(f"the PixelCNN was built for {model.channels} channels, not {x.shape[1]}; train another")

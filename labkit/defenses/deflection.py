"""Pixel deflection: pixels that matter little take their neighbours' values, and wavelets smooth what that leaves."""

import math
from collections.abc import Iterator

from labkit.core import InputError
from labkit.models.defense import Ensemble, hooked
from labkit.models.networks import Classifier

import numpy as np
import torch
from skimage import color, restoration
from torch import Tensor, nn
from torch.nn import functional

_CLASSES = 5  # whose activation maps the robust one sums


class PixelDeflection(Ensemble):
    """Prakash, Moran, Garber, DiLillo & Storer, "Deflecting adversarial attacks with pixel deflection", CVPR 2018.

    A pixel drawn at random takes the value of another one drawn from the window around it: seldom where the robust
    class-activation map (R-CAM) is high, always where it is lowest. Then wavelet coefficients are soft-thresholded
    (BayesShrink) in YCbCr, or, for another number of channels than three, channel by channel.

    deflections  how many pixels are drawn, with replacement, whatever the image's size: 200 was published for 224×224,
                 0.4 % of the pixels; of 64×64 it is 5 %, and of 32×32 almost a fifth. Below 1, a share of the pixels
    window       farthest that a value comes from, in pixels up, down and sideways; windows end at the border
    sigma        standard deviation of the noise that the wavelets assume, for pixels in [0, 1]
    draws        of which the system of `around` averages the probabilities; it answers with their logarithm

    Chosen here: whole pixels are deflected, as the text says (the authors' script moves one channel at a time); a value
    is that before any deflection; the wavelet is Haar's; the ensemble ("PD-Ens") is of 10 draws. Gradients pass the
    wavelets unchanged (BPDA), follow deflected values to where they came from, and ignore how the map depends on x.
    The smooth stand-in differentiates the wavelets too, with their thresholds held (`shrunk`).
    """

    differentiable = False
    has_smooth = True
    smallest = 2
    limits = "deflections in [0, inf); window, draws in [1, inf); sigma in (0, inf)"

    def __init__(self, deflections: int = 200, window: int = 10, sigma: float = 0.04, *, draws: int = 10):
        super().__init__(deflections=deflections, window=window, sigma=sigma, draws=draws)

    def views(self, classifier: nn.Module, x: Tensor) -> Iterator[Tensor]:
        activation = robust_activation(classifier, x)
        return (self.clean(x, activation) for _ in range(self.draws))

    def sample(self, x: Tensor) -> Tensor:
        """x cleaned once, as if every pixel mattered alike: there is no map before there is a classifier."""
        return self.clean(x, x.new_zeros(len(x), *x.shape[2:]))

    def clean(self, x: Tensor, activation: Tensor) -> Tensor:
        """Images x (B, C, H, W) deflected where their maps (B, H, W) in [0, 1] are low, and smoothed."""
        self._check(x)
        deflected = self.deflect(x, activation)
        near = shrunk(deflected, self.sigma) if self.backward == "smooth" else deflected
        return smooth(deflected, self.sigma) + (near - near.detach())  # the difference is but its gradient

    def deflect(self, x: Tensor, activation: Tensor) -> Tensor:
        """The first step alone."""
        B, C, H, W = x.shape
        chance = (1 - activation).flatten(1).double().cpu()
        # Rounding must not leave a map without a pixel to draw.
        chance = torch.where(chance.sum(1, keepdim=True) > 0, chance, 1.0)
        if not self.deflections:
            return x
        count = self.deflections if self.deflections >= 1 else max(1, round(self.deflections * H * W))
        to = torch.multinomial(chance, int(count), replacement=True, generator=self.generator)
        rows, columns = self._near(to // W, H), self._near(to % W, W)
        source = torch.arange(H * W).repeat(B, 1).numpy()
        # By numpy, which promises that of several values for one pixel the last stays.
        source[np.arange(B)[:, None], to.numpy()] = (rows * W + columns).numpy()
        source = torch.from_numpy(source).to(x.device)[:, None].expand(-1, C, -1)
        return x.flatten(2).gather(2, source).reshape(x.shape)

    def _near(self, at: Tensor, side: int) -> Tensor:
        """For each coordinate one within the window and the image, all equally likely."""
        first, last = (at - self.window).clamp_min(0), (at + self.window).clamp_max(side - 1)
        drawn = torch.rand(at.shape, generator=self.generator, dtype=torch.float64)
        return first + (drawn * (last - first + 1)).long()


@torch.no_grad()
def smooth(x: Tensor, sigma: float) -> Tensor:
    """Images x (B, C, H, W) in [0, 1], each denoised by scikit-image's wavelets."""
    colour = {"channel_axis": 0, "convert2ycbcr": True} if x.shape[1] == 3 else {"channel_axis": 0}
    # In double precision, because a flat channel is told from its noise by division by its range.
    seen = x.detach().double().cpu().numpy()
    shrunk = [restoration.denoise_wavelet(image, sigma, mode="soft", method="BayesShrink", **colour) for image in seen]
    return torch.from_numpy(np.stack(shrunk)).to(x).clamp(0, 1)


def shrunk(x: Tensor, sigma: float) -> Tensor:
    """As `smooth`, before it clips, but differentiable, the thresholds held."""
    levels = max(int(math.log2(min(x.shape[2:]))) - 3, 1)
    if x.shape[1] != 3:
        return _shrink(x, x.new_tensor(sigma**2), levels)
    black, *primary = color.rgb2ycbcr(np.eye(4, 3, -1))  # what YCbCr adds to black cancels
    to = x.new_tensor(np.array(primary) - black).T
    coded = _shrink(torch.einsum("oc,bchw->bohw", to, x), (to.square().sum(1) * sigma**2)[:, None, None, None], levels)
    return torch.einsum("oc,bchw->bohw", torch.linalg.inv(to), coded)


def _shrink(x: Tensor, variance: Tensor, levels: int) -> Tensor:
    """Haar coefficients of x (B, C, H, W), soft-thresholded by BayesShrink for noise of `variance`, and back."""
    C, H, W = x.shape[1:]
    blocks = functional.pixel_unshuffle(functional.pad(x, (0, W % 2, 0, H % 2), mode="replicate"), 2)
    haar = x.new_tensor([[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1], [1, -1, -1, 1]]) / 2  # its own inverse
    low, *details = torch.einsum("fg,bcghw->fbchw", haar, blocks.unflatten(1, (C, 4)))
    details = torch.stack(details, 2)
    power = details.detach().square().mean((3, 4), keepdim=True)
    threshold = variance / (power - variance).clamp_min(torch.finfo(torch.float64).eps).sqrt()
    details = details.sign() * (details.abs() - threshold).relu()
    low = _shrink(low, variance, levels - 1) if levels > 1 else low
    back = torch.einsum("fg,bcghw->bcfhw", haar, torch.cat([low[:, :, None], details], 2))
    return functional.pixel_shuffle(back.flatten(1, 2), 2)[..., :H, :W]


def robust_activation(classifier: nn.Module, x: Tensor) -> Tensor:
    """R-CAM: the activation maps of the five likeliest classes, by weights 1/2, 1/4, … 1/32, and scaled to [0, 1].

    classifier  a `Classifier`, or a module that holds one
    x           (B, C, H, W) images

    Returns (B, H, W), enlarged bilinearly from the features' resolution; 0 where the map is the same everywhere, as it
    always is for a VGG at 32 pixels, whose features are one pixel. The map of a class sums the last convolutional
    features, each weighted by what its mean adds to the logit: by its row of the last linear layer (Zhou et al.,
    "Learning deep features for discriminative localization", CVPR 2016).

    Raises InputError when there is no `Classifier` inside.
    """
    model = next((module for module in classifier.modules() if isinstance(module, Classifier)), None)
    if model is None or not hasattr(model.network, "avgpool"):
        got = type(classifier).__name__
        raise InputError(f"pixel deflection steers by the features of a Classifier; use networks.build, not a {got}")
    seen = []
    remember = lambda _module, inputs, _output: seen.append(inputs[0].detach())  # noqa: E731
    with torch.no_grad(), hooked([model.network.avgpool], remember):
        classifier(x)
    features = seen[-1].requires_grad_()
    *_, head = model.network.children()
    with torch.enable_grad():
        logits = head(model.network.avgpool(features).flatten(1))
        top = logits.topk(min(_CLASSES, logits.shape[1]), 1).values
        # Maps are linear in the logits, so that one gradient holds them all.
        shares = 0.5 ** torch.arange(1, top.shape[1] + 1, device=top.device)
        (weights,) = torch.autograd.grad((top * shares).sum(), features)
    maps = (weights.sum((2, 3), keepdim=True) * features.detach()).sum(1, keepdim=True)
    maps = functional.interpolate(maps, x.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    # A map that differs by rounding only says nothing.
    return torch.where(high - low > 1e-6 * high.abs(), (maps - low) / (high - low).clamp_min(1e-30), 0.0)

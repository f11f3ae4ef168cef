"""Filters anyone would try first: JPEG, fewer bits, a median, non-local means, a blur: the sober baselines."""

import io
import math
import warnings
from typing import Self

from labkit.core import InputError, metrics
from labkit.csc import extend
from labkit.datasets import Images
from labkit.models import Defense
from labkit.models.defense import check

import numpy as np
import scipy
import torch
from PIL import Image
from skimage import restoration
from torch import Tensor
from tqdm.auto import tqdm

_BLURRED_AT_ONCE = 500  # images
_PAST = 0.1
_STRENGTH = 0.8  # of non-local means, in standard deviations of the noise
_NO_BLUR = 0.15  # sigma at which a neighbour gets a share of 2e-10, which single precision hardly sees


class JPEG(Defense):
    """Stored as JPEG and read again: Das et al., "Keeping the bad guys out", 2017; Guo et al., ICLR 2018 (quality 75).

    quality  of Pillow's encoder, 1 to 95. Colour is stored at half the resolution, Pillow's default

    Takes grey or colour images; pixels are rounded to 8 bits. Not differentiable; its smooth stand-in is the codec of
    Reich et al., "Differentiable JPEG: the devil is in the details", WACV 2024, as in kornia (`labkit[attacks]`).
    """

    differentiable = False
    limits = "quality in [1, 95]"

    def __init__(self, quality=75):
        super().__init__(quality=quality)

    def smooth(self, x: Tensor) -> Tensor:
        self._check(x)
        try:
            from kornia.enhance import jpeg_codec_differentiable
        except ImportError:
            raise InputError("a differentiable JPEG needs the package kornia; install labkit[attacks]") from None
        stored = jpeg_codec_differentiable(x.expand(-1, 3, -1, -1), x.new_tensor([float(self.quality)]))
        # Its gradient vanishes where coefficients are near whole numbers; a tenth of the identity's goes past that.
        return (stored.mean(1, keepdim=True) if x.shape[1] == 1 else stored) + _PAST * (x - x.detach())

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        pixels = (x * 255).round().byte().movedim(1, -1).cpu().numpy()
        read = np.stack([self._stored(image).reshape(image.shape) for image in pixels])
        return torch.from_numpy(read).movedim(-1, 1).to(x).div_(255).contiguous()

    def _check(self, x: Tensor, channels: int | None = None) -> None:
        super()._check(x, channels)
        if x.shape[1] not in (1, 3):
            raise InputError(f"JPEG stores images of 1 or 3 channels, got {x.shape[1]}; convert them")

    def _stored(self, pixels: np.ndarray) -> np.ndarray:
        file, grey = io.BytesIO(), pixels.shape[-1] == 1
        Image.fromarray(pixels[..., 0] if grey else pixels).save(file, "JPEG", quality=self.quality)
        return np.asarray(Image.open(file))


class BitDepth(Defense):
    """Pixels rounded to 2^bits levels: Xu, Evans & Qi, "Feature squeezing", NDSS 2018, Section III-A.

    bits  a channel, from 1 to 8. Xu et al. try all, Guo et al. (ICLR 2018) take 3

    Not differentiable: a staircase, whose slope is 0 wherever it has one. Its smooth stand-in is one with round steps.
    """

    differentiable = False
    limits = "bits in 1 to 8"

    def __init__(self, bits=3):
        super().__init__(bits=bits)

    def smooth(self, x: Tensor) -> Tensor:
        at = x * (2**self.bits - 1)
        return (at - torch.sin(2 * math.pi * at) / (2 * math.pi)) / (2**self.bits - 1)

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        steps = 2**self.bits - 1
        return (x * steps).round() / steps


class Median(Defense):
    """Median of a sliding window, in each channel: Xu, Evans & Qi, "Feature squeezing", NDSS 2018, Section III-B.

    size  pixels a side of the window. Xu et al. use 2 and 3

    As scipy's `median_filter`, which they call: borders mirrored, the edge repeated; of an even number of values the
    larger one of the middle two, in a window that reaches one pixel farther up and left. Differentiable.
    """

    limits = "size in [1, inf)"

    def __init__(self, size=3):
        super().__init__(size=size)

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        wide = extend(x, self.size // 2)
        windows = wide.unfold(2, self.size, 1).unfold(3, self.size, 1)[:, :, : x.shape[2], : x.shape[3]]
        return windows.flatten(4).sort(-1).values[..., self.size**2 // 2]


class NonLocalMeans(Defense):
    """Buades, Coll & Morel, "A non-local algorithm for image denoising", CVPR 2005, by scikit-image's fast mode.

    patch_size      pixels a side of the patches that are compared, all channels together
    patch_distance  how many pixels away, along each axis, patches are looked for
    h               distance of patches, in pixel units, at which weights have fallen to 1/e. None means .8 times the
                    standard deviation of the noise, estimated for each image (Donoho & Johnstone 1994)

    Defaults are those of scikit-image's example. An image without any noise is returned as it is. Not differentiable.
    """

    differentiable = False
    limits = "patch_size, patch_distance in [1, inf); h in (0, inf]"

    def __init__(self, patch_size=5, patch_distance=6, h=None):
        super().__init__(patch_size=patch_size, patch_distance=patch_distance, h=h)
        self.smallest = max(5, patch_size)  # the estimate of the noise needs five

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        images = x.movedim(1, -1).double().cpu().numpy()
        cleaned = np.stack([self._clean(image) for image in images])
        return torch.from_numpy(cleaned).movedim(-1, 1).clamp(0, 1).to(x).contiguous()

    def _clean(self, image: np.ndarray) -> np.ndarray:
        h = self.h or _STRENGTH * _noise(image)
        if not h:
            return image
        sizes = self.patch_size, self.patch_distance
        cleaned = restoration.denoise_nl_means(image, *sizes, h, fast_mode=True, channel_axis=-1)
        return cleaned.reshape(image.shape)  # a single channel was squeezed away


def _noise(image: np.ndarray) -> float:
    """Standard deviation of the noise of an image (H, W, C), the mean over channels; a constant channel has none."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of the median of nothing, which a constant channel leaves
        return float(np.nan_to_num(restoration.estimate_sigma(image, channel_axis=-1)).mean())


class LowPass(Defense):
    """A Gaussian blur: what is left of a defense if all it does is to remove high frequencies.

    sigma  standard deviation in pixels, if known. As scipy's `gaussian_filter`: cut off at 4 sigma, borders mirrored
    psnr   in dB, in place of sigma: `fit` finds the blur after which the mean PSNR of the training images is this, but
           for those that a blur cannot change
    """

    limits = f"sigma in (0, inf); psnr in (0, {metrics.MOST:g})"

    def __init__(self, sigma=None, psnr=None):
        super().__init__(psnr=psnr)
        check("LowPass", {"sigma": sigma}, self.limits)
        if (sigma is None) == (psnr is None):
            raise InputError("LowPass needs either sigma, in pixels, or psnr, in dB, which fit() turns into a sigma")
        self.register_buffer("sigma", torch.tensor(float("nan") if sigma is None else float(sigma)))

    def fit(self, images: Images, *, progress: bool = False) -> Self:
        """Where `psnr` was given, find sigma by Brent's bisection, from all of the images. Returns self."""
        if self.psnr is None:
            return self
        with tqdm(desc="fitting the blur", unit="blur", disable=not progress, delay=2) as bar:

            def excess(sigma: float) -> float:
                bar.update()
                return self._mean_psnr(images, sigma) - self.psnr

            weak, strong = _NO_BLUR, 1.0
            while excess(strong) > 0:
                weak, strong = strong, 2 * strong
                if strong > 2 * max(images.x.shape[-2:]):
                    raise InputError(f"no blur brings these images down to {self.psnr:g} dB; ask for a larger PSNR")
            self.sigma.fill_(scipy.optimize.brentq(excess, weak, strong, xtol=1e-4))
        return self

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        self._check_fitted(bool(self.sigma.isfinite()))
        return _blur(x, float(self.sigma))

    def extra_repr(self) -> str:
        return f"sigma={float(self.sigma):.4g}, {super().extra_repr()}"

    @torch.no_grad()
    def _mean_psnr(self, images: Images, sigma: float) -> float:
        found = []
        for x, _ in images.batches(_BLURRED_AT_ONCE):
            low, high = x.flatten(2).aminmax(dim=2)
            x = x[(low < high).any(1)].to(self.sigma.device)
            found.append(metrics.psnr(_blur(x, sigma), x).clamp_max(metrics.MOST).cpu())
        if not (found := torch.cat(found)).numel():
            raise InputError("no blur changes these images, as each is of one colour; fit to others")
        return float(found.double().mean())


def _blur(x: Tensor, sigma: float) -> Tensor:
    # As matrices, mirrored borders and all: much faster than a convolution.
    rows, columns = (torch.from_numpy(scipy.ndimage.gaussian_filter1d(np.eye(n), sigma, 0)).to(x) for n in x.shape[-2:])
    return (rows @ x @ columns.T).clamp(0, 1)

"""Non-local means: each pixel becomes a mean of the pixels nearby that are surrounded alike."""

import warnings

from labkit.models import Defense

import numpy as np
import torch
from skimage import restoration
from torch import Tensor

_STRENGTH = 0.8


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
        cleaned = restoration.denoise_nl_means(
            image, self.patch_size, self.patch_distance, h, fast_mode=True, channel_axis=-1
        )
        return cleaned.reshape(image.shape)  # a single channel was squeezed away


def _noise(image: np.ndarray) -> float:
    """Standard deviation of the noise of an image (H, W, C), the mean over channels; a constant channel has none."""
    with warnings.catch_warnings(), np.errstate(invalid="ignore"):
        warnings.simplefilter("ignore", RuntimeWarning)  # of the median of nothing, which a constant channel leaves
        return float(np.nan_to_num(restoration.estimate_sigma(image, channel_axis=-1)).mean())

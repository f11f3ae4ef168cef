"""The ensemble of random crops, of an image as it is or cleaned beforehand."""

from collections.abc import Iterator
from typing import Self

from labkit.core import InputError
from labkit.datasets import Images
from labkit.defenses.quilting import Quilting
from labkit.defenses.tvm import TVM
from labkit.models import Defense
from labkit.models.defense import Ensemble

import torch
from torch import Tensor, nn
from torch.nn import functional


def crops(*, patches: int = 1_000_000, **options) -> "CropEnsemble":
    """Crops of the image after total-variation minimisation and after quilting: the paper's Crop-Ens."""
    return CropEnsemble(TVM(), Quilting(patches=patches), **options)


def tvm_quilting(*, patches: int = 1_000_000) -> "CropEnsemble":
    """The mean opinion on the whole image after each of the two, without crops: the paper's TVM+quilt."""
    return CropEnsemble(TVM(), Quilting(patches=patches), crops=2, share=1.0)


class CropEnsemble(Ensemble):
    """The mean opinion of a classifier on random crops of the image ("Crop-Ens" where both cleaners are given).

    Guo, Rana, Cissé & van der Maaten, "Countering adversarial images using input transformations", ICLR 2018:
    cropping and rescaling (Section 4), together with total-variation minimisation and image quilting (Section 5).

    tvm, quilting  cleaners before the crops, which are cut from the cleaned images in turn; with none, from x itself
    crops          how many
    share          side of a crop as a share of the image's: 90 of 224 pixels

    Left open there, and chosen here: crops scale with the image (13 of 32 pixels); they are enlarged bilinearly to the
    image's size; every image of a batch is cropped at its own places.
    """

    limits = "share in (0, 1]"

    def __init__(self, tvm=None, quilting=None, *, crops=30, share=90 / 224):
        super().__init__(crops=crops, share=share)
        self.cleaners = nn.ModuleList(cleaner for cleaner in (tvm, quilting) if cleaner is not None)
        if crops < max(1, len(self.cleaners)):
            raise InputError(f"{crops} crops are fewer than one of each cleaned image; ask for more")
        self.differentiable = all(cleaner.differentiable for cleaner in self.cleaners)
        self.smallest = max([self.smallest, *(cleaner.smallest for cleaner in self.cleaners)])

    @property
    def has_smooth(self) -> bool:
        return any(cleaner.has_smooth for cleaner in self.cleaners)

    def fit(self, images: Images, *, progress: bool = False) -> Self:
        for cleaner in self.cleaners:
            cleaner.fit(images, progress=progress)
        return self

    def seeded(self, seed: int) -> Self:
        for cleaner in self.cleaners:
            cleaner.seeded(seed)
        return super().seeded(seed)

    def views(self, classifier: nn.Module, x: Tensor) -> Iterator[Tensor]:
        sources = self.versions(x)
        return (self.crop(sources[i % len(sources)]) for i in range(self.crops))

    @torch.no_grad()
    def sample(self, x: Tensor) -> Tensor:
        """One random crop of each image, cleaned by one cleaner drawn at random: what a network is retrained on."""
        self._check(x)
        drawn = torch.randint(max(1, len(self.cleaners)), (len(x),), generator=self.generator).to(x.device)
        seen = x.clone()
        for i, cleaner in enumerate(self.cleaners):
            if (mine := drawn == i).any():
                seen[mine] = cleaner(x[mine])
        return self.crop(seen)

    def versions(self, x: Tensor) -> list[Tensor]:
        """The images that crops are cut from: x by each cleaner, or x."""
        self._check(x)
        return [self._clean(cleaner, x) for cleaner in self.cleaners] or [x]

    def crop(self, x: Tensor) -> Tensor:
        """One random crop of each image of x (B, C, H, W), enlarged to its size."""
        B, C, *sides = x.shape
        parts = [max(1, round(self.share * side)) for side in sides]
        rows, columns = (
            (torch.randint(side - part + 1, (B, 1), generator=self.generator) + torch.arange(part)).to(x.device)
            for side, part in zip(sides, parts, strict=True)
        )
        # One index tensor an axis, so that every image is cut at its own place, differentiably.
        image = torch.arange(B, device=x.device)[:, None, None, None]
        channel = torch.arange(C, device=x.device)[:, None, None]
        cut = x[image, channel, rows[:, None, :, None], columns[:, None, None, :]]
        return functional.interpolate(cut, sides, mode="bilinear", align_corners=False).clamp(0, 1)

    def _clean(self, cleaner: Defense, x: Tensor) -> Tensor:
        if cleaner.differentiable or self.backward == "smooth":
            return cleaner.smoothed()(x)
        with torch.no_grad():
            cleaned = cleaner(x)
        return cleaned + (x - x.detach())  # 0, but for its gradient: BPDA

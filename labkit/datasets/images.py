"""Images: labelled, in memory or read when asked for, and known by a digest of their content."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from labkit.core import InputError

import torch
from torch import Tensor

# Up to the first limit images are float32 in memory; up to the second, 8-bit; beyond, files are decoded when asked for.
FLOAT_LIMIT = 512 * 2**20
BYTES_LIMIT = 2 * 2**30


class Lazy:
    """Images that become floats when asked for: indexed like a float32 tensor (N, C, H, W), but much smaller.

    The index is an int, a slice, a list of ints, or an index or mask tensor. `pixels` gives the images (n, C, H, W) at
    positions (n,), from memory or decoded from files: in 8 bits, or in [0, 1] in half precision.
    """

    dtype = torch.float32

    def __init__(self, shape: Sequence[int], pixels: Callable[[Tensor], Tensor]):
        self.shape, self.pixels = torch.Size(shape), pixels

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index) -> Tensor:
        at = torch.arange(len(self))[index]
        return _float(self.pixels(at.flatten())).reshape(*at.shape, *self.shape[1:])

    def subset(self, at: Tensor) -> "Tensor | Lazy":
        """The images at positions (n,): as floats or bytes in memory where they are few enough."""
        shape = torch.Size((len(at), *self.shape[1:]))
        few = shape.numel() <= BYTES_LIMIT
        return settle(self.pixels(at)) if few else Lazy(shape, lambda inner: self.pixels(at[inner]))


def _float(pixels: Tensor) -> Tensor:
    return pixels.float().div_(255) if pixels.dtype == torch.uint8 else pixels.float()


def settle(pixels: Tensor) -> Tensor | Lazy:
    return _float(pixels) if 4 * pixels.numel() <= FLOAT_LIMIT else Lazy(pixels.shape, pixels.__getitem__)


@dataclass(frozen=True, eq=False, repr=False)
class Images:
    """Labelled images.

    x        (N, C, H, W) float32 in [0, 1]: a tensor, or a `Lazy` that is indexed like one
    y        (N,) int64 class indices
    classes  their names
    digest   SHA-256 of the content, whatever the path: classes, labels, shape and 8-bit pixels; for image files,
             instead of pixels, CRC-32 and length of each (a million files are told apart without decoding them)
    files    of image files, the name of each, and its CRC-32 and length; () of a subset

    `images[index]` with a slice, a list or an index tensor is the subset; its digest follows from this one's and the
    positions. Raises InputError when the shapes do not fit each other.
    """

    x: Tensor | Lazy
    y: Tensor
    classes: tuple[str, ...]
    digest: str
    files: Sequence[tuple[str, tuple[int, int]]] = ()

    def __post_init__(self):
        if len(self.x.shape) != 4 or self.y.shape != (len(self.x),) or self.y.dtype != torch.int64:
            found = f"{tuple(self.x.shape)} with {tuple(self.y.shape)} {self.y.dtype}"
            raise InputError(f"images must be x (N, C, H, W) with y (N,) int64, got {found}")

    def __len__(self) -> int:
        return len(self.y)

    def __repr__(self) -> str:
        shape = "×".join(map(str, self.x.shape))
        return f"Images({shape}, {len(self.classes)} classes, {type(self.x).__name__}, {self.digest[:12]}…)"

    def __getitem__(self, index) -> "Images":
        everything = torch.arange(len(self))
        at = everything[index].flatten()
        if torch.equal(at, everything):
            return self
        digest = hashlib.sha256(self.digest.encode() + at.numpy().tobytes()).hexdigest()
        x = self.x.subset(at) if isinstance(self.x, Lazy) else self.x[at]
        return Images(x, self.y[at], self.classes, digest)

    def batches(self, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """(x, y) for `size` images at a time, in order; x is always a float tensor."""
        for start in range(0, len(self), size):
            yield self.x[start : start + size], self.y[start : start + size]


def check_pixels(x: Tensor) -> None:
    """Raises InputError unless x is a float tensor (N, C, H, W) of at least one image, finite and within [0, 1]."""
    if isinstance(x, Lazy):
        return
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise InputError(f"images must be a float tensor in [0, 1], got {kind}; divide 8-bit values by 255")
    if x.ndim != 4 or not x.numel():
        raise InputError(f"images must be (N, C, H, W) with N > 0, got {tuple(x.shape)}; one image is x[None]")
    low, high = (value.item() for value in torch.aminmax(x.detach()))  # NaN in x makes both NaN
    if not -torch.inf < low <= high < torch.inf:
        raise InputError("images hold NaN or infinite values; replace them before they spread")
    if low < 0 or high > 1:
        raise InputError(f"images must lie in [0, 1], got {low:.4g} to {high:.4g}; divide 8-bit values by 255")

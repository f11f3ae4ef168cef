"""The bytes of one image file become 8-bit pixels.

EXIF orientation is honoured; palette, CMYK and other colour files become RGB, transparency is laid over white, 16-bit
grey keeps its upper 8 bits, an animation its first frame.
"""

import io
from collections.abc import Sequence

from labkit.core import InputError
from labkit.core.wording import reason, to_set

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

MAX_PIXELS = 50_000_000  # one image of more pixels is a mistake or an attack (a "decompression bomb")

# Pillow would look at the content, not at the ending, and start Ghostscript for an "a.jpg" that holds PostScript.
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
GREY = ("1", "L", *SIXTEEN_BITS)
_EXIF_ORIENTATION = 0x0112


def decode_like(where: str, raw: bytes, shape: Sequence[int], resolution: int | None) -> np.ndarray:
    """The pixels (C, H, W) uint8, of `shape`, of one file's bytes; `where` it lies is how errors name it.

    Raises InputError when the file is damaged, of another size, or in colour where C is 1.
    """
    image, size = opened(where, raw)
    if not resolution and size != tuple(shape[1:]):
        sizes = f"{where} is {size[1]}×{size[0]}, the first {shape[2]}×{shape[1]}"
        raise InputError(f"images of mixed size: {sizes}; choose one, as with {to_set('resolution', 64)}")
    if shape[0] == 1 and mode(image) not in GREY:
        raise InputError(f"{where} is in colour and the dictionary grey; use one learned in colour")
    return upright(where, image, resolution)[: shape[0]]


def decode(raw: bytes, name: str, resolution: int, channels: int) -> Tensor:
    """One picture from memory, under its file name: (C, R, R) uint8, the largest centred square, upright.

    channels  1 makes grey of it, 3 RGB. Raises InputError when it is no image, or has more than MAX_PIXELS.
    """
    where = name.replace("\\", "/").rpartition("/")[2]
    pixels = torch.from_numpy(upright(where, opened(where, raw)[0], resolution).copy())
    if channels == 3:
        return pixels
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]  # luma, as Pillow makes grey of RGB
    return (pixels * weights).sum(0, keepdim=True).round().byte()


def opened(where: str, raw: bytes) -> tuple[Image.Image, tuple[int, int]]:
    """The image, not yet decoded, and its height and width once it is turned upright."""
    try:
        image = Image.open(io.BytesIO(raw), formats=_FORMATS)
        w, h = image.size
        if w * h <= MAX_PIXELS:
            turned = image.getexif().get(_EXIF_ORIENTATION, 1) in (5, 6, 7, 8)
            return image, ((w, h) if turned else (h, w))
        size = f"{w}×{h}"
    except Image.DecompressionBombError:
        size = "far too many"
    except Exception as error:  # Pillow raises a dozen types for damaged files
        raise _damaged(where, error) from error
    raise InputError(f"{where} has {size} pixels, the limit is {MAX_PIXELS:,}; shrink or remove it")


def upright(where: str, image: Image.Image, resolution: int | None) -> np.ndarray:
    """Upright pixels (3, H, W) uint8; with `resolution`, the largest centred square, resized with antialias."""
    try:
        ImageOps.exif_transpose(image, in_place=True)
        rgb = _to_rgb(image)
        if resolution and rgb.size != (resolution, resolution):
            rgb = ImageOps.fit(rgb, (resolution, resolution), Image.Resampling.BILINEAR)
        return np.asarray(rgb).transpose(2, 0, 1)
    except Exception as error:
        raise _damaged(where, error) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in SIXTEEN_BITS:
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))  # Pillow's own conversion may clip at 255
    elif image.mode in ("I", "F"):
        raise ValueError("it stores 32 bits a pixel, and only 8 and 16 are understood")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def mode(image: Image.Image) -> str:
    """What its pixels are, in Pillow's words, and whether some of an RGB image are transparent."""
    return f"{image.mode} with transparency" if image.mode == "RGB" and image.has_transparency_data else image.mode


def _damaged(where: str, error: Exception) -> InputError:
    why = "unknown format" if isinstance(error, UnidentifiedImageError) else reason(error)
    return InputError(f"{where} is no readable image ({why}); replace or remove it")

"""The bytes of one image file become 8-bit pixels.

EXIF orientation is honoured; palette, CMYK and other colour files become RGB, transparency is laid over white, 16-bit
grey keeps its upper 8 bits, an animation its first frame.
"""

import io
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec

from labkit.core import InputError
from labkit.core.wording import reason, to_set

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError, features
from torch import Tensor

MAX_PIXELS = 50_000_000  # one image of more pixels is a mistake or an attack (a "decompression bomb")

# Pillow would look at the content, not at the ending, and start Ghostscript for an "a.jpg" that holds PostScript.
AVIF, HEIF = features.check("avif"), find_spec("pillow_heif") is not None
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP", *["AVIF"] * AVIF, *["HEIF"] * HEIF)
if HEIF:
    import pillow_heif

    pillow_heif.register_heif_opener()

SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
GREY = ("1", "L", *SIXTEEN_BITS)
_EXIF_ORIENTATION = 0x0112
_TIFF_TAGS = {*range(254, 260), 262, 266, *range(273, 280), 284, 292, 293, *range(317, 326), 338, 339, *range(347, 533)}
_TURNS = dict(zip(range(2, 9), (0, 3, 1, 5, 4, 6, 2), strict=True))  # to `Image.Transpose`


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
        kinds = {b"\x89PNG": _png, b"\xff\xd8": _jpeg, b"II*\0": _tiff, b"MM\0*": _tiff}
        parts = next((kinds[start] for start in kinds if raw.startswith(start)), lambda raw: [raw])
        image = Image.open(io.BytesIO(b"".join(parts(raw))), formats=_FORMATS)
        w, h = image.size
        if w * h <= MAX_PIXELS:
            return image, ((w, h) if _orientation(image) >= 5 else (h, w))
        size = f"{w}×{h}"
    except Image.DecompressionBombError:
        size = "far too many"
    except Exception as error:  # Pillow raises a dozen types for damaged files
        raise _damaged(where, error) from error
    raise InputError(f"{where} has {size} pixels, the limit is {MAX_PIXELS:,}; shrink or remove it")


def upright(where: str, image: Image.Image, resolution: int | None) -> np.ndarray:
    """Upright pixels (3, H, W) uint8; with `resolution`, the largest centred square, resized with antialias."""
    try:
        image.load()
        turn = _orientation(image)  # `exif_transpose` would write all metadata anew, and fail where they are odd
        rgb = _to_rgb(image.transpose(_TURNS[turn]) if turn > 1 else image)
        if resolution and rgb.size != (resolution, resolution):
            rgb = ImageOps.fit(rgb, (resolution, resolution), Image.Resampling.BILINEAR)
        return np.asarray(rgb).transpose(2, 0, 1)
    except Exception as error:
        raise _damaged(where, error) from error


def _orientation(image: Image.Image) -> int:
    """How the pixels lie, 1 to 8; 1 where the metadata say nothing, or Pillow turns the image itself."""
    with suppress(Exception):  # Pillow raises a dozen types for odd metadata
        found = image.getexif().get(_EXIF_ORIENTATION, 1)
        return found if found in _TURNS and image.format != "TIFF" else 1
    return 1


def _png(raw: bytes) -> list[bytes]:
    """The chunks that pixels are made of, after what says how they lie: others may be broken, or beyond any bound."""
    at, pixels, about = 33, [], []
    while at < len(raw):
        end, what = at + 12 + int.from_bytes(raw[at : at + 4], "big"), raw[at + 4 : at + 8]
        if what in (b"PLTE", b"tRNS", b"IDAT", b"IEND") or end > len(raw):
            pixels.append(raw[at:end])
        elif what == b"eXIf" or raw.startswith((b"XML:com.adobe.xmp\0\0", b"Raw profile type exif\0"), at + 8):
            about.append(raw[at:end])
        at = end
    return [raw[:33], *about, *pixels]


def _jpeg(raw: bytes) -> Iterator[bytes]:
    """The segments that pixels are made of: of the applications', those of colours (0, 14) and orientation (1)."""
    yield raw[:2]
    at = 2
    while raw[at : at + 1] == b"\xff" and raw[at + 1 : at + 2] not in (b"\xff", b"\xda", b""):  # up to the pixels
        marker, size = raw[at + 1], int.from_bytes(raw[at + 2 : at + 4], "big")
        if {0xE0: size > 15, 0xE1: True, 0xEE: size > 13}.get(marker, marker < 0xE0 or 0xEF < marker < 0xFE):
            yield raw[at : at + 2 + size]
        at += 2 + size
    yield raw[at:]


def _tiff(raw: bytes) -> list[bytes]:
    """The tags that pixels are made of, in the first directory, and the rest of the file where it was."""
    order = "little" if raw.startswith(b"II") else "big"
    at = int.from_bytes(raw[4:8], order)
    end = at + 2 + 12 * int.from_bytes(raw[at : at + 2], order)
    tags = (raw[i : i + 12] for i in range(at + 2, end, 12))
    kept = [tag for tag in tags if int.from_bytes(tag[:2], order) in _TIFF_TAGS]
    gap = bytes(end - at - 2 - 12 * len(kept))
    return [raw[:at], len(kept).to_bytes(2, order), *kept, raw[end : end + 4], gap, raw[end + 4 :]]


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

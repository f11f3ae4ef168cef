"""Images in [0, 1] become pictures for the eye: of Pillow's, data URIs, and many of them on one board."""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

_EXACT = 48  # pixels a side up to which a picture keeps every pixel


def mosaic(x: Tensor, across: int = 0) -> Tensor:
    """Images (n, C, H, W) with a white pixel around each: (C, rows, columns); `across` to a row, or wider than high."""
    n, C, H, W = x.shape
    across = across or int(np.ceil(np.sqrt(1.6 * n)))
    board = torch.ones(C, -(-n // across) * (H + 1) + 1, across * (W + 1) + 1)
    for k, image in enumerate(x):
        i, j = (k // across) * (H + 1) + 1, (k % across) * (W + 1) + 1
        board[:, i : i + H, j : j + W] = image.clamp(0, 1)
    return board


def uri(x: Tensor, side: int = 96) -> str:
    """An image (C, H, W) in a data URI, no larger than `side` pixels: PNG where pixels can be counted, else JPEG."""
    picture, kind = pillow(x), "png" if max(x.shape[-2:]) <= _EXACT else "jpeg"
    picture.thumbnail((side, side))
    stream = io.BytesIO()
    picture.save(stream, kind, quality=80, optimize=True)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def pillow(x: Tensor) -> Image.Image:
    """An image (C, H, W) in [0, 1] as one of Pillow's, of 8 bits a channel."""
    pixels = (x.detach().float().clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy()
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))

"""Pictures in folders and tar shards, to be read as streams."""

import io
import tarfile

import numpy as np
from PIL import Image


def picture(seed: int, size=(9, 8), kind="PNG", grey=False) -> bytes:
    pixels = np.random.default_rng(seed).integers(
        0, 256, (size[1], size[0]) if grey else (size[1], size[0], 3), np.uint8
    )
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()


def tree(folder, per_class=4):
    for split, first in (("train", 0), ("test", 100)):
        for k, name in enumerate(("ant", "bee")):
            (folder / split / name).mkdir(parents=True)
            for i in range(per_class):
                (folder / split / name / f"{i}.png").write_bytes(picture(first + 10 * k + i))
    return folder


def shard(path, samples, mode="w"):
    """A WebDataset shard: `samples` of (name, {ending: content})."""
    with tarfile.open(path, mode) as tar:
        for name, parts in samples:
            for ending, content in parts.items():
                about = tarfile.TarInfo(f"{name}.{ending}")
                about.size = len(content)
                tar.addfile(about, io.BytesIO(content))
    return path

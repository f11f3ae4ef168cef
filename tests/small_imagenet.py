"""ImageNet's official layout, small."""

from pathlib import Path

import torch
from PIL import Image


def write_imagenet(root: Path, synsets: list[str], train: int = 3) -> None:
    """A few images of ImageNet's layout once its archives are unpacked: meta.bin, train/<synset>, val/<synset>."""
    torch.save(({wnid: (f"word{i}", "other") for i, wnid in enumerate(synsets)}, []), root / "meta.bin")
    for part, count in (("train", train), ("val", 1)):
        for k, wnid in enumerate(synsets):
            (root / part / wnid).mkdir(parents=True)
            for i in range(count):
                size = (40 + 10 * i, 50)
                colour = (5 * k, 80 * i % 256, 90)
                Image.new("RGB", size, colour).save(root / part / wnid / f"{wnid}_{i}.JPEG")

"""The photographs that scikit-image, scikit-learn and sporco carry, and where the crops of `photos` are cut."""

from importlib.util import find_spec
from pathlib import Path

from labkit.core import InputError
from labkit.core.wording import reason

import torch
from PIL import Image

# Package, file and size of each photograph, and whether its halves lie side by side. Licences: data/README.md.
PHOTOS = {
    "astronaut": ("skimage", "data/astronaut.png", (512, 512), True),
    "cat": ("skimage", "data/chelsea.png", (451, 300), True),
    "coffee": ("skimage", "data/coffee.png", (600, 400), True),
    "rocket": ("skimage", "data/rocket.jpg", (640, 427), True),
    "temple": ("sklearn", "datasets/images/china.jpg", (640, 427), True),
    "flower": ("sklearn", "datasets/images/flower.jpg", (640, 427), True),
    "parrots": ("sporco", "data/kodim23.png", (768, 512), False),
    "butterfly": ("sporco", "data/monarch.png", (768, 512), False),
    "sails": ("sporco", "data/sail.png", (768, 512), True),
    "tulips": ("sporco", "data/tulips.png", (768, 512), True),
}


def boxes(split: str, resolution: int, seed: int = 0) -> list[tuple[str, int, tuple[int, int, int, int]]]:
    """Where each crop of `photos` is cut: (photograph, class, (left, top, right, bottom)) in pixels of the file.

    Each photograph is cut in two halves, side by side or one above the other; train crops lie in the first half, test
    crops in the second. A crop is a square window of one to two times `resolution`, resized to it with antialias. In a
    half whose shorter side is below 4/3 of `resolution`, windows take 75 to 100 % of that side, enlarged if need be.
    """
    count = {"train": 4000, "test": 1000}[split]
    u = torch.rand(count, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2 * seed + (split == "test")))
    cut = []
    for i, (size, across, down) in enumerate(u.tolist()):
        k = i % len(PHOTOS)
        name, (_, _, (w, h), side_by_side) = list(PHOTOS.items())[k]
        left = w // 2 if side_by_side and split == "test" else 0
        top = h // 2 if not side_by_side and split == "test" else 0
        w, h = (w // 2, h) if side_by_side else (w, h // 2)
        most = min(2 * resolution, w, h)
        least = min(resolution, 3 * min(w, h) // 4)
        side = least + int(size * (most - least + 1))
        left, top = left + int(across * (w - side + 1)), top + int(down * (h - side + 1))
        cut.append((name, k, (left, top, left + side, top + side)))
    return cut


def path(name: str) -> Path:
    """Where the installed package keeps a photograph."""
    package, file, *_ = PHOTOS[name]
    spec = find_spec(package)  # finds the package without importing it
    return Path(spec.origin).parent / file if spec and spec.origin else Path(package, file)


def read(name: str) -> Image.Image:
    """A photograph in colour. Raises InputError when it is missing or not the one whose halves are known here."""
    try:
        with Image.open(path(name)) as image:
            if image.size != PHOTOS[name][2]:
                raise OSError(f"another photograph lies there, of {image.size} pixels")
            return image.convert("RGB")
    except OSError as error:
        kit = PHOTOS[name][0]
        raise InputError(f"the photograph {name} of {kit} cannot be read ({reason(error)}); reinstall {kit}") from error

"""Data sets by name (`recipes.DATASETS`, and `folder:PATH`), all as `Images`."""

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Iterator, Sequence
from functools import partial
from http.client import HTTPException
from math import isqrt
from pathlib import Path
from typing import NamedTuple

from labkit.core import InputError, hardware
from labkit.core.recipes import DATASETS, DataRecipe, Named, folder
from labkit.core.wording import printable, reason, to_set, typed, warn
from labkit.datasets import decoding, image_files, images, layouts, photos
from labkit.datasets.images import Images, Lazy, settle

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

SPLITS = ("train", "test")
MOST_BYTES = 16 * 2**30  # of a set that is in memory whatever its size, in 8 bits


class Ask(NamedTuple):
    """What the function of a data set is asked for: the arguments of `load`; `root` is the folder of downloads."""

    split: str
    n: int | None
    resolution: int | None
    seed: int
    root: Path


def load(
    name: str, split: str, *, n: int | None = None, resolution: int | None = None, seed: int = 0,
    data_root: str | Path | None = None,
) -> Images:  # fmt: skip
    """Images of one split of a data set, in a seeded order in which every beginning is as class-balanced as can be.

    name        one of `names()`
    split       "train" or "test"; the two never share an image, whatever the seeds
    n           how many, the first of all; None, or more than there are, means all. Only chosen files are decoded
    resolution  side of the largest centred square, in pixels; None: as stored (`photos`: 64, of ImageNet: 224)
    data_root   where torchvision's data sets lie or are downloaded to; None means data/raw beside the package

    Raises InputError for an unknown name, for data that are missing, damaged or of mixed size, and for folders whose
    halves do not fit together or share images (`agree`): of either, n are compared.
    """
    recipe = DataRecipe(name, resolution, n, n, seed)
    found = load_recipe(recipe, split, data_root=data_root)
    if folder(name):
        agree(name, *(found if half == split else load_recipe(recipe, half, data_root=data_root) for half in SPLITS))
    return found


def load_recipe(recipe: DataRecipe, split: str, *, data_root: str | Path | None = None) -> Images:
    """The images that a recipe names, not compared with the other split's; `data_root` and errors as for `load`."""
    if split not in SPLITS:
        raise InputError(f'split must be "train" or "test", got {split!r}')
    n, resolution = recipe.train if split == "train" else recipe.test, recipe.resolution
    if resolution and resolution**2 > decoding.MAX_PIXELS:
        raise InputError(f"resolution must be at most {isqrt(decoding.MAX_PIXELS):,} pixels, got {resolution:,}")
    data = os.environ.get("LABKIT_DATA")
    root = data_root or (Path(data) / "raw" if data else hardware.own("raw"))
    ask = Ask(split, n, resolution, recipe.seed, typed(root))
    if where := folder(recipe.name):
        source = image_files.Source(where.path)
        classes, train, test = layouts.split(source, where.layout)
        return from_files(ask, source, train if split == "train" else test, classes)
    return _known(recipe.name).load()(ask)


def agree(name: str, train: Images, test: Images) -> None:
    """Raises InputError unless the halves of a folder are of one size and colour and, if need be, share no image.

    Images are the same if their pixels are or, in halves too large for memory, their files; those of a single colour
    may be in both. Of copies in halves that were drawn here, a warning: nobody has chosen them.
    """
    if not (where := folder(name)):
        return
    kinds = [f"{w}×{h} pixels, {'all grey' if c == 1 else 'RGB'}" for _, c, h, w in (train.x.shape, test.x.shape)]
    if kinds[0] != kinds[1]:
        mend = "choose a size with --resolution (in Python, resolution=), and make all images grey, or none"
        raise InputError(f"{where.label}: images of mixed kinds: train is {kinds[0]}, test {kinds[1]}; {mend}")
    large = max(train.x.shape.numel(), test.x.shape.numel()) > images.BYTES_LIMIT
    known = {} if where.duplicates else {key: i for i, key in enumerate(_keys(train, large)) if key}
    twins = [(known[key], k) for k, key in enumerate(_keys(test, large) if known else ()) if key in known]
    if twins:
        which = " is ".join(half.files[i][0] for half, i in zip((train, test), twins[0], strict=True))
        also = f"{len(twins):,} of {len(test):,} test images are training images as well ({printable(which)})"
        folders = ({os.path.dirname(name) for name, _ in half.files} for half in (train, test))
        if set.intersection(*folders):
            warn(f"{where.label}: {also}, as they were drawn; remove the copies")
        else:
            how = "--allow-duplicates (folder:PATH?allow-duplicates in a data set's name)"
            raise InputError(f"{where.label}: {also}; remove the copies, or use them all the same with {how}")


def _keys(half: Images, large: bool) -> Iterator[object]:
    if large:
        yield from (mark for _, mark in half.files)
        return
    for x, _ in half.batches(500):
        for image in (x * 255).round().byte().flatten(1).numpy():
            yield hashlib.sha256(image).digest() if image.min() < image.max() else None


def names() -> tuple[str, ...]:
    """What `load` knows, for menus and error messages."""
    return (*DATASETS, "folder:PATH")


def note(name: str) -> str:
    """One sentence on where the pixels come from, for reports. Raises InputError like `load`."""
    if not (where := folder(name)):
        return _known(name).label
    _, *halves = layouts.split(image_files.Source(where.path), where.layout)
    used = [file.lower() for half in halves for file in half.names]
    lossy = sum(file.endswith((".jpg", ".jpeg", ".jfif", ".jpe")) for file in used)
    many = "all" if lossy == len(used) else f"{lossy:,}"
    jpeg = f", {many} of them JPEG, so pixels come from (lossy) JPEG files" if lossy else ""
    copies = " Test images may be training images as well." if where.duplicates else ""
    return f"{Path(where.path).resolve().name}: {len(used):,} image files{jpeg}.{copies}"


def _known(name: str) -> Named:
    if name in DATASETS:
        return DATASETS[name]
    hint = f"; did you mean folder:{name}?" if name and typed(name).exists() else ""
    raise InputError(f"unknown data set {name!r}; the known ones are {', '.join(names())}{hint}")


def _choose(y: Tensor, ask: Ask) -> Tensor:
    """Positions of the chosen images: the first of each class, then the second of each, …, every round shuffled."""
    p = torch.randperm(len(y), generator=torch.Generator().manual_seed(ask.seed))
    by_class = torch.argsort(y[p], stable=True)
    counts = torch.bincount(y)
    rank = torch.empty_like(p)
    rank[by_class] = torch.arange(len(y)) - (counts.cumsum(0) - counts).repeat_interleave(counts)
    return p[torch.argsort(rank, stable=True)][: ask.n]


def _digest(classes: Sequence[str], y: Tensor, shape: Sequence[int], content: np.ndarray) -> str:
    head = json.dumps([list(classes), list(shape), content.dtype.str]).encode()
    sha = hashlib.sha256(len(head).to_bytes(8, "little") + head + y.numpy().tobytes())
    sha.update(np.ascontiguousarray(content))
    return sha.hexdigest()


def _fits(n: int, channels: int, side: int) -> None:
    """Raises InputError when so many images of a set that is made in memory would take more than any should."""
    if n * channels * side * side > MOST_BYTES:
        size = n * channels * side * side / 2**30
        raise InputError(f"{n:,} images of {side:,}×{side:,} take {size:,.0f} GB; choose {to_set('resolution', 64)}")


def from_pixels(ask: Ask, pixels: Tensor, y: Tensor, classes: Sequence[str]) -> Images:
    """The images asked for, of all pixels (N, C, H, W) in 8 bits and their classes y (N,)."""
    at = _choose(y, ask)
    pixels = pixels[at]
    if ask.resolution and pixels.shape[-2:] != (ask.resolution, ask.resolution):
        _fits(*pixels.shape[:2], ask.resolution)
        at_once = max(1, min(1000, 2**28 // (pixels.shape[1] * ask.resolution**2)))
        resize = partial(functional.interpolate, size=ask.resolution, mode="bilinear", antialias=True)
        pixels = torch.cat([resize(part.float()).round().clamp(0, 255).byte() for part in pixels.split(at_once)])
    return _in_memory(pixels, y[at], classes)


def _in_memory(pixels: Tensor, y: Tensor, classes: Sequence[str]) -> Images:
    return Images(settle(pixels), y, tuple(classes), _digest(classes, y, pixels.shape, pixels.numpy()))


def from_files(ask: Ask, source: image_files.Source, files: image_files.Part, classes: Sequence[str]) -> Images:
    """The images asked for, of all files of a source; lazily where they are too large for memory."""
    at = _choose(files.y, ask)
    chosen, y = [files.names[i] for i in at.tolist()], files.y[at]
    h, w = image_files.side(source, chosen[0], ask.resolution)
    scan = image_files.scan(source, chosen, ask.resolution, decode=len(chosen) * 3 * h * w <= images.BYTES_LIMIT)

    def pixels(at: Tensor) -> Tensor:
        return image_files.pixels(source, [chosen[i] for i in at.tolist()], scan.shape, ask.resolution)

    x = Lazy(scan.shape, pixels) if scan.pixels is None else settle(scan.pixels)
    digest = _digest(classes, y, scan.shape, np.array(scan.prints, dtype="<u8"))
    return Images(x, y, tuple(classes), digest, tuple(zip(chosen, scan.prints, strict=True)))


def _fashion(ask: Ask) -> Images:
    file = Path(os.environ.get("LABKIT_DATA") or hardware.shipped() / "data") / "fashion" / f"{ask.split}.npz"
    try:
        sums = dict(line.split()[::-1] for line in (file.parent / "SHA256SUMS").read_text("utf-8").splitlines())
        raw = file.read_bytes()
    except (OSError, ValueError) as error:
        raise InputError(f"{file.name} cannot be read ({reason(error)}); let LABKIT_DATA name its data/") from error
    if hashlib.sha256(raw).hexdigest() != sums.get(file.name):
        raise InputError(f"{file.name} is damaged (its SHA-256 differs); restore it, or run scripts/embed_fashion.py")
    with np.load(io.BytesIO(raw), allow_pickle=False) as stored:
        x, y = torch.from_numpy(stored["x"])[:, None], torch.from_numpy(stored["y"]).long()
    return from_pixels(ask, functional.pad(x, (2, 2, 2, 2)), y, _FASHION)


def _photos(ask: Ask) -> Images:
    size = ask.resolution or 64
    boxes = photos.boxes(ask.split, size, ask.seed)[: ask.n]
    _fits(len(boxes), 3, size)
    found = {name: photos.read(name) for name in dict.fromkeys(name for name, _, _ in boxes)}
    pixels = torch.empty((len(boxes), 3, size, size), dtype=torch.uint8)
    for out, (name, _, box) in zip(pixels.numpy(), boxes, strict=True):
        # Cropped first: resizing with `box=` would let the filter look over the edge, into the other split's half.
        out[:] = np.asarray(found[name].crop(box).resize((size, size), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    return _in_memory(pixels, torch.tensor([k for _, k, _ in boxes]), tuple(photos.PHOTOS))


def _cifar10(ask: Ask) -> Images:
    from labkit.core.torchvision_shim import torchvision

    try:
        found = torchvision.datasets.CIFAR10(ask.root, train=ask.split == "train", download=True)
    except (OSError, RuntimeError, HTTPException, EOFError, tarfile.TarError) as error:
        how = f"name the folder of cifar-10-batches-py, as with {to_set('data_root', 'DIR', 'LABKIT_DATA')}"
        why = f"cifar10 is not in {ask.root} and could not be downloaded ({reason(error)})"
        raise InputError(f"{why}; {how}, or use folder:PATH") from error
    pixels = torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous()
    return from_pixels(ask, pixels, torch.tensor(found.targets), found.classes)


def _imagenet(ask: Ask, coarse: bool = False) -> Images:
    from labkit.core.torchvision_shim import torchvision

    try:
        found = torchvision.datasets.ImageNet(ask.root, "train" if ask.split == "train" else "val")
    except (OSError, RuntimeError, ValueError, KeyError) as error:
        how = f"train/, val/ and meta.bin, as with {to_set('data_root', 'DIR', 'LABKIT_DATA')}, or use folder:PATH"
        why = f"ImageNet was not found in {ask.root} ({reason(error)})"
        raise InputError(f"{why}; name the folder of its archives, or of {how}") from error
    if coarse:
        classes = tuple(_IMAGENET10)
        index = {wnid: k for k, wnids in enumerate(_IMAGENET10.values()) for wnid in wnids.split()}
    else:
        classes = tuple(f"{words[0]} ({wnid})" for words, wnid in zip(found.classes, found.wnids, strict=True))
        index = {wnid: k for k, wnid in enumerate(found.wnids)}
    kept = [(path, index[found.wnids[k]]) for path, k in found.samples if found.wnids[k] in index]
    missing = set(range(len(classes))) - {k for _, k in kept}
    if missing:
        some = ", ".join(classes[k] for k in sorted(missing)[:5])
        raise InputError(f"{found.split_folder} holds no images of {some}; complete it, or use folder:PATH")
    files = image_files.Part([os.path.relpath(path, ask.root) for path, _ in kept], torch.tensor([k for _, k in kept]))
    source = image_files.Source(ask.root, files.names)
    return from_files(ask._replace(resolution=ask.resolution or 224), source, files, classes)


_imagenet10 = partial(_imagenet, coarse=True)
_FASHION = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")

# Ten coarse classes of four synsets each. The paper does not publish which classes its ImageNet-10 has.
_IMAGENET10 = {
    "bird": "n02058221 n02056570 n01855672 n02002724", "cat": "n02124075 n02123045 n02123394 n02125311",
    "dog": "n02106662 n02099712 n02099601 n02094433", "car": "n04285008 n03100240 n03670208 n02814533",
    "bus_train": "n04146614 n04487081 n02917067 n03393912", "insect": "n02165456 n02206856 n02226429 n02268443",
    "fruit": "n07749582 n07747607 n07753592 n07768694", "hoofed": "n02403003 n02410509 n02415577 n02423022",
    "bridge": "n04366367 n04311004 n04532670 n04486054", "landscape": "n09193705 n09428293 n09246464 n09332890",
}  # fmt: skip

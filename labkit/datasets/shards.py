"""Images as streams: shards that are read one image at a time, from folders, zips, tar shards and named data sets.

Nothing is held but names, and of tar shards not even those. These are laid out as WebDataset writes them: files that
share a name up to the first dot are one sample, as `n01/26.jpg` and `n01/26.cls`, which holds the class as a number.
"""

import glob
import hashlib
import itertools
import json
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from labkit.core import InputError
from labkit.core.recipes import Folder, folder
from labkit.core.wording import printable, reason
from labkit.datasets import decoding, image_files, layouts, loaders
from labkit.datasets.image_files import ENDINGS, clean, kind

import fsspec  # which torch needs as well
import torch
from torch import Tensor

SPLITS = ("train", "test", "all")
CHUNK = 250  # images: few enough that sixteen ranks share ten thousand, enough that writing them costs nothing

_LARGEST = {"picture": 256 * 2**20, "file": 2**20}  # bytes of one file in a tar shard
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_SAMPLE = re.compile(r"(.*/)?[^.]*", re.DOTALL)  # what the names of one sample's files share
_SHARDS = 1_000_000  # more than a range of numbers in an address may stand for


class Item(NamedTuple):
    """One image of a stream: its name, its class (−1 where nobody says), and its pixels (C, H, W) when asked for."""

    name: str
    y: int
    pixels: Callable[[], Tensor]


@dataclass(frozen=True)
class Stream:
    """Shards of images of one size.

    label     of the data set, without the way to it
    classes   names, () where nobody says
    shards    each, when called, opens and yields its images in order
    shape     (H, W) of every image
    images    how many there are; None where only reading tells
    identity  SHA-256 of the names of what there is, wherever it lies
    """

    label: str
    classes: tuple[str, ...]
    shards: Sequence[Callable[[], Iterator[Item]]]
    shape: tuple[int, int]
    images: int | None
    identity: str


def open_stream(
    dataset: str, split: str = "train", *, channels: int = 3, resolution: int | None = None, images: int | None = None,
    chunk: int = CHUNK, data_root: str | Path | None = None,
) -> Stream:  # fmt: skip
    """The images of a data set, in shards of `chunk` images or, of tar shards, as they are.

    dataset     `folder:PATH` of a folder or zip, `tar:ADDRESS` of tar shards, or another name of `loaders.names()`,
                whose images are loaded. An address is a path or, with fsspec, a URL; `{00..99}` counts, `*` matches
    split       "train", "test" or "all"; tar shards have none, their address says it all
    channels    1 or 3, as the dictionary has them; grey files become RGB
    resolution  side in pixels, of centred squares; None means as stored, when all must be of one size
    images      only so many, the first ones; not of tar shards

    Raises InputError when there is nothing to read, or what there is cannot be read.
    """
    if split not in SPLITS:
        raise InputError(f"there is no split {split!r}; choose from {', '.join(SPLITS)}")
    scheme, _, address = dataset.partition(":")
    if scheme == "tar" and address:
        if images is not None:
            raise InputError("tar shards are read as they are; name fewer of them instead of a number of images")
        return _tars(address, channels, resolution)
    if where := folder(dataset):
        return _files(where, split, channels, resolution, images, chunk)
    return _named(dataset, split, channels, resolution, images, chunk, data_root)


def _files(where: Folder, split: str, channels: int, resolution, images: int | None, chunk: int) -> Stream:
    source = image_files.Source(where.path)
    classes, *both = layouts.split(source, where.layout)
    parts = {"train": both[:1], "test": both[1:], "all": both}[split]
    names = [name for part in parts for name in part.names][:images]
    y = torch.cat([part.y for part in parts])[:images]
    shape = (channels, *image_files.side(source, names[0], resolution))

    def item(i: int) -> Item:
        name = names[i]
        return Item(name, int(y[i]), lambda: _float(source.where(name), source.read(name), shape, resolution))

    return Stream(source.path.name, classes, _cut(item, len(names), chunk), shape[1:], len(names), _identity(names))


def _cut(item: Callable[[int], Item], count: int, chunk: int) -> list[Callable[[], Iterator[Item]]]:
    """Shards of `chunk` of the items 0, …, count − 1."""
    return [partial(map, item, range(count)[first : first + chunk]) for first in range(0, count, chunk)]


def _named(dataset, split: str, channels: int, resolution, images: int | None, chunk: int, data_root) -> Stream:
    splits = ("train", "test") if split == "all" else (split,)
    sets = [loaders.load(dataset, one, resolution=resolution, data_root=data_root) for one in splits]
    if sets[0].x.shape[1] != channels:
        raise InputError(f"the images have {sets[0].x.shape[1]} channels and the dictionary {channels}; learn another")
    at = [(name, part, i) for name, part in zip(splits, sets, strict=True) for i in range(len(part))][:images]

    def item(k: int) -> Item:
        name, part, i = at[k]
        return Item(f"{name}/{i:08d}", int(part.y[i]), lambda: part.x[i])

    digest = _identity([part.digest for part in sets])
    return Stream(dataset, sets[0].classes, _cut(item, len(at), chunk), tuple(sets[0].x.shape[2:]), len(at), digest)


def _tars(address: str, channels: int, resolution: int | None) -> Stream:
    addresses = _counted(address)  # sorted as counted or matched
    if "*" in address:
        addresses = [one for each in addresses for one in sorted(_matches(each))]
    if not addresses:
        raise InputError(f"nothing matches {address}; check the address of the tar shards")
    first = next(itertools.chain.from_iterable(map(_samples, addresses)), None)
    if first is None:
        raise InputError(f"{address} holds no images ({', '.join(ENDINGS)}); give shards that do")
    side = (resolution, resolution) if resolution else decoding.opened(*first[2:])[1]
    shape = (channels, *side)

    def shard(address: str) -> Iterator[Item]:
        for name, y, *file in _samples(address):
            yield Item(name, y, lambda file=file: _float(*file, shape, resolution))

    identity = _identity([Path(one).name for one in addresses])
    return Stream(Path(address).name, (), [partial(shard, one) for one in addresses], side, None, identity)


def _samples(address: str) -> Iterator[tuple[str, int, str, bytes]]:
    """The images of one tar shard, in order: name, class, how an error names the file, and its bytes."""
    for _, files in itertools.groupby(_members(address), key=lambda file: _SAMPLE.match(file[0])[0]):
        files = list(files)
        labels = [raw for name, raw in files if name.lower().endswith(".cls")]
        for name, raw in files:
            if not name.lower().endswith(".cls"):
                where = printable(f"{address}/{name}")
                yield name, _label(where, labels[0]) if labels else -1, where, raw


def _members(address: str) -> Iterator[tuple[str, bytes]]:
    """Name and content of the images and labels in a tar file, which may be compressed; it is read once, in order."""
    aside: Counter[str] = Counter()
    try:
        with _opened(address) as file, tarfile.open(fileobj=file, mode="r|*") as tar:
            while (member := tar.next()) is not None:
                tar.members = []  # which would keep a record of every file
                name = clean(member.name)
                what = "" if member.isdir() else kind(name or member.name.replace("\\", "/"))
                why = "outside the shard" if not name else "link" if not member.isreg() else what
                if what in ("picture", "unread", "hidden") and why != "picture":
                    aside[f"picture ({why})"] += 1
                elif why == "picture" or (why == "file" and name.lower().endswith(".cls")):
                    if member.size > _LARGEST[what]:
                        where = printable(f"{address}/{member.name}")
                        raise InputError(f"{where} has {member.size:,} bytes; remove it from the shard")
                    yield name, tar.extractfile(member).read()
    except InputError:
        raise
    except Exception as error:  # tarfile and its packings raise a dozen types for damaged files
        raise InputError(f"{address} cannot be read as a tar file ({reason(error)}); make it anew") from error
    image_files.say(address, aside)


def _opened(address: str) -> AbstractContextManager[IO[bytes]]:
    try:
        return (fsspec.open if "://" in address else open)(address, "rb")
    except (ImportError, ValueError) as error:  # of a kind of address that fsspec does not know, or not without help
        raise InputError(f"{address} cannot be opened ({reason(error)}); check the address") from error


def _counted(address: str) -> list[str]:
    if not (found := _RANGE.search(address)):
        return [address]
    low, high = found.groups()
    if int(high) - int(low) >= _SHARDS:
        raise InputError(f"{address} counts more than {_SHARDS:,} shards; check its {{}}")
    numbers = (str(n).zfill(len(low)) for n in range(int(low), int(high) + 1))
    return [address[: found.start()] + n + after for n in numbers for after in _counted(address[found.end() :])]


def _matches(address: str) -> Iterable[str]:
    if "://" not in address:
        return glob.glob(address)
    files, path = fsspec.core.url_to_fs(address)
    return map(files.unstrip_protocol, files.glob(path))


def _label(where: str, raw: bytes) -> int:
    try:
        return int(raw)
    except ValueError:
        raise InputError(f"{where} has a class that is no number ({raw[:20]!r}); mend its .cls") from None


def _float(where: str, raw: bytes, shape: tuple[int, int, int], resolution: int | None) -> Tensor:
    return torch.from_numpy(decoding.decode_like(where, raw, shape, resolution).copy()).float().div_(255)


def _identity(names: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()

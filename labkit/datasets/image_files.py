"""Image files in a folder or zip: found, split into train and test, checked, and decoded (`decoding`) together.

A set in which every file read is grey (mode "L", "1" or 16-bit) keeps one channel; in any other set grey files become
RGB. Conversions are said in one warning with counts.
"""

import os
import re
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import labkit
from labkit.core import InputError
from labkit.core.wording import printable, reason, to_set, typed
from labkit.datasets import decoding

import torch
from torch import Tensor
from tqdm.auto import tqdm

ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
MAX_BYTES = 8 * decoding.MAX_PIXELS  # of one file: four channels of 16 bits, not compressed

_TEST_FOLDERS = ("test", "val")  # the first one present is used
_SPLIT_SEED = 0  # not the caller's: train drawn with one seed must never meet test drawn with another
_LAYOUT = "expected <class>/<image>, or train/<class>/<image> and test/<class>/<image>"
_MODE_NAMES = {"1": "black and white", "L": "grey", "P": "palette", "RGBA": "transparent RGB", "LA": "transparent grey"}
_MODE_NAMES |= {mode: "16-bit grey" for mode in decoding.SIXTEEN_BITS}
_BLOCK = 32  # images a thread takes at a time


class Source:
    """The image files of a folder or zip: `names` (POSIX, relative, sorted) and `read(name)` -> bytes.

    Raises InputError for a path that is missing, empty, without images, not a zip, or a zip with unsafe names.
    """

    def __init__(self, path: str | Path, names: Sequence[str] | None = None):
        """`names`: files that are known to lie below the folder `path`, taken as they are."""
        self.path, self._zip, self._pid = typed(path), None, 0
        if names is not None:
            self.names = list(names)
            return
        if self.path.is_dir():
            found = list(_walk(self.path))
        elif self.path.is_file():
            found = sorted({name for name in self._archive().namelist() if not name.endswith("/")})
            for name in found:
                parts = name.replace("\\", "/").split("/")
                if ".." in parts or not parts[0] or re.match(r"[A-Za-z]:", name):
                    raise InputError(f"{self.path} names a file outside itself ({name!r}); make the zip anew")
        else:
            raise InputError(f"{self.path} does not exist; name a folder or zip of images, as folder:PATH")
        if not found:
            raise InputError(f"{self.path} is empty; {_LAYOUT}")
        self.names = sorted(name for name in found if is_image(name))
        if not self.names:
            raise InputError(f"{self.path} holds no images ({', '.join(ENDINGS)}); {_LAYOUT}")

    def read(self, name: str) -> bytes:
        """The bytes of one file; a zip's checksum is verified. Raises InputError naming the file.

        What is larger than any image, or no plain file, is not read, and no more is unpacked than a file says it holds.
        """
        file, archive = self.path / name, self._archive() if self.path.is_file() else None
        try:
            size = archive.getinfo(name).file_size if archive else file.stat().st_size
            if size > MAX_BYTES:
                raise OSError(f"{size:,} bytes, the limit is {MAX_BYTES:,}")
            if not archive and not file.is_file():  # reading a pipe waits, a device may never end
                raise OSError("it is no plain file")
            if not archive:
                return file.read_bytes()
            if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # Others unpack without bound.
                raise OSError("a zip is read when it is stored or deflated; pack it so, with `zip -r`")
            with archive.open(name) as member:
                return member.read(size + 1)
        except Exception as error:  # zipfile raises a dozen types for damaged archives
            raise InputError(f"{self.where(name)} cannot be read ({reason(error)}); replace or remove it") from error

    def where(self, name: str) -> str:
        """How an error names one file."""
        return printable(f"{self.path / name}")

    def _archive(self) -> zipfile.ZipFile:
        # A forked process shares the file's read position with its parent, so each process opens its own.
        if self._zip is None or self._pid != os.getpid():
            try:
                self._zip, self._pid = zipfile.ZipFile(self.path), os.getpid()
            except Exception as error:  # as above
                why = reason(error)
                raise InputError(f"{self.path} is not a readable zip ({why}); give a folder or a zip") from error
        return self._zip


class Part(NamedTuple):
    """One split of a Source: file names, and the class index of each, (N,) int64."""

    names: list[str]
    y: Tensor


def is_image(name: str) -> bool:
    parts = name.split("/")
    hidden = any(part.startswith(".") for part in parts) or parts[0] == "__MACOSX"
    return not hidden and name.lower().endswith(ENDINGS)


def _walk(root: Path) -> Iterable[str]:
    seen = set()  # folders are often links to one another; a loop must end
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_unreadable):
        if (real := os.path.realpath(folder)) in seen:
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(folder, file).relative_to(root).as_posix() for file in files)


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}); mend its permissions")


def split(source: Source) -> tuple[tuple[str, ...], Part, Part]:
    """Class names (sorted), train and test files of an ImageFolder tree, which may lie in one top folder.

    Without test/ (or val/), a fifth of each class is held out, always the same fifth; where some class has a single
    image, a fifth of all images, with a warning that classes differ between the two.

    Raises InputError when no image lies in a class folder, or a class is present in train only or in test only.
    """
    paths = [name.split("/") for name in source.names]
    if len({path[0] for path in paths}) == 1 and min(map(len, paths)) > 2 and not _is_split(paths[0][0]):
        paths = [path[1:] for path in paths]
    tree: dict[str, list[tuple[str, str]]] = {}
    for name, path in zip(source.names, paths, strict=True):
        folder = path.pop(0).lower() if len(path) > 2 and _is_split(path[0]) else ""
        if len(path) > 1:
            tree.setdefault(folder, []).append((path[0], name))
    test = next((tree[folder] for folder in _TEST_FOLDERS if folder in tree), None)
    if test is not None and "train" not in tree:
        raise InputError(f"{source.path} has a folder of test images but no train/; {_LAYOUT}")
    train = tree.get("train") or tree.get("")
    if not train:
        raise InputError(f"{source.path} has images, but none in a class folder; {_LAYOUT}")
    classes = {c for c, _ in train}
    if test is None:
        train, test = _hold_out(source, train)
    else:
        here = {c for c, _ in test}
        for only, which, rest in ((classes - here, "train", "test"), (here - classes, "test", "train")):
            if only:
                where = f"present in {which} only; remove it, or add to {rest}"
                raise InputError(f"{source.path}: class {_some(only)} {where}")
    index = {c: k for k, c in enumerate(sorted(classes))}
    return tuple(index), *(_part(files, index) for files in (train, test))


def _is_split(folder: str) -> bool:
    return folder.lower() in ("train", *_TEST_FOLDERS)


def _some(names: Iterable[str], most: int = 5) -> str:
    names = sorted(names)
    return printable(", ".join(names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def _part(files: Iterable[tuple[str, str]], index: dict[str, int]) -> Part:
    files = sorted(files)
    return Part([name for _, name in files], torch.tensor([index[c] for c, _ in files], dtype=torch.int64))


def _hold_out(source: Source, files: list[tuple[str, str]]) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    if len(files) < 2:
        raise InputError(f"{source.path} holds one image; add another, to have one to train and one to test on")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(_SPLIT_SEED)).tolist()
    shuffled, groups = [*map(sorted(files).__getitem__, order)], {}
    for file in shuffled:
        groups.setdefault(file[0], []).append(file)
    if single := sum(len(group) == 1 for group in groups.values()):
        so = "so train and test hold different classes; good for looking at pictures; add more to train on"
        warnings.warn(f"classes with a single image: {single} of {len(groups)} in {source.path}, {so}", stacklevel=5)
        groups = {"": shuffled}
    held = {file for group in groups.values() for file in group[: max(1, round(len(group) / 5))]}
    return set(files) - held, held


class Scan(NamedTuple):
    """What reading every file once has shown.

    shape   (N, C, H, W)
    prints  (CRC-32, length) of each file: together with order and labels they identify the content
    pixels  (N, C, H, W) uint8, or None when only headers were read
    """

    shape: tuple[int, int, int, int]
    prints: list[tuple[int, int]]
    pixels: Tensor | None


def side(source: Source, name: str, resolution: int | None) -> tuple[int, int]:
    """Height and width that the named file will have, from its header alone."""
    return (resolution, resolution) if resolution else decoding.opened(source.where(name), source.read(name))[1]


def scan(source: Source, names: Sequence[str], resolution: int | None, *, decode: bool) -> Scan:
    """Read every named file once: its checksum and header and, with `decode`, its pixels.

    Raises InputError naming the file that is damaged, too large or, without `resolution`, not of the first one's size.
    """
    h, w = side(source, names[0], resolution)
    decoded = torch.empty((len(names), 3, h, w), dtype=torch.uint8) if decode else None

    def look(i: int) -> tuple[tuple[int, int], str]:
        raw, where = source.read(names[i]), source.where(names[i])
        image, size = decoding.opened(where, raw)
        if not resolution and size != (h, w):
            sizes = f"{source.where(names[0])} is {w}×{h}, {where} is {size[1]}×{size[0]}"
            raise InputError(f"images of mixed size: {sizes}; choose one size, as with {to_set('resolution', 64)}")
        mode = decoding.mode(image)
        if decoded is not None:
            decoded.numpy()[i] = decoding.upright(where, image, resolution)
        return (zlib.crc32(raw), len(raw)), mode

    prints, modes = zip(*_each(look, len(names), "decoding images" if decode else "checking images"), strict=True)
    grey = all(mode in decoding.GREY for mode in modes)
    converted = {mode: count for mode, count in sorted(Counter(modes).items()) if mode != ("L" if grey else "RGB")}
    if converted:
        what = ", ".join(f"{count:,} {_MODE_NAMES.get(mode, mode)}" for mode, count in converted.items())
        becomes = f"{'8-bit grey' if grey else 'RGB'}, of {len(names):,} in {source.path}"
        warnings.warn(f"images converted: {what} to {becomes}", stacklevel=5)
    if grey and decoded is not None:
        decoded = decoded[:, :1].contiguous()
    return Scan((len(names), 1 if grey else 3, h, w), list(prints), decoded)


def pixels(source: Source, names: Sequence[str], shape: Sequence[int], resolution: int | None) -> Tensor:
    """Decode the named files again, (n, C, H, W) uint8, with C, H and W of `shape` as `scan` found them."""
    out = torch.empty((len(names), *shape[1:]), dtype=torch.uint8)

    def fill(i: int) -> None:
        out.numpy()[i] = decoding.decode_like(source.where(names[i]), source.read(names[i]), shape[1:], resolution)

    _each(fill, len(names))
    return out


def _each(function: Callable[[int], Any], count: int, what: str | None = None) -> list[Any]:
    """[function(0), …, function(count − 1)], by threads: Pillow decodes outside Python's global lock.

    A bar named `what` appears after two seconds.
    """
    blocks = [range(start, min(start + _BLOCK, count)) for start in range(0, count, _BLOCK)]
    results: list[Any] = []
    bar = tqdm(total=count, desc=what, unit="image", delay=2, disable=not what, leave=False)
    with ThreadPoolExecutor(min(8, labkit.THREADS.number)) as pool, bar:
        for some in pool.map(lambda block: [function(i) for i in block], blocks):  # cancels the others on an error
            results += some
            bar.update(len(some))
    return results

"""Image files in a folder or zip: found, checked, and decoded (`decoding`) together; `layouts` splits them.

A set in which every file read is grey (mode "L", "1" or 16-bit) keeps one channel; in any other set grey files become
RGB. Conversions are said in one warning with counts.
"""

import os
import posixpath
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import labkit
from labkit.core import InputError
from labkit.core.wording import printable, reason, some, to_set, typed, warn
from labkit.datasets import decoding

import torch
from torch import Tensor
from tqdm.auto import tqdm

ENDINGS = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".jfif", ".jpe", ".pbm", ".pnm",
    *[".avif"] * decoding.AVIF, *[".heic", ".heif"] * decoding.HEIF,
)  # fmt: skip
MAX_BYTES = 8 * decoding.MAX_PIXELS  # of one file: four channels of 16 bits, not compressed

LAYOUT = "expected <class>/<image>, or train/<class>/<image> and test/<class>/<image>"
# Pictures that are not read must not vanish without a word; and what helps.
_UNREAD = ".jxl .jp2 .j2k .svg .psd .xcf .tga .ico .exr .hdr .dcm .eps .raw .dng .cr2 .cr3 .nef .arw .orf .rw2 .raf"
_UNREAD = dict.fromkeys(_UNREAD.split(), "convert to PNG") | dict.fromkeys((".heic", ".heif"), "install pillow-heif")
_UNREAD |= {".avif": "install Pillow 11.3 or newer"}
_VISITS = 100  # of one folder, by links: of folders full of links to each other there is no end
_ASSET = "assets/plotly.min.js"  # of every report
_MODE_NAMES = {"1": "black and white", "L": "grey", "P": "palette", "RGBA": "transparent RGB", "LA": "transparent grey"}
_MODE_NAMES |= {mode: "16-bit grey" for mode in decoding.SIXTEEN_BITS}
_BLOCK = 32  # images a thread takes at a time


class Source:
    """The image files of a folder or zip: `names` (`clean`, relative, sorted) and `read(name)` -> bytes.

    Beside them, `unread` are the names of pictures of other endings, and `aside` counts by words what is no data.

    Raises InputError for a path that is missing, empty, without images, not a zip, or a zip with unsafe names.
    """

    def __init__(self, path: str | Path, names: Sequence[str] | None = None):
        """`names`: files that are known to lie below the folder `path`, taken as they are."""
        self.path, self._zip, self._pid = typed(path), None, 0
        self.names, self.unread, self.aside = list(names or ()), [], Counter()
        self._there: dict[str, Any] = {}  # each name as the folder or zip has it
        if names is not None:
            return
        if self.path.is_dir():
            found = [(clean(name) or name, name) for name in _walk(self.path)]
        elif self.path.is_file():
            found = [(clean(i.filename), i) for i in self._archive().infolist() if i.filename[-1:] not in "/\\"]
            for name, info in found:
                if not name or re.match(r"[A-Za-z]:", name):
                    raise InputError(f"{self.path} names a file outside itself ({info.filename!r}); make the zip anew")
        else:
            raise InputError(f"{self.path} does not exist; name a folder or zip of images, as folder:PATH")
        if not found:
            raise InputError(f"{self.path} is empty; {LAYOUT}")
        ours, others = _written({name for name, _ in found}), []
        for name, there in found:
            what, again, written = kind(name), name in self._there, name.startswith(ours)
            self._there[name] = there  # of two files of one name the later, as `unzip` would
            if what in ("picture", "unread", "hidden") and (again or written or what == "hidden"):
                where = "of a report or table of the lab" if written else "in a hidden folder"
                self.aside[f"picture {'whose name another one has' if again else where}"] += 1
            elif what and not written:
                {"picture": self.names, "unread": self.unread, "file": others}[what].append(name)
        self.names.sort()
        if others:
            where = some(posixpath.dirname(name) or "its own folder" for name in others)
            self.aside[f"file of another kind ({some(map(ending, others))}; in {where})"] = len(others)
        if not self.names:
            unread = f"; not {some(map(ending, self.unread))}" if self.unread else ""
            raise InputError(f"{self.path} holds no images ({', '.join(ENDINGS)}{unread}); {LAYOUT}")

    def read(self, name: str) -> bytes:
        """The bytes of one file; a zip's checksum is verified. Raises InputError naming the file.

        What is larger than any image, or no plain file, is not read, and no more is unpacked than a file says it holds.
        """
        there, archive = self._there.get(name, name), self._archive() if self.path.is_file() else None
        file = None if archive else self.path / there
        try:
            size = there.file_size if archive else file.stat().st_size
            if size > MAX_BYTES:
                raise OSError(f"{size:,} bytes, the limit is {MAX_BYTES:,}")
            if not archive and not file.is_file():  # reading a pipe waits, a device may never end
                raise OSError("it is no plain file")
            if not archive:
                return file.read_bytes()
            if there.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                # Others unpack without bound.
                raise OSError("a zip is read when it is stored or deflated; pack it so, with `zip -r`")
            with archive.open(there) as member:
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


def clean(name: str) -> str:
    """A file's name with a slash between its parts and no `.` or `..`; "" where it leads out of folder or archive."""
    name = posixpath.normpath(name.replace("\\", "/"))
    return "" if name.startswith(("/", "../")) or name == ".." else name


def kind(name: str) -> str:
    """Of a clean name: a "picture", one "unread" or in a "hidden" folder, another "file", or "", what systems leave."""
    *folders, last = parts = name.split("/")
    if last.startswith("._") or "__MACOSX" in folders or "@eaDir" in folders:
        return ""
    what = "picture" if last.lower().endswith(ENDINGS) else "unread" if last.lower().endswith((*_UNREAD,)) else ""
    if any(part.startswith(".") for part in parts):
        return "hidden" if what else ""
    return what or ("" if last.lower() in ("thumbs.db", "ehthumbs.db", "desktop.ini") else "file")


def ending(name: str) -> str:
    """The ending of a name that is not read and, of a picture, what helps."""
    found = posixpath.splitext(name)[1].lower() or "none"
    return f"{found} ({_UNREAD[found]})" if found in _UNREAD else found


def _written(names: Collection[str]) -> tuple[str, ...]:
    """Folders, each with its slash, that reports and tables of the lab were written to."""
    tables = {name.rpartition("table_")[0] for name in names if re.search(r"/table_\w+_rows\.csv$", name)}
    for name in names:
        if name.endswith(_ASSET) and (top := name.removesuffix(_ASSET)) + "manifest.json" in names:
            # Written into the set's own folder, a report has a folder beside each of its pages.
            tables |= {top} if top else {page[:-5] + "/" for page in names if page.endswith(".html")}
    return tuple(tables)


def _walk(root: Path) -> Iterable[str]:
    visits = Counter()
    for folder, folders, files in os.walk(root, followlinks=True, onerror=_unreadable):
        inside, real = Path(folder).relative_to(root), os.path.realpath(folder)
        visits[real] += 1
        if visits[real] > _VISITS:
            raise InputError(f"{folder} is reached by more than {_VISITS} links; remove some")
        if real in (os.path.realpath(root / above) for above in inside.parents):  # folders are often links to others
            folders.clear()
        else:
            yield from ((inside / file).as_posix() for file in files)


def _unreadable(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read ({error.strerror}); mend its permissions")


def say(where: object, aside: Counter[str]) -> None:
    """Warns of what is not used of a folder or archive: how many there are of what."""
    told = [f"{n:,} {what.replace(' ', 's ', 1) if n > 1 else what}" for what, n in sorted(aside.items())]
    if told:
        warn(f"not used of {where}: {'; '.join(told)}")


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
        warn(f"images converted: {what} to {becomes}")
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

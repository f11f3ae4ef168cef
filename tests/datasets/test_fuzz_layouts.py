"""Whatever a tree, zip or tar of pictures looks like: each picture is used, or counted among those that are not.

LABKIT_FUZZ says how many trees each test makes, as in test_fuzz.py.
"""

import io
import random
import re
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

from labkit.core import wording
from labkit.core.errors import InputError
from labkit.datasets import image_files, layouts, loaders, shards

import numpy as np
import pytest
from hostile import cases
from PIL import Image

pytestmark = pytest.mark.usefixtures("one_thread")

READ = (".png", ".PNG", ".jpg", ".JPEG", ".jfif", ".bmp", ".gif", ".tif", ".webp", ".ppm", ".pgm", ".jpe")
OTHER_PICTURES = (".heic", ".HEIF", ".jxl", ".svg", ".psd", ".dng")
NO_PICTURES = (".txt", ".csv", "", ".json", ".png.md5", ".npy")
SYSTEM = ("__MACOSX/{0}/._0.png", "{0}/._1.png", "{0}/Thumbs.db", ".DS_Store", "{0}/desktop.ini", "@eaDir/{0}/0.png")
CLASSES = ("cat", "dog", "caf\u00e9", "cafe\u0301", "a b", "日本", "$x^2$", "data.v1", "7up")
WORDS = (
    "train", "Train", "training", "test", "testing", "TEST", "val", "valid", "validation", "dev", "Cat", "images",
    "pets", ".hidden", "unlabelled", *CLASSES,
)  # fmt: skip


def picture(mode: str, ending: str, colour: int) -> bytes:
    raw = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(colour).integers(0, 256, (3, 4, 3), dtype=np.uint8))
    kind = {"jpg": "JPEG", "jpeg": "JPEG", "jfif": "JPEG", "jpe": "JPEG", "tif": "TIFF", "pgm": "PPM"}
    kind = kind.get(ending[1:].lower(), ending[1:].upper())
    image = Image.fromarray(np.asarray(image)[..., 0].astype(np.uint16) << 8) if mode == "I;16" else image.convert(mode)
    image.save(raw, kind)
    return raw.getvalue()


MODES = {".png": ("RGB", "L", "RGBA", "P", "1", "LA", "I;16"), ".tif": ("RGB", "CMYK", "L", "I;16")}
PICTURES = {e: [picture(m, e, i) for i, m in enumerate(MODES.get(e.lower(), ("RGB", "L")))] for e in READ}


def tree(draw: random.Random) -> dict[str, bytes]:
    """Files by name: a set of one layout or another, and what people and systems have left in it."""
    files: dict[str, bytes] = {}
    wrap = [draw.choice(WORDS) for _ in range(draw.choice((0, 0, 0, 1, 2)))]

    def put(*folders: str) -> None:
        odd = draw.random()
        ending = draw.choice(READ if odd < 0.85 else OTHER_PICTURES if odd < 0.9 else NO_PICTURES)
        name = "/".join((*wrap, *folders, f"{draw.randrange(100)}{ending}"))
        files[name] = draw.choice(PICTURES[ending]) if ending in READ else b"content"

    halves = draw.choice(
        ([], [], ["train", "test"], ["Training", "valid"], ["train", "val", "test"], draw.choices(WORDS, k=2))
    )
    classes = draw.sample(WORDS if draw.random() < 0.2 else CLASSES, draw.randint(1, 3))
    for half in halves or [""]:
        for name in classes:
            for _ in range(draw.randint(1, 4)):
                put(*filter(None, (half, name)))
    for _ in range(draw.choice((0, 0, 0, 1, 2, 5))):
        put(*draw.choices([*WORDS, *halves, *classes], k=draw.choice((0, 0, 1, 2, 3))))
    if draw.random() < 0.3:
        files[draw.choice(SYSTEM).format("/".join(wrap) or classes[0])] = b"\0\5\x16\7"
    if draw.random() < 0.05:
        files |= {f"out/{name}": b"{}" for name in ("manifest.json", "index.html", "assets/plotly.min.js")}
        files["out/03_x/picture.png"] = PICTURES[".png"][0]
    return files


def rewritten(name: str, draw: random.Random, *more) -> str:
    """The same name, as some program or other writes it into an archive."""
    ways = (
        str,
        str,
        lambda n: n.replace("/", "\\"),
        "./{}".format,
        lambda n: n.replace("/", "//"),
        "x/../{}".format,
        *more,
    )
    return draw.choice(ways)(name)


def pictures(files) -> int:
    """How many of the files are pictures, as somebody would count them who knows nothing of layouts."""
    system = re.compile(r"(^|/)(\._[^/]*$|__MACOSX/|@eaDir/)")
    endings = tuple(e.lower() for e in (*READ, *OTHER_PICTURES))
    return sum(name.lower().endswith(endings) and not system.search(name) for name in files)


def counted(said: list[warnings.WarningMessage]) -> int:
    """The pictures that the sentence on what is not used counts: one sentence, said once."""
    told = {str(one.message) for one in said if "not used of" in str(one.message)}
    assert len(told) <= 1 and all("\n" not in one for one in told)
    return sum(int(n.replace(",", "")) for one in told for n in re.findall(r"([\d,]+) pictures?\b", one))


def written(files: dict[str, bytes], at: Path) -> Path:
    for name, raw in files.items():
        file = at / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw)
    return at


def zipped(files: dict[str, bytes], draw: random.Random) -> tuple[bytes, int]:
    """A zip, and how many pictures are in it: a few come twice, as programs append what has changed."""
    raw, names = io.BytesIO(), [*files, *([draw.choice([*files])] if draw.random() < 0.1 else [])]
    with zipfile.ZipFile(raw, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in names:
            member = zipfile.ZipInfo()
            member.filename = rewritten(name, draw)
            archive.writestr(member, files[name])
    return raw.getvalue(), pictures(names)


def outcomes(count: int, look: Callable[[random.Random], tuple[int, int]]) -> tuple[int, int]:
    """How many of `count` sets were read, and how many refused in one line; `look` gives pictures used and there."""
    read = refused = 0
    for seed in range(count):
        draw = random.Random(seed)
        wording.warn.cache_clear()  # what is said of one set is said once, and here all have one name
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            try:
                used, there = look(draw)
            except InputError as error:
                assert "\n" not in str(error), f"seed {seed}"
                refused += 1
                continue
        assert used + counted(said) == there, f"seed {seed}: {used} of {there}; {[str(one.message) for one in said]}"
        read += 1
    return read, refused


def parts(place: Path) -> int:
    source = image_files.Source(place)
    _, train, test = layouts.split(source)
    assert not set(train.names) & set(test.names)
    return len(train.names) + len(test.names)


def test_zips(tmp_path):
    def look(draw):
        raw, there = zipped(tree(draw), draw)
        (tmp_path / "a.zip").write_bytes(raw)
        return parts(tmp_path / "a.zip"), there

    assert min(outcomes(cases(500), look)) > 0


def test_folders(tmp_path):
    def look(draw):
        files = tree(draw)
        return parts(written(files, tmp_path / str(draw.random()))), pictures(files)

    assert min(outcomes(cases(500), look)) > 0


def test_tars(tmp_path):
    def look(draw):
        files = tree(draw)
        with tarfile.open(tmp_path / "a.tar", "w") as tar:
            for name, raw in files.items():
                member = tarfile.TarInfo(rewritten(name, draw, "../{}".format))
                member.size = len(raw)
                if draw.random() < 0.05:
                    member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/hostname", 0
                tar.addfile(member, io.BytesIO(raw))
        stream = shards.open_stream(f"tar:{tmp_path / 'a.tar'}", resolution=4)
        return sum(1 for one in stream.shards for _ in one()), pictures(files)

    assert min(outcomes(cases(500), look)) > 0


def test_pictures_of_every_mode_are_loaded_or_named(tmp_path):
    """By the door that people use: the pixels of all that is used are there, in both halves alike."""

    def look(draw):
        raw, there = zipped(tree(draw), draw)
        (tmp_path / "a.zip").write_bytes(raw)
        train, test = (loaders.load(f"folder:{tmp_path / 'a.zip'}?allow-duplicates", s) for s in ("train", "test"))
        assert train.x.shape[1:] == test.x.shape[1:] and train.classes == test.classes
        assert len(train.y) + len(test.y) == len(train) + len(test)
        return len(train) + len(test), there

    assert min(outcomes(cases(300), look)) > 0

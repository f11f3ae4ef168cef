"""Layouts: how people name halves and classes, what is left out and said, what is refused until somebody chooses."""

import io
import os
import zipfile
from pathlib import Path

from labkit.core.errors import InputError
from labkit.datasets import image_files, layouts, loaders

import numpy as np
import pytest
from PIL import Image


def picture(number: int, mode="RGB", size=(6, 5), kind="PNG", **options) -> bytes:
    raw = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(raw, kind, **options)
    return raw.getvalue()


def made(root: Path, *names: str, **how) -> Path:
    """Pictures under these names, each different; `NAME*3` stands for three of them in a folder."""
    number = sum(1 for _ in root.rglob("*"))
    for name in names:
        folder, _, count = name.partition("*")
        for i in range(int(count or 1)):
            file = root / folder / f"{i}.png" if count else root / folder
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(picture(number := number + 1, **how))
    return root


def halves(root: Path, layout: str = "") -> tuple[tuple[str, ...], int, int]:
    classes, train, test = layouts.split(image_files.Source(root), layout)
    return classes, len(train.names), len(test.names)


def refused(message: str, action) -> None:
    with pytest.raises(InputError, match=message) as caught:
        action()
    assert str(caught.value).isprintable()


CAT_DOG = ("cat", "dog")


@pytest.mark.parametrize("held", ["testing", "valid", "Validation", "dev", "VAL"])
@pytest.mark.parametrize("learned", ["training", "Train"])
def test_the_halves_that_people_name_are_the_halves_that_are_used(tmp_path, learned, held):
    made(tmp_path, *(f"{learned}/{c}*4" for c in CAT_DOG), *(f"{held}/{c}*2" for c in CAT_DOG))
    assert halves(tmp_path) == (CAT_DOG, 8, 4)


def test_of_three_halves_the_third_is_counted_and_named(tmp_path):
    made(tmp_path, *(f"{half}/{c}*2" for half in ("train", "test", "dev") for c in CAT_DOG))
    with pytest.warns(
        UserWarning, match=r"not used of .*: 4 pictures in no class of train or test \(dev/cat, dev/dog\)$"
    ):
        assert halves(tmp_path) == (CAT_DOG, 4, 4)
    with pytest.warns(UserWarning, match=r"4 pictures in no class of train or test \(test/cat, test/dog\)$"):
        assert halves(tmp_path, "train,dev") == (CAT_DOG, 4, 4)


@pytest.mark.parametrize(
    "names",
    [
        ("a-v2/b/train/cat*4", "a-v2/b/train/dog*4", "a-v2/b/test/cat*2", "a-v2/b/test/dog*2"),
        ("train/train/cat*4", "train/train/dog*4", "test/test/cat*2", "test/test/dog*2"),  # each half zipped by itself
        ("dev/train/cat*4", "dev/train/dog*4", "dev/test/cat*2", "dev/test/dog*2"),
        ("train/images/cat*4", "train/images/dog*4", "test/cat*2", "test/dog*2"),
    ],
)  # fmt: skip
def test_folders_around_it_all_are_looked_through(tmp_path, names):
    assert halves(made(tmp_path, *names)) == (CAT_DOG, 8, 4)


def test_loose_pictures_are_said_wherever_they_lie(tmp_path):
    made(tmp_path, "cover.png", "pets/a.png", "pets/b.png", "pets/train/c.png")
    made(tmp_path, *(f"pets/{half}/{c}*2" for half in ("train", "val") for c in CAT_DOG))
    with pytest.warns(UserWarning, match=r"4 pictures in no class of train or test \(cover.png, pets, pets/train\)$"):
        assert halves(tmp_path) == (CAT_DOG, 4, 4)


@pytest.mark.parametrize(
    "names, words",
    [
        (("train/0.png", "test/0.png"), "test, train hold no class folders.*--layout TRAIN,TEST"),
        (("train/0.png",), "train hold no class folders"),
        (("bus/0.png", "train/0.png", "test/0.png"), "test, train hold no class folders"),
        (("train/cat*2", "training/cat*2", "test/cat*2"), "train, training are one half .*--layout train,test "),
        (("train/cat*2", "val/cat*2", "valid/cat*2"), "val, valid are one half .*--layout train,val "),
        (("train/steam*2", "train/diesel*2", "bus*2"), "train may be all training images, or a class as bus"),
        (("birds/owl*2", "birds/crow*2", "cars/bus*2"), "birds/crow/0.png lies in several folders"),
        (("cat*2", "dog/old*2"), "dog/old/0.png lies in several folders"),
        (("cat*2", "cat/old*2"), "cat/old/0.png lies in several folders"),
        (("cat/train*2", "cat/test*2", "dog/train*2", "dog/test*2"), "lies in several folders"),
        (("train/cat*2", "train/dog/a*2", "test/cat*2", "test/dog*2"), "train/dog/a/0.png .*--layout train,test "),
        (("test/cat*2", "test/dog*2"), "folder of test images but no train/"),
    ],
)
def test_what_can_be_read_in_two_ways_is_refused_with_the_way_to_choose(tmp_path, names, words):
    refused(words, lambda: halves(made(tmp_path, *names)))


@pytest.mark.parametrize(
    "names, layout, found",
    [
        (("train/0.png", "train/1.png", "test*2"), "classes", (("test", "train"), 2, 2)),
        (("birds/owl*5", "birds/crow*5", "cars/bus*5"), "classes", (("birds", "cars"), 12, 3)),
        (("a/cat*5", "a/dog*5", "b/x.txt.png"), "a", (CAT_DOG, 8, 2)),
        (("seen/cat*2", "seen/dog*2", "new/cat/far*1", "new/dog*1"), "seen,new", (CAT_DOG, 4, 2)),
        (("x/seen/cat*2", "x/seen/dog*2", "x/new/cat*1", "x/new/dog*1"), "x/seen,x/new", (CAT_DOG, 4, 2)),
        (("x/seen/cat*2", "x/seen/dog*2", "x/new/cat*1", "x/new/dog*1"), "seen,new", (CAT_DOG, 4, 2)),
        (
            ("x/train/cat*2", "x/train/dog*2", "x/val/cat*1", "x/val/dog*1", "x/test/9.png"),
            "train,val",
            (CAT_DOG, 4, 2),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:not used of")
def test_a_chosen_layout_is_what_is_read(tmp_path, names, layout, found):
    made(tmp_path, *names)
    assert halves(tmp_path, layout) == found
    train = loaders.load(f"folder:{tmp_path}?layout={layout}", "train")
    assert (train.classes, len(train)) == found[:2] and len(train.y) == found[1]


@pytest.mark.parametrize("layout", ["seen,nowhere", "nothing", "a,b,c", ","])
def test_a_layout_that_is_none_says_which_there_are(tmp_path, layout):
    made(tmp_path, "seen/cat*2", "new/cat*2")
    refused("no layout .*classes, TRAIN and TRAIN,TEST, of new, seen", lambda: halves(tmp_path, layout))


def test_a_zip_is_read_like_a_folder_whatever_wrote_its_names(tmp_path):
    ways = ("{}", ".\\{}", "./{}", "x/../{}", "set//{}", "Set\\{}")
    for k, way in enumerate(ways):
        with zipfile.ZipFile(tmp_path / f"{k}.zip", "w") as archive:
            for number, name in enumerate(f"{h}/{c}/{i}.PNG" for h in ("train", "Test") for c in CAT_DOG for i in "01"):
                member = zipfile.ZipInfo()  # whose own name would be mended
                member.filename = way.format(name.replace("/", "\\") if "\\" in way else name)
                archive.writestr(member, picture(number))
            folder = zipfile.ZipInfo()
            folder.filename = way.format("train\\")
            archive.writestr(folder, b"")
        assert halves(tmp_path / f"{k}.zip") == (CAT_DOG, 4, 4)
        assert loaders.load(f"folder:{tmp_path / f'{k}.zip'}", "test").x.shape == (4, 3, 5, 6)


def test_files_unpacked_with_backslashes_in_their_names_are_in_folders_all_the_same(tmp_path):
    for number, name in enumerate(("train\\cat\\0.png", "train\\dog\\0.png", "test\\cat\\1.png", "test\\dog\\1.png")):
        (tmp_path / name).write_bytes(picture(number))
    assert halves(tmp_path) == (CAT_DOG, 2, 2) and len(loaders.load(f"folder:{tmp_path}", "test")) == 2


def test_two_members_of_one_name_are_one_picture_and_it_is_said(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for number, name in enumerate(("cat/0.png", "dog/0.png", "dog/1.png", "cat/1.png", "./cat/0.png")):
            member = zipfile.ZipInfo()
            member.filename = name
            archive.writestr(member, picture(number))
    source = image_files.Source(tmp_path / "a.zip")
    with pytest.warns(UserWarning, match="1 picture whose name another one has"):
        layouts.split(source)
    assert source.names == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]
    assert source.read("cat/0.png") == picture(4)  # the later one, as when it is unpacked


def test_a_class_of_two_spellings_is_shown_both(tmp_path):
    made(tmp_path, "train/Cat*2", "train/dog*2", "test/cat*2", "test/dog*2")
    refused("class Cat present in train only; .*add to test, which has cat$", lambda: halves(tmp_path))


# Endings


@pytest.mark.parametrize("ending", ["jfif", "JPE", "JFIF"])
def test_other_names_of_jpeg_are_read(tmp_path, ending):
    made(tmp_path, "cat*5", "dog*5")
    (tmp_path / "owl").mkdir()
    for i in range(5):
        (tmp_path / "owl" / f"{i}.{ending}").write_bytes(picture(100 + i, kind="JPEG"))
    train = loaders.load(f"folder:{tmp_path}", "train")
    assert (train.classes, train.y.bincount().tolist()) == (("cat", "dog", "owl"), [4, 4, 4])
    assert "5 of them JPEG" not in loaders.note("fashion") and "5 of them JPEG" in loaders.note(f"folder:{tmp_path}")


@pytest.mark.skipif(not image_files.decoding.AVIF, reason="this Pillow reads no AVIF")
def test_avif_is_read_where_pillow_reads_it(tmp_path):
    made(tmp_path, "cat*3", "dog*3")
    (tmp_path / "cat" / "9.avif").write_bytes(picture(9, kind="AVIF"))
    assert halves(tmp_path)[1:] == (5, 2)
    assert loaders.load(f"folder:{tmp_path}", "train").x.shape[1:] == (3, 5, 6)


@pytest.mark.parametrize(
    "ending, help", [("heic", "install pillow-heif"), ("HEIF", "pillow-heif"), ("psd", "convert to PNG")]
)
def test_a_class_of_pictures_that_are_not_read_does_not_vanish(tmp_path, ending, help):
    if ending.lower() in ("heic", "heif") and image_files.decoding.HEIF:
        pytest.skip("pillow-heif is installed")
    made(tmp_path, "cat*4", "dog*4", f"cat/9.{ending}")
    with pytest.warns(UserWarning, match=rf"1 picture of ending \.{ending.lower()} \(.*{help}\)$"):
        assert halves(tmp_path) == (CAT_DOG, 6, 2)
    made(tmp_path, f"owl/0.{ending}")
    refused(f"class owl has no picture that can be read, only .{ending.lower()} .*{help}", lambda: halves(tmp_path))


@pytest.mark.parametrize("ending", ["", ".npy", ".png~"])
def test_a_class_of_files_that_nobody_would_take_for_pictures_is_named(tmp_path, ending):
    made(tmp_path, "cat*4", "dog*4", f"owl/0{ending}", f"owl/1{ending}")
    with pytest.warns(UserWarning, match=rf"2 files of another kind \({ending or 'none'}; in owl\)$"):
        assert halves(tmp_path) == (CAT_DOG, 6, 2)


def test_what_is_no_picture_is_counted_by_its_endings_and_what_systems_leave_is_not(tmp_path):
    made(tmp_path, "cat*4", "dog*4", ".thumbs/x/0.png")
    for name in (
        "labels.csv",
        "cat/0.txt",
        "cat/1.txt",
        "LICENSE",
        "cat/Thumbs.db",
        "._cat",
        "dog/.DS_Store",
        "desktop.ini",
    ):
        (tmp_path / name).write_bytes(b"words")
    words = (
        r"of .*: 4 files of another kind \(.csv, .txt, none; in cat, its own folder\); 1 picture in a hidden folder$"
    )
    with pytest.warns(UserWarning, match=words):
        assert halves(tmp_path) == (CAT_DOG, 6, 2)


@pytest.mark.parametrize("out", ["report", "reports/2", ""])
def test_what_a_report_has_written_is_no_class(tmp_path, out):
    made(tmp_path, "cat*4", "dog*4")
    before = loaders.load(f"folder:{tmp_path}", "train").digest
    made(tmp_path / out, "03_projection*2")
    for name in ("index.html", "manifest.json", "assets/plotly.min.js", "03_projection.html"):
        (tmp_path / out / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / out / name).write_text("{}")
    with pytest.warns(UserWarning, match="2 pictures of a report or table of the lab"):
        assert loaders.load(f"folder:{tmp_path}", "train").digest == before


def test_what_a_table_has_written_is_no_class(tmp_path):
    made(tmp_path, "cat*4", "dog*4", "tables/table_1.png")
    (tmp_path / "tables" / "table_1_rows.csv").write_text("data\n")
    with pytest.warns(UserWarning, match="1 picture of a report or table of the lab"):
        assert halves(tmp_path) == (CAT_DOG, 6, 2)


# Links


def test_a_folder_that_two_links_lead_to_is_read_twice_and_the_copies_are_found(tmp_path):
    made(tmp_path, "shared/cat*3", "shared/dog*3")
    (tmp_path / "set").mkdir()
    for half in ("train", "test"):
        os.symlink(tmp_path / "shared", tmp_path / "set" / half)
    assert halves(tmp_path / "set") == (CAT_DOG, 6, 6)
    refused("6 of 6 test images", lambda: loaders.load(f"folder:{tmp_path / 'set'}", "test"))


def test_folders_full_of_links_to_each_other_come_to_an_end(tmp_path):
    names = [f"c{i}" for i in range(12)]
    made(tmp_path, *(f"{name}/0.png" for name in names))
    for one in names:
        for other in names:
            os.symlink(tmp_path / other, tmp_path / one / other)
    refused("by more than 100 links; remove some", lambda: image_files.Source(tmp_path))


# The two halves beside each other


def test_halves_of_two_sizes_or_colours_are_refused_before_anything_is_built(tmp_path):
    made(tmp_path / "a", "train/cat*2", "train/dog*2")
    made(tmp_path / "a", "test/cat*2", "test/dog*2", size=(5, 6))
    refused(
        "train is 6×5 pixels, RGB, test 5×6 pixels, RGB; .*--resolution",
        lambda: loaders.load(f"folder:{tmp_path}/a", "train"),
    )
    assert len(loaders.load(f"folder:{tmp_path}/a", "train", resolution=4)) == 4
    made(tmp_path / "b", "train/cat*2", "train/dog*2", mode="L")
    made(tmp_path / "b", "test/cat*2", "test/dog*2")
    for split in ("train", "test"):
        refused("train is .* all grey, test .* RGB", lambda split=split: loaders.load(f"folder:{tmp_path}/b", split))
    made(tmp_path / "c", "train/cat*2", "train/dog*2")
    made(tmp_path / "c", "valid/cat*2", "valid/dog*2", mode="LA")
    with pytest.warns(UserWarning, match="4 transparent grey to RGB"):
        assert loaders.load(f"folder:{tmp_path}/c", "train").x.shape[1] == 3


@pytest.mark.parametrize("name", ["caf\u00e9", "\u1112\u1161\u11ab", "A\u030angstro\u0308m", "\u01c4 \u212b"])
def test_a_name_is_one_class_however_a_system_has_composed_it(tmp_path, name):
    import unicodedata

    one, other = (unicodedata.normalize(form, name) for form in ("NFC", "NFD"))
    made(tmp_path, f"train/{one}*2", "train/b*2", f"test/{other}*1", "test/b*1", f"train/{other}/z.png")
    classes, train, test = halves(tmp_path)
    assert set(classes) == {"b", unicodedata.normalize("NFC", name)} and (train, test) == (5, 2)


def copies(root: Path) -> None:
    """In the test half: a copy of its own, one in another format, one with metadata, and one picture that is new."""
    made(root, "train/cat*3", "train/dog*3", "test/cat/new.png", "test/dog/new.png")
    Image.open(root / "train/cat/0.png").save(root / "test/cat/again.bmp")
    Image.open(root / "train/dog/1.png").save(root / "test/cat/wrong.tif")
    exif = Image.Exif()
    exif[0x010E] = "edited"
    Image.open(root / "train/dog/2.png").save(root / "test/dog/x.webp", lossless=True, exif=exif)


def test_copies_between_the_halves_are_known_by_their_pixels_and_refused_with_their_number(tmp_path):
    copies(tmp_path)
    for split in ("train", "test"):
        refused(
            r"3 of 5 test images are training images as well \(train/.* is test/.*--allow-duplicates",
            lambda split=split: loaders.load(f"folder:{tmp_path}", split),
        )
    allowed = f"folder:{tmp_path}?allow-duplicates"
    assert len(loaders.load(allowed, "test")) == 5
    assert loaders.note(allowed).endswith("Test images may be training images as well.")
    assert loaders.DataRecipe(allowed).label == f"folder:{tmp_path.name}?allow-duplicates"


def test_copies_are_known_by_their_files_where_pixels_are_too_many(tmp_path, monkeypatch):
    made(tmp_path, "train/cat*3", "train/dog*3", "test/cat*2", "test/dog*2")
    (tmp_path / "test" / "dog" / "0.png").write_bytes((tmp_path / "train" / "cat" / "2.png").read_bytes())
    monkeypatch.setattr("labkit.datasets.images.BYTES_LIMIT", 10)
    monkeypatch.setattr("labkit.datasets.images.FLOAT_LIMIT", 10)
    refused(r"1 of 4 test .*train/cat/2.png is test/dog/0.png", lambda: loaders.load(f"folder:{tmp_path}", "train"))


def test_pictures_of_one_colour_are_not_copies_of_each_other(tmp_path):
    for half in ("train", "test"):
        for name, colour in (("day", "white"), ("night", "black")):
            (tmp_path / half / name).mkdir(parents=True)
            for i in range(2):
                Image.new("RGB", (4, 4), colour).save(tmp_path / half / name / f"{i}.png")
    assert len(loaders.load(f"folder:{tmp_path}", "test")) == 4


def test_copies_in_halves_that_the_lab_has_drawn_are_said(tmp_path):
    made(tmp_path, "cat*5", "dog*5")
    for file in (*tmp_path.rglob("*.png"),):
        (file.parent / f"copy of {file.name}").write_bytes(file.read_bytes())
    with pytest.warns(UserWarning, match="of 4 test images are training images as well .*, as they were drawn; remove"):
        loaders.load(f"folder:{tmp_path}", "train")

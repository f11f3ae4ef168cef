"""Image files: what each kind of file becomes, how a tree is read, and the sentence for each thing that is wrong."""

import io
import os
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

from labkit.core.errors import InputError
from labkit.datasets import decoding, image_files, layouts

import hostile
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def write(path: Path, colour=RED, size=(12, 10), mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, colour).save(path, **options)
    return path


def tree(root: Path, train=4, test=2, classes=("apple", "pear")) -> Path:
    """Every image in a colour of its own."""
    for k, name in enumerate(classes):
        for part, count in (("train", train), ("test", test)):
            for i in range(count):
                write(root / part / name / f"{i}.png", (20 * k, 10 * i, 200 if part == "train" else 100))
    return root


def zipped(root: Path, target: Path, top: str = "") -> Path:
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(root.rglob("*")):
            if file.is_file():
                archive.write(file, Path(top) / file.relative_to(root))
    return target


def decoded(root: Path, resolution=None) -> torch.Tensor:
    source = image_files.Source(root)
    return image_files.scan(source, source.names, resolution, decode=True).pixels


def one(path: Path, resolution=None) -> np.ndarray:
    """The only image of a folder, (H, W, C)."""
    (pixels,) = decoded(path.parent, resolution)
    return pixels.permute(1, 2, 0).numpy()


# What a file becomes


def test_a_red_png_is_red(tmp_path):
    pixels = one(write(tmp_path / "a.png"))
    assert pixels.shape == (10, 12, 3) and (pixels == RED).all()


def test_exif_orientation_turns_the_image_upright(tmp_path):
    stored = Image.new("RGB", (3, 2), "black")
    stored.putpixel((0, 0), RED)
    for orientation, shape, where in ((6, (3, 2), (0, 1)), (8, (3, 2), (2, 0)), (3, (2, 3), (1, 2))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        folder = tmp_path / str(orientation)
        folder.mkdir()
        stored.save(folder / "a.png", exif=exif)
        pixels = one(folder / "a.png")
        assert pixels.shape[:2] == shape and tuple(np.argwhere(pixels[..., 0] == 255)[0]) == where
        source = image_files.Source(folder)
        assert image_files.side(source, "a.png", None) == shape  # the header alone tells the same size


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def segment(marker: int, data: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(data) + 2) + data


LONG = zlib.compress(bytes(5_000_000))
ODD_CHUNKS = [
    (b"iCCP", b"profile\0\0" + LONG), (b"iCCP", b"profile\0\7of no method"), (b"gAMA", b""), (b"cHRM", b"x"),
    (b"sRGB", b""), (b"pHYs", b""), (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LONG), (b"zTXt", b"x\0\0" + LONG),
    (b"acTL", b"\0"), (b"tEXt", b"Raw profile type exif\0\nexif\n no number"), (b"eXIf", b"no TIFF at all"),
]  # fmt: skip
ODD_SEGMENTS = [
    (0xE2, b"ICC_PROFILE\0"), (0xED, b"Photoshop 3.0\0" + b"8BIM\3\xed"), (0xE0, b"JFIF\0"), (0xEE, b"Adobe"),
    (0xE1, b"Exif\0\0no TIFF at all"), (0xFE, b"\xff\xda" * 9), (0xE1, b"http://ns.adobe.com/xap/1.0/\0\xff\xfe"),
]  # fmt: skip


@pytest.mark.parametrize("odd", [*ODD_CHUNKS, *ODD_SEGMENTS], ids=repr)
@pytest.mark.parametrize("late", [False, True])
def test_what_a_file_says_of_itself_cannot_make_its_pixels_unreadable(tmp_path, odd, late):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6
    noise.save(tmp_path / "a.png", exif=exif)
    noise.save(tmp_path / "a.jpg", exif=exif)
    name = "a.png" if odd in ODD_CHUNKS else "a.jpg"
    raw = (tmp_path / name).read_bytes()
    whole = decoding.upright(name, decoding.opened(name, raw)[0], None)
    if name == "a.png":
        at, more = len(raw) - 12 if late else 33, chunk(*odd)
    else:
        at, more = raw.index(b"\xff\xdb") if late else 2, segment(*odd)
    if odd[0] in (b"eXIf", 0xE1):  # of two, which one counts is nobody's business
        exif[0x0112] = 1
        whole = None
    image, size = decoding.opened(name, raw[:at] + more + raw[at:])
    pixels = decoding.upright(name, image, None)
    assert pixels.shape[1:] == size
    assert whole is None or np.array_equal(pixels, whole)


@pytest.mark.parametrize("tag", [270, 282, 700, 33723, 34377, 34665, 34675, 34853, 65000])
@pytest.mark.parametrize("kind, count", [(2, 90), (5, 1), (4, 1), (7, 2**31), (99, 3)])
def test_what_a_tiff_says_of_itself_may_point_anywhere(tmp_path, tag, kind, count):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for order in "<>":
        parts = [(256, 3, 1, 7), (257, 3, 1, 9), (258, 3, 3, 8), (259, 3, 1, 1), (262, 3, 1, 2), (273, 4, 1, 14)]
        parts += [(277, 3, 1, 3), (278, 3, 1, 9), (279, 4, 1, 189), (tag, kind, count, 0xFFFFFFF0)]
        start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}LHHH", 204, 8, 8, 8)
        table = b"".join(
            struct.pack(f"{order}HHL", *entry[:3])
            + struct.pack(f"{order}H2x" if entry[1:3] == (3, 1) else f"{order}L", entry[3])
            for entry in parts
        )
        raw = start + pixels.tobytes() + b"\0" + struct.pack(f"{order}H", len(parts)) + table + bytes(4)
        image, size = decoding.opened("a.tif", raw)
        assert size == (9, 7) and np.array_equal(decoding.upright("a.tif", image, None), pixels.transpose(2, 0, 1))


def test_an_orientation_counts_whatever_else_a_camera_has_written(tmp_path):
    """A negative number, where its usual type has no sign, cannot be written back; nothing need be."""
    Image.new("RGB", (4, 3), RED).save(tmp_path / "a.jpg")
    raw = (tmp_path / "a.jpg").read_bytes()
    for number, (kind, value) in enumerate(((9, struct.pack("<l", -5)), (6, b"\xff" * 4), (99, bytes(4)))):
        odd = struct.pack("<HHL", 0x0100, kind, 1) + value
        turn = struct.pack("<HHLHH", 0x0112, 3, 1, 8, 0)
        told = b"Exif\0\0II*\0" + struct.pack("<LH", 8, 2) + odd + turn + bytes(4)
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.jpg").write_bytes(raw[:2] + segment(0xE1, told) + raw[2:])
        assert one(tmp_path / str(number) / "a.jpg").shape == (4, 3, 3)


@pytest.mark.parametrize(
    "kind, options", [("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True})]
)
def test_every_orientation_has_the_size_that_its_header_tells(tmp_path, kind, options):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    for orientation in range(1, 9):
        exif, raw = Image.Exif(), io.BytesIO()
        exif[0x0112] = orientation
        Image.fromarray(pixels).save(raw, kind, exif=exif, **options)
        image, size = decoding.opened("a", raw.getvalue())
        upright = decoding.upright("a", image, None)
        assert upright.shape[1:] == size == ((9, 7) if orientation < 5 else (7, 9))
        stored = np.asarray(ImageOps.exif_transpose(Image.open(raw)))
        assert np.array_equal(upright, stored.transpose(2, 0, 1))


@pytest.mark.filterwarnings("ignore:images converted")
def test_transparency_lies_over_white(tmp_path):
    pixels = one(write(tmp_path / "a" / "x.png", (255, 0, 0, 128), mode="RGBA"))
    assert abs(pixels[0, 0].astype(int) - (255, 127, 127)).max() <= 1
    keyed = Image.new("RGB", (4, 4), RED)
    keyed.putpixel((0, 0), GREEN)
    (tmp_path / "b").mkdir()
    keyed.save(tmp_path / "b" / "x.png", transparency=GREEN)  # a colour that stands for transparent
    pixels = one(tmp_path / "b" / "x.png")
    assert (pixels[0, 0] == 255).all() and (pixels[1, 1] == RED).all()


@pytest.mark.filterwarnings("ignore:images converted")
def test_palette_and_cmyk_become_rgb(tmp_path):
    write(tmp_path / "a" / "x.png")
    Image.new("RGB", (4, 4), BLUE).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "a" / "x.png")
    assert (one(tmp_path / "a" / "x.png") == BLUE).all()
    assert (one(write(tmp_path / "b" / "x.tif", (0, 255, 255, 0), mode="CMYK")) == RED).all()


def test_sixteen_bits_keep_their_upper_eight(tmp_path):
    values = np.array([[0, 255, 256, 0x8000], [0xABCD, 0xFF00, 0xFFFF, 1]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="1 16-bit grey to 8-bit grey"):
        assert (one(tmp_path / "a.png")[..., 0] == values >> 8).all()


def test_all_grey_keeps_one_channel_and_a_single_colour_file_makes_three(tmp_path):
    for i in range(3):
        write(tmp_path / f"{i}.png", 50 * i, mode="L")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing was converted, so nothing is said
        pixels = decoded(tmp_path)
    assert pixels.shape == (3, 1, 10, 12) and pixels[:, 0, 0, 0].tolist() == [0, 50, 100]
    write(tmp_path / "9.png", BLUE)
    with pytest.warns(UserWarning, match=r"3 grey to RGB, of 4 in") as said:
        pixels = decoded(tmp_path)
    assert len(said) == 1
    assert pixels.shape == (4, 3, 10, 12) and pixels[:, :, 0, 0].tolist()[1:] == [[50] * 3, [100] * 3, [0, 0, 255]]


def test_resolution_takes_the_centred_square(tmp_path):
    wide = Image.new("RGB", (30, 10), GREEN)
    wide.paste(RED, (10, 0, 20, 10))
    wide.save(tmp_path / "a.png")
    pixels = one(tmp_path / "a.png", resolution=6)
    assert pixels.shape == (6, 6, 3) and (pixels[:, 1:-1] == RED).all()


def test_reading_on_demand_gives_the_same_pixels(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(80):  # more than one block, so that threads share the work
        Image.fromarray(rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)).save(tmp_path / f"{i:02}.png")
    source = image_files.Source(tmp_path)
    now = image_files.scan(source, source.names, None, decode=True)
    later = image_files.scan(source, source.names, None, decode=False)
    assert later.pixels is None and later.shape == now.shape and later.prints == now.prints
    some = [source.names[i] for i in (70, 3)]
    assert torch.equal(image_files.pixels(source, some, later.shape, None), now.pixels[[70, 3]])
    expected = np.asarray(Image.open(tmp_path / "70.png")).transpose(2, 0, 1)
    assert (now.pixels[70].numpy() == expected).all()


# How a tree is read


@pytest.mark.parametrize("held", ["test", "val", "Test"])
def test_train_and_test_folders(tmp_path, held):
    root = tree(tmp_path / "set")
    (root / "test").rename(root / held)
    write(root / "README" / "logo.png")  # beside train/ and test/: not theirs
    with pytest.warns(UserWarning, match=r"not used of .*: 1 picture in no class of train or test \(README\)$"):
        classes, train, test = layouts.split(image_files.Source(root))
    assert classes == ("apple", "pear")
    assert train.names == [f"train/{c}/{i}.png" for c in classes for i in range(4)]
    assert train.y.tolist() == [0] * 4 + [1] * 4
    assert test.names == [f"{held}/{c}/{i}.png" for c in classes for i in range(2)]


def test_one_top_folder_is_looked_through_in_a_zip_and_in_a_folder(tmp_path):
    root = tree(tmp_path / "outer" / "set")
    archive = zipped(root, tmp_path / "a.zip", top="set")
    for path in (tmp_path / "outer", archive):
        classes, train, test = layouts.split(image_files.Source(path))
        assert classes == ("apple", "pear") and (len(train.names), len(test.names)) == (8, 4)
        assert train.names[0] == "set/train/apple/0.png"


def test_without_a_test_folder_a_fifth_of_each_class_is_held_out(tmp_path):
    for name, count in (("apple", 10), ("pear", 2), ("plum", 26)):
        for i in range(count):
            write(tmp_path / name / f"{i:02}.png")
    source = image_files.Source(tmp_path)
    classes, train, test = layouts.split(source)
    assert torch.bincount(test.y).tolist() == [2, 1, 5] and torch.bincount(train.y).tolist() == [8, 1, 21]
    assert sorted(train.names + test.names) == source.names
    assert all(name.startswith(classes[k]) for name, k in zip(test.names, test.y.tolist(), strict=True))
    assert layouts.split(image_files.Source(tmp_path))[2].names == test.names


def test_classes_of_one_image_are_split_plainly_and_it_is_said(tmp_path):
    for i in range(10):
        write(tmp_path / f"class{i}" / "only.png")
    with pytest.warns(UserWarning, match="classes with a single image: 10 of 10"):
        classes, train, test = layouts.split(image_files.Source(tmp_path))
    assert len(classes) == 10 and len(train.names) == 8 and len(test.names) == 2
    assert not set(train.y.tolist()) & set(test.y.tolist())


def test_a_class_may_be_called_train(tmp_path):
    for name in ("bus", "train"):
        for i in range(5):
            write(tmp_path / name / f"{i}.png")
    assert layouts.split(image_files.Source(tmp_path))[0] == ("bus", "train")


def test_what_systems_leave_behind_is_no_image(tmp_path):
    root = tree(tmp_path / "set")
    names = image_files.Source(root).names
    for junk in ("train/apple/._0.png", "__MACOSX/train/apple/0.png", "train/apple/notes.txt", ".cache/x/0.png"):
        (root / junk).parent.mkdir(parents=True, exist_ok=True)
        (root / junk).write_bytes(b"junk")
    assert image_files.Source(root).names == names
    assert image_files.Source(zipped(root, tmp_path / "a.zip")).names == names


def test_links_that_form_a_loop_end(tmp_path):
    root = tree(tmp_path / "set")
    names = image_files.Source(root).names
    os.symlink(root, root / "train" / "apple" / "again")
    assert image_files.Source(root).names == names


# What is wrong, in one sentence


def refused(message: str, action) -> None:
    with pytest.raises(InputError, match=message) as caught:
        action()
    assert "\n" not in str(caught.value)


def test_missing_empty_and_imageless_places(tmp_path):
    refused("nowhere does not exist", lambda: image_files.Source(tmp_path / "nowhere"))
    refused("is empty", lambda: image_files.Source(tmp_path))
    (tmp_path / "notes.txt").write_text("no image")
    refused("holds no images", lambda: image_files.Source(tmp_path))
    refused("notes.txt is not a readable zip", lambda: image_files.Source(tmp_path / "notes.txt"))
    write(tmp_path / "loose.png")
    refused("none in a class folder", lambda: layouts.split(image_files.Source(tmp_path)))


def test_a_class_must_be_in_both(tmp_path):
    root = tree(tmp_path / "set")
    write(root / "train" / "zebra" / "0.png")
    refused("class zebra present in train only", lambda: layouts.split(image_files.Source(root)))
    write(root / "test" / "zebra" / "0.png")
    write(root / "test" / "yak" / "0.png")
    refused("class yak present in test only", lambda: layouts.split(image_files.Source(root)))
    for file in (root / "train").rglob("*.png"):
        file.unlink()
    refused("no train/", lambda: layouts.split(image_files.Source(root)))


@pytest.mark.parametrize("name", ["../x/0.png", "a/../../0.png", "/etc/0.png", "C:/x/0.png", "..\\x\\0.png"])
def test_zip_members_outside_the_zip(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("apple/0.png", b"")
        archive.writestr(name, b"")
    refused("outside itself", lambda: image_files.Source(tmp_path / "a.zip"))


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "gif", "webp"])
def test_a_truncated_image_is_named(tmp_path, ending):
    rng = np.random.default_rng(0)
    noise = Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    noise.save(tmp_path / f"broken.{ending}")
    whole = (tmp_path / f"broken.{ending}").read_bytes()
    (tmp_path / f"broken.{ending}").write_bytes(whole[: len(whole) // 2])
    refused(rf"broken\.{ending} is no readable image", lambda: decoded(tmp_path))


def test_other_content_under_an_image_name(tmp_path):
    (tmp_path / "a.jpg").write_text("<html>not found</html>")
    refused("a.jpg is no readable image .unknown format", lambda: decoded(tmp_path))
    (tmp_path / "a.jpg").write_bytes(b"")
    refused("a.jpg is no readable image", lambda: decoded(tmp_path))


def test_a_damaged_zip_member_is_named(tmp_path):
    archive = zipped(tree(tmp_path / "set"), tmp_path / "a.zip")
    raw = bytearray(archive.read_bytes())
    at = raw.index(b"IDAT")  # in the first member's data
    raw[at + 6] ^= 0xFF
    archive.write_bytes(raw)
    refused("test/apple/0.png cannot be read .*CRC", lambda: decoded(archive))


def test_mixed_sizes_name_two_examples(tmp_path):
    write(tmp_path / "a.png", size=(12, 10))
    write(tmp_path / "b.png", size=(20, 16))
    refused(r"mixed size: .*a\.png is 12×10, .*b\.png is 20×16; .*resolution=", lambda: decoded(tmp_path))
    assert decoded(tmp_path, resolution=8).shape == (2, 3, 8, 8)


def test_absurd_dimensions_are_refused_before_decoding(tmp_path):
    def header(width: int, height: int) -> bytes:
        """A PNG that announces a size and holds no pixels."""
        small = io.BytesIO()
        Image.new("L", (1, 1)).save(small, "PNG")
        raw = bytearray(small.getvalue())
        raw[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
        raw[29:33] = zlib.crc32(bytes(raw[12:29])).to_bytes(4, "big")
        return bytes(raw)

    (tmp_path / "a.png").write_bytes(header(8000, 8000))
    refused("a.png has 8000×8000 pixels, the limit is 50,000,000", lambda: decoded(tmp_path, resolution=32))
    (tmp_path / "a.png").write_bytes(header(2**20, 2**20))
    refused("a.png has far too many pixels", lambda: decoded(tmp_path, resolution=32))


def test_thirty_two_bit_files_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, dtype=np.float32)).save(tmp_path / "a.tif")
    refused("a.tif is no readable image .*32 bits", lambda: decoded(tmp_path))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_picture_from_memory_is_its_centred_square(kind):
    stream = io.BytesIO()
    wide = Image.new("RGB", (60, 40), "white")
    wide.paste(RED, (10, 0, 50, 40))
    wide.save(stream, kind)
    pixels = decoding.decode(stream.getvalue(), "me.img", 16, 3)
    assert pixels.shape == (3, 16, 16) and pixels.dtype == torch.uint8
    middle = pixels[:, 3:13, 3:13].int()
    assert (middle - torch.tensor(RED)[:, None, None]).abs().max() <= 6
    grey = decoding.decode(stream.getvalue(), "me.img", 16, 1)
    expected = np.asarray(Image.fromarray(pixels.permute(1, 2, 0).numpy()).convert("L"))
    assert grey.shape == (1, 16, 16) and np.abs(grey[0].numpy().astype(int) - expected).max() <= 1


@pytest.mark.parametrize("raw, words", [(b"", "is no readable image"), (b"GIF89a", "is no readable image")])
def test_what_is_no_picture_is_named_without_the_way_to_it(raw, words):
    with pytest.raises(InputError, match=f"^me.png {words}"):
        decoding.decode(raw, "/home/me/me.png", 16, 3)


def test_a_picture_of_too_many_pixels_is_refused_by_its_header():
    stream = io.BytesIO()
    Image.new("1", (8_000, 7_000)).save(stream, "PNG")
    with pytest.raises(InputError, match="the limit is 50,000,000"):
        decoding.decode(stream.getvalue(), "me.png", 16, 3)


def announced(ending: str, width: int, height: int) -> bytes:
    """A file that announces a size and holds next to nothing."""
    raw = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper())
    Image.new("RGB", (258, 259)).save(raw, kind, **({"lossless": True} if ending == "webp" else {}))
    whole = raw.getvalue()
    if ending == "png":
        start = whole[12:16] + width.to_bytes(4, "big") + height.to_bytes(4, "big") + whole[24:29]
        return whole[:12] + start + zlib.crc32(start).to_bytes(4, "big") + whole[33:]
    if ending == "ppm":
        return whole.replace(b"258 259", f"{width} {height}".encode())
    if ending == "webp":
        canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
        body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + whole[12:]
        return b"RIFF" + struct.pack("<I", len(body)) + body
    order, size = {"jpg": (">HH", (259, 258)), "gif": ("<HH", (258, 259)), "bmp": ("<ii", (258, 259))}.get(
        ending, (None, None)
    )
    if ending == "tif":  # two entries of its directory, each a tag, a type and a number
        for tag, old, new in ((256, 258, width), (257, 259, height)):
            whole = whole.replace(struct.pack("<HHII", tag, 4, 1, old), struct.pack("<HHII", tag, 4, 1, new))
            whole = whole.replace(struct.pack("<HHIHH", tag, 3, 1, old, 0), struct.pack("<HHII", tag, 4, 1, new))
        return whole
    new = (height, width) if ending == "jpg" else (width, height)
    return whole.replace(struct.pack(order, *size), struct.pack(order, *new))


@pytest.mark.filterwarnings("ignore:images converted")
@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "bmp", "tif", "ppm", "webp"])
def test_fifty_thousand_pixels_a_side_are_refused_by_the_header_alone(tmp_path, ending):
    (tmp_path / f"a.{ending}").write_bytes(announced(ending, 258, 259))
    assert decoded(tmp_path).shape[2:] == (259, 258)  # the header is understood, and its size is where we think
    (tmp_path / f"a.{ending}").write_bytes(announced(ending, 50_000, 50_000))
    with hostile.bounded(128 * 2**20):
        words = "has .* pixels|is no readable image .could not create decoder"  # the latter is WebP's own library
        refused(rf"a\.{ending} ({words})", lambda: decoded(tmp_path))


def test_what_is_unpacked_is_no_more_than_was_announced(tmp_path):
    """Zip bombs: one that is open about its size, one that lies, and two packings that know no bound."""
    bomb, big = tmp_path / "a.zip", image_files.MAX_BYTES + 1
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a/0.png", "w") as file:
        for _ in range(0, big, 2**24):
            file.write(bytes(2**24))
    assert bomb.stat().st_size < 10**6
    source = image_files.Source(bomb)
    with hostile.bounded(64 * 2**20):
        refused("0.png cannot be read .4.*bytes, the limit is 400,000,000", lambda: source.read("a/0.png"))
        source._zip.getinfo("a/0.png").file_size = 1000
        refused("0.png cannot be read .Bad CRC-32", lambda: source.read("a/0.png"))
    for how in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(bomb, "w", how) as archive:
            archive.writestr("a/0.png", bytes(10**6))
        refused("stored or deflated", lambda: image_files.Source(bomb).read("a/0.png"))


def test_links_are_followed_to_pictures_alone(tmp_path):
    """A set is often made of links to another; but a link shows nothing of a file that is no picture, nor waits."""
    inside, outside = tmp_path / "set", tmp_path / "outside"
    write(inside / "a" / "0.png")
    write(outside / "1.png")
    os.symlink(outside / "1.png", inside / "a" / "1.png")
    assert decoded(inside).shape[0] == 2
    (outside / "secret.txt").write_text("the password is apple")
    for target, words in (
        (outside / "secret.txt", "2.png is no readable image .unknown format"),
        (outside / "nothing.png", "2.png cannot be read .No such file"),
        (Path("/dev/zero"), "2.png cannot be read .it is no plain file"),
    ):
        os.symlink(target, inside / "a" / "2.png")
        refused(words, lambda: decoded(inside))
        (inside / "a" / "2.png").unlink()
    os.mkfifo(inside / "a" / "2.png")
    refused("it is no plain file", lambda: decoded(inside))


def test_a_link_in_a_zip_is_the_text_it_holds(tmp_path):
    link = zipfile.ZipInfo("a/0.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "../../../etc/passwd")
    refused("0.png is no readable image .unknown format", lambda: decoded(tmp_path / "a.zip"))


def test_only_pictures_are_decoded_whatever_else_pillow_knows(tmp_path):
    """Pillow goes by the content: for PostScript it would start Ghostscript, under whatever name it comes."""
    Image.new("RGB", (4, 4)).save(tmp_path / "a.eps")
    (tmp_path / "a.eps").rename(tmp_path / "a.jpg")
    refused("a.jpg is no readable image .unknown format", lambda: decoded(tmp_path))


def test_a_name_cannot_write_on_the_terminal(tmp_path):
    (tmp_path / "a\n\x1b[2J.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"a\\n\\x1b\[2J.png") as caught:
        decoded(tmp_path)
    assert str(caught.value).isprintable()

"""Images as streams: the same pixels as `loaders` gives, whatever they come in."""

import io
import tarfile
import zipfile

from labkit.core.errors import InputError
from labkit.datasets import loaders, shards

import numpy as np
import pytest
import torch
from PIL import Image
from shard_files import picture, shard, tree


def everything(stream):
    return [item for one in stream.shards for item in one()]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_gives_each_file_once_with_its_pixels_and_class(tmp_path, zipped):
    folder = tree(tmp_path / "set")
    path = folder
    if zipped:
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w") as file:
            for one in sorted(folder.rglob("*.png")):
                file.write(one, one.relative_to(folder).as_posix())
    stream = shards.open_stream(f"folder:{path}", "train", chunk=3)
    items = everything(stream)
    assert [len(list(one())) for one in stream.shards] == [3, 3, 2] and stream.images == 8
    assert stream.shape == (8, 9) and stream.classes == ("ant", "bee") and stream.label == path.name
    known = loaders.load(f"folder:{path}", "train")
    theirs = {(x.numpy().tobytes(), int(y)) for x, y in zip(known.x, known.y, strict=True)}
    assert {(item.pixels().numpy().tobytes(), item.y) for item in items} == theirs and len(theirs) == 8
    whole = shards.open_stream(f"folder:{path}", "all", images=11)
    names = [item.name for item in everything(whole)]
    assert names[:8] == [item.name for item in items] and len(set(names)) == 11


def test_a_named_data_set_is_streamed_in_its_own_order():
    stream = shards.open_stream("photos", "test", images=5, chunk=2)
    known = loaders.load("photos", "test")
    assert torch.equal(torch.stack([item.pixels() for item in everything(stream)]), known.x[:5])
    assert [item.y for item in everything(stream)] == known.y[:5].tolist() and len(stream.shards) == 3


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize("url", [False, True])
def test_tar_shards_are_counted_matched_and_read_in_order(tmp_path, mode, url):
    at = "file://" * url + str(tmp_path)
    for n in range(11):
        one = [(f"c/{n}-{i}", {"cls": str(i).encode(), "png": picture(10 * n + i), "json": b"{}"}) for i in range(2)]
        shard(tmp_path / f"s-{n:02d}.tar", one, mode)
    counted, matched = (shards.open_stream(f"tar:{at}/{what}.tar") for what in ("s-{00..10}", "s-*"))
    names = [item.name for item in everything(counted)]
    assert names == [f"c/{n}-{i}.png" for n in range(11) for i in range(2)]
    assert names == [item.name for item in everything(matched)] and counted.identity == matched.identity
    assert [item.y for item in everything(counted)] == [0, 1] * 11 and counted.images is None
    expected = np.asarray(Image.open(io.BytesIO(picture(31)))).transpose(2, 0, 1)
    assert np.array_equal((everything(counted)[7].pixels() * 255).round().numpy(), expected)


def test_tar_shards_from_a_file_system_in_memory(tmp_path):
    fsspec = pytest.importorskip("fsspec")
    made = shard(tmp_path / "a.tar", [("x", {"png": picture(1)})])
    fsspec.filesystem("memory").pipe("/bucket/a.tar", made.read_bytes())
    (item,) = everything(shards.open_stream("tar:memory://bucket/a.tar", resolution=4))
    assert (item.name, item.y, item.pixels().shape) == ("x.png", -1, (3, 4, 4))


def test_what_else_lies_in_a_tar_is_left_where_it_is(tmp_path):
    path = shard(tmp_path / "a.tar", [("../up", {"png": picture(1)}), ("x", {"txt": b"a", "png": picture(2)})])
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(link)
    before = sorted(tmp_path.rglob("*"))
    with pytest.warns(UserWarning, match=r"not used of .*a\.tar: 1 picture \(link\); 1 picture \(outside the shard\)$"):
        assert [item.name for item in everything(shards.open_stream(f"tar:{path}"))] == ["x.png"]
    assert sorted(tmp_path.rglob("*")) == before


def test_grey_files_suit_a_grey_dictionary_and_colour_ones_do_not(tmp_path):
    path = shard(tmp_path / "a.tar", [("g", {"png": picture(1, grey=True)})])
    (item,) = everything(shards.open_stream(f"tar:{path}", channels=1))
    assert item.pixels().shape == (1, 8, 9)
    path = shard(tmp_path / "b.tar", [("g", {"png": picture(1)})])
    (item,) = everything(shards.open_stream(f"tar:{path}", channels=1))
    with pytest.raises(InputError, match=r"b\.tar/g\.png is in colour"):
        item.pixels()
    with pytest.raises(InputError, match="1 channels and the dictionary 3"):
        shards.open_stream("fashion", "test")


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda f: f.write_bytes(f.read_bytes()[:700]), "make it anew"),
        (lambda f: f.write_bytes(b"\x1f\x8b" + f.read_bytes()[2:]), "make it anew"),
        (lambda f: f.write_bytes(b"no tar at all" * 100), "make it anew"),
        (lambda f: f.unlink(), "make it anew"),
        (lambda f: shard(f, [("x", {"txt": b"only words"})]), "holds no images"),
        (lambda f: shard(f, [("x", {"cls": b"seven", "png": picture(1)})]), "mend its .cls"),
        (lambda f: shard(f, [("x", {"png": b"no picture"})]), r"a\.tar/x\.png is no readable image"),
        (lambda f: shard(f, [("x", {"png": picture(1)}), ("y", {"png": picture(2, (5, 5))})]), "resolution=64"),
    ],
)
def test_a_damaged_shard_is_named(tmp_path, spoil, words):
    path = shard(tmp_path / "a.tar", [(str(i), {"png": picture(i)}) for i in range(3)])
    spoil(path)
    with pytest.raises(InputError, match=words) as error:
        [item.pixels() for item in everything(shards.open_stream(f"tar:{path}"))]
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "dataset, options, words",
    [
        ("photos", {"split": "tset"}, "train, test, all"),
        ("tar:/nowhere/*.tar", {}, "nothing matches"),
        ("tar:nosuch://a.tar", {}, "check the address"),
        ("tar:a.tar", {"images": 3}, "fewer of them"),
    ],
)
def test_bad_input_is_one_sentence(dataset, options, words):
    with pytest.raises(InputError, match=words):
        shards.open_stream(dataset, **options)

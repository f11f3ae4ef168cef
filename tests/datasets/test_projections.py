"""Projections in chunks: what is in them, and what becomes of them when a run is cut, or they are."""

import json

from labkit.core.errors import InputError
from labkit.datasets import projections, shards

import pytest
import torch
from safetensors import safe_open
from shard_files import picture, shard, tree
from torch import nn


class Dark(nn.Module):
    """Half of every image; counts what passes."""

    def __init__(self):
        super().__init__()
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        return x / 2


def run(stream, out, layer=None, chunk=3, **about):
    return projections.project(layer or Dark(), stream, out, about, chunk=chunk, progress=False)


def contents(out):
    return {file.name: file.read_bytes() for file in out.iterdir() if not file.name.startswith(".")}


@pytest.fixture
def stream(tmp_path):
    """Seven, no and four images in three tar shards."""
    for n, count in enumerate((7, 0, 4)):
        samples = [(f"{n}/{i}", {"png": picture(10 * n + i), "cls": str(i).encode()}) for i in range(count)]
        shard(tmp_path / f"{n}.tar", samples)
    return shards.open_stream(f"tar:{tmp_path}/{{0..2}}.tar")


def read(out, manifest):
    """T(x), classes and names of each chunk, as a reader of the files finds them."""
    for told in manifest["chunks"]:
        with safe_open(out / told["path"], "pt") as kept:
            names = json.loads(kept.metadata()["checkpoint"])["facts"]["names"]
            yield kept.get_tensor("x").float(), kept.get_tensor("y"), names


def test_chunks_hold_every_image_once_in_order(stream, tmp_path):
    manifest = run(stream, tmp_path / "out", kind="dark")
    assert [(one["path"], one["images"]) for one in manifest["chunks"]] == [
        ("000000-0000.safetensors", 3), ("000000-0001.safetensors", 3), ("000000-0002.safetensors", 1),
        ("000001-0000.safetensors", 0), ("000002-0000.safetensors", 3), ("000002-0001.safetensors", 1),
    ]  # fmt: skip
    assert manifest == json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["images"] == 11 and manifest["kind"] == "dark" and manifest["size"] == [8, 9]
    found = [one for one in read(tmp_path / "out", manifest) if len(one[1])]
    items = [item for one in stream.shards for item in one()]
    x, y = torch.cat([x for x, _, _ in found]), torch.cat([y for _, y, _ in found])
    assert torch.equal(x, (torch.stack([item.pixels() for item in items]) / 2).half().float())
    assert y.tolist() == [item.y for item in items]
    assert [name for _, _, names in found for name in names] == [item.name for item in items]


def test_what_a_killed_run_was_writing_is_removed(stream, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".000000-0000.safetensors.7.partial").write_bytes(b"half")
    run(stream, tmp_path / "out")
    assert not list((tmp_path / "out").glob(".*.partial"))


def test_a_run_that_was_cut_goes_on_and_ends_the_same(stream, tmp_path):
    run(stream, tmp_path / "whole")

    class Cut(Dark):
        def forward(self, x):
            if self.seen >= 6:
                raise KeyboardInterrupt
            return super().forward(x)

    with pytest.raises(KeyboardInterrupt):
        run(stream, tmp_path / "cut", Cut())
    assert not (tmp_path / "cut" / projections.MANIFEST).exists()
    layer = Dark()
    run(stream, tmp_path / "cut", layer)
    assert layer.seen == 11 - 6
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_what_is_finished_is_not_even_opened(stream, tmp_path):
    run(stream, tmp_path / "out")
    for n in range(3):
        (tmp_path / f"{n}.tar").unlink()
    layer = Dark()
    run(stream, tmp_path / "out", layer)
    assert layer.seen == 0


def test_a_damaged_chunk_is_made_again_and_the_others_kept(stream, tmp_path):
    run(stream, tmp_path / "out")
    before = contents(tmp_path / "out")
    file = tmp_path / "out" / "000000-0001.safetensors"
    raw = bytearray(before[file.name])
    raw[-3] ^= 4
    file.write_bytes(raw)
    layer = Dark()
    with pytest.warns(UserWarning, match="its digest is wrong"):
        run(stream, tmp_path / "out", layer)
    assert layer.seen == 3 and contents(tmp_path / "out") == before


def test_a_folder_of_another_projection_is_refused(tmp_path):
    stream = shards.open_stream(f"folder:{tree(tmp_path / 'set')}", chunk=3)
    run(stream, tmp_path / "out", kind="dark")
    before = contents(tmp_path / "out")
    with pytest.raises(InputError, match="holds another projection"):
        run(stream, tmp_path / "out", kind="darker")
    assert contents(tmp_path / "out") == before
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot be used"):
        run(stream, tmp_path / "file")


def test_two_runs_do_not_share_a_folder(tmp_path):
    stream = shards.open_stream(f"folder:{tree(tmp_path / 'set')}", chunk=3)

    class Second(Dark):
        def forward(self, x):
            with pytest.raises(InputError, match="another run projects into"):
                run(stream, tmp_path / "out")
            return super().forward(x)

    assert run(stream, tmp_path / "out", Second())["images"] == 8


def test_few_images_go_through_at_once_however_large_the_chunk(tmp_path, monkeypatch):
    monkeypatch.setattr(projections, "_AT_ONCE", 2 * 3 * 8 * 9)
    stream = shards.open_stream(f"folder:{tree(tmp_path / 'set')}")
    sizes = []

    class Sized(Dark):
        def forward(self, x):
            sizes.append(len(x))
            return super().forward(x)

    run(stream, tmp_path / "out", Sized(), chunk=shards.CHUNK)
    assert sizes == [2, 2, 2, 2]

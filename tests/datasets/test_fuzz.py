"""Whatever a file or a user says, the answer is a result or one sentence: no crash, no hang, nothing written elsewhere.

Each reader gets 10,000 damaged inputs or more, shared out where it reads several kinds of file; LABKIT_FUZZ=50000 gives
that many to every kind.
"""

import io
import json
import random
import tarfile
import zipfile
from pathlib import Path

from labkit.cli import artifacts
from labkit.core import checkpoint, store
from labkit.core.recipes import ClassifierRecipe, DictionaryRecipe
from labkit.csc import load_dictionary
from labkit.datasets import image_files, loaders, shards
from labkit.models import networks

import numpy as np
import pytest
import torch
from hostile import bent, cases, mutants, put, survive, tree
from PIL import Image
from safetensors.torch import save as safetensors

pytestmark = pytest.mark.usefixtures("one_thread")
DRAW = np.random.default_rng(0)


def pictures() -> dict[str, list[bytes]]:
    """Small good files of every format and mode that is read, by ending."""
    rgb = Image.fromarray(DRAW.integers(0, 256, (13, 11, 3), dtype=np.uint8))
    grey, clear, print_ = rgb.convert("L"), rgb.convert("RGBA"), rgb.convert("CMYK")
    palette, deep = rgb.convert("P"), Image.fromarray(DRAW.integers(0, 2**16, (9, 7), dtype=np.uint16))
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "upright"
    kinds = {
        "png": [(rgb, {"exif": exif}), (grey, {"dpi": (72, 72)}), (clear, {}), (deep, {}),
                (palette, {"transparency": 3}), (rgb.convert("1"), {}), (rgb, {"icc_profile": b"profile" * 20})],
        "jpg": [(rgb, {"exif": exif}), (grey, {}), (print_, {}), (rgb, {"progressive": True})],
        "gif": [(palette, {}), (palette, {"save_all": True, "append_images": [palette.rotate(90), palette]})],
        "bmp": [(rgb, {}), (grey, {}), (rgb.convert("1"), {}), (clear, {})],
        "tif": [(rgb, {"compression": c}) for c in ("raw", "tiff_lzw", "tiff_deflate", "packbits", "jpeg")]
        + [(deep, {}), (print_, {}), (palette, {}), (rgb, {"save_all": True, "append_images": [grey]})],
        "webp": [(rgb, {}), (clear, {"lossless": True}), (rgb, {"save_all": True, "append_images": [rgb.rotate(90)]})],
        "ppm": [(rgb, {}), (grey, {}), (deep, {}), (rgb.convert("1"), {})],
    }  # fmt: skip
    files = {}
    for ending, saved in kinds.items():
        files[ending] = []
        for image, options in saved:
            raw = io.BytesIO()
            image.save(raw, {"jpg": "JPEG", "tif": "TIFF"}.get(ending, ending.upper()), **options)
            files[ending].append(raw.getvalue())
    files["ppm"].append(b"P3 2 2 255 1 2 3 4 5 6 7 8 9 10 11 12\n")
    return files


@pytest.mark.parametrize("ending", pictures())
def test_pictures(tmp_path, ending):
    """Every decoder, by the door that a folder of pictures goes through, at the picture's size and at another."""
    file = tmp_path / f"a.{ending}"
    source = image_files.Source(tmp_path, [file.name])

    def read(raw: bytes) -> None:
        put(file, raw)
        for resolution in (None, 8):
            image_files.scan(source, source.names, resolution, decode=True)

    taken, refused = survive(read, mutants(pictures()[ending], cases(1500)))
    assert taken and refused
    assert list(tree(tmp_path)) == [file.name]


def archives() -> list[bytes]:
    png = pictures()["png"][0]
    made = []
    for how in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        raw = io.BytesIO()
        with zipfile.ZipFile(raw, "w", how) as archive:
            for name in ("train/ant/0.png", "train/bee/1.png", "test/ant/0.png", "test/bee/1.png"):
                archive.writestr(name, png)
        made.append(raw.getvalue())
    return made


def test_zips(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()

    def read(raw: bytes) -> None:
        put(inside / "set.zip", raw)
        loaders.load(f"folder:{inside / 'set.zip'}?allow-duplicates", "train")  # all its pictures are the same one

    taken, refused = survive(read, mutants(archives(), cases(10_000)))
    assert taken and refused
    assert list(tree(tmp_path)) == ["inside/set.zip"]


def test_tars(tmp_path):
    """Shards of tar, packed or not, read to their end as a projection reads them."""
    seeds, png = [], pictures()["png"][1]
    for how in ("w", "w:gz", "w:bz2", "w:xz"):
        for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
            raw = io.BytesIO()
            with tarfile.open(fileobj=raw, mode=how, format=kind) as archive:
                for name, content in (
                    ("ant/0.png", png),
                    ("ant/0.cls", b"0"),
                    ("é" * 60 + "/1.png", png),
                    ("b.txt", b"x"),
                ):
                    member = tarfile.TarInfo(name)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
            seeds.append(raw.getvalue())

    def read(raw: bytes) -> None:
        put(tmp_path / "a.tar", raw)
        stream = shards.open_stream(f"tar:{tmp_path / 'a.tar'}", channels=1, resolution=8)
        for item in stream.shards[0]():
            item.pixels()

    taken, refused = survive(read, mutants(seeds, cases(10_000)))
    assert taken and refused
    assert list(tree(tmp_path)) == ["a.tar"]


def test_dictionaries(tmp_path):
    def saved(array, version) -> bytes:
        raw = io.BytesIO()
        np.lib.format.write_array(raw, array, version)
        return raw.getvalue()

    d = DRAW.normal(size=(4, 4, 3, 5))
    kinds = (
        d,
        d.astype("f4"),
        d.astype(">f4"),
        d.astype("f2"),
        d[:, :, 0],
        np.asfortranarray(d),
        d.astype("f4")[..., :1],
    )
    seeds = [saved(array, version) for array in kinds for version in ((1, 0), (2, 0), (3, 0))]
    zipped = io.BytesIO()
    np.savez(zipped, d=d)

    def read(raw: bytes) -> None:
        put(tmp_path / "d.npy", raw)
        d = load_dictionary(tmp_path / "d.npy")
        assert d.dtype == torch.float32 and d.ndim == 4 and d.isfinite().all()

    taken, refused = survive(read, mutants([*seeds, zipped.getvalue()], cases(10_000)))
    assert taken and refused
    assert list(tree(tmp_path)) == ["d.npy"]


TENSORS = {"d": torch.arange(24.0).view(2, 3, 4), "half": torch.ones(3).half(), "brain": torch.ones(2).bfloat16()}
TENSORS |= {"n": torch.tensor(3), "mask": torch.ones(2, 2) > 0}


def test_artifacts_as_they_decay(tmp_path):
    """Damage to any file of an artifact is told from what was written, every time."""
    found = store.Store(tmp_path).fetch("kind", DictionaryRecipe(), lambda scratch: (TENSORS, {"n": 1}))
    whole = {file: file.read_bytes() for file in found.path.iterdir()}

    for k, (file, raw) in enumerate(whole.items()):

        def read(damaged: bytes, file=file, raw=raw) -> None:
            put(file, damaged)
            again = store.read(found.path)
            # The manifest alone may change and still be right: in its spaces.
            same = all(torch.equal(again.tensors[name], t) for name, t in TENSORS.items()) and again.facts == {"n": 1}
            assert same and (damaged == raw or file.name == store.MANIFEST)

        survive(read, mutants([raw], cases(10_000) // 4 + 1, seed=k), (store.Damaged,))
        put(file, raw)
    store.read(found.path)


def forged(folder: Path) -> None:
    """Makes the manifest say what the files say, as somebody who can write to a store would."""
    digests = {file.name: checkpoint.digest(file) for file in folder.iterdir() if file.name != store.MANIFEST}
    put(folder / store.MANIFEST, json.dumps(digests).encode())


@pytest.mark.parametrize("name", [store.TENSORS, "facts.json"])
def test_artifacts_as_somebody_forges_them(tmp_path, name):
    """The digests are right and the content is not: the parsers behind the manifest are reached."""
    found = store.Store(tmp_path).fetch("kind", DictionaryRecipe(), lambda scratch: (TENSORS, {"n": [1, {"a": None}]}))
    seed = (found.path / name).read_bytes()

    def read(raw: bytes) -> None:
        put(found.path / name, raw)
        forged(found.path)
        assert isinstance(store.read(found.path).facts, dict)

    taken, refused = survive(read, mutants([seed], cases(10_000)), (store.Damaged,))
    assert taken and refused


TOO_DEEP = [b'{"a":' * depth + b"1" + b"}" * depth for depth in (200, 400, 900, 100_000)] + [b"[" * 100_000]


def json_values(count: int, seed: int) -> list[bytes]:
    """Recipes such as nobody wrote, and JSON of no recipe at all."""
    draw, good = random.Random(seed), store.recipes.plain(ClassifierRecipe(transform=None))
    return [json.dumps(bent(good, draw)).encode() for _ in range(count)]


@pytest.mark.parametrize("name", ["recipe.json", "facts.json", store.MANIFEST, store.TENSORS])
def test_a_look_into_a_store_of_anything(tmp_path, name):
    """What lists, shows and verifies artifacts meets files of any content."""
    kept = store.Store(tmp_path)
    found = kept.fetch("kind", ClassifierRecipe(), lambda scratch: (TENSORS, {"n": 1}))
    seed, count = (found.path / name).read_bytes(), cases(2500)
    inputs = [*mutants([seed], count // 2), *json_values(count - count // 2, 0), *TOO_DEEP]

    def read(raw: bytes) -> None:
        put(found.path / name, raw)
        (entry,) = artifacts.artifacts(kept)
        assert isinstance(entry.summary, str) and "\n" not in entry.summary
        assert isinstance(store.flaws(entry.path), dict)
        artifacts.contents(entry)

    taken, _ = survive(read, inputs)
    assert taken


def test_checkpoints(tmp_path):
    file = tmp_path / "c.safetensors"
    tensors = {name: t for name, t in TENSORS.items() if name != "brain"}  # numpy, and so its digest, knows none
    checkpoint.write(file, {"run": 1}, tensors, {"epoch": 3})
    seed = file.read_bytes()
    odd = [safetensors(tensors, {"checkpoint": raw.decode()}) for raw in json_values(50, 1)]

    def read(raw: bytes) -> None:
        put(file, raw)
        found = checkpoint.read(file, {"run": 1})
        assert found is None or found[0].keys() == tensors.keys()

    taken, refused = survive(read, [*mutants([seed, *odd], cases(10_000)), *odd])
    assert taken and not refused


@pytest.mark.parametrize("ending", ["safetensors", "pt"])
def test_weights(tmp_path, ending):
    """Files of weights, by the door that a recipe's `weights` goes through."""
    recipe = ClassifierRecipe(network="vgg11", width=0.01)
    model = networks.build(recipe, 2, 1, 32)
    whole = model.state_dict()
    if ending == "pt":
        seeds = []
        for value, old in (
            (whole, False),
            (whole, True),
            (list(whole.values())[:2], False),
            ({1: torch.ones(2)}, False),
        ):
            raw = io.BytesIO()
            torch.save(value, raw, _use_new_zipfile_serialization=not old)
            seeds.append(raw.getvalue())
    else:
        seeds = [safetensors(whole), safetensors(model.network.state_dict()), safetensors({"x": torch.ones(2)})]
    file = tmp_path / f"w.{ending}"

    def read(raw: bytes) -> None:
        put(file, raw)
        networks.load(model, networks.fingerprint(file))

    # torch reads as many bytes of a .pt file as a length in it says, if the system lets it: prefer safetensors.
    taken, refused = survive(
        read, [*seeds, *mutants(seeds, cases(3000 if ending == "pt" else 7000))], greedy=ending == "pt"
    )
    assert taken and refused
    assert list(tree(tmp_path)) == [file.name]

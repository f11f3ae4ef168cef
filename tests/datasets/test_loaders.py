"""Data sets by name: what they hold, how subsets are drawn, what the digest tells apart, what errors say."""

import gzip
import hashlib
import os
import pickle
import re
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

from labkit.core.errors import InputError
from labkit.core.recipes import DATASETS, DataRecipe
from labkit.datasets import image_files, loaders, photos
from labkit.datasets.images import Images, Lazy, check_pixels

import numpy as np
import pytest
import torch
from PIL import Image
from small_imagenet import write_imagenet

ROOT = Path(__file__).resolve().parents[2]
DEBIAN = Path("/usr/share/datasets/fashion-mnist")


def refused(message: str, action) -> None:
    with pytest.raises(InputError, match=message) as caught:
        action()
    assert "\n" not in str(caught.value)


def noise_tree(root: Path, *, train=20, test=5, classes=("ant", "bee", "cow"), size=(8, 6), ending="png") -> Path:
    """Random images, each different."""
    rng = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for name in classes:
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / part / name / f"{i:02}.{ending}")
    return root


def zipped(root: Path, target: Path) -> Path:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in root.rglob("*.*"):  # in the order of the disk: the order of the archive must not matter
            archive.write(file, file.relative_to(root.parent))
    return target


# fashion


def test_fashion_holds_what_it_says():
    for split, count in (("train", 10_000), ("test", 2_000)):
        images = loaders.load("fashion", split)
        assert images.x.shape == (count, 1, 32, 32) and images.x.dtype == torch.float32
        assert torch.bincount(images.y).tolist() == [count // 10] * 10 and len(images.classes) == 10
        assert images.x.min() == 0 and images.x.max() == 1
        border = images.x.clone()
        border[:, :, 2:-2, 2:-2] = 0
        assert not border.any()
        check_pixels(images.x)


def test_fashion_classes_carry_the_right_names():
    """Trousers are tall, boots and sneakers wide, bags fill the frame: the order of the labels is the published one."""
    images = loaders.load("fashion", "test")
    filled = {name: (images.x[images.y == k] > 0.1).float().mean(0)[0] for k, name in enumerate(images.classes)}
    width = {name: mask.mean(0).gt(0.25).sum().item() for name, mask in filled.items()}
    assert min(width, key=width.get) == "trouser"
    top = {name: mask[2:8].mean().item() for name, mask in filled.items()}
    assert min(top, key=top.get) in ("sneaker", "sandal") and top["sneaker"] < top["ankle boot"]


def test_fashion_train_and_test_share_no_image():
    train, test = (loaders.load("fashion", split) for split in ("train", "test"))
    assert not {x.numpy().tobytes() for x in train.x} & {x.numpy().tobytes() for x in test.x}


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_script_makes_the_embedded_files_again(tmp_path):
    run = [sys.executable, ROOT / "scripts" / "embed_fashion.py", "--source", DEBIAN, "--out", tmp_path]
    subprocess.run(run, check=True, capture_output=True)
    for name in ("train.npz", "test.npz", "SHA256SUMS"):
        assert (tmp_path / name).read_bytes() == (ROOT / "data" / "fashion" / name).read_bytes(), name


@pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_embedded_images_are_the_originals():
    raw = gzip.decompress((DEBIAN / "t10k-images-idx3-ubyte.gz").read_bytes())
    originals = {raw[16 + 784 * i : 16 + 784 * (i + 1)] for i in range(10_000)}
    x = loaders.load("fashion", "test").x[:, 0, 2:-2, 2:-2]
    assert all((image * 255).round().byte().numpy().tobytes() in originals for image in x)


def test_the_script_refuses_other_files(tmp_path):
    for name, _ in runpy.run_path(str(ROOT / "scripts" / "embed_fashion.py"))["SOURCES"]["train"]:
        (tmp_path / f"{name}.gz").write_bytes(gzip.compress(b"other"))
    run = [sys.executable, ROOT / "scripts" / "embed_fashion.py", "--source", tmp_path, "--out", tmp_path / "out"]
    done = subprocess.run(run, capture_output=True, text=True)
    assert done.returncode == 2 and "is not the original" in done.stderr and "Traceback" not in done.stderr


def test_a_damaged_or_missing_embedded_file(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "data" / "fashion", tmp_path / "fashion")
    monkeypatch.setenv("LABKIT_DATA", str(tmp_path))
    assert len(loaders.load("fashion", "test", n=3)) == 3
    raw = bytearray((tmp_path / "fashion" / "test.npz").read_bytes())
    raw[1000] ^= 1
    (tmp_path / "fashion" / "test.npz").write_bytes(raw)
    refused(r"test\.npz is damaged", lambda: loaders.load("fashion", "test"))
    (tmp_path / "fashion" / "test.npz").unlink()
    refused(r"test\.npz cannot be read", lambda: loaders.load("fashion", "test"))


def test_the_readme_records_the_digests_and_the_classes():
    readme = (ROOT / "data" / "README.md").read_text(encoding="utf-8")
    for line in (ROOT / "data" / "fashion" / "SHA256SUMS").read_text().splitlines():
        assert line.split()[0] in readme
    for name, (_, file, _, _) in photos.PHOTOS.items():
        assert re.search(rf"\| {name} \|.*{re.escape(file)}", readme)
        photo = hashlib.sha256(Path(photos.path(name)).read_bytes()).hexdigest()
        assert photo in readme, f"{name}: the installed package carries another file than data/README.md records"
    assert "Permission is hereby granted" in readme


# subsets


def test_subsets_are_balanced_seeded_and_nested():
    small, large = (loaders.load("fashion", "train", n=n, seed=3) for n in (57, 300))
    assert sorted(torch.bincount(small.y, minlength=10).tolist()) == [5] * 3 + [6] * 7
    assert torch.equal(small.x, large.x[:57]) and torch.equal(small.y, large.y[:57])
    again, other = loaders.load("fashion", "train", n=57, seed=3), loaders.load("fashion", "train", n=57, seed=4)
    assert again.digest == small.digest and torch.equal(again.x, small.x)
    assert other.digest != small.digest and not torch.equal(other.x, small.x)
    assert len(loaders.load("fashion", "test", n=10**6)) == 2000


def test_a_class_that_runs_out_leaves_its_share_to_the_others(tmp_path):
    noise_tree(tmp_path, train=2, test=1)
    for i in range(10):
        shutil.copy(tmp_path / "train" / "cow" / "00.png", tmp_path / "train" / "cow" / f"9{i}.png")
    count = Counter(loaders.load(f"folder:{tmp_path}", "train", n=9).y.tolist())
    assert count == {0: 2, 1: 2, 2: 5}


def test_a_recipe_names_what_load_loads():
    recipe = DataRecipe("photos", resolution=32, train=30, test=20, seed=5)
    for split, n in (("train", 30), ("test", 20)):
        assert (
            loaders.load_recipe(recipe, split).digest
            == loaders.load("photos", split, n=n, resolution=32, seed=5).digest
        )


# photos


@pytest.mark.parametrize("resolution", [32, 64, 128, 224])
def test_photo_crops_of_train_and_test_share_no_pixel(resolution):
    """Over many seeds, every train box lies apart from every test box of its photograph, and inside the photograph."""
    reach: dict[tuple[str, str], list[tuple[int, int, int, int]]] = {}
    for split in ("train", "test"):
        for seed in range(3):
            for name, _, box in photos.boxes(split, resolution, seed):
                reach.setdefault((name, split), []).append(box)
    assert len(reach) == 20
    for name, (_, _, (w, h), _) in photos.PHOTOS.items():
        hull = {}
        for split in ("train", "test"):
            boxes = torch.tensor(reach[name, split])
            assert ((boxes[:, 2] - boxes[:, 0]) == (boxes[:, 3] - boxes[:, 1])).all()
            assert (boxes[:, 2] - boxes[:, 0] >= min(resolution, 3 * min(w, h) // 8)).all()
            (left, top), (right, bottom) = boxes[:, :2].amin(0).tolist(), boxes[:, 2:].amax(0).tolist()
            assert left >= 0 and top >= 0 and right <= w and bottom <= h
            hull[split] = (left, top, right, bottom)
        train, test = hull["train"], hull["test"]
        assert train[2] <= test[0] or train[3] <= test[1], f"{name}: {train} meets {test}"


def test_photo_crops_see_nothing_beyond_their_box(monkeypatch):
    """Painting over everything right of (below) the train half leaves the train crops as they were."""
    before = loaders.load("photos", "train", n=200, resolution=64)
    original = photos.read

    def half_painted(name: str) -> Image.Image:
        photo = original(name)
        _, _, (w, h), side_by_side = photos.PHOTOS[name]
        photo.paste((255, 0, 255), (w // 2, 0, w, h) if side_by_side else (0, h // 2, w, h))
        return photo

    monkeypatch.setattr(photos, "read", half_painted)
    assert torch.equal(loaders.load("photos", "train", n=200, resolution=64).x, before.x)
    assert loaders.load("photos", "test", n=200, resolution=64).x.mean((0, 2, 3)).tolist() == pytest.approx([1, 0, 1])


def test_photos_come_at_any_resolution():
    for resolution in (32, 64, 128, 224):
        images = loaders.load("photos", "test", n=25, resolution=resolution)
        assert images.x.shape == (25, 3, resolution, resolution) and images.y.bincount().tolist() == [3] * 5 + [2] * 5
        check_pixels(images.x)
        assert (images.x.flatten(1).std(1) > 0).float().mean() > 0.9  # pictures, not flat patches
    assert loaders.load("photos", "test", n=2).x.shape[-1] == 64
    assert len(loaders.load("photos", "train", resolution=8)) == 4000 and len(loaders.load("photos", "test")) == 1000


def test_a_photo_window_of_the_right_size_is_copied_pixel_by_pixel():
    boxes = photos.boxes("test", 64)
    i = next(i for i, (_, _, (left, _, right, _)) in enumerate(boxes) if right - left == 64)
    name, k, box = boxes[i]
    with Image.open(photos.path(name)) as photo:
        expected = torch.from_numpy(np.array(photo.convert("RGB").crop(box))).permute(2, 0, 1) / 255
    images = loaders.load("photos", "test")
    assert torch.equal(images.x[i], expected) and images.classes[k] == name and images.y[i] == k


# folder


def test_zip_and_folder_of_the_same_files_are_the_same_images(tmp_path):
    root = noise_tree(tmp_path / "set")
    archive = zipped(root, tmp_path / "set.zip")
    shutil.copytree(root, tmp_path / "elsewhere")
    for split, n in (("train", None), ("train", 7), ("test", None)):
        one, *others = (loaders.load(f"folder:{p}", split, n=n) for p in (root, archive, tmp_path / "elsewhere"))
        for other in others:
            assert torch.equal(other.x, one.x) and torch.equal(other.y, one.y)
            assert other.digest == one.digest and other.classes == one.classes
    i = 3
    images = loaders.load(f"folder:{root}", "test")
    files = {np.asarray(Image.open(f)).tobytes(): f.parent.name for f in (root / "test").rglob("*.png")}
    pixels = (images.x[i] * 255).round().byte().permute(1, 2, 0).numpy().tobytes()
    assert files[pixels] == images.classes[images.y[i]]


def test_the_digest_sees_labels(tmp_path):
    """The same picture three times: which class it counts for twice is all that differs."""
    root = noise_tree(tmp_path / "set", train=1, test=1, classes=("ant", "bee"))
    shutil.copy(root / "train" / "ant" / "00.png", root / "train" / "bee" / "00.png")
    digests = []
    for name in ("ant", "bee"):
        extra = Path(shutil.copy(root / "train" / "ant" / "00.png", root / "train" / name / "01.png"))
        images = loaders.load(f"folder:{root}", "train")
        assert sorted(images.y.tolist()) == ([0, 0, 1] if name == "ant" else [0, 1, 1])
        digests.append(images.digest)
        extra.unlink()
    y = torch.tensor([0, 0, 1])
    for labels in (y, 1 - y):
        ask = loaders.Ask("train", None, None, 0, tmp_path)
        digests.append(loaders.from_pixels(ask, torch.zeros(3, 1, 2, 2, dtype=torch.uint8), labels, "ab").digest)
    assert len(set(digests)) == 4


def test_the_digest_sees_one_pixel_a_class_name_and_the_resolution(tmp_path):
    root = noise_tree(tmp_path / "set", train=2, test=1)
    digests = [loaders.load(f"folder:{root}", "train", resolution=r).digest for r in (None, 5, 4)]
    pixel = np.array(Image.open(root / "train" / "ant" / "00.png"))
    pixel[0, 0, 0] ^= 1
    Image.fromarray(pixel).save(root / "train" / "ant" / "00.png")
    digests.append(loaders.load(f"folder:{root}", "train").digest)
    for part in ("train", "test"):
        (root / part / "cow").rename(root / part / "dog")
    digests.append(loaders.load(f"folder:{root}", "train").digest)
    assert len(set(digests)) == len(digests)


def test_tensor_digests_see_one_pixel(tmp_path, monkeypatch):
    before = loaders.load("fashion", "test", n=50)
    original = loaders._choose
    monkeypatch.setattr(loaders, "_choose", lambda y, ask: original(y, ask).flip(0))
    assert loaders.load("fashion", "test", n=50).digest != before.digest
    y = torch.tensor([0, 1])
    pixels = torch.zeros(2, 1, 3, 3, dtype=torch.uint8)
    ask = loaders.Ask("test", None, None, 0, tmp_path)
    black = loaders.from_pixels(ask, pixels, y, ["a", "b"]).digest
    pixels[1, 0, 2, 2] = 1
    assert loaders.from_pixels(ask, pixels, y, ["a", "b"]).digest != black


def test_only_the_chosen_files_are_decoded(tmp_path):
    root = noise_tree(tmp_path / "set")
    chosen = loaders.load(f"folder:{root}", "train", n=6)
    kept = {x.numpy().tobytes() for x in chosen.x}
    damaged = 0
    for file in (root / "train").rglob("*.png"):
        x = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1).contiguous() / 255
        if x.numpy().tobytes() not in kept:
            file.write_bytes(b"damaged")
            damaged += 1
    assert damaged == 54
    assert loaders.load(f"folder:{root}", "train", n=6).digest == chosen.digest
    refused("is no readable image", lambda: loaders.load(f"folder:{root}", "train", n=7))


def test_a_folder_is_resized_to_the_resolution(tmp_path):
    root = noise_tree(tmp_path / "set", train=1, test=1, size=(20, 14))
    assert loaders.load(f"folder:{root}", "train").x.shape == (3, 3, 14, 20)
    assert loaders.load(f"folder:{root}", "train", resolution=32).x.shape == (3, 3, 32, 32)


def test_arrays_are_resized_with_antialias(tmp_path):
    fine = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    fine[..., ::4] = 200  # every fourth column: their mean is 50, and plain interpolation would miss them altogether
    ask = loaders.Ask("test", None, 8, 0, tmp_path)
    x = loaders.from_pixels(ask, fine, torch.tensor([0]), ["a"]).x
    assert x.shape == (1, 1, 8, 8) and (x[..., 1:-1] - 50 / 255).abs().max() < 0.02


# lazy


@pytest.mark.parametrize("where", ["bytes", "files"])
def test_a_lazy_set_indexes_like_a_tensor(tmp_path, monkeypatch, where):
    root = noise_tree(tmp_path / "set")
    name = f"folder:{zipped(root, tmp_path / 'set.zip')}"
    eager = loaders.load(name, "train")
    size = 3 * 6 * 8
    monkeypatch.setattr("labkit.datasets.images.FLOAT_LIMIT", 4 * 10 * size)  # ten images as floats
    if where == "files":
        monkeypatch.setattr("labkit.datasets.images.BYTES_LIMIT", 30 * size)
    decoded = []
    original = image_files.pixels
    monkeypatch.setattr(image_files, "pixels", lambda *a: decoded.append(len(a[1])) or original(*a))
    lazy = loaders.load(name, "train")
    assert isinstance(eager.x, torch.Tensor) and isinstance(lazy.x, Lazy)
    assert lazy.digest == eager.digest and torch.equal(lazy.y, eager.y)
    assert lazy.x.shape == eager.x.shape and len(lazy.x) == len(eager.x) == 60 and lazy.x.dtype == eager.x.dtype
    assert not decoded
    mask = torch.arange(60) % 7 == 0
    for index in (slice(5, 20), [3, 1, 1], torch.tensor([59, 0]), -1, slice(None), mask, []):
        assert torch.equal(lazy.x[index], eager.x[index]), index
    assert bool(decoded) == (where == "files")
    for (x, y), (x2, y2) in zip(lazy.batches(25), eager.batches(25), strict=True):
        assert torch.equal(x, x2) and torch.equal(y, y2)
    for index, kind in ((slice(0, 8), torch.Tensor), (slice(0, 20), Lazy), (slice(2, 50), Lazy)):
        some, same = lazy[index], eager[index]
        assert isinstance(some.x, kind) and torch.equal(some.x[:], same.x) and some.digest == same.digest
    assert torch.equal(lazy[2:50][1:40].x[[5, 0]], eager.x[[8, 3]])
    with pytest.raises(IndexError):
        lazy.x[60]


def test_files_read_on_demand_are_still_checked_and_counted(tmp_path, monkeypatch):
    root = noise_tree(tmp_path / "set", train=3)
    Image.new("L", (8, 6), 9).save(root / "train" / "ant" / "00.png")
    monkeypatch.setattr("labkit.datasets.images.BYTES_LIMIT", 10)
    monkeypatch.setattr("labkit.datasets.images.FLOAT_LIMIT", 10)
    with pytest.warns(UserWarning, match="1 grey to RGB, of 9 in"):
        assert loaders.load(f"folder:{root}", "train").x.shape == (9, 3, 6, 8)
    Image.new("RGB", (9, 9)).save(root / "train" / "ant" / "00.png")
    refused("mixed size", lambda: loaders.load(f"folder:{root}", "train"))


# Images


def test_subsets_of_images():
    images = loaders.load("fashion", "test", n=20)
    some = images[[4, 2]]
    assert torch.equal(some.x, images.x[[4, 2]]) and torch.equal(some.y, images.y[[4, 2]])
    assert len(some) == 2 and some.classes == images.classes
    assert images[2:4].digest == images[torch.tensor([2, 3])].digest != images[3:5].digest
    assert images[:].digest == images.digest != images[:19].digest
    assert [len(y) for _, y in images.batches(8)] == [8, 8, 4]
    assert torch.equal(torch.cat([x for x, _ in images.batches(8)]), images.x)


def test_images_refuse_shapes_that_do_not_fit():
    x, y = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.int64)
    Images(x, y, ("a",), "")
    for bad in ((x[0], y), (x, y[:1]), (x, y.float())):
        refused(r"x \(N, C, H, W\) with y", lambda bad=bad: Images(*bad, ("a",), ""))


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.full((1, 1, 2, 2), 255.0), "got 255 to 255; divide 8-bit values by 255"),
        (torch.tensor([[[[0.5, -0.25]]]]), "got -0.25 to 0.5"),
        (torch.tensor([[[[0.5, float("nan")]]]]), "NaN or infinite"),
        (torch.tensor([[[[0.5, float("inf")]]]]), "NaN or infinite"),
        (torch.tensor([[[[-float("inf"), 0.5]]]]), "NaN or infinite"),
        (torch.zeros(3, 8, 8), r"must be \(N, C, H, W\) with N > 0, got \(3, 8, 8\)"),
        (torch.zeros(0, 3, 8, 8), "N > 0"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.uint8), "got torch.uint8"),
        (np.zeros((1, 1, 2, 2)), "got ndarray"),
    ],
)
def test_check_pixels_refuses(x, message):
    refused(message, lambda: check_pixels(x))


def test_check_pixels_accepts_the_closed_interval():
    check_pixels(torch.tensor([[[[0.0, 1.0]]]], dtype=torch.float64))
    check_pixels(torch.tensor([[[[0.0, 1.0]]]], requires_grad=True))


# by name


def small_memory(monkeypatch, name, **wanted):
    monkeypatch.setattr(loaders, "MOST_BYTES", 2**30)
    loaders.load(name, "test", **wanted)


def test_unknown_names_list_the_known_ones(tmp_path, monkeypatch):
    refused(
        f"unknown data set 'mnist'; the known ones are fashion, photos, .*{', '.join(loaders.names()[-2:])}",
        lambda: loaders.load("mnist", "train"),
    )
    refused("unknown data set 'folder:'", lambda: loaders.load("folder:", "train"))
    refused("unknown data set ''", lambda: loaders.note(""))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    refused("did you mean folder:pets", lambda: loaders.load("pets", "train"))
    refused('split must be "train" or "test"', lambda: loaders.load("fashion", "val"))
    refused("needs train ≥ 1, got 0", lambda: loaders.load("fashion", "train", n=0))
    refused("needs resolution ≥ 1, got -8", lambda: loaders.load("fashion", "train", resolution=-8))
    refused("resolution must be at most 7,071", lambda: loaders.load("fashion", "train", resolution=10**9))
    refused("20 images of 7,000×7,000 take 3 GB", lambda: small_memory(monkeypatch, "photos", n=20, resolution=7000))
    refused("2,000 images of 6,000×6,000", lambda: small_memory(monkeypatch, "fashion", resolution=6000))
    refused("does not exist", lambda: loaders.load(f"folder:{tmp_path / 'nowhere'}", "train"))


def test_notes_say_where_pixels_come_from(tmp_path):
    for name, named in DATASETS.items():
        assert loaders.note(name) == named.label and named.label.endswith(".") and callable(named.load())
    root = noise_tree(tmp_path / "set", train=2, test=1)
    assert loaders.note(f"folder:{root}") == "set: 9 image files."
    Image.new("RGB", (8, 6)).save(root / "train" / "ant" / "7.JPEG")
    assert loaders.note(f"folder:{root}") == (
        "set: 10 image files, 1 of them JPEG, so pixels come from (lossy) JPEG files."
    )


def test_importing_data_does_not_import_torchvision_or_the_photo_packages():
    code = (
        "import sys; from labkit.datasets import load; load('photos', 'test', n=1); "
        "print([m for m in ('torchvision', 'skimage', 'sklearn', 'sporco') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


def test_photographs_that_are_missing_or_other_ones(tmp_path, monkeypatch):
    monkeypatch.setitem(photos.PHOTOS, "cat", ("skimage", "data/no_such_cat.png", (451, 300), True))
    refused("photograph cat of skimage cannot be read .*; reinstall skimage", lambda: loaders.load("photos", "train"))
    monkeypatch.setitem(photos.PHOTOS, "cat", ("skimage", "data/coffee.png", (451, 300), True))
    refused("another photograph lies there", lambda: loaders.load("photos", "train"))
    monkeypatch.setitem(photos.PHOTOS, "cat", ("no_such_package", "data/cat.png", (451, 300), True))
    refused("cat of no_such_package cannot be read", lambda: loaders.load("photos", "train"))


# torchvision's sets, in their real layout on disk


def write_cifar(root: Path, monkeypatch) -> np.ndarray:
    """A small CIFAR-10 in the format of the original, with its checksums made known to torchvision."""
    from labkit.core.torchvision_shim import torchvision

    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (60, 3072), dtype=np.uint8)
    batches = [(f"data_batch_{i + 1}", slice(10 * i, 10 * i + 10)) for i in range(5)] + [("test_batch", slice(50, 60))]
    contents = {name: {"data": pixels[part], "labels": list(range(10))} for name, part in batches}
    contents["batches.meta"] = {"label_names": [f"class{k}" for k in range(10)]}
    md5 = {}
    for name, content in contents.items():
        raw = pickle.dumps(content)
        (folder / name).write_bytes(raw)
        md5[name] = hashlib.md5(raw).hexdigest()
    cifar = torchvision.datasets.CIFAR10
    monkeypatch.setattr(cifar, "train_list", [[f"data_batch_{i + 1}", md5[f"data_batch_{i + 1}"]] for i in range(5)])
    monkeypatch.setattr(cifar, "test_list", [["test_batch", md5["test_batch"]]])
    monkeypatch.setattr(cifar, "meta", {**cifar.meta, "md5": md5["batches.meta"]})
    return pixels.reshape(60, 3, 32, 32)


def test_cifar10_from_its_original_files(tmp_path, monkeypatch):
    pixels = write_cifar(tmp_path, monkeypatch)
    train, test = (loaders.load("cifar10", split, data_root=tmp_path) for split in ("train", "test"))
    assert train.x.shape == (50, 3, 32, 32) and test.x.shape == (10, 3, 32, 32)
    assert train.classes[3] == "class3" and sorted(test.y.tolist()) == list(range(10))
    for image, label in zip(test.x, test.y, strict=True):  # the test batch holds one image of each class, in order
        assert torch.equal(image, torch.from_numpy(pixels[50 + label]) / 255)


def test_cifar10_without_a_network_says_what_to_do(tmp_path, monkeypatch):
    for variable in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    refused(
        "could not be downloaded .*data_root=DIR, or use folder:PATH",
        lambda: loaders.load("cifar10", "test", data_root=tmp_path),
    )


def test_imagenet_from_its_official_layout(tmp_path):
    write_imagenet(tmp_path, ["n00000001", "n00000002", "n00000003"])
    train, test = (loaders.load("imagenet", split, data_root=tmp_path, resolution=16) for split in ("train", "test"))
    assert train.x.shape == (9, 3, 16, 16) and test.x.shape == (3, 3, 16, 16)
    assert train.classes == ("word0 (n00000001)", "word1 (n00000002)", "word2 (n00000003)")
    for image, label in zip(test.x, test.y, strict=True):
        assert (image[0] * 255 - 5 * label).abs().max() <= 3  # JPEG rounds
    assert loaders.load("imagenet", "test", data_root=tmp_path, n=1).x.shape[-1] == 224


def test_imagenet10_gathers_four_synsets_a_class(tmp_path):
    synsets = sorted(wnid for wnids in loaders._IMAGENET10.values() for wnid in wnids.split())
    assert len(set(synsets)) == 40
    write_imagenet(tmp_path, [*synsets, "n99999999"])
    images = loaders.load("imagenet10", "train", data_root=tmp_path, resolution=8)
    assert images.classes == tuple(loaders._IMAGENET10) and torch.bincount(images.y).tolist() == [12] * 10
    for image, label in zip(images.x, images.y, strict=True):
        wnid = synsets[round(image[0].mean().item() * 255 / 5)]
        assert wnid in loaders._IMAGENET10[images.classes[label]]
    for wnid in loaders._IMAGENET10["cat"].split():
        shutil.rmtree(tmp_path / "val" / wnid)
    refused("holds no images of cat", lambda: loaders.load("imagenet10", "test", data_root=tmp_path))


def test_imagenet_that_is_missing_says_what_to_do(tmp_path):
    for name in ("imagenet", "imagenet10"):
        refused(
            "ImageNet was not found in .*data_root=DIR, or use folder:PATH",
            lambda name=name: loaders.load(name, "train", data_root=tmp_path),
        )
    assert not os.listdir(tmp_path)

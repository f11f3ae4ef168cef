"""Projections of whole data sets: T(x) of every image, in chunks on disk that ranks share and none makes twice."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from labkit.core import InputError, checkpoint, distributed
from labkit.core.wording import reason
from labkit.datasets.shards import CHUNK, Item, Stream

import torch
from filelock import FileLock, Timeout
from torch import Tensor, nn
from tqdm.auto import tqdm

MANIFEST = "manifest.json"

_RUN = "run.json"
_AT_ONCE = 4 * 2**20  # numbers of the images that go through T together


def project(
    layer: nn.Module, stream: Stream, out: str | Path, about: dict, *, chunk: int = CHUNK,
    device: str | torch.device = "cpu", progress: bool = True,
) -> dict:  # fmt: skip
    """Writes T(x) of a stream's images into the folder `out`, and returns the manifest that then lies there.

    A chunk, SHARD-PART.safetensors, holds up to `chunk` images of one shard: x (n, C, H, W) in half precision, y (n,)
    int64, and the names among the "facts" of its metadata's "checkpoint". It is there whole or not at all, so a killed
    run goes on; a damaged or foreign chunk is made again with a warning. Ranks take turns among the shards, and their
    number changes nothing in the files. The manifest, which lists every file with its SHA-256, comes last.

    layer   T, on `device`; the same at every rank
    about   what tells this projection from others, as JSON can hold it; an `out` that holds another is refused

    Memory: `chunk` images, however many there are. Raises InputError when `out` holds something else or is in use.
    """
    out = Path(out)
    run = {**about, "images": stream.identity, "size": list(stream.shape), "chunk": chunk}
    mine = list(enumerate(stream.shards))[distributed.rank() :: distributed.world()]
    done = []
    shown = {"desc": "projecting" + (f", rank 0 of {distributed.world()}" if distributed.world() > 1 else "")}
    shown["total"] = None if stream.images is None else min(stream.images, len(mine) * chunk)
    with _claimed(out, run), tqdm(**shown, unit="image", disable=not progress or distributed.rank() > 0) as bar:
        for number, shard in mine:
            for file, count in _chunks(layer, shard, out / f"{number:06d}", run, chunk, device):
                done.append({**checkpoint.fingerprint(file, out), "images": count})
                bar.update(count)
        chunks = sorted((one for part in distributed.gather(done) for one in part), key=lambda one: one["path"])
        told = {"data": stream.label, "classes": list(stream.classes), "size": list(stream.shape)}
        manifest = {**about, **told, "images": sum(one["images"] for one in chunks), "chunks": chunks}
        if distributed.rank() == 0:
            checkpoint.write_whole(out / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
        distributed.barrier()
    return manifest


def _chunks(
    layer: nn.Module, shard: Callable[[], Iterator[Item]], stem: Path, run: dict, chunk: int, device
) -> Iterator[tuple[Path, int]]:
    """Every chunk of a shard, kept or made, and how many images it holds. A shard that is done is not even opened."""
    batches, taken, part, last = _batches(shard, chunk), 0, 0, False
    while not last:
        file = stem.with_name(f"{stem.name}-{part:04d}.safetensors")
        found = checkpoint.read(file, run)
        if found:
            count, last = len(found[0]["y"]), found[1]["last"]
        else:
            for items, last in islice(batches, part - taken + 1):  # noqa: B007 the one after those that are kept
                taken += 1
            x = _projected(layer, items, device)
            y, count = torch.tensor([item.y for item in items], dtype=torch.int64), len(items)
            checkpoint.write(file, run, {"x": x, "y": y}, {"names": [item.name for item in items], "last": last})
            shutil.copymode(file.parent / _RUN, file)  # safetensors writes for the owner's eyes only
        yield file, count
        part += 1


def _batches(shard: Callable[[], Iterator[Item]], size: int) -> Iterator[tuple[list[Item], bool]]:
    """`size` images at a time, and whether they are the last; of an empty shard, none, which are the last."""
    items = shard()
    some = list(islice(items, size))
    for ahead in items:
        yield some, False
        some = [ahead, *islice(items, size - 1)]
    yield some, True


@torch.no_grad()
def _projected(layer: nn.Module, items: list[Item], device) -> Tensor:
    """T(x) of images (n, C, H, W), in half precision, a few at a time."""
    if not items:
        return torch.empty(0, dtype=torch.half)
    size = max(1, _AT_ONCE // items[0].pixels().numel())
    parts = (items[start : start + size] for start in range(0, len(items), size))
    return torch.cat([layer(torch.stack([item.pixels() for item in part]).to(device)).half().cpu() for part in parts])


@contextmanager
def _claimed(out: Path, run: dict) -> Iterator[None]:
    """Holds the folder for one run, whose description lies in it; rank 0 does it for all."""
    lock = FileLock(out / ".lock")
    if wrong := distributed.tell(_refused(out, run, lock) if distributed.rank() == 0 else None):
        raise InputError(wrong)
    try:
        yield
    finally:
        lock.release()


def _refused(out: Path, run: dict, lock: FileLock) -> str | None:
    """Locks the folder, or says why it cannot be had."""
    file = out / _RUN
    try:
        out.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        if file.is_file() and json.loads(file.read_bytes()) != run:
            return f"{out} holds another projection; choose another --out, or delete it"
        for left in out.glob(".*.partial"):
            left.unlink()  # of a run that was killed
        checkpoint.write_whole(file, (json.dumps(run, indent=1) + "\n").encode())
    except Timeout:
        return f"another run projects into {out}; wait for it, or choose another --out"
    except (OSError, ValueError) as error:
        return f"{out} cannot be used ({reason(error)}); choose another --out"
    return None

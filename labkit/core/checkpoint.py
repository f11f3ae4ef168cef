"""Files that are whole or absent: checkpoints of long computations, and others that are read meanwhile."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.core.wording import reason, writable

from safetensors import SafetensorError, safe_open

if TYPE_CHECKING:  # who writes a page need not wait for torch
    from torch import Generator, Tensor


def draws(seed: int, step: int) -> "Generator":
    """The generator of an epoch or pass: one for each, so that its state need not be part of a checkpoint."""
    import torch

    return torch.Generator().manual_seed(seed * 1_000_003 + step)


def write(file: Path, run: dict, tensors: dict[str, "Tensor"], facts: dict) -> None:
    """Replace `file` by these tensors and plain facts; `run` says what computation they belong to."""
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    file.parent.mkdir(parents=True, exist_ok=True)
    # Tensors and scalars in one file, so that one rename replaces both or neither.
    described = json.dumps({"run": run, "facts": facts, "digest": contents(tensors)})
    with replacing(file) as partial:
        save_file(tensors, partial, metadata={"checkpoint": described})


def read(file: Path, run: dict) -> tuple[dict[str, "Tensor"], dict] | None:
    """Tensors and facts of a checkpoint of the same `run`; None, with a warning unless there is none, otherwise."""
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as stored:
            described = json.loads((stored.metadata() or {})["checkpoint"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
        if described["digest"] != contents(tensors):
            raise ValueError("its digest is wrong")
        theirs, facts = described["run"], described["facts"]
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        warnings.warn(f"starting anew: {file} is damaged ({reason(error)})", stacklevel=3)
        return None
    if theirs != run:
        warnings.warn(f"starting anew: {file} is of another recipe or other images", stacklevel=3)
        return None
    return tensors, facts


def kept(file: Path, make: Callable[[], "Tensor"]) -> "Tensor":
    """One of the parts a long computation is made of: read from its `file` or, if that is absent or damaged, made."""
    if found := read(file, {}):
        return found[0]["part"]
    part = make().detach().cpu().contiguous()
    write(file, {}, {"part": part}, {})
    return part


def contents(tensors: dict[str, "Tensor"]) -> str:
    """The SHA-256 of tensors and their names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(path: Path, root: Path) -> dict[str, Any]:
    """`path` relative to `root`, its size in bytes and its SHA-256."""
    return {"path": path.relative_to(root).as_posix(), "bytes": path.stat().st_size, "sha256": digest(path)}


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file that is seen under its name only when it is complete; text as UTF-8, whatever it holds."""
    with replacing(path) as partial:
        partial.write_bytes(writable(content).encode() if isinstance(content, str) else content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a name beside `path`; what is written there replaces `path` once it is on disk, or goes after an error."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield partial
        flush(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Make sure that a file or folder is on disk before anything refers to it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

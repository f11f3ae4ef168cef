"""Content-addressed artifacts: a recipe's hash names the folder that holds what was built from it."""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from labkit import recipes
from labkit.errors import InputError

_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Artifact:
    """What was built: named tensors and JSON facts, the recipe's `key`, and the folder."""

    key: str
    path: Path
    tensors: dict[str, Tensor]
    facts: dict


class Damaged(Exception):
    """An artifact whose files are not what was written."""


def key(recipe, digest: str = "") -> str:
    """The name of what a recipe builds from images of this digest: 16 hex digits of SHA-256."""
    return hashlib.sha256(recipes.canonical(recipe, digest).encode()).hexdigest()[:16]


class Store:
    """A folder of artifacts: kind/key/{recipe.json, facts.json, tensors.safetensors, manifest.json}.

    An artifact appears by one rename, so it is there whole or not at all; it is checked against its manifest when
    read, and rebuilt with a warning when damaged. Two processes that want the same one: the second waits, then reads.
    The default folder is $LABKIT_STORE, or data/artifacts beside the package.
    """

    def __init__(self, root: str | Path | None = None):
        chosen = root or os.environ.get("LABKIT_STORE") or Path(__file__).resolve().parents[1] / "data" / "artifacts"
        self.root = Path(chosen).expanduser().absolute()

    def fetch(self, kind: str, recipe, build: Callable[[Path], tuple[dict, dict]], *, digest: str = "") -> Artifact:
        """The artifact of `recipe`, built first if it is not there.

        build   called with a scratch folder that outlives a killed run (for checkpoints); returns (tensors, facts)
        digest  of the images the recipe speaks of; replaces their name in the hash
        """
        name = key(recipe, digest)
        folder = self.root / kind / name
        found = self._read(folder)
        if found:
            return found
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot write artifacts to {self.root} ({error.strerror}); choose another --store"
            ) from None
        with FileLock(folder.parent / f".{name}.lock"):
            found = self._read(folder)
            if found:
                return found
            scratch = folder.parent / f".{name}.work"
            scratch.mkdir(exist_ok=True)
            tensors, facts = build(scratch)
            self._write(folder, recipes.plain(recipe, digest), tensors, facts)
            shutil.rmtree(scratch)
        return Artifact(name, folder, tensors, facts)

    def has(self, kind: str, recipe, *, digest: str = "") -> bool:
        """Whether the artifact is there (without reading it through)."""
        return (self.root / kind / key(recipe, digest) / _MANIFEST).is_file()

    def _read(self, folder: Path) -> Artifact | None:
        if not folder.is_dir():
            return None
        try:
            return read(folder)
        except Damaged as error:
            warnings.warn(f"the artifact {folder.name} is damaged ({error}) and is built again", stacklevel=3)
            shutil.rmtree(folder, ignore_errors=True)
            return None

    def _write(self, folder: Path, recipe, tensors: dict[str, Tensor], facts: dict) -> None:
        fresh = folder.parent / f".{folder.name}.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        try:
            _dump(fresh / "recipe.json", recipe)
            _dump(fresh / "facts.json", facts)
            if tensors:
                save_file(
                    {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, fresh / "tensors.safetensors"
                )
            _dump(fresh / _MANIFEST, {file.name: _digest(file) for file in sorted(fresh.iterdir())})
            for file in fresh.iterdir():
                _flush(file)
            fresh.rename(folder)
            _flush(folder.parent)
        except OSError as error:
            shutil.rmtree(fresh, ignore_errors=True)
            raise InputError(
                f"cannot write to {self.root} ({error.strerror}); free some space there, or choose "
                "another --store, and run again"
            ) from None


def read(folder: Path) -> Artifact:
    """The artifact in a folder, every file checked. Raises Damaged."""
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
        for name, digest in manifest.items():
            if _digest(folder / name) != digest:
                raise Damaged(f"{name} has changed")
        facts = json.loads((folder / "facts.json").read_text())
        tensors = load_file(folder / "tensors.safetensors") if "tensors.safetensors" in manifest else {}
    except (OSError, ValueError, AttributeError, SafetensorError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from None
    return Artifact(folder.name, folder, tensors, facts)


def _dump(path: Path, value) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n")


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Make sure that a file or folder is on disk before anything refers to it."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

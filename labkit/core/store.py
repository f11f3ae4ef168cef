"""Content-addressed artifacts: a recipe's hash names the folder that holds what was built from it."""

import errno
import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Container, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from labkit.core import checkpoint, hardware, recipes
from labkit.core.errors import InputError
from labkit.core.wording import reason, to_set, typed

from filelock import FileLock, Timeout
from safetensors import SafetensorError

if TYPE_CHECKING:  # torch is imported by the functions that need it: a look through the store does not wait for it
    from torch import Tensor

TENSORS = "tensors.safetensors"
MANIFEST = "manifest.json"

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_PATIENCE = 5.0  # seconds to wait for another process before saying so


@dataclass(frozen=True)
class Artifact:
    """What was built: named tensors and JSON facts, the recipe's `key`, and the folder."""

    key: str
    path: Path
    tensors: dict[str, "Tensor"]
    facts: dict


class Damaged(Exception):
    """An artifact whose files are not what was written."""


def key(recipe, digest: str = "") -> str:
    """The name of what a recipe builds from images of this digest: 16 hex digits of SHA-256."""
    return _name(recipes.plain(recipe, digest))


class Store:
    """A folder of artifacts: kind/key/{recipe.json, facts.json, tensors.safetensors, manifest.json}.

    An artifact appears by one rename, so it is there whole or not at all; it is checked against its manifest when
    read, and rebuilt with a warning when damaged. Two processes that want the same one: the second waits, then reads.
    The default folder is $LABKIT_STORE, or else `hardware.own("artifacts")`. `labkit artifacts` lists and prunes.
    """

    def __init__(self, root: str | Path | None = None):
        self.root = typed(root or os.environ.get("LABKIT_STORE") or hardware.own("artifacts")).absolute()

    def fetch(self, kind: str, recipe, build: Callable[[Path], tuple[dict, dict]], *, digest: str = "") -> Artifact:
        """The artifact of `recipe`, built first if it is not there.

        build   called with a scratch folder that outlives a killed run (for checkpoints); returns (tensors, facts)
        digest  of the images the recipe speaks of; replaces their name in the hash

        Raises InputError when the artifact cannot be written. On a full disk, whole checkpoints in the scratch folder
        stay for the run that has space again, and nothing else.
        """
        folder = self.root / kind / key(recipe, digest)
        if folder.is_dir():
            with suppress(Damaged):  # looked into again, and said, once nobody else can be mending it
                found = read(folder)
                _sweep(folder)
                return found
        with ExitStack() as stack:
            with self._explained():
                folder.parent.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder))
            if folder.is_dir():
                try:
                    return read(folder)
                except Damaged as error:
                    warnings.warn(f"{folder.name} is damaged ({reason(error)}) and is built again", stacklevel=2)
            scratch = beside(folder, "work")
            with self._explained():
                discard(folder)
                scratch.mkdir(exist_ok=True)
            try:
                with self._explained(_FULL):  # the other errors in `build` are not about the store
                    tensors, facts = build(scratch)
                with self._explained():
                    found = _write(folder, recipes.plain(recipe, digest), tensors, facts)
            except BaseException:
                _tidy(scratch)
                raise
            shutil.rmtree(scratch, ignore_errors=True)
            return found

    def has(self, kind: str, recipe, *, digest: str = "") -> bool:
        """Whether the artifact is there (without reading it through)."""
        return (self.root / kind / key(recipe, digest) / MANIFEST).is_file()

    def busy(self, kind: str, recipe, *, digest: str = "") -> bool:
        """Whether another process is building it at this moment."""
        return held(self.root / kind / key(recipe, digest))

    @contextmanager
    def _explained(self, only: Container[int] | None = None) -> Iterator[None]:
        """Turns the system's refusals to write (all, or `only` these numbers) into an InputError."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            code = _code(error)
            if not code or (only is not None and code not in only):
                raise
            where = to_set("store", "DIR", "LABKIT_STORE")
            advice = "free some space there (`labkit artifacts prune` helps) or " if code in _FULL else ""
            raise InputError(
                f"cannot write artifacts to {self.root} ({os.strerror(code)}); {advice}choose another, as with {where}"
            ) from None


def read(folder: Path) -> Artifact:
    """The artifact in a folder, every file checked. Raises Damaged."""
    from safetensors.torch import load_file

    if wrong := flaws(folder):
        raise Damaged(", ".join(f"{name} {what}" for name, what in wrong.items()))
    try:
        facts = parsed(folder / "facts.json")
        tensors = load_file(folder / TENSORS) if (folder / TENSORS).is_file() else {}
    except (OSError, ValueError, SafetensorError) as error:
        raise Damaged(f"{type(error).__name__}: {error}") from None
    return Artifact(folder.name, folder, tensors, facts)


def flaws(folder: Path) -> dict[str, str]:
    """What is wrong with an artifact, by file name: {} when all is as written. Reads every byte."""
    wrong = {}
    try:
        manifest = parsed(folder / MANIFEST)
        there = {file.name for file in folder.iterdir() if not file.name.startswith(".")} - {MANIFEST}
    except (OSError, ValueError) as error:
        return {MANIFEST: f"cannot be read ({reason(error)})"}
    for name in sorted(there | {"recipe.json", "facts.json", *manifest}):
        try:
            if name not in there:
                wrong[name] = "is missing"
            elif name not in manifest:
                wrong[name] = "is not in the manifest"
            elif checkpoint.digest(folder / name) != manifest[name]:
                wrong[name] = "has changed"
            elif name == "recipe.json" and _name(parsed(folder / name)) != folder.name:
                wrong[name] = "is another artifact's"
        except (OSError, ValueError, RecursionError) as error:
            wrong[name] = f"cannot be read ({reason(error)})"
    return wrong


def parsed(path: Path) -> Any:
    """The JSON object in a file of an artifact, whoever wrote it. Raises OSError or ValueError."""
    try:
        value = json.loads(path.read_bytes())
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError("it holds no JSON object")
    return value


def beside(folder: Path, ending: str) -> Path:
    """What lies beside an artifact's folder: its `lock`, the scratch folder `work`, and `new`, on the way in or out."""
    return folder.parent / f".{folder.name}.{ending}"


@contextmanager
def locked(folder: Path, *, wait: bool = True, doing: str = "") -> Iterator[bool]:
    """Holds the right to write an artifact's folder, or one where another run is `doing` something.

    With wait=False, yields False at once when another has it.
    """
    lock = FileLock(beside(folder, "lock"))
    try:
        lock.acquire(timeout=_PATIENCE if wait else 0)
    except Timeout:
        if not wait:
            yield False
            return
        doing = doing or f"is building {folder.parent.name} {folder.name}"
        warnings.warn(f"another run {doing}; waiting for it", stacklevel=5)
        lock.acquire()
    try:
        yield True
    finally:
        # Safe only while held: whoever waits for this file finds it nameless and opens a new one (filelock checks).
        with suppress(OSError):
            beside(folder, "lock").unlink()
        lock.release()


def held(folder: Path) -> bool:
    """Whether a process has the right to write an artifact's folder now."""
    lock = beside(folder, "lock")
    with suppress(OSError):  # a lock we may not even open is somebody else's
        if lock.exists():
            with locked(folder, wait=False) as mine:
                return not mine
    return lock.exists()


def discard(folder: Path) -> None:
    """Deletes an artifact, if it is there; to be called under its lock. Out of sight first, then file by file."""
    gone = beside(folder, "new")
    shutil.rmtree(gone, ignore_errors=True)
    if folder.is_symlink():
        folder.unlink()  # what it leads to is somebody else's
    elif folder.is_dir():
        folder.rename(gone)
        shutil.rmtree(gone)


def _write(folder: Path, recipe: Any, tensors: dict[str, "Tensor"], facts: dict) -> Artifact:
    from safetensors.torch import save_file

    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    fresh = beside(folder, "new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir()
        _dump(fresh / "recipe.json", recipe)
        _dump(fresh / "facts.json", facts)
        if tensors:
            save_file(tensors, fresh / TENSORS)
            shutil.copymode(fresh / "facts.json", fresh / TENSORS)  # safetensors writes for the owner's eyes only
        _dump(fresh / MANIFEST, {file.name: checkpoint.digest(file) for file in sorted(fresh.iterdir())})
        # Who builds gets what who reads will get: lists for tuples, text for keys.
        facts = json.loads((fresh / "facts.json").read_bytes())
        for file in fresh.iterdir():
            checkpoint.flush(file)
        fresh.rename(folder)
        checkpoint.flush(folder.parent)
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
    return Artifact(folder.name, folder, tensors, facts)


def _sweep(folder: Path) -> None:
    """Removes the scratch folder of a run that was killed when its artifact was already there."""
    scratch = beside(folder, "work")
    if scratch.is_dir():
        with suppress(OSError), locked(folder, wait=False) as mine:
            if mine and folder.is_dir():
                shutil.rmtree(scratch)


def _tidy(scratch: Path) -> None:
    """Removes from a scratch folder what was being written (ours end in .partial, safetensors' begin with .tmp)."""
    for file in (*scratch.rglob(".*.partial"), *scratch.rglob(".tmp*")):
        with suppress(OSError):
            file.unlink()
    with suppress(OSError):
        scratch.rmdir()


def _name(plain: Any) -> str:
    return hashlib.sha256(recipes.canonical(plain).encode()).hexdigest()[:16]


def _dump(path: Path, value) -> None:
    path.write_text(json.dumps(value, sort_keys=True, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def _code(error: Exception) -> int:
    """The system's number of an error, or 0. safetensors passes it on as text: "… (os error 28)"."""
    if isinstance(error, OSError):
        return error.errno or 0
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found else 0

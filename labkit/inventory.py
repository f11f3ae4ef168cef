"""What lies in a store: a list with sizes and ages, a check of every byte, and what may go."""

import re
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from labkit import recipes
from labkit.errors import InputError, printable, reason
from labkit.store import MANIFEST, TENSORS, Store, beside, discard, flaws, locked, parsed

# Only what bears a name the store gives is ever looked at, let alone deleted: a --store typed wrongly costs nothing.
_KEY = re.compile(r"[0-9a-f]{16}")
_LEFT = re.compile(r"\.([0-9a-f]{16})\.(work|new)")
_SHOWN = 3  # settings of a recipe that a summary names even where they have their usual values


@dataclass(frozen=True)
class Entry:
    """One artifact, or what a run that ended early left of one.

    path        its folder
    size        bytes of its files
    built       when it was finished, or last touched if it never was, in seconds since 1970
    summary     its recipe in one line
    unfinished  whether it is a leftover; `key` is then that of the artifact it was to be
    """

    kind: str
    key: str
    path: Path
    size: int
    built: float
    summary: str
    unfinished: bool = False

    @property
    def age(self) -> float:
        """Seconds since it was built."""
        return max(0.0, time.time() - self.built)


@dataclass(frozen=True)
class Contents:
    """What is in an artifact: recipe and facts as plain data, tensors (dtype, shape) and files (bytes) by name."""

    recipe: Any
    facts: dict
    tensors: dict[str, tuple[str, tuple[int, ...]]]
    files: dict[str, int]


def artifacts(store: Store, *, kind: str = "") -> list[Entry]:
    """The finished artifacts, of one kind or all: by kind, the newest first. Raises InputError on an unknown kind."""
    return [entry for entry in _entries(store, kind) if not entry.unfinished]


def unfinished(store: Store, *, kind: str = "") -> list[Entry]:
    """What runs that ended early have left, and what running ones are working on (`in_use` tells them apart)."""
    return [entry for entry in _entries(store, kind) if entry.unfinished]


def find(store: Store, key: str) -> Entry:
    """The artifact whose key, or kind/key, begins with `key`. Raises InputError unless there is just one."""
    kind, slash, start = key.rpartition("/")
    found = [e for e in artifacts(store) if e.key.startswith(start.lower()) and (not slash or e.kind == kind)]
    if not found:
        raise InputError(
            f"no artifact's key begins with {key!r} in {store.root}; `labkit artifacts list` shows the keys"
        )
    if len(found) > 1:
        some = ", ".join(f"{entry.kind}/{entry.key}" for entry in found[:3]) + (", …" if len(found) > 3 else "")
        raise InputError(f"{len(found)} artifacts begin with {key!r} ({some}); type more of the key, or KIND/KEY")
    return found[0]


def contents(entry: Entry) -> Contents:
    """What is in an artifact, its tensors not read. Raises InputError when it is too damaged to tell."""
    try:
        tensors = {}
        if (entry.path / TENSORS).is_file():
            with safe_open(entry.path / TENSORS, "np") as stored:
                slices = {name: stored.get_slice(name) for name in sorted(stored.keys(), key=_natural)}
                tensors = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
        return Contents(
            parsed(entry.path / "recipe.json"),
            parsed(entry.path / "facts.json"),
            tensors,
            {file.name: file.stat().st_size for file in sorted(entry.path.iterdir())},
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"{entry.kind} {entry.key} cannot be read ({reason(error)}); the next run that needs it builds it again"
        ) from None


def verify(entries: Iterable[Entry]) -> Iterator[tuple[Entry, dict[str, str]]]:
    """Every artifact with what is wrong with its files, by file name; {} where all is as it was written."""
    for entry in entries:
        wrong = flaws(entry.path)
        if entry.path.is_dir():  # else it was deleted, or is being built again, while we looked
            yield entry, wrong


def in_use(entry: Entry) -> bool:
    """Whether a process is building (or mending) this artifact now."""
    folder = _folder(entry)
    try:
        if beside(folder, "lock").exists():
            with locked(folder, wait=False) as mine:
                return not mine
    except OSError:
        pass  # a lock we may not even open is somebody else's
    return beside(folder, "lock").exists()


def prunable(store: Store, *, older_than: float | None = None, kind: str = "", left_over: bool = False) -> list[Entry]:
    """What `remove` may be called for: artifacts, or with `left_over` what unfinished runs have left.

    older_than  days since it was built (or last touched)
    kind        only of this kind

    Raises InputError on an unknown kind, a number of days below 0, or when nothing narrows the choice.
    """
    if older_than is None and not kind and not left_over:
        raise InputError("say what may go: --older-than DAYS, --kind KIND, --unfinished, or several to narrow it down")
    if older_than is not None and not older_than >= 0:
        raise InputError(f"--older-than is a number of days, 0 or more; got {older_than:g}")
    chosen = unfinished(store, kind=kind) if left_over else artifacts(store, kind=kind)
    return [entry for entry in chosen if older_than is None or entry.age >= older_than * 86400]


def remove(entry: Entry) -> bool:
    """Deletes an artifact or a leftover; False, and nothing is touched, when a process is building it.

    Raises InputError when the system does not let us.
    """
    try:
        with locked(_folder(entry), wait=False) as mine:
            if mine and entry.unfinished:
                shutil.rmtree(entry.path)
            elif mine:
                discard(entry.path)
            return mine
    except FileNotFoundError:
        return True  # another prune was faster
    except OSError as error:
        raise InputError(f"cannot delete {entry.path} ({error.strerror}); ask its owner, or mend its rights") from None


def summary(plain: Any, depth: int = 2) -> str:
    """A recipe (as `recipes.plain` writes it) in one line: what was chosen, and what differs from the usual."""
    words, inner = [], []
    for name, value in _settings(plain):
        if isinstance(value, dict):
            within = summary(value, depth - 1) if depth > 1 else ""
            inner.append(f"{name}({within})" if within else name)
        elif name in ("name", "network"):
            words.append(str(value))  # "fgsm" and "vgg16" speak for themselves
        else:
            words.append(f"{name}={_word(value)}")
    return " ".join(words + inner)


def images(plain: Any) -> str:
    """The digests of the images that a recipe speaks of, six digits each; "" when it names none."""
    if isinstance(plain, dict) and plain.get("recipe") == "Images":
        return ":".join(digest[:6] for digest in str(plain.get("digest")).split(":"))
    parts = plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ()
    return next(filter(None, map(images, parts)), "")


def _entries(store: Store, kind: str) -> list[Entry]:
    kinds = sorted(p for p in _listed(store.root) if p.is_dir() and not p.name.startswith("."))
    kinds = [
        folder for folder in kinds if any(_KEY.fullmatch(p.name) or _LEFT.fullmatch(p.name) for p in _listed(folder))
    ]
    if kind and kind not in {folder.name for folder in kinds}:
        known = ", ".join(folder.name for folder in kinds) or "none at all"
        raise InputError(f"no artifacts of kind {kind!r} in {store.root}; there are {known}")
    found = [
        entry
        for folder in kinds
        if not kind or folder.name == kind
        for path in _listed(folder)
        if path.is_dir() and (entry := _entry(path))
    ]
    return sorted(found, key=lambda entry: (entry.kind, -entry.built, entry.key))


def _entry(path: Path) -> Entry | None:
    left = _LEFT.fullmatch(path.name)
    if not left and not _KEY.fullmatch(path.name):
        return None
    size, touched = 0, 0.0
    try:
        for file in [path, *path.rglob("*")]:
            stat = file.lstat()
            size += stat.st_size if file.is_file() else 0
            touched = max(touched, stat.st_mtime)
        built = (path / MANIFEST).stat().st_mtime if (path / MANIFEST).is_file() and not left else touched
    except OSError:  # deleted while we looked
        return None
    if left:
        what = "kept for a run to go on from" if left[2] == "work" else "half written or half deleted"
        return Entry(path.parent.name, left[1], path, size, built, what, unfinished=True)
    return Entry(path.parent.name, path.name, path, size, built, _described(path))


def _described(path: Path) -> str:
    try:
        plain = parsed(path / "recipe.json")
        of = images(plain)
    except (OSError, ValueError, RecursionError):
        return "its recipe cannot be read"
    return printable((f"on {of}: " if of else "") + summary(plain))


def _settings(plain: Any) -> list[tuple[str, Any]]:
    """Names and values of a recipe that are worth a word: in the order of its class, if it is one of `recipes`."""
    if not isinstance(plain, dict):
        return [("recipe", plain)]
    usual = _usual(plain.get("recipe"))
    always = [name for name, value in usual.items() if not isinstance(value, dict) and name != "version"][:_SHOWN]
    told = []
    for name in [*(n for n in usual if n in plain), *(n for n in plain if n not in usual)]:
        value = plain[name]
        if isinstance(value, dict):
            if value.get("recipe") != "Images":  # `images` tells of those
                told.append((name, value))
        elif name == "recipe" or (name == "version" and name not in usual):
            continue
        elif value != usual.get(name) or (name in always and value is not None):
            told.append((name, value))
    return told


def _usual(name: Any) -> dict[str, Any]:
    """The defaults of a recipe's class, by field, in order; {} when the class is not one of `recipes`."""
    known = getattr(recipes, str(name), None)
    if not is_dataclass(known):
        return {}
    made = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(known)}
    return {field: recipes.plain(default) for field, default in made.items() if default is not MISSING}


def _natural(name: str) -> list:
    """A sorting key that has layer 2 before layer 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(_word, value)) + "]" if len(value) <= 4 else f"[{len(value)} values]"
    if isinstance(value, dict):
        return str(value.get("recipe", "{…}"))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # not there yet, or not a folder, or not ours to read
        return []


def _folder(entry: Entry) -> Path:
    """Where the artifact lies, or will, whose lock says who may touch the entry."""
    return entry.path.parent / entry.key

"""The command `labkit artifacts`: what the store holds, whether it is sound, and what may go."""

import argparse
import json
import re
import shutil
import textwrap
import time
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from labkit.cli import common, travel
from labkit.core import InputError, recipes, wording
from labkit.core.store import MANIFEST, TENSORS, Store, discard, flaws, held, locked, parsed
from labkit.core.wording import printable, reason

from safetensors import SafetensorError, safe_open

# Only what bears a name the store gives is ever looked at, let alone deleted: a --store typed wrongly costs nothing.
_NAME = re.compile(r"([0-9a-f]{16})|\.([0-9a-f]{16})\.(work|new)")
_SHOWN = 3  # settings of a recipe that a summary names even where they have their usual values
_VALUES = 6  # of a long list among the facts, those that are shown


@dataclass(frozen=True)
class Entry:
    """One artifact, in the folder `path`, or what a run that ended early left of one.

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

    @property
    def folder(self) -> Path:
        """Where the artifact lies, or will, whose lock says who may touch the entry."""
        return self.path.with_name(self.key)

    def __str__(self) -> str:
        return printable(f"{self.kind} {self.key}")


def add(commands: common.Commands) -> None:
    """Adds `artifacts list|show|verify|prune|export|import` to the command line."""
    text = "What has been built and is kept: dictionaries, networks, attacked images, rows of tables."
    brief = "list, show, verify, prune, export or import what is kept"
    parser = commands.add_parser("artifacts", help=brief, description=text)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(run: Callable[..., int], text: str, *options: str) -> argparse.ArgumentParser:
        brief = text[0].lower() + text[1:].partition(".")[0]
        return common.command(actions, run.__name__.strip("_"), run, brief, text, *options)

    action(_list, "Kind, key, size, age and recipe of every artifact.", "store", "kind")
    show = action(_show, "Recipe, facts, tensors and files of one artifact.", "store")
    show.add_argument("key", metavar="KEY", help="its key, or enough of the beginning; KIND/KEY if two kinds share it")
    action(_verify, "Read every file and compare it with what was written. Status 1 if any differs.", "store")
    prune = action(_prune, "Say what would be deleted, or delete it. What a run is building is kept.", "store", "kind")
    prune.add_argument("--older-than", type=float, metavar="DAYS", help="only what was built so many days ago")
    prune.add_argument("--unfinished", action="store_true", help="leftovers of runs that ended early, no artifacts")
    prune.add_argument("--yes", action="store_true", help="delete; without it, nothing is touched")
    travel.add(action)


def _list(options: argparse.Namespace) -> int:
    store = _store(options)
    found, left = (artifacts(store, kind=options.kind, unfinished=which) for which in (False, True))
    _print_entries(found)
    print(f"{_total(found)} in {store.root}")
    if left:
        print(f"and {wording.size(sum(e.size for e in left))} unfinished in {len(left)} (see prune --unfinished)")
    return 0


def _show(options: argparse.Namespace) -> int:
    entry = find(_store(options), options.key)
    inside = contents(entry)
    print(f"{entry}, {wording.size(entry.size)}, built {wording.age(entry.age)} ago\n{printable(entry.path)}\n\nrecipe")
    for line in json.dumps(inside.pop("recipe"), indent=2, ensure_ascii=False).split("\n"):
        print(f"  {printable(line)}")
    for title, rows in inside.items():
        if rows:
            print(f"\n{title}\n{textwrap.indent(common.columns(rows), '  ')}")
    return 0


def _verify(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    store = _store(options)
    found, damaged, lines = artifacts(store), 0, []
    with tqdm(total=sum(e.size for e in found), desc="reading", unit="B", unit_scale=True, delay=2) as bar:
        for entry in found:
            wrong = flaws(entry.path)
            bar.update(entry.size)
            if wrong and entry.path.is_dir():  # else it was deleted, or is being built again, while we looked
                damaged += 1
                lines += [f"{entry}: {printable(name)} {what}\n" for name, what in wrong.items()]
    sound = f"{_total(found)} in {store.root}: all as written"
    amiss = f"{damaged} of {_total(found)} damaged; the next run that needs one builds it again"
    print(*lines, amiss if damaged else sound, sep="")
    return int(damaged > 0)


def _prune(options: argparse.Namespace) -> int:
    store, unfinished, gone, kept = _store(options), options.unfinished, [], []
    for entry in prunable(store, older_than=options.older_than, kind=options.kind, unfinished=unfinished):
        free = remove(entry) if options.yes else not held(entry.folder)
        (gone if free else kept).append(entry)
    _print_entries(gone)
    for entry in kept:
        print(f"kept: {entry}, which a run is building")
    if gone or options.yes:
        done = "deleted" if options.yes else "would be deleted; add --yes to do it"
        print(_total(gone, "leftover" if unfinished else "artifact"), done)
    else:
        print("nothing to delete")
    return 0


def _store(options: argparse.Namespace) -> Store:
    store = Store(options.store or None)
    if options.store and not store.root.is_dir():
        raise InputError(f"there is no folder {store.root}; --store names the folder of artifacts")
    return store


def _total(entries: Sequence[Entry], noun: str = "artifact") -> str:
    return f"{len(entries)} {noun}{'' if len(entries) == 1 else 's'}, {wording.size(sum(e.size for e in entries))},"


def _print_entries(entries: Sequence[Entry]) -> None:
    if entries:
        rows = [(e.kind, e.key, wording.size(e.size), wording.age(e.age), e.summary) for e in entries]
        width, align = shutil.get_terminal_size((160, 24)).columns, ("left", "left", "right", "right", "left")
        for line in common.columns([("kind", "key", "size", "age", "recipe"), *rows], align).splitlines():
            print(line if len(line) <= width else line[: width - 1] + "…")


def artifacts(store: Store, *, kind: str = "", unfinished: bool = False) -> list[Entry]:
    """The artifacts, of one kind or all: by kind, the newest first. Raises InputError on an unknown kind.

    unfinished  instead, what runs that ended early have left, and what running ones are working on (`store.held` tells)
    """
    paths = [path for path in store.root.glob("[!.]*/*") if _NAME.fullmatch(path.name)]
    kinds = sorted({path.parent.name for path in paths})
    if kind and kind not in kinds:
        there = ", ".join(kinds) or "none at all"
        raise InputError(f"no artifacts of kind {kind!r} in {store.root}; there are {there}")
    found = (_entry(path) for path in paths if kind in ("", path.parent.name) and path.is_dir())
    chosen = (entry for entry in found if entry and entry.unfinished == unfinished)
    return sorted(chosen, key=lambda entry: (entry.kind, -entry.built, entry.key))


def find(store: Store, key: str) -> Entry:
    """The artifact whose key, or kind/key, begins with `key`. Raises InputError unless there is just one."""
    kind, slash, start = key.rpartition("/")
    found = [e for e in artifacts(store) if e.key.startswith(start.lower()) and (not slash or e.kind == kind)]
    if not found:
        raise InputError(f"no artifact's key begins with {key!r} in {store.root}; `labkit artifacts list` shows them")
    if len(found) > 1:
        some = ", ".join(f"{entry.kind}/{entry.key}" for entry in found[:3]) + ", …" * (len(found) > 3)
        raise InputError(f"{len(found)} artifacts begin with {key!r} ({some}); type more of the key, or KIND/KEY")
    return found[0]


def contents(entry: Entry) -> dict[str, Any]:
    """What is in an artifact, its tensors not read. Raises InputError when it is too damaged to tell.

    Its `recipe` is plain data; `facts`, `tensors` and `files` are lists of lines, each of a name and what to say of it.
    """
    try:
        tensors = []
        if (entry.path / TENSORS).is_file():
            with safe_open(entry.path / TENSORS, "np") as stored:
                # Layer 2 before layer 10.
                for name in sorted(stored.keys(), key=lambda name: re.sub(r"\d+", lambda n: n[0].zfill(9), name)):
                    part = stored.get_slice(name)
                    tensors.append((name, part.get_dtype(), " × ".join(map(str, part.get_shape())) or "one number"))
        return {
            "recipe": parsed(entry.path / "recipe.json"),
            "facts": [(name, _short(value)) for name, value in parsed(entry.path / "facts.json").items()],
            "tensors": tensors,
            "files": [(file.name, wording.size(file.stat().st_size)) for file in sorted(entry.path.iterdir())],
        }
    except (OSError, ValueError, SafetensorError) as error:
        why = f"{entry} cannot be read ({reason(error)}); run again what needs it, which builds it again"
        raise InputError(why) from None


def prunable(store: Store, *, older_than: float | None = None, kind: str = "", unfinished: bool = False) -> list[Entry]:
    """What `remove` may be called for: artifacts of one kind or all, or what `unfinished` runs have left.

    older_than  days since it was built (or last touched)

    Raises InputError on an unknown kind, a number of days below 0, or when nothing narrows the choice.
    """
    if older_than is None and not kind and not unfinished:
        raise InputError("say what may go: --older-than DAYS, --kind KIND, --unfinished, or several to narrow it down")
    if older_than is not None and not older_than >= 0:
        raise InputError(f"--older-than is a number of days, 0 or more; got {older_than:g}")
    found = artifacts(store, kind=kind, unfinished=unfinished)
    return [entry for entry in found if older_than is None or entry.age >= older_than * 86400]


def remove(entry: Entry) -> bool:
    """Deletes an artifact or leftover; False while a process builds it. Raises InputError if the system forbids it."""
    try:
        with locked(entry.folder, wait=False) as mine:
            if mine:
                (shutil.rmtree if entry.unfinished else discard)(entry.path)
            return mine
    except FileNotFoundError:
        return True  # another prune was faster
    except OSError as error:
        raise InputError(f"cannot delete {entry.path} ({error.strerror}); ask its owner, or mend its rights") from None


def summary(plain: dict, depth: int = 2) -> str:
    """A recipe (as `recipes.plain` writes it) in one line: what was chosen, and what differs from the usual.

    Settings come in the order of the recipe's class, if it is one of `recipes`, and recipes within it last.
    """
    usual = _usual(plain.get("recipe"))
    always = [name for name, value in usual.items() if not isinstance(value, dict) and name != "version"][:_SHOWN]
    words, inner = [], []
    for name, value in sorted(plain.items(), key=lambda item: [*usual, *plain].index(item[0])):
        if name == "recipe" or (name == "version" and name not in usual):
            continue
        if not isinstance(value, dict):
            if value != usual.get(name) or (name in always and value is not None):
                words.append(str(value) if name in ("name", "network") else f"{name}={_word(value)}")
        elif value.get("recipe") != "Images":  # `images` tells of those
            within = summary(value, depth - 1) if depth > 1 else ""
            inner.append(f"{name}({within})" if within else name)
    return " ".join(words + inner)


def images(plain: Any) -> str:
    """The digests of the images that a recipe speaks of, six digits each; "" when it names none."""
    if isinstance(plain, dict) and plain.get("recipe") == "Images":
        return ":".join(digest[:6] for digest in str(plain.get("digest")).split(":"))
    parts = plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ()
    return next(filter(None, map(images, parts)), "")


def _entry(path: Path) -> Entry | None:
    """What lies in a folder that the store has named; None when it was deleted while we looked."""
    key, left, why = _NAME.fullmatch(path.name).groups()
    try:
        stats = {file: file.lstat() for file in [path, *path.rglob("*")]}
        size = sum(stat.st_size for file, stat in stats.items() if file.is_file())
        finished = [path / MANIFEST] if key and path / MANIFEST in stats else []
        built = max(stats[file].st_mtime for file in finished or stats)
    except OSError:
        return None
    what = {"work": "kept for a run to go on from", "new": "half written or half deleted"}.get(why, "")
    try:
        plain = parsed(path / "recipe.json") if key else {}
        what = what or printable(f"on {images(plain)}: " * bool(images(plain)) + summary(plain))
    except (OSError, ValueError, RecursionError):
        what = "its recipe cannot be read"
    return Entry(path.parent.name, key or left, path, size, built, what, unfinished=not key)


def _usual(name: Any) -> dict[str, Any]:
    """The defaults of a recipe's class, by field, in order; {} when the class is not one of `recipes`."""
    known = getattr(recipes, str(name), None)
    if not is_dataclass(known):
        return {}
    made = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(known)}
    return {field: recipes.plain(default) for field, default in made.items() if default is not MISSING}


def _word(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ",".join(map(_word, value)) + "]" if len(value) <= 4 else f"[{len(value)} values]"
    if isinstance(value, dict):
        return str(value.get("recipe", "{…}"))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 2 * _VALUES:
        return f"{json.dumps(value[:_VALUES], ensure_ascii=False)[:-1]}, … {len(value) - _VALUES} more]"
    return json.dumps(value, ensure_ascii=False)

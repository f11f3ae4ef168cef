"""The command `labkit artifacts`: what the store holds, whether it is sound, and what may go."""

import argparse
import json
import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit import units
from labkit.errors import InputError

if TYPE_CHECKING:
    from labkit.inventory import Entry
    from labkit.store import Store

_VALUES = 6  # of a long list among the facts, those that are shown


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `artifacts list|show|verify|prune` to the command line."""
    text = "What has been built and is kept: dictionaries, networks, attacked images, rows of tables."
    parser = commands.add_parser("artifacts", help="list, show, verify or prune what is kept", description=text)
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)

    def action(name: str, run, text: str) -> argparse.ArgumentParser:
        one = actions.add_parser(name, help=text[0].lower() + text[1:].partition(".")[0], description=text)
        one.add_argument("--store", default="", metavar="D", help="folder of artifacts (default: the lab's own)")
        one.set_defaults(run=run)
        return one

    listing = action("list", _list, "Kind, key, size, age and recipe of every artifact.")
    listing.add_argument("--kind", default="", help="only this kind")

    show = action("show", _show, "Recipe, facts, tensors and files of one artifact.")
    show.add_argument("key", metavar="KEY", help="its key, or enough of the beginning; KIND/KEY if two kinds share it")

    action("verify", _verify, "Read every file and compare it with what was written. Exit status 1 if any differs.")

    prune = action("prune", _prune, "Say what would be deleted, or delete it. What a run is building is kept.")
    prune.add_argument("--older-than", type=float, metavar="DAYS", help="only what was built so many days ago")
    prune.add_argument("--kind", default="", help="only this kind")
    prune.add_argument("--unfinished", action="store_true", help="leftovers of runs that ended early, no artifacts")
    prune.add_argument("--yes", action="store_true", help="delete; without it, nothing is touched")


def _list(options: argparse.Namespace) -> int:
    from labkit import inventory

    store = _store(options)
    found = inventory.artifacts(store, kind=options.kind)
    _print_entries(found)
    print(f"{_total(found)} in {store.root}")
    left = inventory.unfinished(store, kind=options.kind)
    if left:
        print(f"and {units.size(sum(e.size for e in left))} unfinished in {len(left)} (see prune --unfinished)")
    return 0


def _show(options: argparse.Namespace) -> int:
    from labkit import inventory

    entry = inventory.find(_store(options), options.key)
    inside = inventory.contents(entry)
    print(f"{entry.kind} {entry.key}, {units.size(entry.size)}, built {human_age(entry.age)} ago\n{entry.path}")
    print("\nrecipe")
    print(_indent(json.dumps(inside.recipe, indent=2, ensure_ascii=False)))
    if inside.facts:
        print("\nfacts")
        _print_table([(f"  {name}", _short(value)) for name, value in inside.facts.items()])
    if inside.tensors:
        print("\ntensors")
        rows = [
            (f"  {name}", dtype, " × ".join(map(str, shape)) or "one number")
            for name, (dtype, shape) in inside.tensors.items()
        ]
        _print_table(rows)
    print("\nfiles")
    _print_table([(f"  {name}", units.size(size)) for name, size in inside.files.items()], right={1})
    return 0


def _verify(options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from labkit import inventory

    store = _store(options)
    found, damaged = inventory.artifacts(store), []
    with tqdm(total=sum(e.size for e in found), desc="reading", unit="B", unit_scale=True, delay=2) as bar:
        for entry, wrong in inventory.verify(found):
            bar.update(entry.size)
            if wrong:
                damaged.append((entry, wrong))
    for entry, wrong in damaged:
        for name, what in wrong.items():
            print(f"{entry.kind} {entry.key}: {name} {what}")
    if damaged:
        print(f"{len(damaged)} of {_total(found)} damaged; the next run that needs one builds it again")
        return 1
    print(f"{_total(found)} in {store.root}: all as written")
    return 0


def _prune(options: argparse.Namespace) -> int:
    from labkit import inventory

    chosen = inventory.prunable(
        _store(options), older_than=options.older_than, kind=options.kind, left_over=options.unfinished
    )
    gone, kept = [], []
    for entry in chosen:
        free = inventory.remove(entry) if options.yes else not inventory.in_use(entry)
        (gone if free else kept).append(entry)
    _print_entries(gone)
    for entry in kept:
        print(f"kept: {entry.kind} {entry.key}, which a run is building")
    what = _total(gone, "leftover" if options.unfinished else "artifact")
    print(
        f"{what} deleted"
        if options.yes
        else f"{what} would be deleted; add --yes to do it"
        if gone
        else "nothing to delete"
    )
    return 0


def _store(options: argparse.Namespace) -> "Store":
    from labkit.store import Store

    store = Store(options.store or None)
    if options.store and not store.root.is_dir():
        raise InputError(f"there is no folder {store.root}; --store names the folder of artifacts")
    return store


def human_age(seconds: float) -> str:
    """A time in whole units, rounded down: 42 s, 5 min, 3 h, 12 d, 2 y."""
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (2 * 86400, 3600, "h"), (730 * 86400, 86400, "d")):
        if seconds < limit:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // (365 * 86400))} y"


def _total(entries: Sequence["Entry"], noun: str = "artifact") -> str:
    return f"{len(entries)} {noun}{'' if len(entries) == 1 else 's'}, {units.size(sum(e.size for e in entries))},"


def _print_entries(entries: Sequence["Entry"]) -> None:
    if entries:
        head = ("kind", "key", "size", "age", "recipe")
        rows = [(e.kind, e.key, units.size(e.size), human_age(e.age), e.summary) for e in entries]
        _print_table([head, *rows], right={2, 3}, width=shutil.get_terminal_size((160, 24)).columns)


def _print_table(rows: Sequence[tuple[str, ...]], *, right: set[int] = frozenset(), width: int = 0) -> None:
    """Prints rows in columns, those numbered in `right` to the right, each line cut to `width` (0: never)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [t.rjust(n) if i in right else t.ljust(n) for i, (t, n) in enumerate(zip(row, widths, strict=True))]
        line = "  ".join(cells).rstrip()
        print(line if not width or len(line) <= width else line[: width - 1] + "…")


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 2 * _VALUES:
        first = json.dumps(value[:_VALUES], ensure_ascii=False)
        return f"{first[:-1]}, … {len(value) - _VALUES} more]"
    return json.dumps(value, ensure_ascii=False)


def _indent(text: str) -> str:
    return "\n".join("  " + line for line in text.splitlines())

"""The commands `labkit artifacts export` and `import`: what was built on one machine goes on on another."""

import argparse
import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from labkit.core import InputError, checkpoint, wording
from labkit.core.store import MANIFEST, TENSORS, Damaged, Store, flaws, locked, parsed, read
from labkit.core.wording import printable, reason

# Without images, which are large.
_KINDS = "row,checks,votes,classifier,dictionary,strata,autoencoder,defense,surrogate"
_FOR = "only what a table needs: table:1, table:baselines; with the options that `labkit table` got"
_OPTIONS = ("profile", "dataset", "resolution", "convention", "epochs", "seed", "data-root", "store")
_FILES = {"recipe.json", "facts.json", TENSORS, MANIFEST}
_NAME = re.compile(r"([a-z]{1,32})/([0-9a-f]{16})/([a-z.]{1,32})")
_LONGEST = 2**24  # bytes of the list of contents


def add(action: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds both to `labkit artifacts`; `action` is as there."""
    text = "Pack artifacts into a tar file, for another machine. Its rows and networks are then not computed again."
    parser = action(_export, text, *_OPTIONS)
    parser.add_argument("file", type=Path, metavar="FILE.tar", help="file to write")
    parser.add_argument("--what", default=_KINDS, metavar="A,B", help="kinds of artifacts (default: %(default)s)")
    parser.add_argument("--for", dest="wanted", default="", metavar="table:NAME", help=_FOR)
    text = "Take in artifacts from a tar file. All is checked first, and what is here already stays as it is."
    action(_import, text, "store").add_argument("file", type=Path, metavar="FILE.tar", help="file to read")


def _export(options: argparse.Namespace) -> int:
    from labkit.cli import artifacts

    store, kinds = Store(options.store or None), set(options.what.split(","))
    there = {(entry.kind, entry.key) for entry in artifacts.artifacts(store)}
    if unknown := kinds - {*_KINDS.split(","), "attack", "projected"}:
        named = ", ".join(sorted(unknown))
        raise InputError(f"no kinds of artifacts: {named}; choose from {_KINDS}, attack, projected")
    needed = _needed(options) if options.wanted else there
    # Checks and votes are small, and say themselves what they are of.
    chosen = {pair for pair in there if pair[0] in kinds and (pair in needed or pair[0] in ("checks", "votes"))}
    if not chosen:
        raise InputError(f"nothing of this is in {store.root}; see `labkit artifacts list`, and options as for `table`")
    count = pack(store, chosen, options.file)
    print(f"{count} artifacts, {wording.size(options.file.stat().st_size)}: {options.file}")
    return 0


def _needed(options: argparse.Namespace) -> set[tuple[str, str]]:
    from labkit.cli import common
    from labkit.evaluation import workbench
    from labkit.reporting import table_page

    what, _, name = options.wanted.partition(":")
    if what != "table" or not name:
        raise InputError(f"--for names a table, as table:1; got {options.wanted!r}")
    name += "_released" * (options.convention == "released")
    asked = table_page.ask(common.lab(options), [name], {})[name]
    return workbench.behind([("row", case) for case in (*asked.blind, *asked.aware)], common.workbench(options))


def _import(options: argparse.Namespace) -> int:
    new, same, other = unpack(Store(options.store or None), options.file)
    print(f"{new} artifacts are new, {same} were here already")
    for name in other:
        print(f"kept ours: {name} differs")
    return int(bool(other))


def pack(store: Store, keys: Iterable[tuple[str, str]], file: Path) -> int:
    """Writes the artifacts (kind, key) of a store into a tar file, behind a list of their hashes; returns how many.

    What is not in the store, or damaged, is left out. Raises InputError when the file cannot be written.
    """
    found = [store.root / kind / key for kind, key in sorted(set(keys))]
    found = [folder for folder in found if folder.is_dir() and not flaws(folder)]
    names = {f.relative_to(store.root).as_posix(): f for folder in found for f in sorted(folder.iterdir())}
    listed = json.dumps({name: checkpoint.digest(path) for name, path in names.items()}, indent=1).encode()
    try:
        with checkpoint.replacing(file) as partial, tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as tar:
            entry = tarfile.TarInfo(MANIFEST)
            entry.size = len(listed)
            tar.addfile(entry, io.BytesIO(listed))
            for name, path in names.items():
                entry = tarfile.TarInfo(name)  # without owner, rights and times, which are nobody else's business
                entry.size = path.stat().st_size
                with open(path, "rb") as content:
                    tar.addfile(entry, content)
    except OSError as error:
        why = f"cannot write {file} ({error.strerror})"
        raise InputError(f"{why}; name a file in a folder that can be written") from None
    return len(found)


def unpack(store: Store, file: Path) -> tuple[int, int, list[str]]:
    """Takes in what `pack` wrote: how many artifacts are new, how many were there, and which differ from those here.

    Nothing is taken in unless all of it is as it was packed: plain files under the names of artifacts, with the hashes
    of the list, each a whole artifact whose name is its recipe's hash. What is here already stays, also if it differs,
    as the same row measured twice does. Raises InputError for any other file.
    """
    try:
        store.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".parcel", dir=store.root) as place:
            return _taken(store, _spread(file, Path(place)))
    except (OSError, tarfile.TarError, ValueError, OverflowError, RecursionError, Damaged) as error:
        told = f"cannot take in {printable(file)} ({reason(error)}); nothing was: pack it again with"
        raise InputError(f"{told} `labkit artifacts export`") from None


def _spread(file: Path, place: Path) -> list[Path]:
    """The artifacts' folders below `place`, from a tar that is as it should be. Raises ValueError and tar's errors."""
    with tarfile.open(file, "r:") as tar:
        if (first := tar.next()) is None or first.name != MANIFEST or not first.isreg() or first.size > _LONGEST:
            raise ValueError("it has no list of contents")
        listed = json.loads(tar.extractfile(first).read())
        if not isinstance(listed, dict):
            raise ValueError("its list of contents is none")
        left, folders = dict(listed), {}
        while entry := tar.next():
            parts, odd = _NAME.fullmatch(entry.name), entry.type != tarfile.REGTYPE or entry.issparse()
            if not parts or parts[3] not in _FILES or entry.name not in left or odd:
                raise ValueError(f"it holds {printable(entry.name)[:80]!r}, which is no file of an artifact")
            target = place / entry.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with tar.extractfile(entry) as packed, open(target, "wb") as out:
                shutil.copyfileobj(packed, out)
            if checkpoint.digest(target) != left.pop(entry.name):
                raise ValueError(f"{entry.name} has changed")
            folders[target.parent] = None
    if left:
        raise ValueError(f"{printable(next(iter(left)))[:80]} is missing")
    for folder in folders:
        if wrong := flaws(folder):
            raise ValueError(f"{folder.parent.name}/{folder.name}: {', '.join(map(' '.join, wrong.items()))}")
        read(folder)
    return list(folders)


def _taken(store: Store, folders: Iterable[Path]) -> tuple[int, int, list[str]]:
    new, same, other = 0, 0, []
    for folder in folders:
        mine = store.root / folder.parent.name / folder.name
        mine.parent.mkdir(exist_ok=True)
        with locked(mine):
            if not mine.is_dir():
                for path in folder.iterdir():
                    checkpoint.flush(path)
                folder.rename(mine)
                new += 1
            elif parsed(mine / MANIFEST) == parsed(folder / MANIFEST):
                same += 1
            else:
                other.append(f"{mine.parent.name}/{mine.name}")
    return new, same, other

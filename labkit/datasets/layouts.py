"""Layouts: which pictures of a folder or zip are for training, which for testing, and of which class.

    <class>/<image>                                  a fifth of each class is held out, always the same fifth
    train/<class>/<image> and test/<class>/<image>   also training; testing; val, valid, validation or dev for test

Either may lie in folders of one folder each. What can be read in two ways is refused until `layout` says which it is:
"classes" for the first folders, "TRAIN,TEST" for two folders of classes, "TRAIN" for one of which a fifth is held out;
each picture is then of the first folder that it lies in, however deep. A warning counts what is used for nothing.
"""

import posixpath
import unicodedata
from collections import Counter
from collections.abc import Iterable
from typing import NoReturn

from labkit.core import InputError
from labkit.core.wording import printable, some, warn
from labkit.datasets.image_files import LAYOUT, Part, Source, ending, say

import torch

_HALVES = {"train": "train", "training": "train", "test": "test", "testing": "test"}
_HALVES |= dict.fromkeys(("val", "valid", "validation", "dev"), "val")
_SPLIT_SEED = 0  # not the caller's: train drawn with one seed must never meet test drawn with another

File = tuple[list[str], str]  # the parts of its name from some folder on, and its whole name
Half = Iterable[tuple[str, str]]  # class and name of each file


def split(source: Source, layout: str = "") -> tuple[tuple[str, ...], Part, Part]:
    """Class names (sorted, in Unicode's form NFC), train and test files.

    Without a folder of test images, a fifth of each class is held out; where some class has a single image, a fifth of
    all images, with a warning that classes differ between the two.

    Raises InputError when no image lies in a class folder, or the folders can be read in two ways; when a class is
    present in train only or in test only, or has no picture that can be read.
    """
    files = [(name.split("/"), name) for name in (*source.names, *source.unread)]
    halves, readable = _told(source, files, layout) if layout else _found(source, files), set(source.names)
    for half in halves:
        if blind := {c for c, _ in half} - {c for c, name in half if name in readable}:
            why = some(ending(name) for c, name in half if c in blind)
            told = f"class {some(blind)} has no picture that can be read, only {why}"
            raise InputError(f"{source.path}: {told}; add some")
    train, test = ({(c, name) for c, name in half if name in readable} for half in halves)
    if not train:
        raise InputError(f"{source.path} has images, but none in a class folder; {LAYOUT}")
    classes, here = ({c for c, _ in half} for half in (train, test))
    for only, others, which, rest in (
        (classes - here, here, "train", "test"),
        (here - classes, classes, "test", "train"),
    ):
        if only and test:
            like = some(c for c in others if c.casefold() in map(str.casefold, only))
            where = f"present in {which} only; remove it, or add to {rest}{f', which has {like}' if like else ''}"
            raise InputError(f"{source.path}: class {some(only)} {where}")
    if not test:
        train, test = _hold_out(source, train)
    aside = source.aside + Counter(f"picture of ending {ending(name)}" for name in source.unread)
    if left := [posixpath.dirname(name) or name for name in readable - {name for _, name in train | test}]:
        aside[f"picture in no class of train or test ({some(left)})"] = len(left)
    say(source.path, aside)
    index = {c: k for k, c in enumerate(sorted(classes))}
    return tuple(index), *(_part(half, index) for half in (train, test))


def _found(source: Source, files: list[File]) -> tuple[Half, Half]:
    """The files of train and test as the names of their folders tell; a test of none is to be held out."""
    files = _unwrapped(files)
    folders, halves = _folders(files), {"train": [], "test": [], "val": []}
    for folder in sorted(folders):
        if (half := _HALVES.get(folder.lower())) and _folders(folders[folder]):
            halves[half].append(folder)
    train, test = halves["train"], halves["test"] or halves["val"]
    words, choice = [f for f in folders if f.lower() in _HALVES], ",".join(half[0] for half in (train, test) if half)
    if not train and not test:
        if len(words) > 1 or (words and len(folders) == 1):
            _refuse(source, f"{some(words)} hold no class folders, as if they were classes")
        return _first(source, files, "TRAIN,TEST"), []
    if several := next((half for half in (train, test) if len(half) > 1), None):
        _refuse(source, f"{some(several)} are one half by their names", choice)
    if not train:
        raise InputError(f"{source.path} has a folder of test images but no train/; {LAYOUT}")
    if not test and (others := folders.keys() - words):
        _refuse(source, f"{train[0]} may be all training images, or a class as {some(others)}", choice)
    read = [_first(source, _unwrapped(folders[half[0]], half[0]), choice) if half else [] for half in (train, test)]
    return read[0], read[1]


def _told(source: Source, files: list[File], layout: str) -> tuple[Half, Half]:
    """The same, where somebody has said which folders they are."""
    if layout == "classes":
        while len(folders := _folders(files)) == 1 and all(len(path) > 2 for path, _ in files):
            (files,) = folders.values()
        return _first(source, files), []
    found, inner = [], _unwrapped(files)
    for half in (half.strip("/").split("/") for half in layout.split(",")):
        inside = ([(p[len(half) :], name) for p, name in where if p[: len(half)] == half] for where in (inner, files))
        found.append(_first(source, next(filter(None, inside), [])))
    if len(found) > 2 or not all(found):
        there = some(_folders(inner))
        raise InputError(f"{source.path} has no layout {layout!r}; there are classes, TRAIN and TRAIN,TEST, of {there}")
    return found[0], found[-1] if len(found) == 2 else []


def _folders(files: list[File]) -> dict[str, list[File]]:
    """What lies in each folder."""
    found: dict[str, list[File]] = {}
    for path, name in files:
        if len(path) > 1:
            found.setdefault(path[0], []).append((path[1:], name))
    return found


def _unwrapped(files: list[File], half: str = "") -> list[File]:
    """The files from the folder on that holds all folders of pictures; below `half`, perhaps one more of that name.

    A folder with pictures of its own and a single folder with others may be a class, and is not around anything.
    """
    while len(folders := _folders(files)) == 1:
        ((folder, inside),) = folders.items()
        below, word = _folders(inside), folder.lower()
        halves = any(name.lower() in _HALVES for name in below)
        wraps = len(below) > 1 or halves or (below and all(len(path) > 1 for path, _ in inside))
        if not wraps or (word in _HALVES and word != half.lower() and not halves):
            break
        files = inside
    return files


def _first(source: Source, files: list[File], choice: str = "") -> Half:
    """Each file under its first folder; with a `choice` to offer, only where its class cannot be a deeper one."""
    if choice and (deeper := next((name for path, name in files if len(path) > 2), None)):
        _refuse(source, f"{printable(deeper)} lies in several folders, and each may be its class", choice)
    # Systems write é as one character or as two; both are the same name to every reader.
    return [(unicodedata.normalize("NFC", path[0]), name) for path, name in files if len(path) > 1]


def _refuse(source: Source, why: str, choice: str = "TRAIN,TEST") -> NoReturn:
    how = f"--layout classes or --layout {choice} (folder:PATH?layout={choice} in a data set's name)"
    raise InputError(f"{source.path}: {why}; move what is not meant, or choose {how}")


def _part(files: Half, index: dict[str, int]) -> Part:
    files = sorted(files)
    return Part([name for _, name in files], torch.tensor([index[c] for c, _ in files], dtype=torch.int64))


def _hold_out(source: Source, files: set[tuple[str, str]]) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    if len(files) < 2:
        raise InputError(f"{source.path} holds one image; add another, to have one to train and one to test on")
    order = torch.randperm(len(files), generator=torch.Generator().manual_seed(_SPLIT_SEED)).tolist()
    shuffled, groups = [*map(sorted(files).__getitem__, order)], {}
    for file in shuffled:
        groups.setdefault(file[0], []).append(file)
    if single := sum(len(group) == 1 for group in groups.values()):
        so = "so train and test hold different classes; good for looking at pictures; add more to train on"
        warn(f"classes with a single image: {single} of {len(groups)} in {source.path}, {so}")
        groups = {"": shuffled}
    held = {file for group in groups.values() for file in group[: max(1, round(len(group) / 5))]}
    return files - held, held

"""The published tables, as data."""

import json
import re
from functools import cache
from importlib import resources

from labkit.core import InputError

import pandas as pd

CONVENTIONS = ("stated", "released")  # sizes and T as the text has them, or as in what the authors released
# What tables with a size of their own call an attack, and what we do.
_SIZED = {
    "3": {a: f"{ours}-0.06 avg" for a, ours in (*((a, a) for a in ("FGSM", "BIM", "DeepFool", "CW")), ("UAP", "Uni"))},
    "4": {"accuracy": "PGD-L∞-0.031"},
}


@cache
def _published() -> dict:
    return json.loads(resources.files("labkit.experiments").joinpath("paper.json").read_bytes())["tables"]


def names() -> tuple[str, ...]:
    """The published tables: 1, 2a, 2b, 3, 4, 5, 6a, 6b, 7, 8a, 8b."""
    return tuple(_published())


def convention(name: str) -> tuple[str, bool]:
    """A table's name in the paper, and whether it is by the released convention: ("1", True) for "1_released"."""
    plain, _, how = name.partition("_")
    if how not in ("", CONVENTIONS[1]):
        raise InputError(f"unknown convention {how!r}; use {' or '.join(CONVENTIONS)}")
    return plain, bool(how)


def called(name: str) -> str:
    """A table's name in a sentence: "1", or "1 (sizes and T as released)"."""
    plain, released = convention(name)
    return f"{plain} (sizes and T as released)" if released else plain


def table(name: str) -> pd.DataFrame:
    """Accuracies as printed, defenses by rows, attacks by columns; `attrs` hold data set, classifier and setting.

    Attacks that the paper names without their size carry it here, as ours do: BIM-0.03 and so on. They are named by
    their grey levels where the name says so ("1_released"): BIM-3/255.
    """
    plain, released = convention(name)
    if (found := _published().get(plain)) is None:
        raise InputError(f"the paper has no table {plain!r}; it has {', '.join(names())}")
    sized = _SIZED.get(plain, {attack: f"{attack}-0.03" for attack in ("BIM", "DeepFool", "CW")})
    rows = {re.sub(r"(?i)STL\(cluster\)", "STL (cluster)", row): values for row, values in found["rows"].items()}
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=[sized.get(c, c) for c in found["columns"]])
    if released:
        frame.columns = [_in_levels(column) for column in frame]
    frame.attrs = {key: value for key, value in found.items() if key not in ("rows", "columns")}
    return frame


def _in_levels(attack: str) -> str:
    """An attack's name by grey levels, as `AttackRecipe.released` sizes it."""
    stated = re.fullmatch(r"(.+)-(0\.\d\d)( avg)?", attack)
    return f"{stated[1]}-{4 if stated[3] else round(100 * float(stated[2]))}/255" if stated else attack


def counterparts(resolution: int) -> tuple[str, str]:
    """The tables for (vanilla, retrained) classifiers at the resolution nearest to this one."""
    pairs = {32: ("5", "1"), 64: ("6a", "2a"), 128: ("6b", "2b"), 224: ("7", "3")}
    return pairs[min(pairs, key=lambda known: abs(known - resolution))]

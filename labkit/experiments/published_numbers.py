"""The published tables, as data, and ours beside them."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources

from labkit.core import InputError

import pandas as pd

CONVENTIONS = ("stated", "released")  # sizes and T as the text has them, or as in what the authors released
LINE = ["block", "defense", "knowledge"]  # what the cells of one line share
BLOCKS = "ours", "worst", "paper"
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


def alike(rows: pd.DataFrame, name: str) -> pd.DataFrame:
    """`measured`, of the networks that are as the table's setting has them: vanilla or retrained, and undefended."""
    retrained = table(name).attrs["setting"].startswith("retrained")
    return measured(rows[(rows.retrained == retrained) | (rows.defense == "No Defense")], pd.DataFrame(), name)


def measured(rows: pd.DataFrame, worst: pd.DataFrame, name: str) -> pd.DataFrame:
    """A table of the paper in three blocks, one line per cell: ours, ours in the worst case, and the paper's.

    rows   from `measurement.run(asked.blind)`, with `asked` from `paper_tables.table`
    worst  from `paper_tables.worst(asked.aware, …)`: the share of images correct under every attack of a column's
           size, by attackers who know the defense and by those who do not

    Columns: block ("ours", "worst", "paper"), defense, knowledge, n, attack, accuracy, low, high, right; the paper's
    lines have the accuracy alone, and only the attacks that are in `rows`. Lines of what nobody attacked are left out.
    """
    attacks = rows.drop_duplicates("attack").set_index("attack").budget
    lines = pd.concat(_by_attacker(rows)).assign(block="ours").to_dict("records")
    for row in worst.assign(block="worst", knowledge="").to_dict("records"):
        lines += [{**row, "attack": a} for a, size in attacks.items() if size == row["size"]]
    for defense, values in table(name).iterrows():
        same = {"block": "paper", "defense": defense, "knowledge": "identity" if name.startswith("4") else ""}
        lines += [{**same, "attack": a, "accuracy": values[a]} for a in attacks.index if pd.notna(values.get(a))]
    told = ["right"] * ("right" in rows)  # which images, in rows of this version
    return pd.DataFrame(lines, columns=[*LINE, "n", "attack", "accuracy", "low", "high", *told])


def _by_attacker(rows: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Rows by defense and attacker in order of first appearance, each with the clean row; then what nobody attacks."""
    clean, attacked = rows[rows.attack == "Clean"], rows[rows.attack != "Clean"]
    for (defense, knowledge), group in attacked.groupby(["defense", "knowledge"], sort=False):
        yield pd.concat([clean[clean.defense == defense], group]).assign(knowledge=knowledge)
    yield clean[~clean.defense.isin(attacked.defense)].assign(knowledge="–")


def kept(cells: pd.DataFrame) -> pd.Series:
    """Of every cell of `measured`, the share of the defense's clean accuracy on the same images; NaN without one."""
    places = pd.Series(list(zip(cells.block == "paper", cells.defense, cells.n.fillna(0), strict=True)), cells.index)
    clean = cells.attack == "Clean"
    whole = dict(zip(places[clean], cells.accuracy[clean], strict=True))
    return cells.accuracy / places.map(lambda place: whole.get(place) or math.nan)


def by_resolution(tables: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """Cells of several tables, each at a resolution of its own: those that stand in every one.

    tables  cells of a table (`measured`) by the pixels of an image's side

    More columns: value (the pixels) and kept (`kept`). Of the paper's defenses, those that we have. Attacks in their
    order, and of each our cells, the worst case, the paper's.
    """
    parts = [cells.assign(value=side, kept=kept(cells)) for side, cells in sorted(tables.items())]
    cells, place = pd.concat(parts, ignore_index=True), ["attack", "block", "defense", "knowledge"]
    cells = cells[cells.groupby(place).value.transform("nunique") == len(tables)]
    cells = cells[cells.defense.isin(cells.defense[cells.block == "ours"])]
    order = {"attack": list(cells.attack.unique()).index, "block": BLOCKS.index}
    return cells.sort_values(["attack", "block"], kind="stable", key=lambda part: part.map(order[part.name]))

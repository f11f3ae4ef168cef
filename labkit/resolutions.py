"""Whether a defense does as well at every resolution: tables of one data set, each at a resolution of its own."""

from collections.abc import Mapping

import pandas as pd

from labkit import apart, tables, threat
from labkit.apart import Point

_BLOCKS = ["ours", "worst", "paper"]
_UNKNOWN = {"worst": "anything"}


def compare(measured: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """What each defense keeps at each resolution, of the attacks that all tables have.

    measured  cells of a table (`tables.measured`) by the pixels of an image's side

    One line per attack, block (ours, worst, paper), defense and attacker that stand in every table, and a column
    `points` with a Point for each resolution: at, accuracy with its interval (NaN in the paper's); columns `kept` with
    the share of clean accuracy that each is, and `n` with its number of images (NaN in the paper's). Attacks in their
    order, and of each our cells, the worst case, the paper's of the same defenses.
    """
    found: dict[tuple, dict[int, tuple[Point, float, float]]] = {}
    for pixels, cells in sorted(measured.items()):
        for row, kept in zip(cells.itertuples(), tables.kept(cells), strict=True):
            place = row.attack, row.block, row.defense, row.knowledge
            found.setdefault(place, {})[pixels] = Point(pixels, row.accuracy, row.low, row.high), kept, row.n
    attacks = list(dict.fromkeys(place[0] for place in found))
    lines = [
        (*place, *map(list, zip(*at.values(), strict=True)))
        for place, at in sorted(found.items(), key=lambda item: (attacks.index(item[0][0]), _BLOCKS.index(item[0][1])))
        if len(at) == len(measured)
    ]
    lined = pd.DataFrame(lines, columns=["attack", "block", "defense", "knowledge", "points", "kept", "n"])
    return lined[lined.defense.isin(lined[lined.block == "ours"].defense)]


def view(measured: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """`compare` as it is read: accuracies with their intervals, a column for each resolution."""
    lines = []
    for row in compare(measured).itertuples():
        line = {"attack": row.attack, "block": "ours, worst case" if row.block == "worst" else row.block}
        line |= {"defense": row.defense, "attacker has": _who(row)}
        line["n"] = " and ".join(dict.fromkeys(f"{n:,.0f}" for n in row.n if pd.notna(n))) or "not said"
        for point, kept in zip(row.points, row.kept, strict=True):
            share = "" if pd.isna(kept) or row.attack == "Clean" else f" (keeps {kept:.2f})"
            told = f"{point.number:.4g}" if pd.isna(point.low) else apart.told(point)
            line[f"{point.at} pixels"] = told + share
        lines.append(line)
    return pd.DataFrame(lines)


def reading(measured: Mapping[int, pd.DataFrame]) -> str:
    """How each STL fares as images grow, and whom it is ahead of where: Markdown, one bullet each."""
    found, lines = compare(measured), []
    ours = found[(found.attack != "Clean") & (found.block != "paper")]
    for (name, attack), part in ours[ours.defense.str.startswith("STL")].groupby(["defense", "attack"], sort=False):
        for row in part.itertuples():
            others = ours[(ours.attack == attack) & (ours.block == row.block) & ~ours.defense.str.startswith("STL")]
            ahead = []
            for other in others.drop_duplicates("defense").itertuples():
                where = [p.at for p, q in zip(row.points, other.points, strict=True) if apart.difference(p, q).low > 0]
                ahead.append(f"{other.defense} at {' and '.join(map(str, where)) or 'none of them'}")
            printed = found[(found.attack == attack) & (found.block == "paper") & (found.defense == name)]
            lines.append(
                f"- **{name}, {attack}, attacker has {_who(row)}**: accuracy {apart.course(row.points, 'pixels')}"
                f"{_shares(row, printed)}. Surely ahead of {', '.join(ahead)}."
            )
    return "\n".join(lines)


def _shares(row, printed: pd.DataFrame) -> str:
    """What is kept of the clean accuracy, beside what the paper's STL keeps; nothing where clean images are missing."""
    if any(map(pd.isna, row.kept)):
        return ""
    told = ", ".join(f"{kept:.2f}" for kept in row.kept)
    theirs = ", ".join(f"{kept:.2f}" for kept in next(iter(printed.kept), ()))
    return f"; of its clean accuracy it keeps {told}" + (f" (paper {theirs})" if theirs else "")


def _who(row) -> str:
    """What the attacker has; the paper does not say."""
    if row.block == "paper":
        return "not said"
    return _UNKNOWN.get(row.block) or threat.SHORT.get(row.knowledge, row.knowledge)

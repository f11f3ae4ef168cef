"""Verdicts: two measured numbers side by side, whether they differ, and one plain sentence for it.

A verdict is a line of one table, whatever was measured; `questions` says which numbers are compared.
"""

from labkit.core.metrics import Point, compared, difference, holm, told
from labkit.reporting import tables

import pandas as pd

HIGHER, LOWER, SAME = "significantly higher", "significantly lower", "no significant difference"
_LEVEL = 0.05
COLUMNS = ["question", "where", "case", "ours", "number", "low", "high", "n", "other", "other_number", "other_low",
           "other_high", "difference", "difference_low", "difference_high", "p", "unit", "verdict"]  # fmt: skip
_READ = {"accuracy": "number", "name": "ours", "name_other": "other"}
_READ |= {f"{end}_other": f"other_{at}" for end, at in (("accuracy", "number"), ("low", "low"), ("high", "high"))}
CAPTION = (
    "Brackets are 95 % intervals; the difference is ours − other, with Newcombe's interval. It is significant where "
    "p < 0.05: of the exact test on the images that only one of the two has right (McNemar), corrected for how many "
    "such comparisons are made here (Holm). Without p, which needs both on the same images, it is significant where "
    "its interval leaves out 0."
)


def beside(question: str, ours: pd.DataFrame, other: pd.DataFrame, on: str = "", verdict: str | None = None):
    """A table with COLUMNS: each row of `ours` beside the rows of `other` that agree with it.

    ours, other  columns name, accuracy, low, high; of ours (or, where it has none, of other) also n, where (what
                 several lines share: a threat model, a measure), case (what tells them apart: an attack) and unit; rows
                 that say which images they have right (`metrics.packed`) are compared in pairs
    on           the columns in which two rows agree, by blanks; without any, each row meets each
    verdict      in place of the one that follows from the interval of the difference
    """
    how = {"on": on.split()} if on else {"how": "cross"}
    found = ours.merge(other, **how, suffixes=("", "_other")).rename(columns=_READ)
    lines = []
    rights = found.reindex(columns=["right", "right_other"]).to_numpy()
    for row, right in zip(found.reindex(columns=COLUMNS).to_dict("records"), rights, strict=True):
        row |= {name: "" for name in ("where", "case", "unit") if pd.isna(row[name])}
        a, b = (Point(None, *(row[f"{of}{end}"] for end in ("number", "low", "high"))) for of in ("", "other_"))
        if pair := all(isinstance(told, str) for told in right) and compared(*right):
            gap, sure = pair[:4], pair.p < _LEVEL
        else:
            gap = *difference(a, b)[1:], float("nan")
            sure = gap[1] > 0 or gap[2] < 0
        row |= dict(zip(("difference", "difference_low", "difference_high", "p"), gap, strict=True))
        own = SAME if not sure else HIGHER if gap[0] > 0 else LOWER
        lines.append(row | {"question": question, "verdict": own if verdict is None else verdict})
    return pd.DataFrame(lines, columns=COLUMNS)


def corrected(found: pd.DataFrame) -> pd.DataFrame:
    """All verdicts of one page, each p corrected for their number: what then is not significant is said to be so."""
    tested, found = found.p.notna() & found.verdict.isin((HIGHER, LOWER, SAME)), found.copy()
    found.loc[tested, "p"] = holm(found.p[tested].tolist())
    found.loc[tested & (found.p >= _LEVEL), "verdict"] = SAME
    return found


def claim(question: str, where: str, verdict: str) -> pd.DataFrame:
    """A line without numbers of its own: what follows from the others."""
    line = {"question": question, "where": where, "verdict": verdict, "case": "", "ours": "", "other": "", "unit": ""}
    return pd.DataFrame([line], columns=COLUMNS)


def table(parts) -> pd.DataFrame:
    """Several tables of verdicts as one."""
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=COLUMNS)


def holds(verdicts) -> str:
    """What becomes of a statement whose parts hold, do not hold, or are not decided."""
    found = {verdict for verdict in verdicts if verdict in ("holds", "does not hold")}
    return "not decided" if not found else "does not hold" if "holds" not in found else (
        "holds" if set(verdicts) == found == {"holds"} else "holds in part"
    )  # fmt: skip


def view(found: pd.DataFrame) -> pd.DataFrame:
    """The table as it is read: both numbers and their difference with intervals."""
    lines = []
    for row in corrected(found).to_dict("records"):
        line = {name: row[name] for name in ("question", "where", "case")}
        line |= {"ours": _cell(row, "ours", ""), "other": _cell(row, "other", "other_")}
        line |= {"n": "" if pd.isna(row["n"]) else f"{int(row['n']):,}", "difference": ""}
        gap = [row[f"difference{end}"] for end in ("", "_low", "_high")]
        if not pd.isna(gap[0]) and gap[1] != gap[2]:
            line["difference"] = "{0:+.{d}f} [{1:+.{d}f}, {2:+.{d}f}]".format(*gap, d=1 if row["unit"] else 3)
        if found.p.notna().any():
            line["p"] = "" if pd.isna(row["p"]) else "< 0.001" if row["p"] < 0.001 else f"{row['p']:.3f}"
        lines.append(line | {"verdict": row["verdict"]})
    return pd.DataFrame(lines).replace("", "–")


def text(found: pd.DataFrame) -> str:
    """The verdicts in plain sentences: Markdown, one bullet per question."""
    lines = []
    for question, mine in corrected(found).groupby("question", sort=False):
        words = [_sentence(part) for _, part in mine.groupby(["where", "ours"], sort=False)]
        lines.append(f"- **{question}** {' '.join(words)}")
    return "\n".join(lines)


def markdown(found: pd.DataFrame, first: int | None = None) -> str:
    """The sentences, the `first` of them (those that are decided come before others), and the rest folded."""
    lines, numbers = text(found).splitlines(), tables.markdown(view(found), disable_numparse=True)
    if first:
        lines.sort(key=lambda line: not any(word in line.lower() for word in (HIGHER, LOWER, "hold")))
    shown, rest = ("\n".join(part) for part in (lines[:first], lines[first:] if first else []))
    title, rest = (f"{len(lines) - first} more, and the numbers", f"{rest}\n\n") if rest else ("The numbers", "")
    return f"{shown}\n\n<details><summary>{title}</summary>\n\n{rest}{numbers}\n\n{CAPTION}\n\n</details>"


def _sentence(part: pd.DataFrame) -> str:
    """Such as "Worst case: STL 0.01 (n = 200), No Defense 0.00. No significant difference."; of several, spans."""
    first, alone = part.iloc[0], len(part) == 1
    place = ", ".join(filter(None, (first["where"], first["case"] if alone and first["case"] != "Clean" else "")))
    if pd.isna(first.number):
        return f"{_capital(place)}: {first.verdict}."
    several = part.other.nunique() > 1
    said = [_named(first.ours, part.number, first.unit) + _images(part.n)]
    said += [] if several else [_named(first.other, part.other_number, first.unit)]
    verdicts = [] if not first.verdict else [first.verdict] if alone else [
        f"{verdict} {_which(verdict, mine, several, len(part))}" for verdict, mine in part.groupby("verdict")
    ]  # fmt: skip
    ordered = "; ".join(sorted(verdicts, key=lambda words: words.startswith(SAME)))
    return f"{_capital(place)}: {', '.join(said)}." + (f" {_capital(ordered)}." if ordered else "")


def _which(verdict: str, mine: pd.DataFrame, several: bool, among: int) -> str:
    """Which of several lines have a verdict, by name where it is one to look for."""
    names = list(dict.fromkeys(mine.other if several else mine.case))
    link = "for" if not several else "from" if verdict == SAME else "than"
    count = f"all {among}" if len(mine) == among else f"the other {len(mine)}"
    return f"{link} {count if len(mine) == among or (verdict == SAME and len(mine) > 2) else ', '.join(names)}"


def _named(name: str, numbers: pd.Series, unit: str) -> str:
    """A name with its number or the span of its numbers; a colon parts a number from a name that ends in one."""
    ends = dict.fromkeys(f"{value:.1f}{unit}" if unit else f"{value:.2f}" for value in (numbers.min(), numbers.max()))
    return f"{name}{':' * name[-1:].isdigit()} {' to '.join(ends)}"


def _images(counts: pd.Series) -> str:
    ends = dict.fromkeys(f"{int(n):,}" for n in (counts.min(), counts.max()) if pd.notna(n))
    return f" (n = {' to '.join(ends)})" if ends else ""


def _cell(row: dict, name: str, at: str) -> str:
    """A name, and its number with the interval that it has."""
    point = Point(None, *(row[f"{at}{end}"] for end in ("number", "low", "high")))
    if pd.isna(point.number):
        return ""
    bare = pd.isna(point.low) or point.low == point.high
    number = f"{point.number:.4g}{row['unit']}" if bare else told(point, row["unit"])
    return f"{row[name]}{':' * row[name][-1:].isdigit()} {number}"


def _capital(words: str) -> str:
    return words if words.startswith("λ") else words[:1].upper() + words[1:]

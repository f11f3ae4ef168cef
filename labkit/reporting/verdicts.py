"""Verdicts: two measured numbers side by side, and whether they differ.

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


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """A line for each question and place: the spans of both numbers, and for which cases each verdict holds."""
    lines = []
    for (question, where, ours), mine in corrected(found).groupby(["question", "where", "ours"], sort=False):
        first, others = mine.iloc[0], mine.other.unique()
        each = mine.case if len(others) == 1 else mine.other
        if alone := len(mine) == 1 and first.case != "Clean":
            where = ", ".join(filter(None, (where, first.case)))
        cases = {verdict: ", ".join(dict.fromkeys(each[mine.verdict == verdict])) for verdict in mine.verdict.unique()}
        told = [verdict if alone or not named else f"{verdict}: {named}" for verdict, named in cases.items() if verdict]
        line = {"question": question, "where": where, "ours": _span(ours, mine.number, first.unit)}
        line["other"] = _span(others[0], mine.other_number, first.unit) if len(others) == 1 else ", ".join(others)
        line["n"] = " to ".join(dict.fromkeys(f"{int(n):,}" for n in (mine.n.min(), mine.n.max()) if pd.notna(n)))
        lines.append(line | {"verdict": "; ".join(told)})
    return pd.DataFrame(lines).replace("", "–")


def markdown(found: pd.DataFrame, first: int | None = None) -> str:
    """The summary, its `first` lines (those that are decided come first), and folded the rest and all numbers."""
    if found.empty:
        return ""
    lines = summary(found)
    if first:
        open_ = [not any(word in verdict for word in (HIGHER, LOWER, "hold")) for verdict in lines.verdict]
        lines = lines.assign(open=open_).sort_values("open", kind="stable").drop(columns="open")
    return tables.page("verdicts.md", lines=lines, first=first or len(lines), numbers=view(found)).strip()


def _span(name: str, numbers: pd.Series, unit: str) -> str:
    """A name with its number or the span of its numbers; a colon parts a number from a name that ends in one."""
    if numbers.isna().all():
        return name
    ends = dict.fromkeys(f"{value:.1f}{unit}" if unit else f"{value:.2f}" for value in (numbers.min(), numbers.max()))
    return f"{name}{':' * name[-1:].isdigit()} {' to '.join(ends)}"


def _cell(row: dict, name: str, at: str) -> str:
    """A name, and its number with the interval that it has."""
    point = Point(None, *(row[f"{at}{end}"] for end in ("number", "low", "high")))
    if pd.isna(point.number):
        return ""
    bare = pd.isna(point.low) or point.low == point.high
    number = f"{point.number:.4g}{row['unit']}" if bare else told(point, row["unit"])
    return f"{row[name]}{':' * row[name][-1:].isdigit()} {number}"

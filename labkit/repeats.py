"""Numbers that more than one run has measured by the same recipe, and how far the runs agree."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from labkit import threat
from labkit.apart import Point, moved, told

_NUMBERS = ["accuracy", "low", "high"]
_MEASURED = [*_NUMBERS, "dissimilarity", "psnr"]


def repeats(files: Iterable[Path]) -> pd.DataFrame:
    """Each recipe that stands in files of rows with two measurements: the first one's row, and the last one's numbers.

    Rows of one recipe with one `run` are one measurement, shown in two places. Rows from before there was a `run` are
    one measurement when all that they measured is equal.

    Columns: those of a row, and accuracy, low and high again with "_again".
    """
    found = [pd.read_csv(file, dtype={"recipe": str, "run": str}) for file in files]
    if not found:
        return pd.DataFrame()
    rows = pd.concat(found, ignore_index=True)
    if "run" not in rows:
        rows["run"] = None
    numbers = rows.filter(items=_MEASURED).map(repr).agg(" ".join, axis=1)
    made = rows.assign(identity=rows.run.fillna(numbers)).drop_duplicates(["recipe", "identity"])
    first, last = made.drop_duplicates("recipe"), made.drop_duplicates("recipe", keep="last")
    twice = first.merge(last[["recipe", "identity", *_NUMBERS]], on="recipe", suffixes=("", "_again"))
    twice = twice[twice.identity != twice.identity_again]
    return twice.drop(columns=["identity", "identity_again"]).reset_index(drop=True)


def reading(twice: pd.DataFrame) -> str:
    """How many of `repeats` are told apart, and which; how far all of them differ. Two sentences, Markdown."""
    gaps, words = (twice.accuracy - twice.accuracy_again).abs(), []
    for row in twice.itertuples():
        one = Point(row.n, row.accuracy, row.low, row.high)
        other = Point(row.n, row.accuracy_again, row.low_again, row.high_again)
        if moved(one, other):
            where = f"{row.defense}{', retrained' if row.retrained else ''}, {row.attack}"
            words.append(f"{where}, attacker has {threat.SHORT[row.knowledge]}: {told(one)} and {told(other)}")
    said = f"{len(words)} of them can be told apart: {'; '.join(words)}" if words else "none of them can be told apart"
    return (
        f"Numbers that two runs of the same recipe have measured: {len(twice)}. Their two accuracies differ by "
        f"{gaps.median():.3f} (median; at most {gaps.max():.3f}); {said}."
    )

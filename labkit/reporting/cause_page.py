"""The page on what made the paper's numbers (`experiments.causes`): table, figure, sentences."""

from labkit.core.wording import in_markdown
from labkit.experiments import causes, published_numbers
from labkit.reporting import tables
from labkit.reporting.pictures import canvas

import pandas as pd
from matplotlib.figure import Figure

_SHOWN = 5  # hypotheses whose curves are drawn, the nearest first
_MARKERS, _COLOURS = "osD^v", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A line per hypothesis, nearest first: relative robust accuracies, and `causes.distances`."""
    near = causes.distances(rows)
    kept = causes.relative(rows).loc[[*near.hypothesis, "the paper"]]
    frame = _told(kept, "{:.2f}").reset_index(names="attack as if")
    frame.insert(1, "checks call out", [*near.fault, ""])
    frame["cells"] = [*near.cells.map(str), ""]
    for name, column in (("distance", near.distance), ("of chance, at most", near.most)):
        frame[name] = [*column.map("{:.3f}".format), ""]
    return frame


def changes(rows: pd.DataFrame) -> pd.DataFrame:
    """`causes.changes` as it is read: differences with their sign, below what they differ from."""
    found = causes.changes(rows)
    if found.empty:
        return found
    return pd.concat([_told(found[:1], "{:.2f}"), _told(found[1:], "{:+.2f}")]).reset_index(names="cause")


def caption(rows: pd.DataFrame, note: str) -> str:
    """Three lines: what, on what, how to read it."""
    sizes = ", ".join(f"{n:,}" for n in sorted(set(rows.n)))
    networks = ", ".join(sorted(set(rows.classifier)))
    return "  \n".join((
        "Relative robust accuracy (robust / clean) for each reading of the paper's attacks, beside its Table 1.",
        f"{in_markdown(rows.data.iloc[0])}, n = {sizes} test images; {networks}. {note} No Defense is attacked in a "
        "white box; STL, with a network trained on T(x), in a grey box, by transfer from the undefended network.",
        "Distance is the mean absolute difference from the paper over the cells measured, of ten. Sampling alone makes "
        "it larger than “of chance” in 5 of 100 cases. Faults are made on purpose, and in this study alone.",
    ))  # fmt: skip


def found(rows: pd.DataFrame) -> str:
    """Which reading is nearest to the paper's numbers, and which are refuted: a list in Markdown."""
    near = causes.distances(rows)
    whole = near[near.cells >= 0.8 * near.cells.max()]
    fit, right = whole.distance <= whole.most, whole.hypothesis == causes.RIGHT
    told = {"fit": whole.hypothesis[fit], "refuted": whole.distance[right & ~fit]}
    told["called"] = whole.hypothesis[whole.fault != ""]
    return tables.page("causes.md", near=None if near.empty else whole.iloc[0], **told).strip()


def figure(rows: pd.DataFrame, title: str) -> Figure:
    """Each hypothesis' distance, with what chance allows; and FGSM against its size, beside the paper's Table 8a."""
    near, swept = causes.distances(rows), causes.curves(rows)
    fig, (left, right) = canvas(11.5, 0.3 * max(len(near), 8) + 1.9, 1, 2, lines="both")
    at = range(len(near))
    left.barh(at, near.most, color="#e3e3e3", label="what chance allows (95 %)")
    kinds = (False, "o", "#0072b2", "checks pass"), (True, "X", "#d55e00", "checks call it out by name")
    for wrong, marker, colour, label in kinds:
        mine = near[(near.fault != "") == wrong]
        left.plot(mine.distance, mine.index, marker, color=colour, label=label)
    left.set_yticks(at, [row.hypothesis + f" ({row.cells} of 10)" * (row.cells < 10) for row in near.itertuples()])
    left.set(xlabel="mean difference from the paper's Table 1", xlim=(0, None), ylim=(max(len(near), 1) - 0.5, -0.5))
    names = [name for name in near.hypothesis if name in set(swept.hypothesis)]
    chosen = list(dict.fromkeys([*names[: _SHOWN - 1], *[causes.RIGHT] * (causes.RIGHT in names), *names]))[:_SHOWN]
    for name, marker, colour in zip(chosen, _MARKERS, _COLOURS, strict=False):
        mine = swept[swept.hypothesis == name].sort_values("value")
        right.errorbar(mine.value, mine.accuracy, [mine.accuracy - mine.low, mine.high - mine.accuracy], marker=marker,
                       color=colour, markersize=5, capsize=2, linewidth=1.2, label=name)  # fmt: skip
    printed = published_numbers.table("8a_released").loc["No Defense"].filter(like="FGSM")
    levels = printed.index.str.extract(r"-(\d+)/")[0].astype(int)
    right.plot(levels, printed, "x--", color="black", label="the paper, Table 8a")
    right.set(xlabel="FGSM, grey levels of 255", ylabel="accuracy of No Defense (95 % interval)", ylim=(-0.02, 1.02))
    right.set_xticks(sorted({*swept.value, *levels}))
    for ax in (left, right):
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.14), frameon=False, fontsize=8.5, ncols=1)
    fig.suptitle(title, fontsize=11)
    return fig


def _told(frame: pd.DataFrame, form: str) -> pd.DataFrame:
    """Numbers as text, under the two names of each column in one."""
    named = frame.round(2).set_axis([" ".join(names) for names in frame], axis=1) + 0.0  # no -0.00
    return named.map(form.format, na_action="ignore").astype(object).fillna("–")

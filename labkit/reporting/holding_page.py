"""The page on what holds (`experiments.holding`, `experiments.certified`): table, map, paired questions."""

from labkit.core import metrics
from labkit.core.wording import in_markdown
from labkit.experiments import holding
from labkit.reporting import tables, verdicts
from labkit.reporting.pictures import canvas

import pandas as pd
from matplotlib.figure import Figure

_KINDS = ("no defense", "#000000", "X"), ("T before a vanilla network", "#0072b2", "o"), \
    ("trained to hold", "#d55e00", "D"), ("trained to hold, behind T", "#cc79a7", "s"), \
    ("certified", "#009e73", "")  # fmt: skip
_SAID = {1: "upper bound", 0.45: "some attacks so far"}  # of points so opaque


def budget(norm: str, size: float) -> str:
    """A budget in words, as columns and axes have it."""
    return {"l2": f"L2 {size:g}", "linf": f"L∞ {255 * size:.0f}/255"}.get(norm, f"relative L2 {size:g}")


def table(rows: pd.DataFrame, worst: pd.DataFrame) -> pd.DataFrame:
    """A line per defense: n, clean accuracy, what is left of it in each budget, and which attack leaves least."""
    lines = []
    for name, mine in rows.groupby("defense", sort=False):
        clean = mine[mine.attack == "Clean"]
        line = {"defense": name, "n": f"{mine.n.max():,}", "Clean": _cell(clean.iloc[0]) if len(clean) else ""}
        for norm, size in holding.BUDGETS:
            left = worst[(worst.defense == name) & (worst.norm == norm)]
            told, tried = "not measured", mine[mine.norm == norm]
            if len(left):
                told = f"{_cell(left.iloc[0])} ({left.iloc[0].attacks} attacks)"
            elif len(tried):
                told = f"at most {tried.accuracy.min():.3f}, so far ({len(tried)} attacks)"
            line[f"worst case, {budget(norm, size)}"] = told
        main = worst[(worst.defense == name) & (worst.norm == holding.BUDGETS[0][0])]
        lines.append(line | {"leaves least": main.iloc[0].hardest if len(main) else ""})
    return pd.DataFrame(lines)


def caption(rows: pd.DataFrame, note: str) -> str:
    """Three lines: what, on what, how to read it."""
    size = budget(*holding.BUDGETS[0])
    return "  \n".join((
        "Accuracy with 95 % Wilson intervals. Worst case: the share of images that stay right under every attack of a "
        "budget by attackers who know everything; an upper bound on robust accuracy.",
        f"{in_markdown(rows.data.iloc[0])}, n = {', '.join(f'{n:,}' for n in sorted(set(rows.n)))} test images; "
        f"{', '.join(sorted(set(rows.classifier)))}. {note}",
        f"Networks trained to hold are attacked in {size} while they train; “few images” marks those that are compared "
        "with each other alone. AutoAttack (standard) is among the attacks where no T precedes the network.",
    ))  # fmt: skip


def questions(worst: pd.DataFrame) -> pd.DataFrame:
    """`holding.pairs` in the worst case of the first budget, as `verdicts`: paired, corrected together."""
    norm, size = holding.BUDGETS[0]
    least = worst[worst.norm == norm].assign(
        name=lambda found: found.defense, where=f"worst case, {budget(norm, size)}", case=""
    )
    other = {name: part.drop(columns=["where", "case"]) for name, part in least.groupby("name")}
    pairs = holding.pairs(least)
    return verdicts.table(verdicts.beside(asked, least[least.name == one], other[two]) for asked, one, two in pairs)


def figure(rows: pd.DataFrame, worst: pd.DataFrame, certain: pd.DataFrame, title: str) -> Figure:
    """The map: clean against worst-case accuracy in the first budget, the front that nothing beats, certified points.

    certain  from `certified.rows`, at that size; certified accuracy is a lower bound, all else an upper one
    """
    (norm, size), (fig, ax) = holding.BUDGETS[0], canvas(9.5, 6.2, lines="both")
    least, some = worst[worst.norm == norm], holding.partly(rows, worst)
    clean = {row.defense: row for row in rows[rows.attack == "Clean"].itertuples()}
    for label, colour, marker in _KINDS[:4]:
        for found, few, faint in ((least, False, 1), (least, True, 1), (some, False, 0.45), (some, True, 0.45)):
            mine = [row for row in found.itertuples()
                    if _kind(row.defense) == label and row.defense.endswith(holding.FEW) == few]  # fmt: skip
            for row in mine:
                at = clean[row.defense]
                up, along = ([[p.accuracy - p.low], [p.high - p.accuracy]] for p in (row, at))
                ax.errorbar(at.accuracy, row.accuracy, up, along, color=colour, alpha=0.35 * faint, linewidth=1)
            if mine:  # open: no more than upper bounds
                ax.plot([clean[row.defense].accuracy for row in mine], [row.accuracy for row in mine], marker,
                        color=colour, markersize=5 if few else 9, markerfacecolor="white", linestyle="none",
                        alpha=faint, label=f"{label}{holding.FEW * few} ({_SAID[faint]})")  # fmt: skip
    best = holding.front(least, {name: row.accuracy for name, row in clean.items()})
    ends = [(clean[name].accuracy, least[least.defense == name].accuracy.iloc[0]) for name in best]
    if ends:
        ax.plot(*zip(*ends, strict=True), "-", color="#888888", lw=1, zorder=0, label="nothing is better in both")
    right, left = {"xytext": (7, 5)}, {"xytext": (-8, -10), "ha": "right"}
    for found, where in ((least, right), (some, left)):
        for row in found[~found.defense.str.endswith(holding.FEW)].itertuples():
            at = clean[row.defense].accuracy, row.accuracy
            near = [clean[o.defense].accuracy for o in some.itertuples() if abs(o.accuracy - at[1]) < 0.04]
            side = right if any(0 < at[0] - x < 0.2 for x in near) else where  # where no other point is
            ax.annotate(row.defense, at, textcoords="offset points", fontsize=8, color="#444444", **side)
    certain = certain[certain["size"].isin((0, size))] if len(certain) else certain
    for (name, mine), marker in zip(certain.groupby("system", sort=False) if len(certain) else (), "*ph", strict=False):
        plain, at = (mine[mine["size"] == end].iloc[0] for end in (0, size))
        ax.plot(plain.attacked, at.certified, marker, color=_KINDS[4][1], ms=12, ls="none", label=f"certified: {name}")
    ax.set(xlabel="clean accuracy", xlim=(0, 1), ylim=(-0.03, 1), title=title,
           ylabel=f"accuracy that is left, {budget(norm, size)}")  # fmt: skip
    ax.legend(loc="upper left", frameon=False, fontsize=9)
    return fig


def advice(rows: pd.DataFrame, worst: pd.DataFrame, certain: pd.DataFrame) -> list[str]:
    """What a defender should do, in sentences that each name their cell; what is not measured is not said."""
    norm, size = holding.BUDGETS[0]
    least, at = worst[worst.norm == norm].set_index("defense"), f"in the worst case at {budget(norm, size)}"
    clean, found = rows[rows.attack == "Clean"].set_index("defense").accuracy, []
    if len(least):
        best = least.accuracy.idxmax()
        found.append(f"Do what keeps most: **{best}** is left with {_cell(least.loc[best])} {at}, n = "
                     f"{least.n[best]:,}, and has {clean[best]:.3f} on clean images.")  # fmt: skip
    if {"STL", "No Defense"} <= set(least.index):
        found.append(f"Do not rely on T alone: STL before an undefended network is left with {_cell(least.loc['STL'])} "
                     f"{at}, No Defense with {_cell(least.loc['No Defense'])}.")  # fmt: skip
    for _, name, hard in (pair for pair in holding.pairs(least.reset_index()) if pair[1] == f"STL + {pair[2]}"):
        pair = metrics.compared(least.right[name], least.right[hard])
        gap = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*pair[:3])
        adds = "T adds to it" if pair.p < 0.05 and pair[0] > 0 else "T adds nothing to it that is significant"
        found.append(f"{adds}: with STL before {hard}, {gap} {at} (paired, p = {pair.p:.3f} by itself).")
    sure = certain[(certain["size"] > 0) & (certain.certified > 0)] if len(certain) else certain
    for name, mine in sure.groupby("system", sort=False) if len(sure) else ():
        last = mine.iloc[-1]
        share = f"{last.certified:.3f} [{last.low:.3f}, {last.high:.3f}]"
        found.append(f"Proved of {name}: {share} at L2 {last['size']:g}, n = {last.n:,}.")
    return found


def text(page, command: str) -> str:
    """The page of a `table_page.Published`, in Markdown."""
    told = {"cells": page.cells, "caption": page.caption, "found": verdicts.markdown(questions(page.worst))}
    told |= {"told": advice(page.rows, page.worst, page.certain), "supports": page.supports.map("{:.3g}".format)}
    certain = _certain(page.certain) if len(page.certain) else page.certain
    return tables.page("holding.md", certain=certain, command=command, **told)


def _certain(rows: pd.DataFrame) -> pd.DataFrame:
    """A line per system: what is certified at each size, and what an attack of that size leaves."""
    cells = []
    for row in rows.rename(columns={"certified": "accuracy"}).itertuples():
        sound = row.accuracy <= row.attacked
        cells.append(f"{_cell(row)} {'≤' if sound else '>'} {row.attacked:.3f}{' (check failed)' * (not sound)}")
    told = rows.assign(told=cells, at=rows["size"].map("L2 {:g}".format), abstained=rows.abstained.map("{:.2f}".format))
    wide = told.pivot_table("told", ["system", "n", "abstained"], "at", aggfunc="first", sort=False)
    return wide.reset_index().rename_axis(columns=None)


def _kind(name: str) -> str:
    before, trained = name.startswith("STL"), "Adv Training" in name or "TRADES" in name
    return _KINDS[2 * trained + before][0] if trained or before else _KINDS[0][0]


def _cell(row) -> str:
    return metrics.told(metrics.Point(None, row.accuracy, row.low, row.high))


def collapse(histories: dict[str, dict[str, list[float]]]) -> Figure:
    """Accuracy on held-out training images, epoch by epoch: clean, under one step, and under ten."""
    fig, axes = canvas(3.2 * max(len(histories), 1) + 0.6, 3.6, 1, max(len(histories), 1), lines="y", squeeze=False)
    for ax, (name, history) in zip(axes[0], histories.items(), strict=True):
        held = [name for name in history if name.endswith("held out")]
        for figure_name, marker in zip(held, "osD", strict=False):
            values = history[figure_name]
            ax.plot(range(1, len(values) + 1), values, marker=marker, label=figure_name.removesuffix(", held out"))
        ax.set(title=name.removesuffix(holding.FEW), ylim=(0, 1), xlabel="epoch")
        ax.xaxis.get_major_locator().set_params(integer=True)
    axes[0][0].set_ylabel("accuracy on images kept out")
    axes[0][0].legend(frameon=False, fontsize=8)
    return fig

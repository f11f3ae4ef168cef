"""Figures of measured rows: each takes a data frame and returns a matplotlib figure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.optimize import isotonic_regression

from labkit import tables, threat
from labkit.show import closed, tidy
from labkit.tradeoff import CHOICES

# Okabe & Ito's colours, which stay apart for colour-blind readers; one per defense, everywhere.
COLOURS = {"No Defense": "#5c5c5c", "STL": "#0072b2", "STL (cluster)": "#d55e00", "paper": "#000000"}
MARKERS = {
    "transfer": "o",
    "classifier": "s",
    "queries": "v",
    "identity": "^",
    "fixed-stratum": "P",
    "exact": "D",
    "–": "o",
}
# Who was asked in a sweep: name, colour, marker, and what fills it, hollow where the attacker knows T.
ASKED = {
    "clean": ("clean", "#5c5c5c", "o", "#5c5c5c"),
    "attacked": ("{}, attacker does not know T", "#0072b2", "s", "#0072b2"),
    "aware": ("{}, attacker differentiates T", "#d55e00", "D", "white"),
}
NUMERIC = {"lam": "log", "K": "log", "S": "linear", "M": "linear"}  # the axis of a choice; all others are words


def accuracies(rows: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy with its interval for every attack, defense and attacker; vanilla and retrained networks apart.

    One colour per defense, one marker per attacker; hollow markers are attackers who know T.
    """
    attacks = list(dict.fromkeys(rows.attack))
    lines = [line for line in dict.fromkeys(zip(rows.defense, rows.knowledge, strict=True)) if line[1] != "–"]
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.4), sharey=True, layout="constrained")
    for ax, retrained in zip(axes, (False, True), strict=True):
        part = rows[(rows.retrained == retrained) | (rows.defense == "No Defense")]
        for at, (defense, knowledge) in enumerate(lines):
            blind = knowledge not in threat.AWARE
            mine = part[(part.defense == defense) & part.knowledge.isin([knowledge, "–"] if blind else [knowledge])]
            if knowledge not in set(mine.knowledge):
                continue
            where = np.array([attacks.index(a) for a in mine.attack]) + min(0.13, 0.8 / len(lines)) * (
                at - (len(lines) - 1) / 2
            )
            ax.errorbar(
                where,
                mine.accuracy,
                yerr=[mine.accuracy - mine.low, mine.high - mine.accuracy],
                fmt=MARKERS[knowledge],
                color=COLOURS[defense],
                capsize=2.5,
                markersize=6,
                linewidth=1.2,
                markerfacecolor=COLOURS[defense] if blind else "white",
            )
        ax.set_xticks(range(len(attacks)), attacks)
        ax.set_title("network retrained on T(x)" if retrained else "vanilla network", fontsize=10)
        ax.set_ylim(-0.02, 1.02)
        ax.grid(axis="y", alpha=0.25)
    handles = [
        Line2D(
            [],
            [],
            color=COLOURS[defense],
            marker=MARKERS[knowledge],
            linestyle="",
            markerfacecolor="white" if knowledge in threat.AWARE else COLOURS[defense],
            label=f"{defense}: attacker has {threat.SHORT[knowledge]}",
        )
        for defense, knowledge in lines
    ]
    fig.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    axes[0].set_ylabel("accuracy (95 % interval)")
    fig.suptitle(title, fontsize=11)
    return tidy(fig)


def rivals(rows: pd.DataFrame, attack: str, title: str = "") -> Figure:
    """Every defense on a line of its own: clean, under `attack` by who does not know it, and by who does (`rivals`)."""
    aware, attacked = rows.index.isin(tables.knowing(rows).index), rows.attack == attack
    kinds = {
        "clean images": (rows.attack == "Clean", "o", "#5c5c5c", "#5c5c5c"),
        f"{attack}, attacker does not know it": (
            attacked & (~aware | (rows.defense == "No Defense")), "s", "#0072b2", "#0072b2",
        ),
        f"{attack}, attacker knows it": (
            attacked & aware & (rows.defense != "No Defense"), "D", "#d55e00", "white",
        ),
    }  # fmt: skip
    names = list(dict.fromkeys(rows.defense))
    fig, ax = plt.subplots(figsize=(8, 0.36 * len(names) + 1.4), layout="constrained")
    for at, (label, (chosen, marker, colour, face)) in enumerate(kinds.items()):
        part = rows[chosen]
        ax.errorbar(
            part.accuracy,
            [names.index(name) + 0.22 * (at - 1) for name in part.defense],
            xerr=[part.accuracy - part.low, part.high - part.accuracy],
            fmt=marker,
            color=colour,
            markerfacecolor=face,
            markersize=5.5,
            capsize=2,
            linewidth=1,
            label=label,
        )
    for at in range(1, len(names), 2):
        ax.axhspan(at - 0.5, at + 0.5, color="#f3f3f3", zorder=0)
    counts = rows.drop_duplicates("defense").set_index("defense").n
    ax.set_yticks(range(len(names)), [f"{name} (n = {counts[name]:,})" for name in names])
    ax.set(xlabel="accuracy (95 % interval)", xlim=(-0.02, 1.02), ylim=(len(names) - 0.5, -0.5))
    ax.grid(axis="x", alpha=0.25)
    fig.suptitle(title, fontsize=11)
    fig.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return tidy(fig)


def cells(rows: pd.DataFrame, table: str, title: str = "") -> Figure:
    """A table of the paper as panels, one per attack: ours, our worst case, and the paper's (`tables.measured`)."""
    names, attacks = list(dict.fromkeys(rows.defense)), list(dict.fromkeys(rows.attack))
    kinds = {  # block, knowledge: name, colour, marker, filling
        ("ours", "transfer"): ("attacker has an undefended copy", "#0072b2", "o", "#0072b2"),
        ("ours", "classifier"): ("attacker has the weights, not T", "#0072b2", "s", "#0072b2"),
        ("ours", "identity"): ("attacker has all, BPDA", "#009e73", "^", "white"),
        ("worst", ""): ("worst of all attackers, who know all", "#d55e00", "D", "white"),
        ("paper", ""): (f"the paper, Table {table}", "#000000", "x", "#000000"),
        ("paper", "identity"): (f"the paper, Table {table}: BPDA", "#000000", "x", "#000000"),
    }
    fig, axes = plt.subplots(
        1, len(attacks), sharey=True, squeeze=False, layout="constrained",
        figsize=(max(1.75 * len(attacks) + 1.9, 8.4), 0.48 * len(names) + 1.7),  # title and legend need as much
    )  # fmt: skip
    for ax, attack in zip(axes[0], attacks, strict=True):
        for at, ((block, knowledge), (label, colour, marker, face)) in enumerate(kinds.items()):
            part = rows[(rows.attack == attack) & (rows.block == block) & (rows.knowledge == knowledge)]
            if part.empty:
                continue
            ax.errorbar(
                part.accuracy,
                [names.index(name) + 0.16 * (min(at, 4) - 2) for name in part.defense],
                xerr=None if block == "paper" else [part.accuracy - part.low, part.high - part.accuracy],
                fmt=marker, color=colour, markerfacecolor=face, markersize=5, capsize=2, linewidth=1, label=label,
            )  # fmt: skip
        for at in range(1, len(names), 2):
            ax.axhspan(at - 0.5, at + 0.5, color="#f3f3f3", zorder=0)
        ax.set(xlim=(-0.03, 1.03), xticks=(0, 0.5, 1))
        ax.set_title(attack, fontsize=10)
        ax.grid(axis="x", alpha=0.25)
    axes[0, 0].set_yticks(range(len(names)), names)
    axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
    counts = sorted({int(n) for n in rows.n.dropna()})
    several = " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))
    fig.suptitle(f"{title}, n = {several}: accuracy and its 95 % interval", fontsize=11)
    found = dict(pair for ax in axes[0] for pair in zip(*reversed(ax.get_legend_handles_labels()), strict=True))
    fig.legend(found.values(), found, loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return tidy(fig)


def curves(rows: pd.DataFrame, xlabel: str, log: bool = False) -> Figure:
    """Accuracy with its interval against `value`, one line per defense and attacker (`probes.curve`)."""
    fig, ax = plt.subplots(figsize=(7.5, 4.2), layout="constrained")
    for (defense, knowledge), part in rows.groupby(["defense", "knowledge"], sort=False):
        aware = knowledge in threat.AWARE
        ax.errorbar(
            part.value,
            part.accuracy,
            yerr=[part.accuracy - part.low, part.high - part.accuracy],
            color=COLOURS[defense],
            marker=MARKERS[knowledge],
            markerfacecolor="white" if aware else COLOURS[defense],
            linestyle="--" if aware else "-",
            capsize=2.5,
            linewidth=1.2,
            label=f"{defense}: attacker has {threat.SHORT[knowledge]}",
        )
    if log:
        ax.set_xscale("log")
        ax.set_xticks(sorted(set(rows.value)), [f"{v:g}" for v in sorted(set(rows.value))])
        ax.set_xticks([], minor=True)
    ax.set(xlabel=xlabel, ylabel="accuracy (95 % interval)", ylim=(-0.02, 1.02))
    ax.grid(axis="y", alpha=0.25)
    fig.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8.5)
    return tidy(fig)


def spectrum(rows: pd.DataFrame) -> Figure:
    """Energy of changes against frequency (`probes.spectrum`)."""
    fig, ax = plt.subplots(figsize=(6.5, 3.4), layout="constrained")
    colours = ("#5c5c5c", "#0072b2", "#d55e00", "#009e73")
    for (what, part), colour, marker in zip(rows.groupby("what", sort=False), colours, "osD^", strict=False):
        ax.semilogy(part.frequency, part.energy, marker=marker, markersize=4, color=colour, label=what)
    ax.set(xlabel="frequency, cycles a pixel", ylabel="share of the perturbation's energy")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return tidy(fig)


def panel(rows: pd.DataFrame, title: str = "") -> Figure:
    """Red and green: one line per check (`checks.panel`), by colour, by sign, and in words."""
    fig, ax = plt.subplots(figsize=(8.5, 0.3 * len(rows) + 0.6), layout="constrained")
    for i, row in enumerate(rows.itertuples()):
        green = row.verdict == "passed"
        ax.text(0.005, -i, "✓" if green else "✗", color="#00614a" if green else "#c00000", weight="bold", va="center")
        ax.text(0.04, -i, row.check, va="center", fontsize=9, color="black" if green else "#c00000")
        ax.text(0.50, -i, row.said, va="center", fontsize=8, color="#5c5c5c" if green else "#c00000")
    ax.set(xlim=(0, 1), ylim=(-len(rows) + 0.4, 0.6))
    ax.axis("off")
    ax.set_title(title, fontsize=10, loc="left")
    return closed(fig)


def race(rows: pd.DataFrame) -> Figure:
    """Gap against seconds an image for every solver (`solvers.race`)."""
    styles = {"cd": ("#0072b2", "o", "cd: ours, CPU"), "admm": ("#e69f00", "s", "admm: ours, CPU and GPU")}
    fig, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for solver, part in rows.groupby("solver", sort=False):
        colour, marker, label = styles.get(solver, ("#5c5c5c", "D", f"{solver}: the reference"))
        ax.loglog(1e3 * part.seconds, part.gap, marker=marker, color=colour, label=f"{label} (n = {part.n.iloc[0]})")
    ax.axhline(1e-2, color="#999999", linewidth=0.8, linestyle=":")
    ax.annotate("the lab's setting", (1, 1e-2), (-4, 3), xycoords=("axes fraction", "data"), fontsize=8, ha="right",
                textcoords="offset points", color="#666666")  # fmt: skip
    ax.set(xlabel="milliseconds an image", ylabel="gap / ½‖x‖², largest of all images")
    ax.grid(which="major", alpha=0.25)
    fig.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return tidy(fig)


def costs(rows: pd.DataFrame) -> Figure:
    """Milliseconds and active coefficients an image against each quantity that was varied (`solvers.costs`)."""
    names = {"K": "K, filters", "S": "S, pixels a side", "lam": "λ", "resolution": "resolution, pixels a side"}
    groups = list(rows.groupby("what", sort=False))
    fig, axes = plt.subplots(
        1, len(groups), figsize=(2.9 * len(groups) + 0.6, 3.2), squeeze=False, layout="constrained"
    )
    for ax, (name, part) in zip(axes[0], groups, strict=True):
        ax.loglog(part.value, part.ms, "o-", color="#0072b2", label="milliseconds")
        ax.loglog(part.value, part.active, "s--", color="#d55e00", label="active coefficients")
        ax.set_xticks(part.value, [f"{v:g}" for v in part.value])
        ax.set_xticks([], minor=True)
        ax.set_xlabel(names[name])
        ax.grid(which="major", alpha=0.25)
    axes[0, 0].set_ylabel("an image")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    return tidy(fig)


def exactness(rows: pd.DataFrame) -> Figure:
    """PSNR of T(x) to its converged self against the gap at which the solver stops (`solvers.exactness`)."""
    fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
    ax.semilogx(rows.tolerance, rows.psnr, "o-", color="#0072b2", label="mean")
    ax.semilogx(rows.tolerance, rows.worst, "v--", color="#d55e00", label="worst image")
    ax.axhline(48.1, color="#999999", linewidth=0.8, linestyle=":")
    ax.annotate("one step of 8-bit pixels", (1, 48.1), (-4, 3), xycoords=("axes fraction", "data"), fontsize=8,
                ha="right", textcoords="offset points", color="#666666")  # fmt: skip
    ax.invert_xaxis()
    ax.set(xlabel="gap / ½‖x‖² at which the solver stops", ylabel="PSNR to the converged T(x), dB")
    ax.grid(alpha=0.25)
    ax.legend(frameon=False)
    return tidy(fig)


def tradeoff(rows: pd.DataFrame, what: str) -> Figure:
    """Accuracies with their 95 % intervals against one choice, and below them the PSNR of T(x) (`tradeoff.sweep`)."""
    rows = rows[rows.what == what]
    fig, (ax, below) = plt.subplots(2, 1, sharex=True, figsize=(7.5, 5.6), height_ratios=(2.1, 1), layout="constrained")
    for asked, part in rows.groupby("asked", sort=False):
        name, colour, marker, face = ASKED[asked]
        label = name.format(part.attack.iloc[0])
        _bars(ax, what, part, ("accuracy", "low", "high"), colour, marker, face, label)
    clean = rows[rows.asked == "clean"]
    _bars(below, what, clean, ("fidelity", "fidelity_low", "fidelity_high"), "#000000", "o", "#000000", None)
    ax.set(ylabel="accuracy (95 % interval)", ylim=(-0.02, 1.02))
    below.set(xlabel=CHOICES[what][0], ylabel="PSNR of T(x), dB")
    if what in NUMERIC:
        below.set_xscale(NUMERIC[what])
        below.set_xticks(clean.value, [f"{v:g}" for v in clean.value])
        below.set_xticks([], minor=True)
    for each in (ax, below):
        each.grid(axis="y", alpha=0.25)
    ax.set_title(setting(rows), fontsize=10)
    fig.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8.5)
    return tidy(fig)


def intervals(rows: pd.DataFrame) -> Figure:
    """The paper's Figure 6: PSNR of T(x_adv) and characteristic interval of every defense (`quality.intervals`)."""
    fig, ax = plt.subplots(figsize=(9, 5.8), layout="constrained")
    for row in rows.itertuples():
        colour = COLOURS.get(row.defense, "#8c8c8c")
        ax.plot([row.psnr] * 2, [row.clean, row.attacked], color=colour, linewidth=3 if row.defense in COLOURS else 1.5)
        for name, marker in (("clean", "o"), ("attacked", "s")):
            value, low, high = (getattr(row, f"{name}{end}") for end in ("", "_low", "_high"))
            whiskers = {"yerr": [[value - low], [high - value]], "elinewidth": 0.6, "capsize": 2}
            ax.errorbar(row.psnr, value, **whiskers, fmt=marker, color=colour)
    for defense, psnr, top, place in named(rows):
        ax.plot([place, psnr], [1.1, top], color="#bbbbbb", linewidth=0.6, zorder=0)
        colour = COLOURS.get(defense, "#444444")
        ax.text(place, 1.11, defense, rotation=90, ha="center", va="bottom", fontsize=8, color=colour)
    ax.set(xlabel="PSNR of T(x_adv) to x, dB", ylabel="accuracy", ylim=(-0.02, 1.5), yticks=np.linspace(0, 1, 6))
    ax.grid(axis="y", alpha=0.25)
    ax.set_title(map_title(rows), fontsize=10)
    return tidy(fig)


def setting(rows: pd.DataFrame) -> str:
    """One line on what a sweep was measured with."""
    first = rows.iloc[0]
    network = "retrained for each" if first.retrained else "vanilla"
    return f"{first.data}, n = {first.n:,}, {first.classifier}, {network}"


def map_title(rows: pd.DataFrame) -> str:
    """One line on what the markers of `intervals` are, and on how many images."""
    counts = sorted(set(rows.n))
    several = " to ".join(f"{n:,}" for n in dict.fromkeys((counts[0], counts[-1])))
    return f"disc: clean; square: FGSM-0.08, defense unknown; thin: 95 % interval; n = {several}"


def named(rows: pd.DataFrame) -> list[tuple[str, float, float, float]]:
    """For every defense of `intervals` its name, PSNR, upper end, and the place of its name, clear of the others."""
    rows = rows.sort_values("psnr")
    step = 0.026 * max(float(np.ptp(rows.psnr)), 1e-9) * np.arange(len(rows))
    places = isotonic_regression(rows.psnr.to_numpy() - step).x + step  # the nearest places at least a step apart
    return list(zip(rows.defense, rows.psnr, rows.high, places.tolist(), strict=True))


def _bars(ax, what: str, part: pd.DataFrame, columns, colour: str, marker: str, face: str, label: str | None) -> None:
    x = part.value if what in NUMERIC else part.value.map(str)
    y, low, high = (part[column] for column in columns)
    ax.errorbar(x, y, yerr=[y - low, high - y], color=colour, marker=marker, markerfacecolor=face, capsize=2.5,
                linewidth=1.2, label=label)  # fmt: skip

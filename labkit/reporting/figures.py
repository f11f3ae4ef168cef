"""Figures of measured rows: each takes a data frame and returns a matplotlib figure."""

import itertools
from collections.abc import Mapping, Sequence

from labkit.evaluation import Evaluation, ThreatModel
from labkit.experiments import paper_tables, published_numbers
from labkit.experiments.ablations import CHOICES
from labkit.reporting import tables
from labkit.reporting.pictures import canvas

import numpy as np
import pandas as pd
import scipy
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe & Ito's colours, which stay apart for colour-blind readers; one per defense, everywhere.
COLOURS = {"No Defense": "#5c5c5c", "STL": "#0072b2", "STL (cluster)": "#d55e00"}
_OTHERS = "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a5195", "#8c6d31"
NUMERIC = {"lam": "log", "K": "log", "S": "linear", "M": "linear"}  # the axis of a choice; all others are words
_ACCURACY = "accuracy (95 % interval)"


def accuracies(rows: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy with its interval for every attack, defense and threat model; vanilla and retrained networks apart.

    One colour per defense, one marker per threat model; hollow ones are single attacks, filled ones clean images.
    """
    attacks, names, models = list(dict.fromkeys(rows.attack)), list(dict.fromkeys(rows.defense)), list(ThreatModel)
    # Side by side at each attack, whatever the order of the rows: by defense, and for each by threat model.
    order = rows.defense.map(names.index) * len(models) + rows.knowledge.map(lambda k: models.index(ThreatModel(k)))
    lines = order.groupby(rows.attack)
    at, many = lines.rank("dense"), lines.transform("nunique")
    places = rows.attack.map(attacks.index) + np.minimum(0.13, 0.8 / many) * (at - (many + 1) / 2)
    fig, axes = canvas(10.5, 4.4, 1, 2, lines="y", sharey=True)
    for ax, retrained in zip(axes, (False, True), strict=True):
        for model, defense, part in _lines(rows[(rows.retrained == retrained) | (rows.defense == "No Defense")]):
            label = None if model is ThreatModel.NOBODY else bounded(model, f"{defense}, {model.label}")
            _bars(ax, places[part.index], part, **style(model, COLOURS[defense]), linestyle="none", label=label)
        ax.set_xticks(range(len(attacks)), attacks)
        ax.set_title("network retrained on T(x)" if retrained else "vanilla network", fontsize=10)
    axes[0].set(ylabel=_ACCURACY, ylim=(-0.02, 1.02))
    return _legend(fig, title=title)


def baselines(rows: pd.DataFrame, worst: pd.DataFrame, title: str = "") -> Figure:
    """Every baseline on a line of its own (`baselines.cases`): clean, under the strongest grey box, and known.

    The last as the lowest accuracy that one attack leaves, an upper bound, and as the `worst` case of all attacks.
    """
    names = list(dict.fromkeys(rows.defense))
    fig, ax = canvas(8.5, 0.36 * len(names) + 1.5, lines="x")
    blind, known = paper_tables.strongest(rows)
    attack, size = blind.attack.iloc[0], blind.budget.iloc[0]
    blind = blind[(blind.defense != "No Defense") & (attack != "Clean")]
    lowest = known.loc[known.groupby("defense", sort=False).accuracy.idxmin()]
    _dots(ax, rows[rows.attack == "Clean"], names, -0.33, **style(ThreatModel.NOBODY), label="clean")
    for lane, who, shown in ((-0.11, attack, blind), (0.11, "strongest attack", lowest)):
        for model, part in by_model(shown):
            _dots(ax, part, names, lane, **style(model), label=bounded(model, f"{who}, {model.label}"))
    star = {"label": f"{ThreatModel.WORST_CASE.label} of all attacks of size {size:g}", "zorder": 3}
    if len(worst):
        _dots(ax, worst, names, 0.33, **style(ThreatModel.WORST_CASE), **star)
    counts = rows.drop_duplicates("defense").set_index("defense").n
    _striped(ax, [f"{name} (n = {counts[name]:,})" for name in names])
    ax.set(xlabel=_ACCURACY, xlim=(-0.02, 1.02))
    return _legend(fig, 2, title)


def cells(rows: pd.DataFrame, table: str, title: str = "") -> Figure:
    """A table of the paper as panels, one per attack: ours, our worst case, and the paper's (`measured`)."""
    names, attacks = list(dict.fromkeys(rows.defense)), list(dict.fromkeys(rows.attack))
    width = max(1.75 * len(attacks) + 1.9, 8.4)  # title and legend need as much
    fig, axes = canvas(width, 0.48 * len(names) + 1.9, 1, len(attacks), lines="x", sharey=True, squeeze=False)
    plain = published_numbers.convention(table)[0]
    paper = {"color": "#767676", "marker": "x", "markersize": 7, "label": f"the paper, Table {plain}"}
    for ax, attack in zip(axes[0], attacks, strict=True):
        here = rows[rows.attack == attack]
        ours, printed = here[here.block != "paper"], here[here.block == "paper"]
        for model, part in by_model(ours):
            _dots(ax, part, names, 0.16 * (_LANES.get(model, 2) - 2), **style(model), label=bounded(model, model.label))
        if len(printed):
            _dots(ax, printed, names, 0.32, **paper)
        _striped(ax, names)
        ax.set(xlim=(-0.03, 1.03), xticks=(0, 0.5, 1))
        ax.set_title(attack, fontsize=10)
    broken = "\n" if len(title) > 8 * width else " "
    return _legend(fig, title=f"{title}, n = {_several(rows.n.dropna())}:{broken}{_ACCURACY}")


def evaluation(found: Evaluation) -> Figure:
    """A line for each attack, in the order of the rows, and a star for the worst case of each size."""
    name = found.rows.defense.iloc[0]
    lines = [(row, row.attack, ThreatModel.of(row.knowledge, name)) for row in found.rows.itertuples()]
    worst = found.worst.itertuples()
    lines += [(row, f"all of {tables.sized(row._asdict())}", ThreatModel.WORST_CASE) for row in worst]
    fig, ax = canvas(8.5, 0.3 * len(lines) + 1.2, lines="x")
    for at, (row, _, model) in enumerate(lines):
        _bars(ax, [at], pd.DataFrame([row]), across=True, linestyle="none", **style(model))
    ax.set_yticks(range(len(lines)), [model.told(attack) for _, attack, model in lines], fontsize=8)
    ax.set(ylim=(len(lines) - 0.5, -0.5), xlim=(-0.02, 1.02), xlabel=f"{_ACCURACY}; single attacks are upper bounds")
    ax.set_title(f"{found.about['network']['name']}, {name}, n = {found.rows.n.max():,}", fontsize=10)
    return fig


def security(found: Mapping[str, pd.DataFrame]) -> Figure:
    """Accuracy against size (`attack_curves.security`) of each system by name; open markers, as for an upper bound."""
    fig, ax = canvas(7.5, 4.2, lines="both")
    few, others = len(found) <= 2, itertools.cycle(_OTHERS)
    shown = ["STL", "No Defense"] if few else found  # of two, what is judged and the network alone
    for (name, part), like, marker in zip(found.items(), shown, itertools.cycle("osDv^P*X<>hd"), strict=False):
        colour = COLOURS.get(like) or next(others)
        ax.fill_between(part["size"], part.low, part.high, step="post", color=colour, alpha=0.15 if few else 0.06, lw=0)
        how = {"marker": marker, "markerfacecolor": "white", "markevery": max(1, len(part) // 12)}
        ax.step(part["size"], part.accuracy, where="post", color=colour, label=f"{name}: upper bound", **how)
    ax.set(xlabel="relative L2 size of the change, ‖x_adv − x‖₂ / ‖x‖₂", ylabel=_ACCURACY, ylim=(-0.02, 1.02))
    return _legend(fig, 1 if few else 3)


def curves(rows: pd.DataFrame, xlabel: str, log: bool = False) -> Figure:
    """Accuracy with its interval against `value`, one line per defense and threat model (`attack_curves.curve`)."""
    fig, ax = canvas(7.5, 4.2, lines="y")
    for model, defense, part in _lines(rows):
        how = style(model, COLOURS[defense]) | {"linestyle": "--" if model.knows_defense else "-"}
        _bars(ax, part.value, part, **how, label=bounded(model, f"{defense}, {model.label}"))
    if log:
        ax.set_xscale("log")
        _ticks(ax, sorted(set(rows.value)))
    ax.set(xlabel=xlabel, ylabel=_ACCURACY, ylim=(-0.02, 1.02))
    return _legend(fig, 2)


def spectrum(rows: pd.DataFrame) -> Figure:
    """Energy of changes against frequency (`attack_curves.spectrum`)."""
    fig, ax = canvas(6.5, 3.4, lines="both")
    colours = ("#5c5c5c", "#0072b2", "#d55e00", "#009e73")
    for (what, part), colour, marker in zip(rows.groupby("what", sort=False), colours, "osD^", strict=False):
        ax.semilogy(part.frequency, part.energy, marker=marker, markersize=4, color=colour, label=what)
    ax.set(xlabel="frequency, cycles a pixel", ylabel="share of the perturbation's energy")
    ax.legend(frameon=False)
    return fig


def race(rows: pd.DataFrame) -> Figure:
    """Gap against seconds an image for every solver (`solvers.race`)."""
    styles = {"cd": ("#0072b2", "o", "cd: ours, CPU"), "admm": ("#e69f00", "s", "admm: ours, CPU and GPU")}
    fig, ax = canvas(7, 4.2, lines="both")
    for solver, part in rows.groupby("solver", sort=False):
        colour, marker, label = styles.get(solver, ("#5c5c5c", "D", f"{solver}: the reference implementation"))
        ax.loglog(1e3 * part.seconds, part.gap, marker=marker, color=colour, label=f"{label} (n = {part.n.iloc[0]})")
    _level(ax, 1e-2, "the lab's setting")
    ax.set(xlabel="milliseconds an image", ylabel="gap / ½‖x‖², largest of all images")
    return _legend(fig)


def costs(rows: pd.DataFrame) -> Figure:
    """Milliseconds and active coefficients an image against each quantity that was varied (`solvers.costs`)."""
    groups = list(rows.groupby("what", sort=False))
    fig, axes = canvas(2.9 * len(groups) + 0.6, 3.2, 1, len(groups), lines="both", squeeze=False)
    for ax, (name, part) in zip(axes[0], groups, strict=True):
        ax.loglog(part.value, part.ms, "o-", color="#0072b2", label="milliseconds")
        ax.loglog(part.value, part.active, "s--", color="#d55e00", label="active coefficients")
        _ticks(ax, part.value)
        ax.set_xlabel(CHOICES[name][0] if name in CHOICES else f"{name}, pixels a side")
    axes[0, 0].set_ylabel("an image")
    return _legend(fig, 2)


def exactness(rows: pd.DataFrame) -> Figure:
    """PSNR of T(x) to its converged self against the gap at which the solver stops (`solvers.exactness`)."""
    fig, ax = canvas(6, 3.6, lines="both")
    ax.semilogx(rows.tolerance, rows.psnr, "o-", color="#0072b2", label="mean")
    ax.semilogx(rows.tolerance, rows.worst, "v--", color="#d55e00", label="worst image")
    _level(ax, 48.1, "one step of 8-bit pixels")
    ax.invert_xaxis()
    ax.set(xlabel="gap / ½‖x‖² at which the solver stops", ylabel="PSNR to the converged T(x), dB")
    ax.legend(frameon=False)
    return fig


def tradeoff(rows: pd.DataFrame, what: str) -> Figure:
    """Accuracies with their 95 % intervals against one choice, and below them the PSNR of T(x) (`ablations.sweep`)."""
    rows = rows[rows.what == what]
    at = rows.value if what in NUMERIC else rows.value.map(str)
    fig, (ax, below) = canvas(7.5, 5.6, 2, 1, lines="y", sharex=True, height_ratios=(2.1, 1))
    for model, part in by_model(rows):
        _bars(ax, at[part.index], part, **style(model), label=bounded(model, model.told(part.attack.iloc[0])))
    clean = rows[rows.asked == "clean"]
    _bars(below, at[clean.index], clean, "fidelity", color="#000000", marker="o")
    ax.set(ylabel=_ACCURACY, ylim=(-0.02, 1.02))
    below.set(xlabel=CHOICES[what][0], ylabel="PSNR of T(x), dB")
    if what in NUMERIC:
        below.set_xscale(NUMERIC[what])
        _ticks(below, clean.value)
    ax.set_title(setting(rows), fontsize=10)
    return _legend(fig, 2)


def intervals(rows: pd.DataFrame) -> Figure:
    """The paper's Figure 6: PSNR of T(x_adv) and interval of every defense (`paper_tables.intervals`)."""
    fig, ax = canvas(9, 5.8, lines="y")
    for defense, row in rows.groupby("defense", sort=False):
        colour, at = COLOURS.get(defense, "#8c8c8c"), row.psnr.item()
        ends, width = row[["clean", "attacked"]].squeeze(), 3 if defense in COLOURS else 1.5
        ax.plot([at] * 2, ends, color=colour, linewidth=width)
        for name, marker in (("clean", "o"), ("attacked", "s")):
            _bars(ax, [at], row, name, color=colour, marker=marker, elinewidth=0.6)
    for defense, psnr, top, place in named(rows):
        ax.plot([place, psnr], [1.1, top], color="#bbbbbb", linewidth=0.6, zorder=0)
        colour = COLOURS.get(defense, "#444444")
        ax.text(place, 1.11, defense, rotation=90, ha="center", va="bottom", fontsize=8, color=colour)
    ax.set(xlabel="PSNR of T(x_adv) to x, dB", ylabel="accuracy", ylim=(-0.02, 1.5), yticks=np.linspace(0, 1, 6))
    ax.set_title(map_title(rows), fontsize=10)
    return fig


def setting(rows: pd.DataFrame) -> str:
    """One line on what a sweep was measured with."""
    first = rows.iloc[0]
    network = "retrained for each" if first.retrained else "vanilla"
    return f"{first.data}, n = {first.n:,}, {first.classifier}, {network}"


def map_title(rows: pd.DataFrame) -> str:
    """One line on what the markers of `intervals` are, and on how many images."""
    return f"disc: clean; square: {ThreatModel.WEIGHTS.told('FGSM-0.08')}; thin: 95 % interval; n = {_several(rows.n)}"


def named(rows: pd.DataFrame) -> list[tuple[str, float, float, float]]:
    """For every defense of `intervals` its name, PSNR, upper end, and the place of its name, clear of the others."""
    rows = rows.sort_values("psnr")
    step = 0.026 * max(float(np.ptp(rows.psnr)), 1e-9) * np.arange(len(rows))
    # The nearest places at least a step apart.
    places = scipy.optimize.isotonic_regression(rows.psnr.to_numpy() - step).x + step
    return list(zip(rows.defense, rows.psnr, rows.high, places.tolist(), strict=True))


def by_model(rows: pd.DataFrame) -> list[tuple[ThreatModel, pd.DataFrame]]:
    """Rows apart by threat model, from the weakest."""
    models = [ThreatModel.of(*pair) for pair in zip(rows.knowledge, rows.defense, strict=True)]
    return [(model, rows[[each is model for each in models]]) for model in ThreatModel if model in models]


def bounded(model: ThreatModel, words: str) -> str:
    """A legend's words on single attacks of a threat model: what they leave is an upper bound of robust accuracy."""
    return f"{words}: upper bound" if _hollow(model) else words


def style(model: ThreatModel, colour: str = "") -> dict:
    """A threat model's colour (or another) and marker; hollow where single attacks on a defense give upper bounds."""
    colour, size = colour or model.colour, 8 if model is ThreatModel.WORST_CASE else 5.5  # a star is mostly points
    face = "white" if _hollow(model) else colour
    return {"color": colour, "marker": model.marker, "markersize": size, "markerfacecolor": face}


def _hollow(model: ThreatModel) -> bool:
    return model not in (ThreatModel.NOBODY, ThreatModel.WHITE_BOX, ThreatModel.WORST_CASE)


def interval(rows: pd.DataFrame, what: str = "accuracy") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A column and the ends of its 95 % intervals: `what`_low and `what`_high where there are these, low and high."""
    ends = (f"{what}_low", f"{what}_high") if f"{what}_low" in rows else ("low", "high")
    return tuple(rows[column].to_numpy(float) for column in (what, *ends))


# Where a threat model's points lie on a line of `cells`, above and below its middle; the paper's are the lowest.
_LANES = {ThreatModel.NOBODY: 1, ThreatModel.SURROGATE: 0, ThreatModel.WEIGHTS: 1, ThreatModel.WORST_CASE: 3}


def _lines(rows: pd.DataFrame) -> list[tuple[ThreatModel, str, pd.DataFrame]]:
    """Rows apart by threat model and defense."""
    return [(model, name, part) for model, mine in by_model(rows) for name, part in mine.groupby("defense", sort=False)]


def _dots(ax: Axes, rows: pd.DataFrame, names: Sequence[str], lane: float, **how) -> None:
    """Accuracies across, each on the line of its defense, moved by `lane`."""
    _bars(ax, [names.index(name) + lane for name in rows.defense], rows, across=True, linestyle="none", **how)


def _bars(ax: Axes, at: Sequence, rows: pd.DataFrame, what: str = "accuracy", *, across: bool = False, **how) -> None:
    """Points of `rows` at `at`, each with its `interval`; `across` where the axis of the numbers is x."""
    value, low, high = interval(rows, what)
    x, y, side = (value, at, "xerr") if across else (at, value, "yerr")
    bars = None if np.isnan(low).all() else [value - low, high - value]  # the paper has none
    ax.errorbar(x, y, **{side: bars, "markersize": 5.5, "capsize": 2.5, "linewidth": 1.2, "elinewidth": 1, **how})


def _striped(ax: Axes, names: Sequence[str]) -> None:
    """A line for each name, the first on top, every other one on grey."""
    for at in range(1, len(names), 2):
        ax.axhspan(at - 0.5, at + 0.5, color="#f3f3f3", zorder=0)
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.5, -0.5)


def _ticks(ax: Axes, values: Sequence[float]) -> None:
    """An x axis that names these values and no others."""
    ax.set_xticks(values, [f"{v:g}" for v in values])
    ax.set_xticks([], minor=True)


def _level(ax: Axes, y: float, words: str) -> None:
    """A dotted line at a height that means something."""
    ax.axhline(y, color="#999999", linewidth=0.8, linestyle=":")
    ax.annotate(words, (1, y), (-4, 3), xycoords=("axes fraction", "data"), fontsize=8, ha="right",
                textcoords="offset points", color="#666666")  # fmt: skip


def _legend(fig: Figure, ncols: int = 3, title: str = "") -> Figure:
    """The figure, done: with a title, and one legend below all of its panels, where a name stands once."""
    if title:
        fig.suptitle(title, fontsize=11)
    found = {}
    for ax in reversed(fig.axes):  # the last of several panels has the most threat models
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    fig.legend(found.values(), found, loc="outside lower center", ncols=ncols, frameon=False, fontsize=8.5)
    return fig


def _several(counts: pd.Series) -> str:
    """How many images: the least and the most."""
    return " to ".join(f"{n:,}" for n in dict.fromkeys((int(counts.min()), int(counts.max()))))

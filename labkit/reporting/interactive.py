"""Interactive figures: each takes data and returns what JupyterLab, Voila and reports show, alike and offline."""

from collections.abc import Sequence

from labkit.core.metrics import Point, told
from labkit.core.wording import in_chart
from labkit.datasets.encoding import uri
from labkit.experiments.ablations import CHOICES, gaps, named
from labkit.reporting import figures

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots
from torch import Tensor

# Okabe & Ito's colours without yellow, which no white page shows, then darker twins; and as many shapes.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5c5c5c", "#00496f", "#8a3d00", "#00614a")
SHAPES = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "pentagon", "hexagram", "bowtie")


def clusters(points: Tensor, cluster: Tensor, x: Tensor, names: Sequence[str]) -> go.Figure:
    """Images as points of a plane, coloured by cluster; pointing at one shows its picture and its name.

    points   (n, d)  where they lie, by their first two columns
    cluster  (n,) of which cluster;  names (n) what to call them
    x        (n, C, H, W) in [0, 1]

    The picture rides along as a data URI in `customdata`; report pages and `dashboards.HoverMap` show it.
    """
    fig = go.Figure()
    for m in sorted({int(c) for c in cluster}):
        mine = np.flatnonzero(cluster.numpy() == m)
        across, up = points[mine, :2].T.numpy()
        look = {"color": PALETTE[m % len(PALETTE)], "symbol": SHAPES[m % len(SHAPES)], "size": 6, "opacity": 0.75}
        seen = {"text": [in_chart(names[i]) for i in mine], "customdata": [uri(x[i]) for i in mine]}
        seen |= {"name": f"cluster {m + 1} ({len(mine)})", "hovertemplate": "%{text}<extra></extra>"}
        fig.add_scatter(x=across, y=up, mode="markers", marker=look, **seen)
    margin = {"l": 30, "r": 10, "t": 20, "b": 30}
    fig.update_layout(template="plotly_white", height=520, margin=margin, legend={"itemsizing": "constant"})
    fig.update_xaxes(title="first principal component", zeroline=False)
    fig.update_yaxes(title="second principal component", zeroline=False)
    return fig


def tradeoff(rows: pd.DataFrame, what: str, strip: tuple | None = None) -> go.Figure:
    """Of `ablations.sweep`: accuracies (95 % intervals) against a choice, the gap attacked to clean, PSNR of T(x).

    strip  of `ablations.strip`: what a point of the first two lines shows while it is pointed at
    """
    rows = rows[rows.what == what]
    fig = make_subplots(rows=3, cols=1, shared_xaxes=True, row_heights=(0.54, 0.22, 0.24), vertical_spacing=0.05)
    for model, part in figures.by_model(rows):
        marker = {"color": figures.style(model)["markerfacecolor"], "symbol": _SYMBOLS[model.marker], "size": 9}
        marker["line"] = {"color": model.colour, "width": 2}
        name = figures.bounded(model, model.told(part.attack.iloc[0]))
        look = {"name": name, "marker": marker, "line": {"color": model.colour}}
        if strip and part.asked.iloc[0] in _PICTURED:
            at = _PICTURED.index(part.asked.iloc[0])
            shown = [(strip[0][name][at], strip[1][name][at]) for name in (named(what, v) for v in part.value)]
            look["customdata"] = [(uri(x), note.replace("\n", ", ")) for x, note in shown]
        fig.add_scatter(**_line(part, part.value), **look, row=1, col=1)
    clean, gap = rows[rows.asked == "clean"], pd.DataFrame(gaps(rows))
    alone = {"showlegend": False, "line": {"color": "#000000"}, "marker": {"size": 8}}
    fig.add_scatter(**_line(gap, gap["at"], "number"), **alone, name="gap", row=2, col=1)
    fig.add_scatter(**_line(clean, clean.value, "fidelity"), **alone, name="T(x)", row=3, col=1)
    if what in figures.NUMERIC:
        fig.update_xaxes(tickvals=list(clean.value), ticktext=[f"{v:g}" for v in clean.value])
    fig.update_xaxes(type=figures.NUMERIC.get(what, "category"))
    fig.update_layout(
        **_LOOK, title=in_chart(figures.setting(rows)), height=620, legend={"orientation": "h", "y": -0.14},
        xaxis3_title=CHOICES[what][0], yaxis={"title": "accuracy", "range": (-0.02, 1.02)}, yaxis2_title="gap",
        yaxis3_title="PSNR, dB",
    )  # fmt: skip
    return fig


def intervals(rows: pd.DataFrame, pictures: dict[str, tuple[str, str]] | None = None) -> go.Figure:
    """The paper's Figure 6: PSNR of T(x_adv) and interval of every defense (`paper_tables.intervals`).

    A disc is the accuracy on clean images, a square that on attacked ones. A thin line is a 95 % interval. The bar
    between disc and square is the characteristic interval: short, high and far to the right is good.

    pictures  of each defense, what it makes of an image: (`uri`, words), for `parts.Hover`
    """
    fig, pictures = go.Figure(), pictures or {}
    for row in rows.sort_values("psnr").itertuples():
        colour = figures.COLOURS.get(row.defense, "#8c8c8c")
        ends = [[getattr(row, f"{name}{end}") for name in ("clean", "attacked")] for end in ("", "_low", "_high")]
        clean, attacked = (told(Point(None, *point)) for point in zip(*ends, strict=True))
        words = f"<b>{row.defense}</b>, n = {row.n:,}<br>PSNR {row.psnr:.1f} dB<br>clean {clean}<br>attacked {attacked}"
        look = {"line": {"color": colour, "width": 4 if row.defense in figures.COLOURS else 2}, "showlegend": False}
        look |= {"marker": {"color": colour, "symbol": ["circle", "square"], "size": 9}, "mode": "lines+markers"}
        seen = {"customdata": [pictures[row.defense]] * 2} if row.defense in pictures else {}
        seen |= {"name": row.defense, "hovertemplate": f"{words}<extra></extra>"}
        bars = _errors(*ends, thickness=0.8, width=3)
        fig.add_scatter(x=[row.psnr, row.psnr], y=ends[0], error_y=bars, **look, **seen)
    for defense, psnr, top, place in figures.named(rows):
        colour = figures.COLOURS.get(defense, "#444444")
        shared = {"x": place, "xanchor": "center", "yanchor": "bottom", "showarrow": False}
        fig.add_annotation(**shared, y=1.1, text=defense, textangle=-90, font={"size": 11, "color": colour})
        fig.add_shape(type="line", x0=place, y0=1.1, x1=psnr, y1=top, line={"color": "#bbbbbb", "width": 0.8})
    fig.update_layout(**_LOOK, title=figures.map_title(rows), height=620)
    fig.update_xaxes(title="PSNR of T(x_adv) to x, dB")
    fig.update_yaxes(title="accuracy", range=(-0.02, 1.48), tickvals=[0, 0.2, 0.4, 0.6, 0.8, 1])
    return fig


def _line(rows: pd.DataFrame, at: Sequence, what: str = "accuracy") -> dict:
    """A line with markers and, as bars, the interval of every point (`figures.interval`)."""
    found = figures.interval(rows, what)
    return {"x": list(at), "y": found[0], "error_y": _errors(*found, thickness=1.2, width=4), "mode": "lines+markers"}


def _errors(value: Sequence, low: Sequence, high: Sequence, **look) -> dict:
    return {"type": "data", "array": np.subtract(high, value), "arrayminus": np.subtract(value, low), **look}


_PICTURED = ("clean", "attacked")  # the rows of a strip
_LOOK = {"template": "plotly_white", "margin": {"l": 60, "r": 20, "t": 50, "b": 50}}
# matplotlib's markers by plotly's names.
_NAMES = "circle square triangle-down diamond-tall triangle-up triangle-left triangle-right cross diamond x star"
_SYMBOLS = dict(zip("osvd^<>PDX*", _NAMES.split(), strict=True))

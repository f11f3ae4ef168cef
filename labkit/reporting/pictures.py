"""Pictures of images, filters and training: each returns a matplotlib figure, the same in notebooks and reports."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.datasets.encoding import mosaic

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def filters(d: Tensor, title: str = "") -> Figure:
    """A dictionary (K, C, S, S) as a mosaic, each filter scaled to fill the range around mid-grey (paper, Figure 8)."""
    board = mosaic(scaled(d))
    fig, ax = canvas(7, 7 * board.shape[1] / board.shape[2] + 0.4)
    _image(ax, board)
    ax.set_title(title or f"{len(d)} filters of {d.shape[2]}×{d.shape[3]} pixels", fontsize=11)
    return fig


def history(lines: dict[str, Sequence[float]], ylabel: str) -> Figure:
    """The training history: numbers by epoch, one line per name."""
    fig, ax = canvas(6, 3)
    for (name, values), colour, marker in zip(lines.items(), ("#0072b2", "#d55e00", "#009e73"), "osD", strict=False):
        ax.plot(range(1, len(values) + 1), values, color=colour, marker=marker, label=name)
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.set(xlabel="epoch", ylabel=ylabel)
    ax.legend(frameon=False)
    return fig


def strata(samples: Sequence[Tensor], dictionaries: Sequence[Tensor], titles: Sequence[str]) -> Figure:
    """Sample images of each cluster beside its dictionary, one row per cluster (paper, Figure 10)."""
    fig, axes = canvas(9, 2.1 * len(samples), len(samples), 2, squeeze=False, width_ratios=(2, 1))
    for (left, right), x, d, title in zip(axes, samples, dictionaries, titles, strict=True):
        _image(left, mosaic(x, across=-(-len(x) // 3)))
        _image(right, mosaic(scaled(d)))
        left.set_title(title, fontsize=9, loc="left")
        right.set_title(f"its {len(d)} filters", fontsize=9, loc="left")
    return fig


def learning(objectives: Sequence[float], batches: int) -> Figure:
    """The objective per image, batch by batch, while a dictionary is learned; `batches` make one pass."""
    fig, ax = canvas(7, 3.2)
    steps, passes = np.arange(1, len(objectives) + 1) / batches, np.arange(1, len(objectives) // batches + 1)
    ax.plot(steps, objectives, ".", color="#0072b2", alpha=0.45, label="one batch")
    means = np.reshape(objectives[: len(passes) * batches], (-1, batches)).mean(1)
    ax.plot(passes, means, "o-", color="#d55e00", label="mean of a pass")
    ax.set(xlabel="passes over the images", ylabel="objective per image")
    ax.legend(frameon=False)
    return fig


def strips(columns: dict[str, Tensor], notes: dict[str, Sequence[str]] | None = None, *, size: float = 1.25) -> Figure:
    """Images side by side: one column per name, one row per image, a line of `notes` under each picture."""
    notes, rows = notes or {}, len(next(iter(columns.values())))
    height = (size + (0.2 if notes else 0)) * rows + 0.35
    fig, axes = canvas(size * len(columns), height, rows, len(columns), squeeze=False)
    for column, (name, images) in zip(axes.T, columns.items(), strict=True):
        for ax, image, note in zip(column, images, notes.get(name, [""] * rows), strict=False):
            _image(ax, image)
            ax.set_xlabel(note, fontsize=7.5, labelpad=2)
        column[0].set_title(name, fontsize=9)
    return fig


def canvas(width: float, height: float, *grid: int, lines: str = "", **how):
    """A figure of `width` × `height` inches and its axes, `grid` rows and columns of them; `how` as for plt.subplots.

    lines  of which axis the figure has grid lines: "x", "y", "both"

    Taken from pyplot's list, so that a notebook shows the figure once, where it is returned.
    """
    from labkit.reporting.lettering import Lettered

    import matplotlib.pyplot as plt  # half a second, which the kernel of a page without figures is spared

    style = {"axes.spines.top": False, "axes.spines.right": False, "grid.alpha": 0.25}
    style |= {"axes.grid": bool(lines), "axes.grid.axis": lines or "both"}
    with plt.rc_context(style):
        fig, axes = plt.subplots(*grid, figsize=(width, height), layout="constrained", FigureClass=Lettered, **how)
    plt.close(fig)
    return fig, axes


def save(fig: Figure, out: str | Path, name: str) -> Figure:
    """Write a figure as PNG into the folder `out` (nothing when it is empty), and hand it back for display."""
    if str(out or ""):
        Path(str(out)).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(str(out)) / f"{name}.png", dpi=150)
    return fig


def scaled(d: Tensor) -> Tensor:
    """Filters (K, C, S, S) to be looked at: each fills the range around mid-grey."""
    return 0.5 + 0.5 * d / d.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)


def _image(ax, x: Tensor) -> None:
    pixels = x.detach().float().clamp(0, 1).cpu().movedim(0, -1).numpy()
    ax.imshow(pixels, cmap="gray" if len(x) == 1 else None, vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)

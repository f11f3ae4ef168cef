"""Figures: each takes data and returns a matplotlib figure, the same in notebooks, reports and dashboards."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from torch import Tensor

# Okabe & Ito's colours, which stay apart for colour-blind readers; one per defense, everywhere.
COLOURS = {"No Defense": "#5c5c5c", "STL": "#0072b2", "STL (cluster)": "#d55e00", "paper": "#000000"}
MARKERS = {"transfer": "o", "classifier": "s", "identity": "^", "exact": "D", "–": "o"}
ATTACKERS = {"transfer": "undefended copy", "classifier": "weights, not T", "identity": "BPDA",
             "exact": "exact gradient", "–": "no attack"}


def filters(d: Tensor, title: str = "") -> Figure:
    """A dictionary (K, C, S, S) as a mosaic, each filter scaled to fill the range around mid-grey (paper, Figure 8)."""
    K, C, S, _ = d.shape
    across = int(np.ceil(np.sqrt(1.6 * K)))
    down = -(-K // across)
    scaled = 0.5 + 0.5 * d / d.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12)
    board = torch.ones(max(C, 1), down * (S + 1) + 1, across * (S + 1) + 1)
    for k in range(K):
        i, j = divmod(k, across)
        board[:, 1 + i * (S + 1) : (i + 1) * (S + 1), 1 + j * (S + 1) : (j + 1) * (S + 1)] = scaled[k].clamp(0, 1)
    fig, ax = plt.subplots(figsize=(7, 7 * board.shape[1] / board.shape[2] + 0.4), layout="constrained")
    _image(ax, board)
    ax.set_title(title or f"{K} filters of {S}×{S} pixels", fontsize=11)
    return fig


def learning(objectives: Sequence[float], batches: int) -> Figure:
    """The objective per image, batch by batch, while a dictionary is learned; `batches` make one pass."""
    fig, ax = plt.subplots(figsize=(7, 3.2), layout="constrained")
    steps = np.arange(1, len(objectives) + 1) / max(batches, 1)
    ax.plot(steps, objectives, ".", color="#0072b2", alpha=0.45, label="one batch")
    ends = np.arange(batches, len(objectives) + 1, batches)
    means = [np.mean(objectives[end - batches : end]) for end in ends]
    ax.plot(ends / max(batches, 1), means, "o-", color="#d55e00", label="mean of a pass")
    ax.set(xlabel="passes over the images", ylabel="objective per image")
    ax.legend(frameon=False)
    return _clean(fig)


def strips(columns: dict[str, Tensor], notes: dict[str, Sequence[str]] | None = None, *, size: float = 1.25) -> Figure:
    """Images side by side: one column per name, one row per image, a line of `notes` under each picture."""
    names, notes = list(columns), notes or {}
    rows = len(columns[names[0]])
    fig, axes = plt.subplots(
        rows, len(names), squeeze=False, layout="constrained",
        figsize=(size * len(names), (size + (0.2 if notes else 0)) * rows + 0.35),
    )
    for j, name in enumerate(names):
        for i in range(rows):
            _image(axes[i, j], columns[name][i])
            if name in notes:
                axes[i, j].set_xlabel(notes[name][i], fontsize=7.5, labelpad=2)
        axes[0, j].set_title(name, fontsize=9)
    return fig


def heat(maps: Tensor, titles: Sequence[str], label: str) -> Figure:
    """Maps (N, H, W) on one colour scale, with a colour bar named `label`."""
    fig, axes = plt.subplots(1, len(maps), squeeze=False, figsize=(1.7 * len(maps) + 0.9, 2.2), layout="constrained")
    top = float(maps.max())
    for ax, one, title in zip(axes[0], maps, titles, strict=True):
        shown = ax.imshow(one, cmap="magma", vmin=0, vmax=top or 1, interpolation="nearest")
        ax.set(xticks=[], yticks=[])
        ax.set_title(title, fontsize=9)
    fig.colorbar(shown, ax=axes, label=label, shrink=0.85)
    return fig


def accuracies(rows: pd.DataFrame, title: str = "") -> Figure:
    """Accuracy with its interval for every attack, defense and attacker; vanilla and retrained networks apart."""
    attacks = list(dict.fromkeys(rows.attack))
    panels = [(False, "vanilla network"), (True, "network retrained on T(x)")]
    fig, axes = plt.subplots(1, 2, figsize=(10.5, 4.3), sharey=True, layout="constrained")
    for ax, (retrained, name) in zip(axes, panels, strict=True):
        part = rows[(rows.retrained == retrained) | (rows.defense == "No Defense")]
        lines = list(dict.fromkeys(zip(part.defense, part.knowledge, strict=True)))
        lines = [line for line in lines if line[1] != "–"]
        for defense, knowledge in lines:
            mine = part[(part.defense == defense) & part.knowledge.isin([knowledge, "–"])]
            offset = (lines.index((defense, knowledge)) - (len(lines) - 1) / 2) * 0.14
            if knowledge in ("identity", "exact"):
                mine = mine[mine.attack != "Clean"]
            ax.errorbar(
                [attacks.index(a) + offset for a in mine.attack], mine.accuracy,
                yerr=[mine.accuracy - mine.low, mine.high - mine.accuracy],
                fmt=MARKERS[knowledge], color=COLOURS[defense], capsize=2.5, markersize=6, linewidth=1.2,
                markerfacecolor="white" if knowledge in ("identity", "exact") else COLOURS[defense],
                label=f"{defense}; attacker has: {ATTACKERS[knowledge]}",
            )
        ax.set_xticks(range(len(attacks)), attacks)
        ax.set_title(name, fontsize=10)
        ax.set_ylim(-0.02, 1.02)
        ax.grid(axis="y", alpha=0.25)
        ax.legend(frameon=False, fontsize=7.5, loc="upper right" if not retrained else "lower left")
    axes[0].set_ylabel("accuracy (95 % interval)")
    fig.suptitle(title, fontsize=11)
    return _clean(fig)


def save(fig: Figure, out: str | Path, name: str) -> Figure:
    """Write a figure as PNG into the folder `out` (nothing when it is empty), and hand it back for display."""
    if str(out):
        Path(out).mkdir(parents=True, exist_ok=True)
        fig.savefig(Path(out) / f"{name}.png", dpi=150)
    return fig


def _image(ax, x: Tensor) -> None:
    x = x.detach().float().clamp(0, 1).cpu()
    picture = x[0] if x.shape[0] == 1 else x.movedim(0, -1)
    ax.imshow(picture, cmap="gray" if x.shape[0] == 1 else None, vmin=0, vmax=1, interpolation="nearest")
    ax.set(xticks=[], yticks=[])
    for side in ax.spines.values():
        side.set_visible(False)


def _clean(fig: Figure) -> Figure:
    for ax in fig.axes:
        ax.spines[["top", "right"]].set_visible(False)
    return fig

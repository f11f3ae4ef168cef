import numpy as np
import pandas as pd
import pytest
import torch

from labkit import show


@pytest.mark.parametrize("channels", [1, 3])
def test_a_mosaic_holds_every_filter(channels):
    d = torch.randn(7, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    board = np.asarray(show.filters(d).axes[0].images[0].get_array())
    first = board[1:5, 1:5] if channels == 1 else board[1:5, 1:5, 0]
    assert np.allclose(first, 0.5 + 0.5 * (d[0, 0] / d[0].abs().max()).numpy(), atol=1e-6)
    assert board.shape[:2] == (3 * 5 + 1, 4 * 5 + 1) or board.shape[:2] == (2 * 5 + 1, 4 * 5 + 1)


def test_strips_have_a_column_per_name_and_a_note_per_picture():
    x = torch.rand(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    fig = show.strips({"image": x, "T(x)": 1.4 * x}, {"T(x)": ["20 dB", "21 dB"]})
    assert [ax.get_title() for ax in fig.axes[:2]] == ["image", "T(x)"]
    assert [ax.get_xlabel() for ax in fig.axes] == ["", "20 dB", "", "21 dB"]
    assert np.allclose(fig.axes[1].images[0].get_array(), (1.4 * x[0]).clamp(0, 1).movedim(0, -1).numpy())


def test_heat_maps_share_one_scale():
    fig = show.heat(torch.tensor([[[0.0, 1.0]], [[0.0, 5.0]]]), ["a", "b"], "Σ")
    assert [ax.images[0].get_clim() for ax in fig.axes[:2]] == [(0, 5), (0, 5)]
    assert fig.axes[2].get_ylabel() == "Σ"


def test_learning_draws_batches_and_means_of_passes():
    fig = show.learning([4.0, 2.0, 3.0, 1.0], 2)
    batches, means = fig.axes[0].lines
    assert batches.get_ydata().tolist() == [4, 2, 3, 1] and list(means.get_ydata()) == [3, 2]
    assert list(means.get_xdata()) == [1, 2]


def test_a_figure_is_shown_once():
    """Notebooks show what a cell returns and what pyplot still holds: one of the two is enough."""
    import matplotlib.pyplot as plt

    show.learning([1.0, 2.0], 1)
    assert not plt.get_fignums()


def test_a_race_has_a_line_per_solver_in_milliseconds():
    rows = pd.DataFrame(
        [("cd", 0.001, 0.1, 9), ("cd", 0.002, 0.01, 9), ("sporco", 0.5, 0.05, 2)],
        columns=["solver", "seconds", "gap", "n"],
    )
    fig = show.race(rows)
    ours, theirs, level = fig.axes[0].lines
    assert list(ours.get_xdata()) == [1.0, 2.0] and list(ours.get_ydata()) == [0.1, 0.01]
    assert "n = 2" in theirs.get_label() and list(level.get_ydata()) == [0.01, 0.01]


def test_costs_have_a_panel_per_quantity():
    rows = pd.DataFrame(
        [("K", 16, 1.0, 200.0, 3), ("K", 64, 2.0, 210.0, 3), ("lam", 0.2, 2.0, 210.0, 3)],
        columns=["what", "value", "ms", "active", "n"],
    )
    fig = show.costs(rows)
    assert [ax.get_xlabel() for ax in fig.axes] == ["K, filters", "λ"]
    assert [list(line.get_ydata()) for line in fig.axes[0].lines] == [[1.0, 2.0], [200.0, 210.0]]


def test_exactness_shows_mean_and_worst():
    rows = pd.DataFrame([(0.1, 30.0, 25.0, 4), (0.01, 50.0, 44.0, 4)], columns=["tolerance", "psnr", "worst", "n"])
    mean, worst, _ = show.exactness(rows).axes[0].lines
    assert list(mean.get_ydata()) == [30, 50] and list(worst.get_ydata()) == [25, 44]


def test_curves_have_a_line_per_attacker():
    rows = pd.DataFrame(
        [("STL", k, v, 1 - v, 0.9 - v, 1.1 - v) for k in ("classifier", "exact") for v in (0.1, 0.2)],
        columns=["defense", "knowledge", "value", "accuracy", "low", "high"],
    )
    fig = show.curves(rows, "size", log=True)
    lines = [bars.lines[0] for bars in fig.axes[0].containers]
    assert [list(line.get_ydata()) for line in lines] == [[0.9, 0.8], [0.9, 0.8]]
    assert [line.get_linestyle() for line in lines] == ["-", "--"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        "STL: attacker has the weights, not T", "STL: attacker has all, exact gradient",
    ]  # fmt: skip


def test_a_spectrum_and_a_course_draw_their_numbers():
    rows = pd.DataFrame([("a", 0.1, 0.5), ("a", 0.3, 0.2), ("b", 0.1, 0.4)], columns=["what", "frequency", "energy"])
    assert [list(line.get_ydata()) for line in show.spectrum(rows).axes[0].lines] == [[0.5, 0.2], [0.4]]
    assert list(show.course({"loss": [3.0, 2.0]}, "error").axes[0].lines[0].get_ydata()) == [3, 2]


def test_a_panel_marks_what_is_red():
    rows = pd.DataFrame([("a", "green", "fine"), ("b", "red", "2 of 3")], columns=["check", "verdict", "said"])
    texts = [text.get_text() for text in show.panel(rows, "x").axes[0].texts]
    assert texts == ["✓", "a", "fine", "✗", "b", "2 of 3"]


def test_strata_stand_beside_their_filters():
    x, d = torch.rand(2, 4, 3, 6, 6), torch.randn(2, 5, 3, 4, 4)
    fig = show.strata(x, d, ["cluster 1", "cluster 2"])
    assert [ax.get_title(loc="left") for ax in fig.axes] == ["cluster 1", "its 5 filters", "cluster 2", "its 5 filters"]
    board = np.asarray(fig.axes[2].images[0].get_array())
    assert np.allclose(board[1:7, 1:7], x[1, 0].movedim(0, -1).numpy())


def test_competitors_have_a_line_each_and_a_marker_for_each_question():
    rows = pd.DataFrame(
        [
            ("No Defense", 1000, "Clean", "–", 0.9), ("No Defense", 1000, "BIM-0.03", "classifier", 0.2),
            ("TVM", 50, "Clean", "–", 0.7), ("TVM", 50, "BIM-0.03", "classifier", 0.6),
            ("TVM", 50, "FGSM-0.08", "classifier", 0.5), ("TVM", 50, "BIM-0.03", "exact", 0.1),
        ],
        columns=["defense", "n", "attack", "knowledge", "accuracy"],
    ).assign(low=lambda rows: rows.accuracy - 0.05, high=lambda rows: rows.accuracy + 0.1)  # fmt: skip
    fig = show.rivals(rows, "BIM-0.03", "here")
    ax = fig.axes[0]
    points = [list(zip(*bars.lines[0].get_data(), strict=True)) for bars in ax.containers]
    assert [[(round(float(x), 2), round(y)) for x, y in each] for each in points] == [
        [(0.9, 0), (0.7, 1)], [(0.2, 0), (0.6, 1)], [(0.1, 1)],
    ]  # fmt: skip
    assert len({round(y, 2) for each in points for _, y in each}) == 5  # none hides another
    ends = [segment[:, 0].tolist() for segment in ax.containers[2].lines[2][0].get_segments()]
    assert np.allclose(ends, [[0.05, 0.2]])
    assert [label.get_text() for label in ax.get_yticklabels()] == ["No Defense (n = 1,000)", "TVM (n = 50)"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        "clean images", "BIM-0.03, attacker does not know it", "BIM-0.03, attacker knows it",
    ]  # fmt: skip
    assert ax.containers[2].lines[0].get_markerfacecolor() == "white" and fig.get_suptitle() == "here"
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top


def test_a_gallery_has_two_pictures_and_two_notes_for_each_name():
    g = torch.Generator().manual_seed(0)
    pairs = {name: torch.rand(2, 3, 6, 5, generator=g) for name in ("none", "TVM", "SAP")}
    fig = show.gallery(pairs, {name: [f"{name} clean", f"{name} attacked"] for name in pairs}, across=2)
    seen = [ax for ax in fig.axes if ax.get_visible()]
    assert len(fig.axes) == 8 and len(seen) == 6
    assert [ax.get_title(loc="left") for ax in seen] == ["none", "", "TVM", "", "SAP", ""]
    assert [ax.get_xlabel() for ax in seen] == [f"{name} {kind}" for name in pairs for kind in ("clean", "attacked")]
    drawn = [np.asarray(ax.images[0].get_array()) for ax in seen]
    expected = [x.movedim(0, -1).numpy() for pair in pairs.values() for x in pair]
    assert all(np.allclose(a, b) for a, b in zip(drawn, expected, strict=True))

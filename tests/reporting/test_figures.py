from labkit.evaluation.threat_models import ThreatModel
from labkit.reporting import figures, questions

import numpy as np
import pandas as pd


def test_a_race_has_a_line_per_solver_in_milliseconds():
    rows = pd.DataFrame(
        [("cd", 0.001, 0.1, 9), ("cd", 0.002, 0.01, 9), ("sporco", 0.5, 0.05, 2)],
        columns=["solver", "seconds", "gap", "n"],
    )
    fig = figures.race(rows)
    ours, theirs, level = fig.axes[0].lines
    assert list(ours.get_xdata()) == [1.0, 2.0] and list(ours.get_ydata()) == [0.1, 0.01]
    assert "n = 2" in theirs.get_label() and list(level.get_ydata()) == [0.01, 0.01]


def test_costs_have_a_panel_per_quantity():
    rows = pd.DataFrame(
        [("K", 16, 1.0, 200.0, 3), ("K", 64, 2.0, 210.0, 3), ("lam", 0.2, 2.0, 210.0, 3)],
        columns=["what", "value", "ms", "active", "n"],
    )
    fig = figures.costs(rows)
    assert [ax.get_xlabel() for ax in fig.axes] == ["K, filters", "λ"]
    assert [list(line.get_ydata()) for line in fig.axes[0].lines] == [[1.0, 2.0], [200.0, 210.0]]


def test_exactness_shows_mean_and_worst():
    rows = pd.DataFrame([(0.1, 30.0, 25.0, 4), (0.01, 50.0, 44.0, 4)], columns=["tolerance", "psnr", "worst", "n"])
    mean, worst, _ = figures.exactness(rows).axes[0].lines
    assert list(mean.get_ydata()) == [30, 50] and list(worst.get_ydata()) == [25, 44]


def test_curves_have_a_line_per_threat_model():
    rows = pd.DataFrame(
        [("STL", k, v, 1 - v, 0.9 - v, 1.1 - v) for k in ("classifier", "exact") for v in (0.1, 0.2)],
        columns=["defense", "knowledge", "value", "accuracy", "low", "high"],
    )
    fig = figures.curves(rows, "size", log=True)
    lines = [bars.lines[0] for bars in fig.axes[0].containers]
    assert [list(line.get_ydata()) for line in lines] == [[0.9, 0.8], [0.9, 0.8]]
    assert [line.get_linestyle() for line in lines] == ["-", "--"]
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        f"STL, {model.label}: upper bound" for model in (ThreatModel.WEIGHTS, ThreatModel.EXACT)
    ]


def test_a_spectrum_draws_its_numbers():
    rows = pd.DataFrame([("a", 0.1, 0.5), ("a", 0.3, 0.2), ("b", 0.1, 0.4)], columns=["what", "frequency", "energy"])
    assert [list(line.get_ydata()) for line in figures.spectrum(rows).axes[0].lines] == [[0.5, 0.2], [0.4]]


def test_baselines_have_a_line_each_and_only_the_worst_case_is_no_upper_bound():
    rows = pd.DataFrame(
        [
            ("No Defense", 1000, "Clean", "–", 0.9), ("No Defense", 1000, "BIM-0.03", "classifier", 0.2),
            ("TVM", 50, "Clean", "–", 0.7), ("TVM", 50, "FGSM-0.08", "classifier", 0.5),
            ("TVM", 50, "BIM-0.03", "classifier", 0.6), ("TVM", 50, "PGD-0.03", "exact", 0.1),
            ("TVM", 50, "PGD-0.03", "identity", 0.3),
            ("TE", 50, "Clean", "–", 0.8), ("TE", 50, "BIM-0.03", "classifier", 0.3),
        ],
        columns=["defense", "n", "attack", "knowledge", "accuracy"],
    ).assign(low=lambda rows: rows.accuracy - 0.05, high=lambda rows: rows.accuracy + 0.1)  # fmt: skip
    rows["budget"] = rows.attack.str.extract(r"(\d\.\d+)", expand=False).astype(float)
    worst = pd.DataFrame({"defense": ["TVM"], "accuracy": [0.05], "low": [0.0], "high": [0.1]})
    fig = figures.baselines(rows, worst, "here")
    ax = fig.axes[0]
    points = [list(zip(*bars.lines[0].get_data(), strict=True)) for bars in ax.containers]
    assert [[(round(float(x), 2), round(y)) for x, y in each] for each in points] == [
        [(0.9, 0), (0.7, 1), (0.8, 2)], [(0.6, 1)], [(0.1, 1)], [(0.2, 0), (0.3, 2)], [(0.05, 1)],
    ]  # fmt: skip
    assert len({round(y, 2) for each in points for _, y in each}) == 8  # none hides another
    ends = [segment[:, 0].tolist() for segment in ax.containers[2].lines[2][0].get_segments()]
    assert np.allclose(ends, [[0.05, 0.2]])
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "No Defense (n = 1,000)", "TVM (n = 50)", "TE (n = 50)",
    ]  # fmt: skip
    words = [text.get_text() for text in fig.legends[0].get_texts()]
    assert words == [
        "clean", "BIM-0.03, grey box (weights): upper bound",
        "strongest attack, white box (exact gradient): upper bound", "strongest attack, white box",
        "worst case of all attacks of size 0.03",
    ]  # fmt: skip
    for bars, word in zip(ax.containers, words, strict=True):
        assert (bars.lines[0].get_markerfacecolor() == "white") == ("upper bound" in word)
    assert fig.get_suptitle() == "here" and ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top


def test_baselines_are_drawn_while_hardly_any_are_measured():
    columns = ["defense", "n", "attack", "knowledge", "accuracy", "low", "high", "budget"]
    rows = pd.DataFrame([("No Defense", 9, "Clean", "–", 0.9, 0.8, 1.0, 0.0)], columns=columns)
    assert len(figures.baselines(rows, pd.DataFrame(columns=["defense"])).axes[0].containers) == 1
    white = ("TVM", 9, "PGD-0.03 margin", "exact", 0.1, 0.0, 0.3, 0.03)  # no grey box was asked for
    rows = pd.DataFrame([("TVM", 9, "Clean", "–", 0.9, 0.8, 1.0, 0.0), white], columns=columns)
    assert len(figures.baselines(rows, pd.DataFrame(columns=["defense"])).axes[0].containers) == 1
    tried = ("TVM", "FGSM-0.04", 0.04), ("JPEG", "FGSM-0.04", 0.04), ("TVM", "BIM-0.03", 0.03)
    grey = [(name, 9, attack, "classifier", 0.5, 0.3, 0.7, size) for name, attack, size in tried]
    several = pd.concat([rows, pd.DataFrame(grey, columns=columns)], ignore_index=True)
    bars = figures.baselines(several, pd.DataFrame(columns=["defense"])).axes[0].containers
    assert [each.get_label().partition(",")[0] for each in bars] == ["clean", "BIM-0.03", "strongest attack"]
    worst = pd.DataFrame(columns=["defense", "n", "accuracy", "low", "high"])
    assert questions.baselines(rows.assign(retrained=False), worst).empty


def test_a_table_has_a_panel_per_attack_and_a_marker_per_block():
    rows = pd.DataFrame(
        [
            ("ours", "STL", "classifier", 50, "Clean", 0.8, 0.7, 0.9),
            ("ours", "STL", "classifier", 50, "BIM-0.03", 0.5, 0.4, 0.6),
            ("worst", "STL", "", 20, "BIM-0.03", 0.1, 0.0, 0.3),
            ("paper", "STL", "", None, "Clean", 0.9, None, None),
            ("paper", "MagNet", "", None, "Clean", 0.95, None, None),
        ],
        columns=["block", "defense", "knowledge", "n", "attack", "accuracy", "low", "high"],
    )
    fig = figures.cells(rows, "5", "here")
    clean, bim = fig.axes
    assert [ax.get_title() for ax in fig.axes] == ["Clean", "BIM-0.03"]
    drawn = [[[round(float(x), 2) for x in bars.lines[0].get_xdata()] for bars in ax.containers] for ax in fig.axes]
    assert drawn == [[[0.8], [0.9, 0.95]], [[0.5], [0.1]]]
    assert [label.get_text() for label in clean.get_yticklabels()] == ["STL", "MagNet"]
    assert np.allclose(bim.containers[1].lines[2][0].get_segments()[0][:, 0], [0.0, 0.3])
    assert fig.get_suptitle().startswith("here, n = 20 to 50: ")
    assert [text.get_text() for text in fig.legends[0].get_texts()] == [
        f"{ThreatModel.WEIGHTS.label}: upper bound", ThreatModel.WORST_CASE.label, "the paper, Table 5",
    ]  # fmt: skip


def test_a_table_of_few_attacks_is_as_wide_as_its_title_and_legend():
    blocks = [("ours", "transfer"), ("ours", "classifier"), ("ours", "identity"), ("worst", ""), ("paper", "")]
    rows = [(block, "STL", who, 200, "PGD", 0.5, 0.4, 0.6) for block, who in blocks]
    columns = ["block", "defense", "knowledge", "n", "attack", "accuracy", "low", "high"]
    fig = figures.cells(pd.DataFrame(rows, columns=columns), "4", "folder:cifar10.zip, 32×32, vgg16 ×0.25")
    fig.canvas.draw()
    for part in (fig._suptitle, *fig.legends):
        drawn = part.get_window_extent()
        assert drawn.x0 >= 0 and drawn.x1 <= fig.bbox.x1


def test_accuracies_stand_side_by_side_at_their_attack_in_whatever_order_they_were_measured():
    lines = [("No Defense", "classifier"), ("STL", "classifier"), ("STL", "transfer"), ("STL", "exact")]
    rows = [
        (defense, knowledge, attack, retrained, 0.5)
        for retrained in (False, True)
        for defense, knowledge in lines[: 2 + 2 * retrained]
        for attack in ("FGSM-0.08", "BIM-0.03")
    ]
    rows = pd.DataFrame(rows, columns=["defense", "knowledge", "attack", "retrained", "accuracy"])
    fig = figures.accuracies(rows.assign(low=0.4, high=0.6))
    drawn = [np.concatenate([bars.lines[0].get_xdata() for bars in ax.containers]).astype(float) for ax in fig.axes]
    for at in range(2):
        mine = np.unique(drawn[1][np.abs(drawn[1] - at) < 0.5].round(3))
        assert np.allclose(mine, at + 0.13 * np.array([-1.5, -0.5, 0.5, 1.5]), atol=1e-3)
    assert set(drawn[0].round(3)) < set(drawn[1].round(3))  # a line has its place in both panels


def test_no_two_threat_models_look_alike():
    """In one figure as among the defenses' colours: each has a marker or a colour of its own."""
    looks = [(model.marker, model.colour) for model in ThreatModel]
    assert len(set(looks)) == len(looks) == len({model.colour for model in ThreatModel})
    grey = figures.style(ThreatModel.WEIGHTS, figures.COLOURS["STL"])
    exact = figures.style(ThreatModel.EXACT, figures.COLOURS["STL"])
    assert grey["color"] == exact["color"] == figures.COLOURS["STL"] and grey["marker"] != exact["marker"]
    worst = figures.style(ThreatModel.WORST_CASE, figures.COLOURS["STL"])
    assert grey["markerfacecolor"] == exact["markerfacecolor"] == "white"
    assert worst["markerfacecolor"] == figures.COLOURS["STL"]

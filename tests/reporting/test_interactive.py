import base64
import io

from labkit import dashboards
from labkit.evaluation.threat_models import ThreatModel
from labkit.reporting import figures, interactive

import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from PIL import Image


def figure(channels=3):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(5, channels, 8, 8, generator=g)
    points = torch.randn(5, 3, generator=g)  # as many as the features have; a chart has two
    return interactive.clusters(points, torch.tensor([0, 2, 2, 0, 1]), x, list("abcde")), points, x


def test_every_image_is_a_point_of_its_cluster():
    fig, points, _ = figure()
    assert [trace.name for trace in fig.data] == ["cluster 1 (2)", "cluster 2 (1)", "cluster 3 (2)"]
    assert [list(trace.text) for trace in fig.data] == [["a", "d"], ["e"], ["b", "c"]]
    assert torch.allclose(torch.tensor(fig.data[2].x), points[[1, 2], 0])
    assert len({trace.marker.color for trace in fig.data} | {trace.marker.symbol for trace in fig.data}) == 6


def test_points_carry_their_pictures():
    for channels in (1, 3):
        fig, _, x = figure(channels)
        data = base64.b64decode(fig.data[0].customdata[1].partition(",")[2])
        picture = Image.open(io.BytesIO(data))
        assert picture.size == (8, 8) and picture.mode == ("L" if channels == 1 else "RGB")
        assert abs(np.asarray(picture.convert("L")).mean() / 255 - float(x[3].mean())) < 0.06


def test_pointing_at_a_dot_shows_its_picture_and_pages_get_the_chart():
    fig, _, _ = figure()
    shown = dashboards.HoverMap(fig)

    class Points:
        point_inds = (1,)

    shown.show(shown.figure.data[2], Points)
    assert shown.name.value == "c" and shown.picture.value[1:4] == b"PNG"
    bundle = shown._repr_mimebundle_()
    assert len(bundle["application/vnd.plotly.v1+json"]["data"]) == 3
    assert "application/vnd.jupyter.widget-view+json" in bundle


def swept(what="lam", values=(0.1, 0.2, 0.4)):
    """Rows of a sweep: accuracies and PSNR fall with the value, by intervals of ± 0.05 and ± 1 dB."""
    asked = {"clean": ("Clean", "–", 0.9), "attacked": ("FGSM-0.08", "classifier", 0.5),
             "aware": ("BIM-0.08", "exact", 0.3)}  # fmt: skip
    rows = [
        (what, value, name, attack, knowledge, top - 0.1 * at, 30 - at)
        for at, value in enumerate(values)
        for name, (attack, knowledge, top) in asked.items()
    ]
    setting = {"data": "fashion, 32×32", "n": 100, "classifier": "vgg16 ×0.25", "retrained": False, "defense": "STL"}
    found = pd.DataFrame(rows, columns=["what", "value", "asked", "attack", "knowledge", "accuracy", "fidelity"])
    for name, low, high, reach in (("accuracy", "low", "high", 0.05), ("fidelity", "fidelity_low", "fidelity_high", 1)):
        found[low], found[high] = found[name] - reach, found[name] + reach
    return found.assign(**setting)


def test_every_threat_model_has_its_marker_in_both_kinds_of_figures():
    assert all(interactive._SYMBOLS[model.marker] for model in ThreatModel)


def test_a_tradeoff_has_a_line_for_every_threat_model_and_gap_and_psnr_below():
    fig = interactive.tradeoff(pd.concat([swept(), swept("K", (16, 64))]), "lam")
    asked = [ThreatModel.WEIGHTS.told("FGSM-0.08"), ThreatModel.EXACT.told("BIM-0.08")]
    assert [trace.name for trace in fig.data] == ["Clean", *(f"{name}: upper bound" for name in asked), "gap", "T(x)"]
    assert [trace.line.color for trace in fig.data[1:3]] == [ThreatModel.WEIGHTS.colour, ThreatModel.EXACT.colour]
    assert np.allclose(fig.data[1].y, [0.5, 0.4, 0.3]) and list(fig.data[1].x) == [0.1, 0.2, 0.4]
    assert np.allclose(fig.data[1].error_y.array, 0.05) and np.allclose(fig.data[1].error_y.arrayminus, 0.05)
    assert np.allclose(fig.data[3].y, 0.4) and fig.data[3].yaxis == "y2"
    assert (fig.data[3].error_y.array > 0.05).all() and (fig.data[3].error_y.array < 0.1).all()
    assert list(fig.data[4].y) == [30, 29, 28] and fig.data[4].yaxis == "y3"
    assert fig.layout.xaxis3.type == "log" and fig.layout.xaxis3.title.text == "λ"
    assert "n = 100" in fig.layout.title.text and "vanilla" in fig.layout.title.text
    assert len({(trace.line.color, trace.marker.symbol) for trace in fig.data[:3]}) == 3


def test_a_choice_of_words_has_an_axis_of_words():
    rows = swept("boundary", ("circular", "reflect"))
    fig = interactive.tradeoff(rows, "boundary")
    assert fig.layout.xaxis.type == "category" and list(fig.data[0].x) == ["circular", "reflect"]
    labels = [text.get_text() for text in figures.tradeoff(rows, "boundary").axes[1].get_xticklabels()]
    assert labels == ["circular", "reflect"]


def test_the_static_tradeoff_draws_the_same_numbers():
    upper, lower = figures.tradeoff(swept(), "lam").axes
    lines = [bars.lines[0] for bars in upper.containers]
    assert np.allclose([line.get_ydata() for line in lines], [[0.9, 0.8, 0.7], [0.5, 0.4, 0.3], [0.3, 0.2, 0.1]])
    assert list(lower.containers[0].lines[0].get_ydata()) == [30, 29, 28]
    assert lower.get_xscale() == "log" and [text.get_text() for text in lower.get_xticklabels()] == [
        "0.1",
        "0.2",
        "0.4",
    ]


@pytest.fixture
def mapped():
    names = ["No Defense", "STL", "JPEG", "TVM"]
    psnr, clean, attacked = [27.0, 24.0, 26.95, 26.9], [0.9, 0.6, 0.8, 0.5], [0.1, 0.7, 0.3, 0.5]
    rows = pd.DataFrame(
        {"defense": names, "n": [100, 100, 100, 20], "psnr": psnr, "clean": clean, "attacked": attacked}
    )
    for name in ("clean", "attacked"):
        rows[f"{name}_low"], rows[f"{name}_high"] = rows[name] - 0.1, rows[name] + 0.1
    return rows.assign(low=rows[["clean", "attacked"]].min(axis=1), high=rows[["clean", "attacked"]].max(axis=1))


def test_the_map_has_a_bar_for_every_defense_in_its_colour(mapped):
    fig = interactive.intervals(mapped)
    bars = {trace.name: trace for trace in fig.data}
    assert list(bars["STL"].x) == [24, 24] and list(bars["STL"].y) == [0.6, 0.7]
    assert bars["STL"].line.color == figures.COLOURS["STL"] != bars["JPEG"].line.color
    assert "0.600 [0.500, 0.700]" in bars["STL"].hovertemplate and "n = 20" in bars["TVM"].hovertemplate
    assert {note.text for note in fig.layout.annotations} == set(mapped.defense)
    assert "n = 20 to 100" in fig.layout.title.text


def test_names_on_the_map_keep_clear_of_each_other(mapped):
    named = figures.named(mapped)
    assert [name for name, *_ in named] == ["STL", "TVM", "JPEG", "No Defense"]
    places = [place for *_, place in named]
    assert np.diff(places).min() >= 0.026 * 3 * (1 - 1e-9)
    assert places[0] == pytest.approx(24) and np.mean(places[1:]) == pytest.approx(26.95)
    texts = {text.get_text(): text.get_position()[0] for text in figures.intervals(mapped).axes[0].texts}
    assert texts == {name: place for name, *_, place in named}


def test_points_of_a_tradeoff_carry_what_t_makes_there():
    strip = ({f"λ = {v:g}": torch.full((2, 1, 8, 8), v) for v in (0.1, 0.2, 0.4)},
             {f"λ = {v:g}": ["bag\n30 dB", "coat\n20 dB"] for v in (0.1, 0.2, 0.4)}, {})  # fmt: skip
    clean, attacked, aware = interactive.tradeoff(swept(), "lam", strip).data[:3]
    assert clean.customdata[0][0].startswith("data:image/png") and clean.customdata[0][1] == "bag, 30 dB"
    assert attacked.customdata[2][1] == "coat, 20 dB" and aware.customdata is None


def test_moving_pictures_have_a_frame_for_every_value_and_words_for_every_picture():
    x = torch.rand(2, 3, 8, 8)
    columns, codes = {"image": x, "λ = 0.1": x, "λ = 0.2": x}, {"λ = 0.1": x[:, 0], "λ = 0.2": x[:, 0]}
    notes = {"λ = 0.1": ["bag\n30 dB", "coat"], "λ = 0.2": ["<b>", ""]}
    made = dashboards.moving(columns, notes, codes, ["clean", "attacked"], {"λ = 0.1": "accuracy 0.5"}).data
    page = BeautifulSoup(made, "html.parser")
    frames = page.select("figure.moving .frame")
    assert [(f.get("data-symbol"), f.get("data-value")) for f in frames] == [(None, None), ("λ", "0.1"), ("λ", "0.2")]
    assert [len(f.select("img")) for f in frames] == [2, 4, 4] and "accuracy 0.5" in frames[1].text
    alts = [img["alt"] for img in frames[1].select("img")]
    assert alts[:2] == ["clean, λ = 0.1: bag, 30 dB", "attacked, λ = 0.1: coat"] and "where it is active" in alts[2]
    assert all(img["src"].startswith("data:image/png;base64,") for img in page.select("img")) and not page.find("b")

import base64
import io

import numpy as np
import torch
from PIL import Image

from labkit import charts, widgets


def figure(channels=3):
    g = torch.Generator().manual_seed(0)
    x = torch.rand(5, channels, 8, 8, generator=g)
    points = torch.randn(5, 2, generator=g)
    return charts.clusters(points, torch.tensor([0, 2, 2, 0, 1]), x, list("abcde")), points, x


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
    shown = widgets.HoverMap(fig)

    class Points:
        point_inds = (1,)

    shown.show(shown.figure.data[2], Points)
    assert shown.name.value == "c" and shown.picture.value[:2] == b"\xff\xd8"
    bundle = shown._repr_mimebundle_()
    assert len(bundle["application/vnd.plotly.v1+json"]["data"]) == 3
    assert "application/vnd.jupyter.widget-view+json" in bundle

import io

from labkit.dashboards import parts

import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image
from shown import drawn


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_survive_as_png(channels):
    x = torch.rand(channels, 6, 5, generator=torch.Generator().manual_seed(0))
    shown = np.asarray(Image.open(io.BytesIO(parts.encoded(x))))
    assert np.array_equal(shown.reshape(6, 5, channels), (x * 255).round().byte().movedim(0, -1).numpy())


def test_large_pictures_travel_as_jpeg():
    assert Image.open(io.BytesIO(parts.encoded(torch.rand(3, 128, 128)))).format == "JPEG"


def test_a_board_changes_in_one_message_and_says_in_words_what_it_shows():
    board = parts.Board()
    board.show([{"title": "x", "x": torch.zeros(1, 4, 4), "note": "30 dB", "bars": [("coat", 0.75, "right")]}])
    (picture,) = board.pictures
    assert picture["alt"] == "x. 30 dB. coat 75%" and picture["pixels"] and board.shown == 1 and not board.pending


def test_a_chart_is_plain_json():
    figure = go.Figure(go.Scatter(x=np.arange(3), y=np.float64([1, 2, 3])))
    (output,) = parts.chart(figure, "a line")
    assert output["data"]["text/plain"] == "a line"
    assert drawn(output, "y") == [1.0, 2.0, 3.0]


def test_a_mosaic_has_a_tile_for_each_filter():
    mosaic = parts.Mosaic()
    mosaic.chosen = 40
    mosaic.show(torch.rand(10, 3, 4, 4), "ten filters")
    assert (mosaic.count, mosaic.across, mosaic.chosen) == (10, 4, 9)
    assert Image.open(io.BytesIO(mosaic.picture)).size == (4 * 5, 3 * 5)


def test_an_upload_beyond_the_limit_is_refused_on_this_side_too():
    taken = []
    upload = parts.Upload(lambda name, raw: taken.append((name, raw)))
    upload._received(upload, {"name": "large.png"}, [memoryview(bytes(upload.limit + 1))])
    assert not taken and "8 MB" in upload.said
    upload._received(upload, {"name": "small.png"}, [memoryview(b"ab"), memoryview(b"c")])
    assert taken == [("small.png", b"abc")] and upload.said == ""

"""What a dashboard shows, for the tests of several of them."""

import base64
import io
import json

import numpy as np
from PIL import Image


def png(size, colour=(200, 30, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


def drawn(output, axis: str) -> list:
    """The numbers of the first line of the chart that an Output holds."""
    found = json.loads(json.dumps(output["data"]["application/vnd.plotly.v1+json"]))["data"][0][axis]
    return np.frombuffer(base64.b64decode(found["bdata"]), found["dtype"]).tolist() if "bdata" in found else found


def titles(board) -> list[str]:
    return [picture["title"] for picture in board.pictures]


def at(board, title: str) -> int:
    return titles(board).index(title)

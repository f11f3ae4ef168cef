"""Interactive figures: each takes data and returns a plotly figure, shown alike in JupyterLab, Voila and reports."""

import base64
import io
from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go
from PIL import Image
from torch import Tensor

# Okabe & Ito's colours without yellow, which no white page shows, then darker twins; and as many shapes.
PALETTE = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#5c5c5c", "#00496f", "#8a3d00", "#00614a")
SHAPES = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star", "pentagon", "hexagram", "bowtie")


def clusters(points: Tensor, cluster: Tensor, x: Tensor, names: Sequence[str], title: str = "") -> go.Figure:
    """Images as points of a plane, coloured by cluster; pointing at one shows its picture and its name.

    points   (n, 2)  where they lie;  cluster (n,) of which cluster;  names (n) what to call them
    x        (n, C, H, W) in [0, 1]

    The picture rides along as a data URI in `customdata`; report pages and `widgets.HoverMap` show it.
    """
    fig = go.Figure()
    pictures = [_uri(image) for image in x]
    for m in sorted({int(c) for c in cluster}):
        mine = np.flatnonzero(cluster.numpy() == m)
        fig.add_scatter(
            x=points[mine, 0].numpy(),
            y=points[mine, 1].numpy(),
            mode="markers",
            name=f"cluster {m + 1} ({len(mine)})",
            marker={"color": PALETTE[m % len(PALETTE)], "symbol": SHAPES[m % len(SHAPES)], "size": 6, "opacity": 0.75},
            text=[names[i] for i in mine],
            customdata=[pictures[i] for i in mine],
            hovertemplate="%{text}<extra></extra>",
        )
    fig.update_layout(
        template="plotly_white",
        title=title,
        height=520,
        margin={"l": 30, "r": 10, "t": 50 if title else 20, "b": 30},
        legend={"itemsizing": "constant"},
        xaxis={"title": "first principal component", "zeroline": False},
        yaxis={"title": "second principal component", "zeroline": False},
    )
    return fig


def _uri(x: Tensor, side: int = 96) -> str:
    """An image (C, H, W) as a small JPEG in a data URI, enlarged to about `side` pixels."""
    pixels = (x.detach().clamp(0, 1) * 255).round().byte().movedim(0, -1).cpu().numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    if max(picture.size) > side:
        picture.thumbnail((side, side))
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(stream.getvalue()).decode()

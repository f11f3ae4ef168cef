"""The dashboards' own widgets: pictures that change at once, a pulse, an upload, a mosaic, charts with pictures."""

import base64
import io
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path

from labkit.core.wording import writable
from labkit.datasets.encoding import mosaic, pillow, uri

import anywidget
import ipywidgets as w
import jinja2
import matplotlib
import plotly.graph_objects as go
import torch
import traitlets as t
from IPython.display import HTML
from torch import Tensor

_STATIC = Path(__file__).parent / "static"
_CSS = _STATIC / "dashboards.css"
SMALL = 96  # pixels a side up to which a picture is sent as it is, to be enlarged without smoothing
_EVERY, _TIMES = 5, 10_000  # seconds between two signs of life of a kernel that is kept ready, and how many
UPLOAD_LIMIT = 8_000_000  # bytes; the server's messages end at 10 MiB


class Board(anywidget.AnyWidget):
    """Pictures, `across` to a row, `side` pixels wide where there is room; `show` replaces them in one message."""

    _esm, _css = _STATIC / "board.js", _CSS
    pictures, images = t.List().tag(sync=True), t.List().tag(sync=True)
    side, across = t.Int(150).tag(sync=True), t.Int(5).tag(sync=True)
    pending, shown = t.Bool(False).tag(sync=True), t.Int(0).tag(sync=True)

    def show(self, pictures: Sequence[dict]) -> None:
        """Each picture: title, x (C, H, W), and if need be note and bars [(name, share, kind)]."""
        told = []
        for picture in pictures:
            note = writable(picture.get("note", ""))
            bars = [(writable(name), share, kind) for name, share, kind in picture.get("bars", [])]
            words = ", ".join(f"{name} {share:.0%}" for name, share, _ in bars)
            alt = ". ".join(filter(None, (picture["title"], note, words)))
            pixels = max(picture["x"].shape[-2:]) <= SMALL
            told.append({"title": picture["title"], "note": note, "bars": bars, "alt": alt, "pixels": pixels})
        images = [encoded(picture["x"]) for picture in pictures]
        with self.hold_sync():
            self.pictures, self.images, self.pending, self.shown = told, images, False, self.shown + 1


class Heart(anywidget.AnyWidget):
    """Answers the browser; where no answer comes, the page says that its kernel has ended.

    Until the browser first asks, the kernel speaks now and then: voila keeps one ready, and would end it for having
    been idle just as somebody gets it. `began` is called whenever a browser has drawn the page.
    """

    _esm, _css = _STATIC / "heart.js", _CSS

    def __init__(self, began: Callable[[], None]):
        super().__init__()
        self._asked, self._began = threading.Event(), began
        self.on_msg(self._answer)
        threading.Thread(target=self._wait, daemon=True).start()

    def _answer(self, _widget, content, _buffers) -> None:
        self._asked.set()
        self.send(content)
        if content.get("beat") == 0:
            self._began()

    def _wait(self) -> None:
        for _ in range(_TIMES):
            if self._asked.wait(_EVERY):
                return
            self.send({"waiting": True})


class Upload(anywidget.AnyWidget):
    """A picture of the visitor's own; `taken(name, bytes)` is called with it. It stays in this kernel's memory."""

    _esm, _css = _STATIC / "upload.js", _CSS
    limit, said = t.Int(UPLOAD_LIMIT).tag(sync=True), t.Unicode("").tag(sync=True)

    def __init__(self, taken: Callable[[str, bytes], None]):
        super().__init__()
        self._taken = taken
        self.on_msg(self._received)

    def _received(self, _widget, content, buffers) -> None:
        name, raw = str(content.get("name", "picture"))[:200], b"".join(map(bytes, buffers or []))
        self.said = ""
        if len(raw) > self.limit:  # whoever sends it has gone round the page
            self.said = f"{name} is larger than {self.limit / 1e6:g} MB; make it smaller and choose it again."
        else:
            self._taken(name, raw)


class Mosaic(anywidget.AnyWidget):
    """Tiles (K, C, h, w), `across` to a row, of which one is `chosen` by pointer or arrow keys."""

    _esm, _css = _STATIC / "mosaic.js", _CSS
    picture, label = t.Bytes().tag(sync=True), t.Unicode().tag(sync=True)
    count, across, width = t.Int(1).tag(sync=True), t.Int(1).tag(sync=True), t.Int(420).tag(sync=True)
    chosen = t.Int(0).tag(sync=True)

    def show(self, tiles: Tensor, label: str) -> None:
        board = mosaic(tiles)[:, 1:, 1:]  # each tile with the lines right of it and below
        with self.hold_sync():
            self.count, self.across, self.label = len(tiles), board.shape[2] // (tiles.shape[3] + 1), label
            self.chosen = min(self.chosen, len(tiles) - 1)
            self.picture = encoded(board, max(board.shape))


class Hover(anywidget.AnyWidget):
    """The picture, and the words, of the point that is pointed at in a chart whose customdata holds (URI, words)."""

    _esm, _css = _STATIC / "hover.js", _CSS
    hint = t.Unicode("Point at the chart").tag(sync=True)


class HoverMap(w.HBox):
    """A chart of `interactive.clusters` and the picture pointed at; where no widgets run, as in a report, the chart."""

    def __init__(self, figure: go.Figure):
        self.figure = go.FigureWidget(figure)
        self.picture = w.Image(format="jpeg", layout=w.Layout(width="128px", height="128px", margin="60px 0 0 0"))
        self.picture.add_class("labkit-pixels")
        self.name = w.HTML("Point at a dot")  # a Label would set $ as formulas
        for trace in self.figure.data:
            trace.on_hover(self.show)
        super().__init__([self.figure, w.VBox([self.picture, self.name])])

    def show(self, trace, points, _state=None) -> None:
        if points.point_inds:
            i = points.point_inds[0]
            self.picture.value = base64.b64decode(trace.customdata[i].partition(",")[2])
            self.name.value = trace.text[i]

    def _repr_mimebundle_(self, **options):
        # JupyterLab takes the widget, which is its first choice; a page takes the chart.
        chart = json.loads(self.figure.to_json())
        return {**super()._repr_mimebundle_(**options), "application/vnd.plotly.v1+json": chart}


def moving(
    columns: Mapping[str, Tensor], notes: Mapping[str, Sequence[str]], codes: Mapping[str, Tensor], rows: Sequence[str],
    numbers: Mapping[str, str] | None = None,
) -> HTML:  # fmt: skip
    """Pictures by the values of a setting, through which a report's page moves by a slider.

    The page's part is `reporting/templates/moving.html`.

    columns, notes  as for `pictures.strips`; a column named "λ = 0.2" is a value, any other one stays
    codes           of a value, how active its code is: maps (n, H, W), one for each row of pictures
    rows            what to call each row
    numbers         of a value, a line on what was measured there
    """
    shown = {name: [uri(x, 224) for x in images] for name, images in columns.items()}
    maps = {name: [uri(glowing(amount), 224) for amount in some] for name, some in codes.items()}
    return HTML(filled("moving.html", pictures=shown, notes=notes, codes=maps, rows=rows, numbers=numbers or {}))


def filled(template: str, **values) -> str:
    """A template of the pages or of the reports, filled in; every value is escaped."""
    return _templates().get_template(template).render(values)


@cache
def _templates() -> jinja2.Environment:
    loader = jinja2.ChoiceLoader([jinja2.FileSystemLoader(_STATIC), jinja2.PackageLoader("labkit.reporting")])
    return jinja2.Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)


class Drawn:
    """A chart of plotly's and the same as a still figure, which a page shows where scripts are off, and in print."""

    def __init__(self, chart: go.Figure, still) -> None:
        self.chart, self.still = chart, still

    def _repr_mimebundle_(self, **_) -> dict:
        stream = io.BytesIO()
        self.still.savefig(stream, format="png", dpi=110)
        return {
            "application/vnd.plotly.v1+json": json.loads(self.chart.to_json()),
            "image/png": base64.b64encode(stream.getvalue()).decode(),
        }


def glowing(amount: Tensor) -> Tensor:
    """A map (H, W) of how active a code is at each place, as an image (3, H, W): dark is none, light is most."""
    colours = matplotlib.colormaps["magma"]((amount / amount.amax().clamp_min(1e-12)).sqrt().cpu().numpy())
    return torch.from_numpy(colours[..., :3].copy()).permute(2, 0, 1)


def resend(widget: w.Widget) -> None:
    """Send the state of a widget, of its layout and of all that lies in it.

    A browser asks for all states at once, and hears of changes as soon as it has made its models of them: what changes
    in between, which takes it seconds when it is busy, is lost.
    """
    for part in (widget, getattr(widget, "layout", None)):
        before = None
        while part is not None and before != (before := part.get_state()):
            part.send_state()  # once more where a worker changed it meanwhile: the last word must be the newest
    for child in getattr(widget, "children", ()):
        resend(child)


def chart(figure: go.Figure, words: str) -> tuple[dict, ...]:
    """A plotly figure as `outputs` of an Output, drawn by the page; a FigureWidget takes seconds and may stay empty."""
    data = {"application/vnd.plotly.v1+json": json.loads(figure.to_json()), "text/plain": words}
    return ({"output_type": "display_data", "data": data, "metadata": {}},)


def encoded(x: Tensor, exact: int = SMALL) -> bytes:
    """An image (C, H, W) in [0, 1] as PNG up to `exact` pixels a side, where pixels should be counted; else as JPEG."""
    stream = io.BytesIO()
    how = {"format": "PNG", "compress_level": 1} if max(x.shape[-2:]) <= exact else {"format": "JPEG", "quality": 90}
    pillow(x).save(stream, **how)
    return stream.getvalue()

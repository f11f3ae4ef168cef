"""The ipywidgets glue of the dashboards: controls wired to functions that are tested elsewhere."""

import base64
import io
import json
import threading
import traceback
from collections.abc import Callable
from dataclasses import replace

import ipywidgets as w
import numpy as np
import plotly.graph_objects as go
import torch
from PIL import Image
from torch import Tensor

from labkit import attempts, metrics
from labkit.artifacts import Workbench
from labkit.classifiers import predict
from labkit.errors import InputError
from labkit.profiles import Profile


class Latest:
    """A worker thread that does the newest request and forgets the ones it overtook.

    Widget callbacks run on the kernel's main thread, where work would hold up the slider's next message.
    """

    def __init__(self, work: Callable[..., None], failed: Callable[[str], None]):
        self._work, self._failed = work, failed
        self._request, self._changed, self._idle = None, threading.Condition(), True
        threading.Thread(target=self._loop, daemon=True).start()

    def __call__(self, *request) -> None:
        with self._changed:
            self._request, self._idle = request, False
            self._changed.notify_all()

    def settled(self, timeout: float = 60) -> bool:
        """Wait until nothing is left to do; False when it took longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._idle, timeout)

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._request is not None)
                request, self._request = self._request, None
            try:
                self._work(*request)
            except InputError as error:
                self._failed(str(error))
            except Exception:  # whatever it is, the page must go on and the log must have it
                traceback.print_exc()
                self._failed("Something went wrong here; the server's log has the details. Move a control to go on.")
            with self._changed:
                self._idle = self._request is None
                self._changed.notify_all()


def png(x: Tensor, side: int = 256) -> bytes:
    """An image (C, H, W) in [0, 1] as PNG, enlarged without smoothing so that pixels can be counted."""
    pixels = (x.detach().clamp(0, 1) * 255).round().byte().movedim(0, -1).numpy()
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else np.ascontiguousarray(pixels))
    scale = max(1, side // max(picture.size))
    stream = io.BytesIO()
    picture.resize([scale * n for n in picture.size], Image.NEAREST).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


class HoverMap(w.HBox):
    """A chart of `charts.clusters` that shows, beside it, the picture of the point that is pointed at.

    Where widgets cannot run, as in a report's page, it is the chart alone.
    """

    def __init__(self, figure: go.Figure):
        self.figure = go.FigureWidget(figure)
        self.picture = w.Image(format="jpeg", layout=w.Layout(width="128px", height="128px", margin="60px 0 0 0"))
        self.picture.add_class("labkit-pixels")
        self.name = w.Label("Point at a dot")
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


class ProjectionExplorer:
    """Move λ and watch what T leaves of a test image and of its attacked twin; `view` is the widget to display."""

    TITLES = ("image x", "attacked x_adv", "10 × (x_adv − x)", "T(x)", "T(x_adv)")

    def __init__(self, lab: Profile, bench: Workbench):
        self.test = bench.images(lab.data, "test")
        self.network = bench.classifier(lab.classifier)
        self.layer = bench.transform(lab.transform)
        self.attacked = {
            attack.label: attempts.adversarial(
                attempts.Attempt(lab.classifier, None, replace(attack), "classifier"), bench
            )
            for attack in lab.attacks
        }
        wide, label = w.Layout(width="420px"), {"description_width": "90px"}
        self.index = w.IntSlider(0, 0, len(self.test) - 1, description="test image", layout=wide, style=label)
        self.attack = w.Dropdown(options=list(self.attacked), value="FGSM-0.08", description="attack", style=label)
        self.lam = w.FloatLogSlider(0.2, base=10, min=-2, max=0.5, step=0.02, description="λ", layout=wide, style=label)
        self.images = [w.Image(format="png", layout=w.Layout(width="220px")) for _ in self.TITLES]
        self.notes = [w.HTML() for _ in self.TITLES]
        self.status = w.HTML()
        self.work = Latest(self._show, lambda text: setattr(self.status, "value", text))
        for control in (self.index, self.attack, self.lam):
            control.observe(lambda _: self.request(), names="value")
        cells = [
            w.VBox([w.HTML(f"<b>{title}</b>"), image, note])
            for title, image, note in zip(self.TITLES, self.images, self.notes, strict=True)
        ]
        flow = w.Layout(flex_flow="row wrap", grid_gap="12px")
        self.view = w.VBox([self.index, self.attack, self.lam, self.status, w.HBox(cells, layout=flow)])
        self.request()

    def request(self) -> None:
        self.status.value = "…"
        self.work(self.index.value, self.attack.value, self.lam.value)

    def _show(self, index: int, attack: str, lam: float) -> None:
        self.layer.lam = lam
        x, x_adv = self.test.x[index : index + 1], self.attacked[attack][index : index + 1]
        with torch.no_grad():
            seen, seen_adv = self.layer(x), self.layer(x_adv)
        shown = torch.cat([x, x_adv, (0.5 + 10 * (x_adv - x)).clamp(0, 1), seen, seen_adv])
        odds = predict(self.network, torch.cat([x, x_adv, seen, seen_adv])).softmax(1)
        said = [f"{self.test.classes[int(p.argmax())]} ({float(p.max()):.0%})" for p in odds]
        close = [f"{float(v):.1f} dB" for v in metrics.psnr(torch.cat([x_adv, seen, seen_adv]), torch.cat([x] * 3))]
        far = float(metrics.dissimilarity(x_adv, x))
        notes = [said[0], f"{said[1]}, PSNR {close[0]}", f"dissimilarity {far:.3f}",
                 f"{said[2]}, PSNR {close[1]}", f"{said[3]}, PSNR {close[2]}"]  # fmt: skip
        for image, note, pixels, text in zip(self.images, self.notes, shown, notes, strict=True):
            image.value, note.value = png(pixels), text
        self.status.value = f"true class: <b>{self.test.classes[int(self.test.y[index])]}</b>; λ = {lam:.3f}"

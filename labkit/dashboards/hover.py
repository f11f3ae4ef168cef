"""A chart of many images that shows the picture of the point that is pointed at, in a notebook."""

import base64
import json

import ipywidgets as w
import plotly.graph_objects as go


class HoverMap(w.HBox):
    """A chart of `interactive.clusters` that shows, beside it, the picture of the point that is pointed at.

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

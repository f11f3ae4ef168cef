"""The ipywidgets glue of the dashboards: controls wired to functions that are tested elsewhere."""

import ipywidgets

from labkit import profiles
from labkit.artifacts import Workbench
from labkit.errors import InputError
from labkit.widgets.accuracy import LiveAccuracy
from labkit.widgets.atlas import FilterAtlas
from labkit.widgets.browser import TradeoffBrowser
from labkit.widgets.explorer import Explorer
from labkit.widgets.fighting import Arena
from labkit.widgets.hover import HoverMap
from labkit.widgets.page import Page

__all__ = ["Arena", "Explorer", "FilterAtlas", "HoverMap", "LiveAccuracy", "TradeoffBrowser", "opened"]


def opened(dashboard, profile="", dataset="", resolution=0, *, data_root="", store="") -> ipywidgets.Widget:
    """What a dashboard's cell displays: its view or, where the lab cannot be set up, a page that says why."""
    try:
        lab = profiles.profile(profile, dataset=dataset, resolution=resolution)
        # One image at a time, begun from its last codes: work for a CPU, wherever the networks were trained.
        return dashboard(lab, Workbench(store, data_root=data_root, progress=False, device="cpu")).view
    except InputError as error:
        page = Page("This dashboard could not be opened", "Once that is mended, reload the page.", [], [])
        page.trouble(str(error))
        return page.view

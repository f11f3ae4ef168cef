"""Dashboards: the pages' controls and their server. They compute nothing of their own.

Knows     one class a page, each with a `view` to display (`Explorer`, `LiveAccuracy`, `TradeoffBrowser`, `Arena`,
          `FilterAtlas`), a chart that shows the picture under the pointer (`HoverMap`), one with a still figure
          (`Drawn`), pictures that a report's page moves through (`moving`), and the `server`
Comes in  a profile and a workbench; `opened` makes both from a notebook's parameters
Goes out  ipywidgets, and pages in a browser

The face loads no torch; a page does when it is opened.
"""

import importlib

_WHERE = {
    "Arena": "arena", "Explorer": "explorer", "FilterAtlas": "filter_atlas", "HoverMap": "parts",
    "LiveAccuracy": "live_accuracy", "TradeoffBrowser": "tradeoff_browser", "opened": "page", "Drawn": "parts",
    "moving": "parts",
}  # fmt: skip
__all__ = [
    "Arena", "Drawn", "Explorer", "FilterAtlas", "HoverMap", "LiveAccuracy", "TradeoffBrowser", "moving", "opened",
    "server",
]  # fmt: skip


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)

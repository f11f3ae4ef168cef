from labkit import dashboards
from labkit.core.errors import InputError
from labkit.dashboards import page, parts
from labkit.evaluation.workbench import Workbench

import ipywidgets as w
import torch


def test_a_page_works_on_the_cpu_wherever_networks_are_trained(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert Workbench(tmp_path).device == "cuda"
    made = []

    def dashboard(lab, bench):
        made.append(bench.device)
        raise InputError("enough")

    dashboards.opened(dashboard, "smoke", store=str(tmp_path))
    assert made == ["cpu"]


def test_a_page_that_was_just_drawn_is_told_all_once_more(monkeypatch):
    """What a worker changes while it is told is told again: the last word is the newest."""
    label, shown = w.Label(), page.Page("title", "words", [w.IntSlider()], [parts.Board()])
    shown.view.children += (label,)
    heart, sent = shown.view.children[0], []

    def send(widget, key=None):
        if key is None:
            sent.append((widget, widget.get_state()))
            if widget is label and len([one for one, _ in sent if one is label]) == 1:
                label.value = "changed meanwhile"

    monkeypatch.setattr(w.Widget, "send_state", send)
    heart._answer(heart, {"beat": 7.5}, None)
    assert not sent
    heart._answer(heart, {"beat": 0}, None)
    told = [widget for widget, _ in sent]
    for part in (shown.view, shown.status, shown.bar, shown.bar.layout, shown.button, label):
        assert part in told
    assert any(isinstance(widget, parts.Board) for widget in told) and told.count(label) == 2
    assert [state["value"] for widget, state in sent if widget is label] == ["", "changed meanwhile"]


def test_trouble_tells_no_path_of_the_server():
    shown = page.Page("title", "words", [], [])
    shown.trouble("/srv/secret/place/artifacts cannot be written (full); make room")
    assert (
        "secret" not in shown.status.value and "…/artifacts cannot be written (full); make room" in shown.status.value
    )


def test_a_lab_that_cannot_be_set_up_is_a_sentence_on_the_page():
    view = dashboards.opened(dashboards.Explorer, "no-such-profile")
    assert any("unknown profile" in getattr(part, "value", "") for part in view.children[2].children[1].children)

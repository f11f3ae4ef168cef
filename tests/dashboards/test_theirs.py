"""Dashboards of somebody else's network and defense: the server's owner names them, and a visitor cannot."""

from labkit import dashboards
from labkit.dashboards import page, server
from labkit.evaluation import own
from labkit.experiments import cost_estimate

import ipywidgets as w
import pytest
import traitlets
from shown import at, titles

FILE = """
from pathlib import Path
import torch

with open(Path(__file__).with_suffix(".ran"), "a") as ran:
    ran.write("ran ")

class Net(torch.nn.Module):
    def forward(self, x):
        dark = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([-(4 * dark - k / 4).square() for k in range(10)], 1)

def network():
    return Net()

def steps(x):
    return (x * 7).round() / 7
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    file = tmp_path_factory.mktemp("theirs") / "mine.py"
    file.write_text(FILE)
    return file


@pytest.fixture(scope="module")
def theirs(spec, tiny_lab, tiny_bench):
    return own.theirs(f"{spec}:network", f"{spec}:steps", tiny_lab.data, tiny_bench)


def words(page) -> list[str]:
    """What the controls at the left are called."""
    return [one.description for one in page.view.children[2].children[0].children if hasattr(one, "description")]


@pytest.mark.parametrize("dashboard", [dashboards.Explorer, dashboards.LiveAccuracy])
def test_a_defense_without_lambda_has_no_slider_for_it(dashboard, theirs, tiny_lab, tiny_bench):
    opened = dashboard(tiny_lab, tiny_bench, theirs=theirs)
    assert opened.settled() and "lk-trouble" not in opened.status.value, opened.status.value
    assert not {"λ", "K, filters", "S, pixels", "dictionary"} & set(words(opened)) and "attack" in words(opened)
    assert list(opened.knowledge.options.values()) == ["classifier", "identity"]
    assert len(opened.data.options) == 1  # a network is for its own images
    assert "mine.py:steps" in opened.status.value
    ours = dashboard(tiny_lab, tiny_bench, ())
    assert ours.settled() and {"λ", "K, filters"} <= set(words(ours))


def test_the_explorer_shows_what_a_defense_makes_of_both(theirs, tiny_lab, tiny_bench):
    explorer = dashboards.Explorer(tiny_lab, tiny_bench, theirs=theirs)
    assert explorer.settled()
    board = explorer.board
    assert len(titles(board)) == 6 and board.pictures[at(board, "defense of x")]["note"].endswith(" dB to x")
    before = list(board.images)
    explorer.attack.value = "none"
    assert explorer.settled()
    moved = {name for name, a, b in zip(titles(board), before, board.images, strict=True) if a != b}
    assert moved >= {"attacked x_adv", "10 × change"} and not {"image x", "defense of x"} & moved


def test_their_network_goes_behind_the_labs_T_as_well(spec, tiny_lab, tiny_bench):
    bare = own.theirs(f"{spec}:network", None, tiny_lab.data, tiny_bench)
    explorer = dashboards.Explorer(tiny_lab, tiny_bench, theirs=bare)
    assert explorer.settled() and "λ" in words(explorer) and len(titles(explorer.board)) == 10
    assert explorer.desk.labs[explorer.data.value].classifier == bare.network


def test_the_arena_measures_what_an_evaluation_does(theirs, tiny_lab, tiny_bench, monkeypatch):
    few = [case for case in theirs.cases if case.attack.name in ("clean", "bim") and case.attack.size in (0, 0.03)]
    arena = dashboards.Arena(tiny_lab, tiny_bench, theirs=theirs._replace(cases=tuple(few)))
    assert arena.settled() and "classifier" not in words(arena)
    arena.load(compute=True)
    assert arena.settled(200) and len(arena.rows) == 4
    assert "mine.py:steps" in arena.table.value and "No Defense" in arena.table.value
    assert arena.board.images, arena.status.value


def test_only_the_servers_environment_names_what_is_run(spec, tiny_lab, tiny_bench, theirs, monkeypatch, tmp_path):
    """No control takes words, none can be given other values, and an upload is a picture or nothing."""
    ran = spec.with_suffix(".ran")
    before = ran.read_text()
    for dashboard in (dashboards.Explorer, dashboards.LiveAccuracy, dashboards.Arena):
        opened = dashboard(tiny_lab, tiny_bench, theirs=theirs)
        assert opened.settled()
        for control in opened.view.children[2].children[0].children:
            assert not isinstance(control, (w.Text, w.Textarea, w.Combobox, w.Password))
            if isinstance(control, (w.Dropdown, w.SelectionSlider)):
                with pytest.raises(traitlets.TraitError):
                    control.value = f"{spec}:network"
    explorer = dashboards.Explorer(tiny_lab, tiny_bench, theirs=theirs)
    explorer.take(str(spec), spec.read_bytes())
    assert explorer.settled() and "no readable image" in explorer.upload.said
    assert ran.read_text() == before

    monkeypatch.setattr(page.profiles, "profile", lambda *_, **__: tiny_lab)
    monkeypatch.setenv("QUERY_STRING", f"model={spec}:network&LABKIT_MODEL={spec}:network")  # what voila passes on
    dashboards.opened(dashboards.Arena, store=tmp_path)
    assert ran.read_text() == before
    told = server.environment(tiny_lab, model=f"{spec}:network", defense="jpeg")
    assert (told["LABKIT_MODEL"], told["LABKIT_DEFENSE"]) == (f"{spec}:network", "jpeg")
    monkeypatch.setenv("LABKIT_MODEL", told["LABKIT_MODEL"])
    dashboards.opened(dashboards.Arena, store=tmp_path)
    assert ran.read_text() == before + "ran "


def test_a_spec_that_does_not_work_is_said_on_the_page(spec, tiny_lab, monkeypatch, tmp_path):
    monkeypatch.setattr(page.profiles, "profile", lambda *_, **__: tiny_lab)
    monkeypatch.setenv("LABKIT_DEFENSE", f"{spec}:nothing")
    monkeypatch.setenv("LABKIT_MODEL", f"{spec}:network")
    view = dashboards.opened(dashboards.Arena, store=tmp_path)
    assert "has no function" in view.children[2].children[1].children[0].value


def test_preparing_tries_the_specs_and_trains_nothing(spec, tiny_lab, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(cost_estimate, "parts", lambda *_: pytest.fail("what is not needed was made"))
    server.prepare(tiny_lab, str(tmp_path), f"{spec}:network", "bits")
    assert "Pages 1, 2 and 4 are of mine.py:network behind Bit depth" in capsys.readouterr().out

import base64
import io
import json
import re
import threading
from dataclasses import replace

import ipywidgets as w
import numpy as np
import plotly.graph_objects as go
import pytest
import torch
from PIL import Image

from labkit import dashboards
from labkit.core import metrics, profiles, recipes
from labkit.core.errors import InputError
from labkit.dashboards import arena, page, parts, work
from labkit.evaluation import measurement
from labkit.evaluation.workbench import Workbench
from labkit.experiments import ablations


@pytest.fixture(scope="module")
def lab():
    small = recipes.rebase(profiles.SMOKE, recipes.DataRecipe("fashion", train=200, test=12))
    trade = replace(small.tradeoff, n=12, lam=(0.1, 0.2, 0.4), K=(6, 12), S=(4, 8), M=(1, 2))
    return replace(small, classifier=replace(small.classifier, epochs=1), tradeoff=trade)


@pytest.fixture(scope="module")
def bench(tmp_path_factory, lab):
    made = Workbench(tmp_path_factory.mktemp("store"), progress=False)
    made.classifier(lab.classifier)
    for T in lab.defenses:
        made.transform(T)
    return made


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


@pytest.fixture
def held():
    """A worker in the middle of request 1, what lets it go on, and what it has done so far."""
    done, release, begun = [], threading.Event(), threading.Event()

    def asked(check, n):
        begun.set()
        release.wait(10)
        check()
        done.append(n)

    latest = work.Latest(asked, print)
    latest(1)
    assert begun.wait(10)
    return latest, release, done


def test_the_newest_request_wins_and_stops_the_older_one(held):
    latest, release, done = held
    for n in (2, 3, 4):
        latest(n)
    release.set()
    assert latest.settled(10) and done == [4]


def test_a_cancelled_request_ends_at_its_next_check_and_another_one_works(held):
    latest, release, done = held
    latest.cancel()
    release.set()
    assert latest.settled(10) and done == []
    latest(2)
    assert latest.settled(10) and done == [2]


def test_what_is_cancelled_before_it_is_begun_is_not_waited_for():
    done = []
    latest = work.Latest(lambda check, n: done.append(n), print, wait=0.2)
    latest(1)
    latest.cancel()
    assert latest.settled(10) and done == []


def test_a_request_that_waits_is_forgotten_for_a_newer_one():
    done = []
    latest = work.Latest(lambda check, n: done.append(n), print, wait=0.1)
    for n in range(20):
        latest(n)
    assert latest.settled(10) and done == [19]


def test_a_failure_is_a_sentence_and_the_next_request_works(capfd):
    said, done = [], []

    def asked(check, n):
        if n < 2:
            raise InputError("choose another λ") if n else ZeroDivisionError
        done.append(n)

    latest = work.Latest(asked, said.append)
    for n in range(3):
        latest(n)
        assert latest.settled(10)
    assert said[1] == "choose another λ" and "Something went wrong" in said[0] and done == [2]


def test_a_bar_that_goes_by_the_clock_moves_and_stops_short_of_its_end():
    bar = w.IntProgress(0, 0, 100)
    with work.clock(bar, 0.01):
        threading.Event().wait(2.5 * work._TICK)
    assert bar.value == 97
    before = bar.value
    threading.Event().wait(1.5 * work._TICK)
    assert bar.value == before


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


def test_moving_lambda_changes_what_is_shown(lab, bench):
    explorer = dashboards.Explorer(lab, bench, ())
    assert explorer.settled()
    before = list(explorer.board.images)
    explorer.lam.value = 1.0
    assert explorer.settled()
    after, board = explorer.board.images, explorer.board
    same = [titles(board)[i] for i in range(10) if before[i] == after[i]]
    assert same == ["image x", "low-pass part", "the rest", "attacked x_adv", "10 × change"]
    assert "λ = 1.000" in explorer.status.value
    x = bench.images(lab.data, "test").x[:1]
    T = bench.transform(lab.transform)
    T.lam = 1.0
    assert board.pictures[at(board, "T(x)")]["note"] == f"{float(metrics.psnr(T(x), x)):.1f} dB to x"


def test_the_explorer_shows_what_the_attack_did(lab, bench):
    explorer = dashboards.Explorer(lab, bench, ())
    explorer.attack.value, explorer.knowledge.value = "BIM, 10 steps", "exact"
    assert explorer.settled()
    pictures = explorer.board.pictures
    assert pictures[at(explorer.board, "10 × change")]["note"].startswith("x_adv − x, size 0.0")
    first = explorer.board.images[at(explorer.board, "attacked x_adv")]
    explorer.lam.value = 0.4  # who differentiates T attacks another T
    assert explorer.settled()
    assert explorer.board.images[at(explorer.board, "attacked x_adv")] != first
    explorer.attack.value = "none"
    assert explorer.settled()
    images = explorer.board.images
    assert images[0] == images[at(explorer.board, "attacked x_adv")]


def test_a_stratified_look_says_which_cluster_was_voted_for(lab, bench):
    explorer = dashboards.Explorer(lab, bench, ())
    explorer.stratified.value = True
    assert explorer.settled()
    home = int(bench.transform(lab.stratified).strata.vote(bench.images(lab.data, "test").x[:1])) + 1
    assert re.search(rf"voted to cluster {home}\b", explorer.status.value)


def test_a_picture_of_ones_own_is_shown_and_a_broken_one_is_refused_in_a_sentence(lab, bench):
    explorer = dashboards.Explorer(lab, bench, ())
    explorer.take("me.png", png((90, 60)))
    assert explorer.settled()
    assert "your picture me.png" in explorer.status.value and explorer.upload.said == ""
    shown = np.asarray(Image.open(io.BytesIO(explorer.board.images[0])))
    assert shown.shape == (32, 32) and (shown == shown[0, 0]).all()
    explorer.take("/home/me/broken.png", png((90, 60))[:60])
    assert explorer.settled()
    assert "broken.png is no readable image" in explorer.upload.said and "/home" not in explorer.upload.said
    assert "test image" in explorer.status.value
    explorer.index.value = 3
    assert explorer.settled() and explorer.upload.said == ""
    assert "test image 3" in explorer.status.value


def test_what_is_missing_is_offered_and_made(lab, bench):
    explorer = dashboards.Explorer(lab, bench, ())
    explorer.K.value = 6
    assert explorer.settled()
    assert "Not there yet: dictionary" in explorer.status.value
    assert explorer.button.layout.display == "" and explorer.button.description.startswith("Make dictionary")
    explorer.button.click()
    assert explorer.settled()
    assert "K = 6" in explorer.status.value and explorer.button.layout.display == "none"


def test_without_a_classifier_pictures_are_shown_and_noise_replaces_the_attack(lab, tmp_path, bench):
    other = replace(lab, classifier=replace(lab.classifier, seed=5))
    explorer = dashboards.Explorer(other, bench, ())
    assert explorer.settled()
    assert "No classifier is trained" in explorer.status.value and not explorer.board.pictures[0]["bars"]
    assert "classifier" in explorer.button.description
    assert explorer.board.images[0] != explorer.board.images[5]


def test_live_accuracy_agrees_with_the_experiments(lab, bench):
    live = dashboards.LiveAccuracy(lab, bench, ())
    assert live.settled()
    rows = measurement.run(
        [
            measurement.Case(lab.classifier, T, attack)
            for T in (None, lab.transform)
            for attack in (lab.attack("Clean"), lab.attack("FGSM-0.08"))
        ],
        bench,
    )
    assert [found.value for found in live.found.values()] == rows.accuracy.tolist()
    assert all(found.n == 12 for found in live.found.values())
    assert "12 of 12 test images" in live.status.value
    assert f"{rows.accuracy[3]:.3f}" in live.bars.value


def test_the_browser_shows_kept_points_and_computes_missing_ones(lab, bench):
    browser = dashboards.TradeoffBrowser(lab, bench)
    assert browser.settled()
    assert "None of these is measured yet" in browser.status.value and not browser.output.outputs
    browser.request(compute=True)
    assert browser.settled()
    assert [name for name, _ in browser.values.options] == ["0.1 ✓", "0.2 ✓", "0.4 ✓"]
    rows = ablations.sweep(lab, bench, "lam", lab.tradeoff.lam)
    assert drawn(browser.output.outputs[0], "y") == rows[rows.asked == "clean"].accuracy.tolist()
    assert "PSNR of T(x)" in browser.words.value
    browser.values.value = (0.1,)
    assert browser.settled()
    assert drawn(browser.output.outputs[0], "x") == [0.1]


def test_the_arena_shows_the_kept_rows_and_outlines_the_worst(lab, bench):
    plain = [measurement.Case(lab.classifier, None, attack) for attack in lab.attacks]
    rows = measurement.run(plain, bench)
    shown = dashboards.Arena(lab, bench)
    assert shown.settled()
    assert shown.defense.options[0] == "No Defense"
    assert shown.table.value.count("class='worst'") >= 1 and f"{rows.accuracy.min():.3f}" in shown.table.value
    shown.attack.value = ("FGSM-0.08", "classifier")
    shown.index.value = 1
    assert shown.settled()
    face = arena.face(measurement.Case(lab.classifier, None, lab.attack("FGSM-0.08")), 1, bench)
    assert shown.board.images[1] == parts.encoded(face["x_adv"]) and titles(shown.board)[1] == "FGSM-0.08"


def test_the_arena_offers_a_retrained_network_only_what_it_was_asked(lab, bench):
    T, clean, fgsm = lab.transform, lab.attack("Clean"), lab.attack("FGSM-0.08")
    vanilla = [measurement.Case(lab.classifier, T, attack) for attack in (clean, fgsm)]
    measurement.run([*vanilla, measurement.Case(lab.retrained(T), T, clean)], bench)
    shown = dashboards.Arena(lab, bench)
    assert shown.settled()
    shown.network.value, shown.defense.value = True, "STL"
    assert shown.settled()
    assert [key for _, key in shown.attack.options] == [("Clean", "–")]


def test_the_atlas_shows_where_a_filter_is_active(lab, bench):
    atlas = dashboards.FilterAtlas(lab, bench, ())
    assert atlas.settled()
    assert atlas.mosaic.count == 12 and len(atlas.most.pictures) == 6
    atlas.mosaic.chosen = 7
    assert atlas.settled()
    assert titles(atlas.board)[0] == "filter 8"
    sums = [float(re.search(r"[\d.]+$", picture["note"]).group()) for picture in atlas.most.pictures]
    assert sums == sorted(sums, reverse=True)
    atlas.cluster.value = 2
    assert atlas.settled() and "cluster 2" in atlas.status.value


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

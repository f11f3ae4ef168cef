"""The dashboards in a real browser: what a person does with them, and what must not happen to them."""

import base64
import io
import os
import shutil
import signal
import statistics
import time
from dataclasses import replace
from pathlib import Path

from labkit.core import profiles, recipes
from labkit.dashboards import server
from labkit.evaluation import measurement
from labkit.evaluation.threat_models import ThreatModel
from labkit.evaluation.workbench import Workbench
from labkit.experiments import ablations

import nbformat
import pytest
from browser_drive import CHROMIUM, PAGES, Tab, chromium, crowd, faults, kernels, memory, served
from PIL import Image

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here; on Debian, apt-get install chromium"),
]
_PYTHON = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
EXPLORER, ACCURACY, BROWSER, ARENA, ATLAS = PAGES
HEART = Path(server.__file__).parent / "static" / "heart.js"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A small lab with what every page begins with, as `labkit dashboards` would have prepared it."""
    lab = profiles.profile("smoke")
    bench = Workbench(tmp_path_factory.mktemp("store"), progress=False)
    for T in lab.defenses:
        bench.transform(T)
    measurement.run([measurement.Case(lab.classifier, None, attack) for attack in lab.attacks], bench)
    ablations.sweep(lab, bench, "lam", lab.tradeoff.lam)
    return bench.store.root


@pytest.fixture(scope="module")
def where(store, tmp_path_factory):
    with served(profiles.profile("smoke"), store) as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.fixture
def tab(browser, where, request):
    """A tab with the page that the test names; it must not complain, nor ask anybody else for anything."""
    opened = Tab(browser, where, request.param)
    yield opened
    assert opened.errors == [] and opened.outside == []
    opened.context.close()


def picture(size, colour=(200, 30, 30)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "JPEG")
    return stream.getvalue()


def test_the_landing_page_leads_to_every_dashboard(browser, where):
    opened = Tab(browser, where)
    links = opened.page.locator("li a")
    assert [link.get_attribute("href").rpartition("/")[2] for link in links.all()] == PAGES
    assert opened.errors == [] and opened.outside == []
    opened.context.close()


@pytest.mark.parametrize("tab", [EXPLORER], indirect=True)
def test_dragging_lambda_changes_pixels_and_number(tab):
    tab.says("true class")
    tab.drawn(0)
    before, untouched = tab.picture(4), tab.picture(0)
    box = tab.slider("λ").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tab.page.mouse.move(x, y)
    tab.page.mouse.down()
    for step in range(1, 11):
        tab.page.mouse.move(x + 5 * step, y)
    tab.page.mouse.up()
    tab.page.wait_for_function("!document.querySelector('.lk-status').innerText.includes('λ = 0.200')")
    tab.page.wait_for_timeout(500)
    assert tab.picture(4) != before and tab.picture(0) == untouched


@pytest.mark.parametrize("tab", [EXPLORER], indirect=True)
def test_from_a_key_to_pixels_takes_a_moment(tab):
    """Four times what is asked of an idle machine; `measure_pages.py` measures it."""
    tab.says("true class")
    assert statistics.median(tab.key_to_pixels("λ", 20)) < 1.2


@pytest.mark.parametrize("tab", [EXPLORER], indirect=True)
def test_another_K_is_offered_made_and_shown(tab):
    tab.says("true class")
    tab.slider("K, filters").focus()
    tab.page.keyboard.press("ArrowLeft")
    tab.says("Not there yet: dictionary")
    tab.page.locator("button:has-text('Make dictionary')").click()
    tab.says("K = 6")


@pytest.mark.parametrize("tab", [EXPLORER], indirect=True)
def test_a_picture_of_ones_own(tab, tmp_path):
    tab.says("true class")
    before, since = tab.picture(0), tab.shown()
    field = tab.page.locator("input[type=file]")
    field.set_input_files({"name": "me.jpg", "mimeType": "image/jpeg", "buffer": picture((300, 200))})
    tab.drawn(since)
    tab.says("your picture me.jpg")
    assert tab.picture(0) != before

    field.set_input_files({"name": "broken.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\n" + bytes(50)})
    said = tab.page.locator(".lk-upload output")
    tab.page.wait_for_function("document.querySelector('.lk-upload output').innerText.includes('no readable image')")
    tab.says("test image")
    large = {"name": "large.png", "mimeType": "image/png", "buffer": bytes(9_000_000)}
    field.set_input_files(large)
    tab.page.wait_for_function("document.querySelector('.lk-upload output').innerText.includes('at most 8 MB')")
    assert "Traceback" not in tab.page.content() and said.count() == 1


@pytest.mark.parametrize("tab", [ACCURACY], indirect=True)
def test_a_run_grows_and_is_cancelled(tab):
    tab.says("60 of 60 test images")
    assert tab.page.locator(".lk-bar").count() == 4
    tab.choose("threat model", ThreatModel.EXACT.label)
    tab.choose("attack", "PGD, 10 steps")
    cancel = tab.page.locator("button:has-text('Cancel')")
    cancel.wait_for(state="visible")
    cancel.click()
    tab.says("Stopped after")
    tab.choose("attack", "none")
    tab.says("60 of 60 test images")


@pytest.mark.parametrize("tab", [BROWSER], indirect=True)
def test_the_trade_off_is_drawn_from_kept_points(tab):
    tab.says("All chosen values are measured")
    tab.page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for()
    assert tab.page.locator(".js-plotly-plot .scatterlayer .trace").count() == 5
    tab.choose("what", "K, filters")
    tab.says("None of these is measured yet")


@pytest.mark.parametrize("tab", [ARENA], indirect=True)
def test_the_arena_shows_its_table_and_a_picture(tab):
    tab.says("cases are measured")
    tab.drawn(0)
    assert tab.page.locator(".lk-table tbody tr").count() >= 1 and tab.page.locator("td.worst").count() >= 1
    assert tab.page.locator(".lk-board img").first.get_attribute("alt").startswith("image x")


@pytest.mark.parametrize("tab", [ATLAS], indirect=True)
def test_a_filter_is_chosen_by_pointer_and_by_key(tab):
    tab.says("filters of 8×8 pixels")
    tab.drawn(0)
    mosaic = tab.page.locator(".lk-mosaic")
    box = mosaic.bounding_box()
    since = tab.shown()
    tab.page.mouse.click(box["x"] + 0.9 * box["width"], box["y"] + 0.1 * box["height"])
    tab.drawn(since)
    first = tab.page.locator(".lk-mark").get_attribute("aria-label")
    since = tab.shown()
    tab.page.keyboard.press("ArrowDown")
    tab.drawn(since)
    assert tab.page.locator(".lk-mark").get_attribute("aria-label") != first


def test_a_dead_kernel_is_said_on_the_page(browser, store, tmp_path):
    with served(profiles.profile("smoke"), store, log=tmp_path / "log") as address:
        opened = Tab(browser, address, ATLAS)
        opened.says("filters of 8×8 pixels")
        running = kernels(address)
        assert running
        for process in running:
            os.kill(process, signal.SIGKILL)
        opened.page.mouse.move(100, 100)
        opened.page.wait_for_selector(".lk-heart.lk-on")
        assert "stopped answering" in opened.page.inner_text(".lk-heart")
        opened.page.locator(".lk-heart button").click()
        opened.says("filters of 8×8 pixels")
        opened.context.close()


def test_a_page_that_lost_a_part_of_itself_comes_up_all_the_same(browser, where):
    """Its first request for its kernel fails: it loads itself again, once; where that fails too, it says so."""
    opened = Tab(browser, patience=2)
    opened.page.route("**/api/kernels/*", lambda route: route.abort(), times=1)
    opened.open(where, ATLAS)
    opened.says("filters of 8×8 pixels")
    assert opened.loads == 2
    opened.context.close()

    lost = Tab(browser, patience=2)
    lost.page.route("**/api/kernels/*", lambda route: route.abort())
    lost.open(where, ATLAS)
    lost.page.wait_for_selector("#lk-late:visible")
    lost.page.unroute_all()
    lost.page.get_by_role("button", name="Reload the page").click()
    lost.says("filters of 8×8 pixels")
    assert not lost.page.is_visible("#lk-late")
    lost.context.close()


_CHANGING = """
import threading, time
import ipywidgets as w, torch
from labkit.dashboards.page import Page
from labkit.dashboards.parts import Board

words, board = [w.HTML() for _ in range(200)], Board()
page = Page("changes", "", words, [board])

def change():
    since = 0
    for word in words:
        if since < 20:
            time.sleep(0.05)
        since += page.view.children[0]._asked.is_set()
        word.value = "<b class='said'>told</b>"
    other = Board()
    other.show([{"title": "late", "x": torch.rand(3, 8, 8)}])
    board.shown = 1
    time.sleep(0.2)
    board.pictures, board.images = other.pictures, other.images
    page.say("all told")

threading.Thread(target=change, daemon=True).start()
page.view
"""


def test_nothing_that_changes_while_a_page_loads_is_lost(browser, store, tmp_path):
    """A slow browser asks for the state of all widgets, and only later listens to what changes: 12 of 300 were lost."""
    cells = [nbformat.v4.new_code_cell(_CHANGING)]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=_PYTHON), tmp_path / ATLAS)  # not kept ready
    shutil.copy(server.FOLDER / "voila.json", tmp_path)
    with served(profiles.profile("smoke"), store, folder=tmp_path) as address:
        opened = Tab(browser)
        opened.context.new_cdp_session(opened.page).send("Emulation.setCPUThrottlingRate", {"rate": 10})
        opened.open(address, ATLAS)
        opened.says("all told")
        opened.page.wait_for_function("document.querySelectorAll('.said').length == 200")
        assert opened.page.locator(".lk-board img").count() == 1
        opened.context.close()


def test_leaving_a_page_ends_its_kernel(browser, where):
    """Also for somebody who has come by a link to that page, and never saw the landing page."""
    others = set(kernels(where))
    opened = Tab(browser, where, ATLAS)
    opened.says("filters of 8×8 pixels")
    mine = set(kernels(where)) - others
    assert mine
    opened.page.close(run_before_unload=True)
    for _ in range(100):
        if mine - set(kernels(where)):
            break
        time.sleep(0.1)
    assert mine - set(kernels(where))
    opened.context.close()


def test_a_stranger_needs_the_token(browser, store):
    with served(profiles.profile("smoke"), store, token="a-long-secret") as address:
        root = address.partition("?")[0]
        assert browser.new_page().goto(f"{root}voila/render/{ATLAS}").url.startswith(f"{root}login")
        opened = Tab(browser, address)
        assert opened.page.locator("li a").count() == len(PAGES)
        opened.context.close()


def test_a_missing_data_set_is_a_sentence_without_the_servers_paths(browser, store, tmp_path):
    lost = tmp_path / "secret" / "images"
    lab = recipes.rebase(profiles.SMOKE, replace(profiles.SMOKE.data, name=f"folder:{lost}"))
    with served(lab, store) as address:
        opened = Tab(browser, address, ATLAS)
        opened.says("does not exist")
        assert "secret" not in opened.page.inner_text("body") and "Traceback" not in opened.page.content()
        opened.context.close()


def test_nobody_sees_anothers_picture(browser, where):
    mine, yours = Tab(browser, where, EXPLORER), Tab(browser, where, EXPLORER)
    for tab in (mine, yours):
        tab.says("true class")
    mine.page.locator("input[type=file]").set_input_files(
        {"name": "private.jpg", "mimeType": "image/jpeg", "buffer": picture((64, 64))}
    )
    mine.says("private.jpg")
    yours.slider("λ").focus()
    since = yours.shown()
    yours.page.keyboard.press("ArrowRight")
    yours.drawn(since)
    assert "private.jpg" not in yours.page.content() and "true class" in yours.status()
    for tab in (mine, yours):
        tab.context.close()


@pytest.mark.slow
def test_ten_people_at_once(browser, store, tmp_path):
    log = tmp_path / "voila.log"
    with served(profiles.profile("smoke"), store, log=log) as address:
        try:
            tabs, _ = crowd(browser, address)
        except AssertionError:
            print(log.read_text()[-5000:])  # what the server has to say of it
            raise
        for tab in tabs:
            assert tab.errors == [] or tab.loads > 1, tab.errors
            assert "Something went wrong" not in tab.status()
        explorers = [tab for tab in tabs if "/1_" in tab.page.url]
        for tab in explorers:
            assert statistics.median(tab.key_to_pixels("λ", 5)) < 2
        assert memory(kernels(address)) < 8 * 2**30
        for tab in tabs:
            tab.context.close()


def test_kernels_that_nobody_uses_are_ended(browser, store):
    """The server's own settings, with seconds for minutes; a page that comes back says what has happened."""
    patience = ("--MappingKernelManager.cull_idle_timeout=20", "--MappingKernelManager.cull_interval=1")
    with served(profiles.profile("smoke"), store, config=patience) as address:
        opened = Tab(browser, address, ATLAS)
        opened.says("filters of 8×8 pixels")
        opened.page.evaluate(
            "Object.defineProperty(document, 'visibilityState', {value: 'hidden', configurable: true})"
        )
        for _ in range(90):
            if len(kernels(address)) == 1:  # the one that is kept ready
                break
            opened.page.wait_for_timeout(1000)
        assert len(kernels(address)) == 1
        opened.page.evaluate("Object.defineProperty(document, 'visibilityState', {value: 'visible'})")
        opened.page.mouse.move(50, 50)
        opened.page.wait_for_selector(".lk-heart.lk-on")
        opened.context.close()
        fresh = Tab(browser, address, EXPLORER)
        fresh.says("true class")
        fresh.context.close()


def test_behind_a_proxy_the_pages_lie_where_they_are_said_to(browser, store):
    with served(profiles.profile("smoke"), store, base_url="/lab/") as address:
        assert address.endswith("/lab/")
        opened = Tab(browser, address)
        assert opened.page.locator("li a").first.get_attribute("href").startswith("/lab/voila/render/")
        opened.context.close()
        opened = Tab(browser, address, ATLAS)
        opened.says("filters of 8×8 pixels")
        assert opened.page.locator(".lk-back").get_attribute("href") == "/lab/"
        opened.context.close()


def test_sliders_are_named_whether_they_come_before_the_heart_or_after_it(browser):
    slider = '<div class="widget-slider"><div class="widget-label">{}</div><div class="noUi-handle"></div></div>'
    page = browser.new_page()
    page.set_content(slider.format("λ") + '<div id="heart"></div>')
    address = "data:text/javascript;base64," + base64.b64encode(HEART.read_bytes()).decode()
    page.evaluate(
        """async (address) => (await import(address)).default.render(
          { model: { send() {}, on() {} }, el: document.getElementById("heart") })""",
        address,
    )
    named = "[...document.querySelectorAll('.noUi-handle')].map(handle => handle.getAttribute('aria-label'))"
    assert page.evaluate(named) == ["λ"]
    page.evaluate("later => document.body.insertAdjacentHTML('beforeend', later)", slider.format("K"))
    assert page.evaluate(named) == ["λ", "K"]
    page.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_axe_finds_no_fault_of_ours(browser, where, name, scheme):
    """WCAG A and AA, of all but the inside of plotly's charts; what is about to be replaced has faded, and may."""
    opened = Tab(browser, where, name, color_scheme=scheme).ready()
    opened.page.wait_for_function("!document.querySelector('.lk-pending, .lk-dim')")
    opened.page.wait_for_selector(".lk-heart", state="attached")  # names the sliders, and comes when it likes
    assert faults(opened.page, ".js-plotly-plot") == []
    opened.context.close()

"""Report pages for everybody: what axe-core asks, sliders by keys, and the same where scripts are off or in print."""

import json
import shutil
from pathlib import Path

from labkit import dashboards
from labkit.reporting import html

import plotly
import pytest
import torch
from browser_drive import CHROMIUM, chromium, faults
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")]
ENTRY = {"name": "03_a", "page": "03_a.html", "title": "Projection", "status": "finished", "executed": "a.ipynb"}
LAMS = ("0.1", "0.2", "0.4")


def moving() -> str:
    x = torch.rand(2, 3, 8, 8)
    columns = {"image": x} | {f"λ = {value}": x for value in LAMS}
    numbers = {f"λ = {value}": f"accuracy at {value}" for value in LAMS}
    return dashboards.moving(columns, {}, dict.fromkeys(numbers, x[:, 0]), ["clean", "attacked"], numbers).data


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A page and an overview with all that there is: moving pictures, a chart, a table, code, an error."""
    out = tmp_path_factory.mktemp("report")
    chart = {"data": [{"y": [1, 3, 2]}], "layout": {"title": {"text": "gap"}}}
    wide = ["| STL " + "| 0.48 [0.36, 0.61] " * 12 + "|", "|---" * 13 + "|"]
    table = "\n".join([wide[0], wide[1], wide[0]])
    outputs = [
        new_output("display_data", data={"text/html": moving()}),
        new_output("display_data", data={html.PLOTLY: chart, "image/png": "iVBORw0KGgo="}),
        new_output(
            "display_data", data={"text/markdown": f"Said.\n\n{table}\n\n<details><summary>More</summary>x</details>"}
        ),
        new_output("stream", name="stderr", text="careful"),
        new_output("error", ename="ValueError", evalue="no", traceback=["ValueError: no"]),
    ]
    cells = [
        new_markdown_cell("# Projection\n\nWhat $x^2$ is."),
        new_markdown_cell("## One\n\ntwo\n\n## Two\n\n## Three"),
    ]
    cells.append(new_code_cell("def f(x):\n    return 'a', 1, None  # why", outputs=outputs))
    entries = [{**ENTRY, "facts": ["3 s"], "lead": "What it is.", "own": ["03_a/rows.csv"]},
               {**ENTRY, "name": "04_b", "status": "failed", "error": {"sentence": "cell 1"}, "own": []}]  # fmt: skip
    how = {
        "folder": out,
        "title": "t",
        "here": "03_a",
        "entry": entries[0],
        "entries": entries,
        "facts": ["profile smoke"],
    }
    (out / "03_a.html").write_text(html.page(new_notebook(cells=cells), **how), encoding="utf-8")
    opening = [
        ("text/markdown", html.markdown("1. Three sentences."), entries[0]),
        ("text/html", html.Markup(moving()), entries[0]),
    ]
    told = {
        "manifest": {"versions": {"python": "3"}, "commit": ""},
        "facts": ["profile smoke"],
        "title": "labkit report",
    }
    (out / "index.html").write_text(html.fill("index.html", entries=entries, opening=opening, **told), encoding="utf-8")
    (out / "assets").mkdir()
    shutil.copy(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", out / "assets")
    return out


@pytest.fixture(scope="module")
def browser():
    with chromium() as found:
        yield found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", ["03_a", "index"])
def test_axe_finds_no_fault(browser, folder, name, scheme):
    page = browser.new_context(color_scheme=scheme).new_page()
    page.goto((folder / f"{name}.html").as_uri(), timeout=120_000)
    if name == "03_a":
        page.wait_for_selector("figure.chart .main-svg")
        page.click("#toggle")  # code is to be read, too
    assert faults(page, ".js-plotly-plot") == []
    page.context.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_is_wider_than_the_page(browser, folder, width):
    page = browser.new_context(viewport={"width": width, "height": 800}).new_page()
    for name in ("03_a", "index"):
        page.goto((folder / f"{name}.html").as_uri(), timeout=120_000)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.context.close()


def test_a_key_moves_the_pictures_and_print_shows_them_all(browser, folder):
    page = browser.new_context().new_page()
    page.goto((folder / "03_a.html").as_uri(), timeout=120_000)
    slider = page.get_by_label("λ")
    assert slider.get_attribute("aria-valuetext") == "λ = 0.2" and page.is_visible("text=accuracy at 0.2")
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "λ = 0.4"
    assert page.is_visible("text=accuracy at 0.4") and not page.is_visible("text=accuracy at 0.2")
    page.emulate_media(media="print")
    assert all(page.is_visible(f"text=accuracy at {value}") for value in LAMS)
    assert page.is_visible("figure.chart img.instead") and not page.is_visible("figure.chart .main-svg >> nth=0")
    page.context.close()


def test_without_scripts_the_pictures_stand_side_by_side(browser, folder):
    page = browser.new_context(java_script_enabled=False).new_page()
    page.goto((folder / "index.html").as_uri(), timeout=120_000)
    assert all(page.locator(f"text=accuracy at {value}").is_visible() for value in LAMS)
    assert json.dumps(page.locator("figure.moving img").count()) == "14"
    page.context.close()

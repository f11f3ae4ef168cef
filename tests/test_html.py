"""One notebook as one page: formulas, charts, tables and widgets of which we know how they must look."""

import shutil
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

from labkit import html


def page_of(*cells) -> html.Page:
    return html.page(nbformat.v4.new_notebook(cells=list(cells)), folder=Path(), title="untitled")


def shown(output) -> str:
    """The HTML of one output."""
    return "".join(page_of(new_code_cell("1", outputs=[output])).cells[0]["outputs"])


def displayed(**data) -> str:
    return shown(new_output("display_data", data={key.replace("__", "/"): value for key, value in data.items()}))


def text(fragment: str) -> str:
    return BeautifulSoup(fragment, "html.parser").get_text()


@pytest.mark.parametrize("latex", ["$x^2$", "$$x^2$$", r"\begin{equation}x^2\end{equation}"])
def test_a_square_is_a_superscript(latex):
    made = BeautifulSoup(html.markdown(f"so {latex} is"), "html.parser")
    base, exponent = made.find("msup").find_all(recursive=False)
    assert (base.name, base.text, exponent.name, exponent.text) == ("mi", "x", "mn", "2")
    assert "$" not in made.text


def test_dollars_in_code_and_escaped_dollars_are_no_formula():
    made = html.markdown("`$x$` costs \\$5\n\n```\n$$y$$\n```")
    assert "<math" not in made
    assert "<code>$x$</code>" in made and "$5" in made and "$$y$$" in made


@pytest.mark.parametrize("latex", [r"\frac{", r"\nosuchcommand{x}", "a & b"])
def test_a_formula_that_cannot_be_converted_stays_readable(latex):
    made = BeautifulSoup(html.mathml(latex, block=False), "html.parser")
    assert made.find("math") is None and made.find("code").text == latex


def test_aligned_rows_are_a_table_and_limits_stand_below():
    aligned = BeautifulSoup(html.mathml(r"\begin{align}a&=b\\c&=d\end{align}", block=True), "html.parser")
    assert [[cell.text for cell in row.find_all("mtd")] for row in aligned.find_all("mtr")] == [
        ["a", "=b"],
        ["c", "=d"],
    ]
    below = BeautifulSoup(html.mathml(r"\arg\min_z f(z)", block=True), "html.parser").find("munder")
    assert [part.text for part in below.find_all(recursive=False)] == ["argmin", "z"]


@pytest.mark.parametrize(
    "fragment",
    [
        '<script src="https://cdn.example.com/a.js"></script>',
        '<script src="//cdn.example.com/a.js"></script>',
        '<link rel="stylesheet" href="HTTPS://cdn.example.com/a.css">',
        '<img src="http://example.com/a.png">',
        '<img srcset="a.png 1x, https://example.com/b.png 2x">',
        '<iframe src="https://example.com"></iframe>',
        '<svg><image href="https://example.com/a.png"/></svg>',
        "<style>@import 'https://example.com/a.css'; b {color: red}</style>",
        '<p style="background: url(https://example.com/a.png)">x</p>',
    ],
)
def test_offline_drops_whatever_would_be_fetched(fragment):
    soup = BeautifulSoup(html.offline(f"<b>before</b>{fragment}<i>after</i>"), "html.parser")
    for link in soup.find_all("a"):
        link.decompose()  # a link to click loads nothing
    assert "example.com" not in str(soup)
    assert soup.find("b").text == "before" and soup.find("i").text == "after"


def test_offline_keeps_links_and_local_pictures():
    kept = '<a href="https://example.com">paper</a><img src="data:image/png;base64,//8="><img src="a.png"/>'
    soup = BeautifulSoup(html.offline(kept), "html.parser")
    assert soup.a["href"] == "https://example.com"
    assert [image["src"] for image in soup.find_all("img")] == ["data:image/png;base64,//8=", "a.png"]


def test_a_chart_survives_its_own_labels():
    figure = {"data": [{"x": [1, 2], "name": "</script><!--"}], "layout": {"height": 300}}
    output = new_output("display_data", data={html.PLOTLY: figure, "text/html": "<p>fallback</p>"})
    result = page_of(new_code_cell("1", outputs=[output]))
    soup = BeautifulSoup(result.cells[0]["outputs"][0], "html.parser")
    import json

    assert json.loads(soup.find("script").string) == figure
    assert result.charts == 1 and "fallback" not in soup.text


def test_a_widget_shows_its_picture_else_its_words_and_a_progress_bar_nothing():
    view = {html.WIDGET: {"model_id": "a"}}
    both = shown(new_output("display_data", data={**view, "text/plain": "Image(value=…)", "image/png": "iVBORw0KGgo="}))
    assert BeautifulSoup(both, "html.parser").img["src"] == "data:image/png;base64,iVBORw0KGgo="
    words = shown(new_output("display_data", data={**view, "text/plain": "IntSlider(value=3, description='<k>')"}))
    assert text(words) == "IntSlider(value=3, description='<k>')"
    assert shown(new_output("display_data", data={**view, "text/plain": "  0%|          | 0/3 [00:00<?, ?it/s]"})) == ""
    assert (
        shown(new_output("display_data", data={**view, "text/plain": "codes:   0%|     | 0/3 [00:00<?, ?it/s]"})) == ""
    )


def test_a_stream_reads_as_in_a_terminal():
    pieces = [new_output("stream", name="stderr", text=t) for t in ("\r 0 of 2", "\r 1 of 2", "\r 2 of 2\n<done>")]
    made = page_of(new_code_cell("1", outputs=pieces)).cells[0]["outputs"]
    assert [text(piece) for piece in made] == [" 2 of 2\n<done>"]
    assert 'class="stream stderr"' in made[0]
    warned = shown(new_output("stream", name="stderr", text="/tmp/ipykernel_123/456.py:7: UserWarning: gap"))
    assert text(warned) == "line 7: UserWarning: gap"


def test_latex_and_markdown_outputs_become_formulas():
    assert "<msub>" in displayed(text__latex=r"$\displaystyle z_k$")
    assert "<msub>" in displayed(text__markdown="**so** $z_k$")


def test_data_frames_put_words_left_and_numbers_right():
    import pandas as pd

    frame = pd.DataFrame({"defense": ["none", "STL"], "clean": [0.9, 0.8], "paper": ["0.92", "not reported"]})
    soup = BeautifulSoup(displayed(text__html=frame.to_html()), "html.parser")
    assert [cell["class"] for cell in soup.select("tbody tr")[1].find_all("td")] == [["word"], ["num"], ["num"]]
    assert [cell.get("class") for cell in soup.select("thead th")] == [None, ["word"], ["num"], ["num"]]


def test_a_csv_table_is_escaped_and_rounded():
    soup = BeautifulSoup(html.table([["name", "value"], ["<b>", "0.123456789"], ["b", "7"]]), "html.parser")
    assert [[cell.text for cell in row.find_all("td")] for row in soup.select("tbody tr")] == [
        ["<b>", "0.1235"],
        ["b", "7"],
    ]
    assert [cell.get("class") for cell in soup.find_all("th")] == [None, ["num"]]


def test_the_title_leads_and_sections_have_anchors_of_their_own():
    made = page_of(
        new_markdown_cell("# On $x$ & *y*\n\nWhat it is.\nIn one paragraph.\n\nAnd more."),
        new_markdown_cell("## Result\n\none\n\n## Result\n\ntwo"),
        new_code_cell("x = 1"),
        new_code_cell("  "),
    )
    assert made.title == "On x & y"
    assert "<math" in made.heading and "<em>y</em>" in made.heading
    assert text(made.lead).split() == "What it is. In one paragraph.".split()
    assert [anchor for anchor, _ in made.sections] == ["result", "result-2"]
    assert all(f'id="{anchor}"' in made.cells[1]["html"] for anchor, _ in made.sections)
    assert "<h1" not in made.cells[0]["html"] and "And more." in made.cells[0]["html"]
    assert [cell["kind"] for cell in made.cells] == ["text", "text", "code"]
    assert page_of(new_code_cell("1")).title == "untitled"


def test_pictures_beside_the_notebook_are_carried_along(tmp_path):
    (tmp_path / "dot.png").write_bytes(b"\x89PNG")
    notebook = nbformat.v4.new_notebook(
        cells=[new_markdown_cell("![dot](dot.png) ![gone](https://example.com/gone.png)")]
    )
    soup = BeautifulSoup(html.page(notebook, folder=tmp_path, title="").cells[0]["html"], "html.parser")
    assert [image["src"] for image in soup.find_all("img")] == ["data:image/png;base64,iVBORw=="]
    assert soup.a.text == "gone"


def test_values_are_escaped():
    entry = {
        "name": "a",
        "page": "a.html",
        "label": "<i>",
        "title": '"<b>"',
        "status": "waiting",
        "executed": "a b.ipynb",
    }
    entry |= {"sentence": "", "facts": []}
    made = html.fill("page.html", title="<t>", here="a", page=page_of(), entry=entry, entries=[entry],
                     facts=["data set folder:<script>"], previous=None, following=None)  # fmt: skip
    assert "folder:&lt;script&gt;" in made and "<i>" not in made and "<title>&lt;t&gt;</title>" in made
    assert 'href="a%20b.ipynb"' in made
    assert "plotly" not in made  # five megabytes that a page without charts need not load


@pytest.mark.browser
def test_in_a_browser_the_chart_is_drawn_and_the_code_unfolds(tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium on this machine")
    import plotly
    from playwright.sync_api import sync_playwright

    figure = new_output(
        "display_data", data={html.PLOTLY: {"data": [{"y": [1, 3, 2]}], "layout": {"title": {"text": "gap"}}}}
    )
    outside = new_output(
        "display_data", data={"text/html": "<script>new Image().src='http://127.0.0.1:9/x.png'</script>"}
    )
    contents = page_of(new_markdown_cell("# T"), new_code_cell("secret = 1", outputs=[figure, outside]))
    entry = {"name": "a", "page": "a.html", "label": "a", "title": "T", "status": "finished", "executed": "a.ipynb"}
    entry |= {"sentence": "", "facts": []}
    made = html.fill("page.html", title="T", here="a", page=contents, entry=entry, entries=[entry], facts=[],
                     previous=None, following=None)  # fmt: skip
    (tmp_path / "a.html").write_text(made, encoding="utf-8")
    (tmp_path / "assets").mkdir()
    shutil.copy(Path(plotly.__file__).parent / "package_data" / "plotly.min.js", tmp_path / "assets")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=quiet)
        page = browser.new_page()
        fetched, errors = [], []
        page.on("requestfinished", lambda request: fetched.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        refused = []
        page.on("console", lambda message: refused.append(message.text))
        page.goto((tmp_path / "a.html").as_uri())
        page.wait_for_selector("figure.chart path.js-line")
        assert page.text_content("figure.chart .gtitle") == "gap"
        assert not page.is_visible("text=secret")
        page.click("text=Show code")
        assert page.is_visible("text=secret")
        assert all(url.startswith(("file:", "data:", "blob:")) for url in fetched)
        assert any("Content Security Policy" in line and "127.0.0.1:9" in line for line in refused)
        assert errors == []
        browser.close()

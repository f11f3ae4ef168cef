"""One notebook as one page: formulas, charts, tables and widgets of which we know how they must look."""

import json
import shutil
from pathlib import Path

from labkit.reporting import html

import nbformat
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_output

ENTRY = {"name": "a", "page": "a.html", "title": "T", "status": "finished", "executed": "a b.ipynb"}


def page_of(*cells, folder: Path = Path(), facts=(), **entry) -> str:
    """The page of a notebook with these cells, in a report of its own."""
    entry = {**ENTRY, "facts": [], **entry}
    notebook = nbformat.v4.new_notebook(cells=list(cells))
    return html.page(notebook, folder=folder, title="untitled", here="a", entry=entry, entries=[entry], facts=facts)


def outputs(*cells) -> list:
    """What stands in the outputs of a page."""
    return BeautifulSoup(page_of(*cells), "html.parser").select("div.output")


def shown(output) -> str:
    """The HTML of one output."""
    return "".join(div.decode_contents().strip() for div in outputs(new_code_cell("1", outputs=[output])))


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
    page = BeautifulSoup(page_of(new_code_cell("1", outputs=[output])), "html.parser")
    assert json.loads(page.select_one("figure.chart script").string) == figure
    assert page.find("script", src="assets/plotly.min.js") and "fallback" not in page.text


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
    made = outputs(new_code_cell("1", outputs=pieces))
    assert [piece.pre.text for piece in made] == [" 2 of 2\n<done>"]
    assert made[0].pre["class"] == ["stream", "stderr"]
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


def test_an_interval_is_set_apart_and_not_broken():
    text = "| a | b |\n|---|---|\n| STL 0.48 [0.36, 0.61]<br>L2 1: 0.1 [0.0, 0.2] | 29.0 [28.0, 29.9] dB |"
    frame = "<table class='dataframe'><tbody><tr><td>0.48 [0.36, 0.61]</td><td>[a]</td></tr></tbody></table>"
    for made, found in (
        (html.markdown(text), ["[0.36, 0.61]", "[0.0, 0.2]", "[28.0, 29.9] dB"]),
        (html.aligned(frame), ["[0.36, 0.61]"]),
    ):
        assert [span.text for span in BeautifulSoup(made, "html.parser").select("td span.interval")] == found


def test_what_opens_a_report_is_what_its_cells_have_put_out():
    said = new_output("display_data", data={"text/markdown": "Least: **0.1**", "text/plain": "…"})
    drawn = new_output("display_data", data={"text/html": "<figure class='moving'></figure>"})
    cells = [
        new_code_cell("1", outputs=[said]),
        new_code_cell("2", outputs=[said, drawn], metadata={"tags": ["overview"]}),
    ]
    found = html.tagged(nbformat.v4.new_notebook(cells=cells), "overview")
    assert [kind for kind, _ in found] == ["text/markdown", "text/html"] and "<strong>0.1</strong>" in found[0][1]


def test_a_chart_has_a_still_figure_for_print():
    data = {html.PLOTLY: {"data": [], "layout": {"title": {"text": "gap"}}}, "image/png": "iVBORw0KGgo="}
    page = BeautifulSoup(page_of(new_code_cell("1", outputs=[new_output("display_data", data=data)])), "html.parser")
    still = page.select_one("figure.chart img.instead")
    assert (still["alt"], still["src"]) == ("gap", "data:image/png;base64,iVBORw0KGgo=")


def test_the_title_leads_and_sections_have_anchors_of_their_own():
    cells = (
        new_markdown_cell("# On $x$ & *y*\n\nWhat it is.\nIn one paragraph.\n\nAnd more."),
        new_markdown_cell("## Result\n\none\n\n## Result\n\ntwo\n\n## End"),
        new_code_cell("x = 1"),
        new_code_cell("  "),
    )
    title, lead = html.heading(nbformat.v4.new_notebook(cells=list(cells)), "untitled")
    assert title == "On x & y" and text(lead).split() == "What it is. In one paragraph.".split()
    page = BeautifulSoup(page_of(*cells), "html.parser")
    assert page.title.text == "On x & y · labkit"
    (heading,) = page.find_all("h1")
    assert heading.math and heading.em.text == "y" and "And more." in page.select_one("section.text").text
    anchors = [link["href"] for link in page.select("p.contents a")]
    assert anchors == ["#result", "#result-2", "#end"] and all(page.select(f"h2{anchor}") for anchor in anchors)
    assert [section["class"] for section in page.find_all("section")] == [["text"], ["text"], ["cell", "completed"]]
    assert html.heading(nbformat.v4.new_notebook(cells=[new_code_cell("1")]), "untitled") == ("untitled", "")


def test_pictures_beside_the_notebook_are_carried_along(tmp_path):
    (tmp_path / "dot.png").write_bytes(b"\x89PNG")
    cell = new_markdown_cell("![dot](dot.png) ![gone](https://example.com/gone.png)")
    (section,) = BeautifulSoup(page_of(cell, folder=tmp_path), "html.parser").select("section.text")
    assert [image["src"] for image in section.find_all("img")] == ["data:image/png;base64,iVBORw=="]
    assert section.a.text == "gone"


def test_values_are_escaped():
    made = page_of(new_markdown_cell("# <t>"), facts=["data set folder:<script>"], name="<i>", title='"<b>"')
    assert "folder:&lt;script&gt;" in made and "<i>" not in made and "<b>" not in made
    assert 'href="a%20b.ipynb"' in made
    assert "plotly" not in made  # five megabytes that a page without charts need not load


def test_what_a_kernel_says_is_text():
    """Names of classes and messages of errors come from files of others."""
    hostile = "</pre><script>alert(1)</script>"
    said = [
        new_output("stream", name="stdout", text=hostile),
        new_output("error", ename=hostile, evalue=hostile, traceback=[hostile]),
        new_output("execute_result", data={"text/plain": hostile}),
        new_output("display_data", data={html.WIDGET: {"model_id": "a"}, "text/plain": hostile}),
        new_output("display_data", data={"image/png": 'a" onload="alert(1)', "text/plain": f'"{hostile}'}),
    ]
    made = outputs(new_code_cell(f"'{hostile}'", outputs=said))
    assert len(made) == len(said) and not any(output.find("script") for output in made)
    assert all(hostile in output.text for output in made[:-1])
    assert made[-1].img["src"] == 'data:image/png;base64,a" onload="alert(1)' and "onload" not in made[-1].img.attrs


def test_the_page_of_an_odd_notebook_is_a_page():
    cells = [
        nbformat.v4.new_raw_cell("<b>raw</b>"),
        new_markdown_cell("![lost](attachment:lost.png)"),
        new_code_cell("1", outputs=[new_output("display_data", data={"application/x-unknown": "?"})]),
    ]
    page = BeautifulSoup(page_of(*cells), "html.parser")
    assert page.select("div.output") == [] and page.select_one("section.text pre").text == cells[1].source
    assert "raw" not in page.text


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
    made = page_of(new_markdown_cell("# T"), new_code_cell("secret = 1", outputs=[figure, outside]))
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


def test_what_unfolds_holds_the_paragraphs_up_to_its_end():
    text = "<details><summary>More</summary>\n\nFirst *one*.\n\n| a |\n|---|\n| 1 |\n\n</details>\n\nAfter."
    found = BeautifulSoup(html.markdown(text), "html.parser").details
    assert found.em.text == "one" and found.table and "After" not in found.text

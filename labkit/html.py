"""One executed notebook as one HTML page that needs no network: formulas as MathML, charts from a local script."""

import base64
import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from bs4 import BeautifulSoup
from latex2mathml.converter import convert
from markupsafe import Markup, escape
from nbconvert.filters.ansi import ansi2html
from nbconvert.filters.markdown_mistune import InvalidNotebook, IPythonRenderer, MarkdownWithMath
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
_IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/webp", "image/gif")
_EXTERNAL = re.compile(r"\s*(https?:)?//", re.IGNORECASE)
_CSS_LOADS = re.compile(r"@import\s[^;]*;?|url\(\s*['\"]?\s*(?:https?:)?//[^)]*\)", re.IGNORECASE)
_NUMERIC = re.compile(r"\s*[-−+±]?\.?\d")
_KERNEL_FILE = re.compile(r"\S*ipykernel_\d+[/\\]\d+\.py:(\d+)")
_LABELS = {"parameters": "defaults", "injected-parameters": "parameters"}
_TITLE = re.compile(r"^# +(.+)$", re.MULTILINE)
_LOADING = ("src", "srcset", "poster", "data", "background", "xlink:href")
# The converter knows array but not its cousins, whose & would come out as a letter; nor \| after \big, nor \arg.
_REWRITTEN = (
    (r"\\(begin|end)\{(equation|displaymath)\*?\}", ""),
    (r"\\begin\{(aligned|align\*?|split|gathered)\}", r"\\begin{array}{rlrl}"),
    (r"\\end\{(aligned|align\*?|split|gathered)\}", r"\\end{array}"),
    (r"\\[bB]igg?[lrm]?\s*(\\\||\\[lr]?Vert(?![A-Za-z]))", r"\\Vert "),
    (
        r"\\(?:operatorname\*?\{arg\s*(?:\\,)?\s*(min|max)\}|arg\s*(?:\\,)?\s*\\(min|max)(?![A-Za-z]))",
        r"\\operatorname{arg\1\2}",
    ),
)


@dataclass
class Page:
    """What `templates/page.html` shows of one notebook.

    title     the notebook's `#` heading as plain text; `heading` is the same as HTML
    lead      its first paragraph
    cells     dicts with `kind` ("text" or "code") and their ready HTML
    sections  (anchor, HTML) of each second-level heading, for the table of contents
    charts    how many plotly figures there are; with none, the page does not load the script
    """

    title: str
    lead: Markup
    heading: Markup = field(default_factory=Markup)
    cells: list[dict[str, Any]] = field(default_factory=list)
    sections: list[tuple[str, Markup]] = field(default_factory=list)
    charts: int = 0


def page(notebook: nbformat.NotebookNode, *, folder: Path, title: str) -> Page:
    """The contents of a page. `folder` holds the images that Markdown names; `title` stands in for a `#` heading."""
    renderer = _Renderer(folder)
    result = Page(*heading(notebook, title))
    result.heading = escape(result.title)
    untitled, number = True, 0
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            source, first = cell.source, _TITLE.search(cell.source)
            if first and untitled:  # the page's header says it
                result.heading = Markup(renderer.render(first[1]).strip().removeprefix("<p>").removesuffix("</p>"))
                source, untitled = source[: first.start()] + source[first.end() :], False
            renderer.attachments = cell.get("attachments", {})
            result.cells.append({"kind": "text", "html": renderer.render(source)})
        elif cell.cell_type == "code" and cell.source.strip():
            number += 1
            tags = cell.metadata.get("tags", [])
            outputs = [_output(output, renderer, result) for output in _joined(cell.get("outputs", []))]
            result.cells.append(
                {
                    "kind": "code",
                    "number": number,
                    "status": cell.metadata.get("papermill", {}).get("status", "completed"),
                    "seconds": cell.metadata.get("papermill", {}).get("duration"),
                    "label": next((label for tag, label in _LABELS.items() if tag in tags), "code"),
                    "source": Markup(highlight(cell.source, PythonLexer(), HtmlFormatter())),
                    "outputs": [Markup(output) for output in outputs if output],
                }
            )
    result.sections = [(anchor, Markup(text)) for level, anchor, text in renderer.headings if level == 2]
    return result


def heading(notebook: nbformat.NotebookNode, title: str) -> tuple[str, Markup]:
    """The notebook's `#` heading as plain text (else `title`) and its first paragraph below it as HTML."""
    text = "\n\n".join(cell.source for cell in notebook.cells[:3] if cell.cell_type == "markdown")
    found = _TITLE.search(text)
    below = text[found.end() :] if found else text
    lead = next((part for part in re.split(r"\n\s*\n", below.strip()) if part and part[0] not in "#|>-*`$!<"), "")
    if found:
        title = BeautifulSoup(_Renderer(Path()).render(found[1]), "html.parser").get_text().strip()
    return title, _Renderer(Path()).render(lead)


def markdown(text: str) -> Markup:
    """Markdown with formulas as HTML."""
    return _Renderer(Path()).render(text)


def table(rows: list[list[str]]) -> Markup:
    """Rows of text, the first of them the heading, as a table with its numbers to the right and at four digits."""
    columns = len(rows[0])
    numeric = [any(_NUMERIC.match(row[i]) for row in rows[1:] if i < len(row)) for i in range(columns)]

    def row(texts: list[str], tag: str) -> Markup:
        cells = Markup()
        for text, right in zip(texts, numeric, strict=False):
            number = _number(text)
            shown = f"{number:.4g}" if number is not None and len(text) > 7 else text
            cells += Markup(f'<{tag} class="num">' if right else f"<{tag}>") + shown + Markup(f"</{tag}>")
        return Markup("<tr>{}</tr>").format(cells)

    body = Markup().join(row(texts, "td") for texts in rows[1:])
    return Markup("<table><thead>{}</thead><tbody>{}</tbody></table>").format(row(rows[0], "th"), body)


def fill(template: str, **values: Any) -> str:
    """The named template, filled in; every value is escaped unless it is Markup."""
    return _environment().get_template(template).render(**values)


def mathml(latex: str, *, block: bool) -> str:
    """LaTeX as MathML; what the converter does not know stays readable as code."""
    known = latex
    for pattern, replacement in _REWRITTEN:
        known = re.sub(pattern, replacement, known)
    if block:
        known = re.sub(r"(\\(?:min|max|sup|inf|lim)|\\operatorname\{arg(?:min|max)\})\s*_", r"\1\\limits_", known)
    try:
        made = convert(known.strip(), display="block" if block else "inline")
    except Exception:  # each malformed formula has its own class of error, and none should cost the page
        made = ""
    if not made or re.search(r">(\\[A-Za-z|]|&<)", made):
        return f'<code class="latex">{html.escape(latex.strip())}</code>'
    return f'<span class="formula">{made}</span>' if block else made


def offline(fragment: str) -> str:
    """The HTML without anything that would be fetched from the network; a picture becomes a link to it."""
    if "//" not in fragment and "@import" not in fragment:
        return fragment
    soup = BeautifulSoup(fragment, "html.parser")
    for tag in soup.find_all(True):
        if tag.name == "style" and tag.string:
            tag.string.replace_with(_CSS_LOADS.sub("none", tag.string))
        if "style" in tag.attrs:
            tag["style"] = _CSS_LOADS.sub("none", tag["style"])
        values = {name: tag.get(name) or "" for name in _LOADING}
        loading = [name for name, value in values.items() if _EXTERNAL.match(value)]
        if re.search(r"(^|[\s,])(https?:)?//", values["srcset"], re.IGNORECASE):
            loading.append("srcset")
        if tag.name not in ("a", "area") and _EXTERNAL.match(tag.get("href", "") or ""):
            loading.append("href")
        if not loading:
            continue
        address = tag[loading[0]].split()[0]
        for name in set(loading):
            del tag[name]
        if tag.name in ("img", "iframe", "video", "audio", "embed", "object"):
            link = soup.new_tag("a", href=address)
            link.string = tag.get("alt") or f"{tag.name} on the network"
            tag.replace_with(link)
        elif tag.name in ("script", "link"):
            tag.decompose()
    return str(soup)


class _Renderer(IPythonRenderer):
    """nbconvert's Markdown, with MathML for LaTeX and an anchor for each heading, unique in the page."""

    def __init__(self, folder: Path) -> None:
        super().__init__(escape=False, embed_images=True, path=str(folder))
        self.headings: list[tuple[int, str, str]] = []

    def render(self, text: str) -> Markup:
        try:
            made = MarkdownWithMath(renderer=self).render(text)
        except InvalidNotebook:  # an attachment that was lost
            made = f"<pre>{html.escape(text)}</pre>"
        return Markup(offline(made))

    def heading(self, text: str, level: int, **_: Any) -> str:
        plain = BeautifulSoup(text, "html.parser").get_text()
        slug = re.sub(r"\W+", "-", plain).strip("-").lower() or "section"
        taken = {anchor for _, anchor, _ in self.headings}
        anchor = next(name for name in [slug, *(f"{slug}-{n}" for n in range(2, 10_000))] if name not in taken)
        self.headings.append((level, anchor, text))
        link = f'<a class="anchor" href="#{anchor}" aria-label="link to this section">#</a>'
        return f'<h{level} id="{anchor}">{text} {link}</h{level}>\n'

    def block_math(self, body: str) -> str:
        return mathml(body, block=True)

    def inline_math(self, body: str) -> str:
        return mathml(body, block=False)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", block=True)


def _joined(outputs: list[Any]) -> list[Any]:
    """The outputs with neighbouring pieces of one stream put together."""
    joined: list[Any] = []
    for output in outputs:
        last = joined[-1] if joined else None
        if last and output.output_type == "stream" == last["output_type"] and output.name == last["name"]:
            joined[-1] = {**last, "text": last["text"] + output.text}
        else:
            joined.append(dict(output))
    return joined


def _output(output: Mapping[str, Any], renderer: _Renderer, result: Page) -> str:
    if output["output_type"] == "stream":
        text = _KERNEL_FILE.sub(r"line \1", _overwritten(output["text"]))
        return f'<pre class="stream {html.escape(output["name"])}">{ansi2html(text)}</pre>' if text.strip() else ""
    if output["output_type"] == "error":
        trace = ansi2html("\n".join(output["traceback"]))
        name = html.escape(f"{output['ename']}: {output['evalue']}")
        return f'<details class="error" open><summary>{name}</summary><pre>{trace}</pre></details>'
    data = {kind: "".join(value) if isinstance(value, list) else value for kind, value in output["data"].items()}
    if PLOTLY in data:
        result.charts += 1
        return _chart(data[PLOTLY])
    picture = next((kind for kind in _IMAGES if kind in data), None)
    if "text/html" in data and WIDGET not in data:
        return f'<div class="html">{_aligned(offline(data["text/html"]))}</div>'
    if picture:
        return _picture(picture, data[picture], output.get("metadata", {}), data.get("text/plain", ""))
    if "text/markdown" in data:
        return renderer.render(data["text/markdown"])
    if "text/latex" in data:
        return renderer.render(data["text/latex"])
    text = data.get("text/plain", "")
    if WIDGET in data:
        # A progress bar says nothing once it is over, and its fallback text says 0 % for ever.
        bar = re.match(r"\s*(\S.*:\s*)?\d+%\|", text)
        return "" if bar else f'<p class="widget" title="Run the notebook to use it">{html.escape(text)}</p>'
    return f"<pre>{ansi2html(text)}</pre>" if text.strip() else ""


def _aligned(fragment: str) -> str:
    """Tables of data frames with words to the left and numbers to the right; pandas puts both to the right."""
    if 'class="dataframe"' not in fragment:
        return fragment
    soup = BeautifulSoup(fragment, "html.parser")
    for found in soup.select("table.dataframe"):
        rows = [row.find_all("td") for row in found.select("tbody tr")]
        width = max(map(len, rows), default=0)
        numeric = [any(_NUMERIC.match(row[i].get_text()) for row in rows if i < len(row)) for i in range(width)]
        heads = [row.find_all("th")[-width:] for row in found.select("thead tr")] if width else []
        for row in [*rows, *(row for row in heads if not any(cell.has_attr("colspan") for cell in row))]:
            for cell, right in zip(row, numeric, strict=False):
                cell["class"] = "num" if right else "word"
    return str(soup)


def _picture(kind: str, content: str, metadata: Mapping[str, Any], text: str) -> str:
    # SVG as an image too: the ids of two inline drawings would collide.
    coded = base64.b64encode(content.encode()).decode() if kind == "image/svg+xml" else content.replace("\n", "")
    width = metadata.get(kind, {}).get("width") if isinstance(metadata.get(kind), Mapping) else None
    size = f' width="{int(width)}"' if width else ""
    alt = html.escape(metadata.get("alt") or text.strip("<>") or "figure")
    return f'<figure><img alt="{alt}"{size} src="data:{kind};base64,{coded}"></figure>'


def _chart(figure: Mapping[str, Any]) -> str:
    content = json.dumps({"data": figure.get("data", []), "layout": figure.get("layout", {})})
    # "</script>" inside a label would end the element; "<!--" would begin a comment.
    safe = content.replace("<", "\\u003c")
    height = figure.get("layout", {}).get("height") or 450
    return (
        f'<figure class="chart" style="min-height:{int(height)}px"><script type="application/json">{safe}</script>'
        "<noscript>This chart needs JavaScript.</noscript></figure>"
    )


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _overwritten(text: str) -> str:
    """Each line as a terminal leaves it after carriage returns: a progress bar's last state only."""
    return "\n".join(line.rstrip("\r").rsplit("\r", 1)[-1] for line in text.split("\n"))


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("labkit"), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    light = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
    environment.globals["colours"] = Markup(f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}")
    return environment

"""One executed notebook as one HTML page that needs no network: formulas as MathML, charts from a local script."""

import html
import re
from copy import deepcopy
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

import jinja2
import nbformat
from bs4 import BeautifulSoup
from latex2mathml.converter import convert
from markupsafe import Markup
from nbconvert import HTMLExporter
from nbconvert.filters import Highlight2HTML
from nbconvert.filters.markdown_mistune import InvalidNotebook, IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from pygments.formatters import HtmlFormatter

PLOTLY = "application/vnd.plotly.v1+json"
WIDGET = "application/vnd.jupyter.widget-view+json"
_IMAGES = ("image/svg+xml", "image/png", "image/jpeg", "image/webp", "image/gif")
_KINDS = (PLOTLY, "text/html", *_IMAGES, "text/markdown", "text/latex", WIDGET, "text/plain")  # the first is shown
_EXTERNAL = re.compile(r"^\s*(https?:)?//", re.IGNORECASE)
_EXTERNAL_IN_LIST = re.compile(r"(^|[\s,])(https?:)?//", re.IGNORECASE)
_CSS_LOADS = re.compile(r"@import\s[^;]*;?|url\(\s*['\"]?\s*(?:https?:)?//[^)]*\)", re.IGNORECASE)
_NUMERIC = re.compile(r"\s*[-−+±]?\.?\d")
_KERNEL_FILE = re.compile(r"\S*ipykernel_\d+[/\\]\d+\.py:(\d+)")
_PROGRESS = re.compile(r"\s*(\S.*:\s*)?\d+%\|")
_INTERVAL = re.compile(r"(<(?:td|br)[^>]*>[^<\[]*)(\[[-+−\d., ]+\](?: dB)?)")
_TITLE = re.compile(r"^# +(.+)$", re.MULTILINE)
_LOADING = ("src", "srcset", "poster", "data", "background", "xlink:href")
# The converter knows array but not its cousins, whose & would come out as a letter; nor \| after \big, nor \arg.
_REWRITTEN = (
    (r"\\(begin|end)\{(equation|displaymath)\*?\}", ""),
    (r"\\begin\{(aligned|align\*?|split|gathered)\}", r"\\begin{array}{rlrl}"),
    (r"\\end\{(aligned|align\*?|split|gathered)\}", r"\\end{array}"),
    (r"\\[bB]igg?[lrm]?\s*(\\\||\\[lr]?Vert(?![A-Za-z]))", r"\\Vert "),
    (r"\\operatorname\*?\{arg\s*(?:\\,)?\s*(min|max)\}", r"\\operatorname{arg\1}"),
    (r"\\arg\s*(?:\\,)?\s*\\(min|max)(?![A-Za-z])", r"\\operatorname{arg\1}"),
)


def page(notebook: nbformat.NotebookNode, *, folder: Path, title: str, **values: Any) -> str:
    """The page of a notebook: `templates/page.html`, filled in with the notebook and `values`.

    `folder` holds the images that Markdown names; `title` stands in for a `#` heading.
    """
    notebook, text = _prepared(notebook), heading(notebook, title)[0]
    named = html.escape(text)
    for cell in notebook.cells:
        found = _TITLE.search(cell.source) if cell.cell_type == "markdown" else None
        if found:  # the page's header says it
            named = markdown(found[1]).strip().removeprefix("<p>").removesuffix("</p>")
            cell.source = cell.source[: found.start()] + cell.source[found.end() :]
            break
    resources = {"title": f"{text} · labkit", "heading": Markup(named), "folder": str(folder), "sections": [], **values}
    return _exporter().from_notebook_node(notebook, resources)[0]


def fill(template: str, **values: Any) -> str:
    """The named template, filled in; every value is escaped unless it is Markup."""
    return _exporter().environment.get_template(template).render(resources=values)


def heading(notebook: nbformat.NotebookNode, title: str) -> tuple[str, Markup]:
    """The notebook's `#` heading as plain text (else `title`) and its first paragraph below it as HTML."""
    text = "\n\n".join(cell.source for cell in notebook.cells[:3] if cell.cell_type == "markdown")
    found = _TITLE.search(text)
    below = text[found.end() :] if found else text
    lead = next((part for part in re.split(r"\n\s*\n", below.strip()) if part and part[0] not in "#|>-*`$!<"), "")
    if found:
        title = BeautifulSoup(markdown(found[1]), "html.parser").get_text().strip()
    return title, markdown(lead)


def markdown(text: str, **options: Any) -> Markup:
    """Markdown with formulas as HTML; `options` as for _Renderer."""
    try:
        return _together(offline(MarkdownWithMath(renderer=_Renderer(**options)).render(text)))
    except InvalidNotebook:  # an attachment that was lost
        return Markup(f"<pre>{html.escape(text)}</pre>")


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
        names = _LOADING if tag.name in ("a", "area") else (*_LOADING, "href")
        looked = {name: _EXTERNAL_IN_LIST if name == "srcset" else _EXTERNAL for name in names}
        loading = [name for name, pattern in looked.items() if pattern.search(tag.get(name) or "")]
        if not loading:
            continue
        address = tag[loading[0]].split()[0]
        for name in loading:
            del tag[name]
        if tag.name in ("img", "iframe", "video", "audio", "embed", "object"):
            link = soup.new_tag("a", href=address)
            link.string = tag.get("alt") or f"{tag.name} on the network"
            tag.replace_with(link)
        elif tag.name in ("script", "link"):
            tag.decompose()
    return str(soup)


def tagged(notebook: nbformat.NotebookNode, tag: str) -> list[tuple[str, Markup]]:
    """What the cells with a tag have put out, Markdown and HTML, as (kind, HTML)."""
    cells = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    data = [output.data for cell in cells for output in cell.get("outputs", []) if "data" in output]
    shown = {"text/markdown": markdown, "text/html": lambda text: Markup(offline(text))}
    return [(kind, shown[kind](each[kind])) for each in data for kind in shown if kind in each]


def aligned(fragment: str) -> Markup:
    """Tables of data frames with words to the left and numbers to the right; pandas puts both to the right."""
    fragment = _together(fragment)
    if 'class="dataframe"' not in fragment:
        return fragment
    soup = BeautifulSoup(fragment, "html.parser")
    for found in soup.select("table.dataframe"):
        rows = [row.find_all("td") for row in found.select("tbody tr")]
        numeric = [any(cell and _NUMERIC.match(cell.get_text()) for cell in column) for column in zip_longest(*rows)]
        heads = [row.find_all("th")[-len(numeric) :] for row in found.select("thead tr")] if numeric else []
        for row in [*rows, *(row for row in heads if not any(cell.has_attr("colspan") for cell in row))]:
            for cell, right in zip(row, numeric, strict=False):
                cell["class"] = "num" if right else "word"
    return Markup(soup)


def _together(fragment: str) -> Markup:
    """A table's intervals are set apart from their numbers, and never broken over two lines."""
    return Markup(_INTERVAL.sub(r'\1<span class="interval">\2</span>', fragment))


class _Renderer(IPythonRenderer):
    """nbconvert's Markdown, with MathML for LaTeX and an anchor for each heading, unique among `sections`."""

    def __init__(self, folder: str = "", sections: list[tuple[int, str, Markup]] | None = None, **options: Any) -> None:
        super().__init__(escape=False, embed_images=True, path=folder, **options)
        self.sections = [] if sections is None else sections

    def heading(self, text: str, level: int, **_: Any) -> str:
        slug = re.sub(r"\W+", "-", BeautifulSoup(text, "html.parser").get_text()).strip("-").lower() or "section"
        taken = {anchor for _, anchor, _ in self.sections}
        anchor = next(name for name in [slug, *(f"{slug}-{n}" for n in range(2, 10_000))] if name not in taken)
        self.sections.append((level, anchor, Markup(text)))
        link = f'<a class="anchor" href="#{anchor}" aria-label="link to this section">#</a>'
        return f'<h{level} id="{anchor}">{text} {link}</h{level}>\n'

    def block_html(self, html: str) -> str:
        # Looking for pictures, nbconvert closes every tag: a <details> would end before what it is to unfold.
        return super().block_html(html) if "<img" in html else f"{html}\n"

    def block_math(self, body: str) -> str:
        return mathml(body, block=True)

    def inline_math(self, body: str) -> str:
        return mathml(body, block=False)

    def latex_environment(self, name: str, body: str) -> str:
        return mathml(f"\\begin{{{name}}}{body}\\end{{{name}}}", block=True)


class _Exporter(HTMLExporter):
    """nbconvert's, with our templates and our Markdown; whatever a template prints is escaped unless it is Markup."""

    def _create_environment(self) -> jinja2.Environment:
        environment = super()._create_environment()
        environment.autoescape = environment.trim_blocks = environment.lstrip_blocks = True
        environment.undefined = jinja2.ChainableUndefined
        environment.filters |= {"aligned": aligned, "offline": offline}
        light = HtmlFormatter(style="vs").get_style_defs(".highlight")
        dark = HtmlFormatter(style="github-dark").get_style_defs(".highlight")
        environment.globals["colours"] = Markup(f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}")
        return environment

    @jinja2.pass_context
    def markdown2html(self, context: jinja2.runtime.Context, source: str) -> Markup:
        resources, attachments = context["resources"], context["cell"].get("attachments", {})
        return markdown(source, folder=resources["folder"], sections=resources["sections"], attachments=attachments)


@cache
def _exporter() -> _Exporter:
    return _Exporter(
        template_name="base", template_file="page.html", extra_loaders=[jinja2.PackageLoader("labkit.reporting")],
        extra_template_basedirs=[],  # by default the working directory, whatever lies there
        default_preprocessors=[],  # `_prepared` has done it; they refuse a notebook that is not quite valid
        filters={"highlight_code": Highlight2HTML(pygments_lexer="python")}, exclude_raw=True, exclude_unknown=True,
    )  # fmt: skip


def _prepared(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """A copy for the template: streams as a terminal leaves them, each code cell with its number, nothing blank."""
    notebook, _ = CoalesceStreamsPreprocessor(enabled=True)(deepcopy(notebook), {})
    notebook.cells = [cell for cell in notebook.cells if cell.cell_type != "code" or cell.source.strip()]
    for number, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.number = number
        for output in cell.setdefault("outputs", []):
            if output.output_type == "stream":
                output.text = _KERNEL_FILE.sub(r"line \1", output.text.replace("\r", ""))
            elif "data" in output:
                hidden = "text/html" if WIDGET in output.data else ""  # of a widget, only a browser completes it
                output.kind = next((kind for kind in _KINDS if kind in output.data and kind != hidden), "")
        cell.outputs = [output for output in cell.outputs if not _blank(output)]
    return notebook


def _blank(output: nbformat.NotebookNode) -> bool:
    if output.output_type == "stream":
        return not output.text.strip()
    if "data" not in output:
        return False
    # A progress bar says nothing once it is over, and its fallback text says 0 % for ever.
    text, bare = output.data.get("text/plain", ""), output.kind in ("text/plain", "")
    return not text.strip() if bare else output.kind == WIDGET and _PROGRESS.match(text) is not None

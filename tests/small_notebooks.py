"""Small notebooks for the tests of reports: a parameters cell like the lab's own, then the given cells."""

from pathlib import Path

import nbformat

PARAMETERS = 'profile = "quick"\ndataset = "fashion"\nresolution = 0\ndata_root = ""\nstore = ""\nout = "."'


def save(path: Path, *cells: str, parameters: str | None = PARAMETERS) -> Path:
    """Write a notebook; a cell that begins with `#md ` is Markdown, all others are code."""
    made = []
    if parameters is not None:
        made.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    for cell in cells:
        text = cell.removeprefix("#md ")
        made.append(nbformat.v4.new_code_cell(cell) if text == cell else nbformat.v4.new_markdown_cell(text))
    kernel = {"name": "python3", "language": "python", "display_name": "Python 3"}
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nbformat.v4.new_notebook(cells=made, metadata={"kernelspec": kernel}), path)
    return path

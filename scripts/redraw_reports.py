"""Makes the pages of committed reports anew from their rows, after words have changed and numbers have not.

    python scripts/redraw_reports.py reports/lab reports/quick

Pages and figures of tables, tables of notebooks, figures of their sweeps, and the checksums of what was written.
"""

import json
import re
import sys
from pathlib import Path

from labkit.core import checkpoint
from labkit.datasets import loaders
from labkit.experiments import published_numbers
from labkit.reporting import captions, figures, findings, pictures, table_page, tables

import pandas as pd


def comparison(folder: Path, told: dict) -> None:
    """What notebook 05 writes: rows and the paper's two settings, the baselines, relative robust accuracy."""
    note, (vanilla, retrained) = (
        _note(told["dataset"], folder),
        published_numbers.counterparts(told["resolution"] or 32),
    )
    rows = _read(folder / "rows.csv")
    checks = re.search("Sanity checks of the attacks.*", (folder / "headline.md").read_text())[0]
    _save(folder, "rows", rows, captions.table(rows, retrained, note, checks))
    for name, which in (("vanilla", vanilla), ("headline", retrained)):
        _save(folder, name, tables.beside_paper(rows, which), captions.table(rows, which, note, checks))
    kept = tables.retention(tables.alike(rows, retrained), retrained)
    _save(folder, "retention", kept, f"Retrained networks, beside the paper's Table {retrained}.")
    others = _read(folder / "competitors_rows.csv")
    _save(folder, "competitors_rows", others, captions.table(others, vanilla, note))
    if (folder / "competitors_worst.csv").is_file():
        worst = _read(folder / "competitors_worst.csv")
        _save(folder, "competitors", tables.baselines(others, worst, vanilla), captions.table(others, vanilla, note))


def tradeoff(folder: Path, _told: dict) -> None:
    """What notebook 06 writes: a table for each sweep, the unspecified choices, and the paper's Figure 6."""
    for name, rows in (("headline", "lambda_rows"), ("K", "K_rows"), ("S", "S_rows"), ("M", "M_rows"),
                       ("silent", "silent_rows")):  # fmt: skip
        if (folder / f"{rows}.csv").is_file():
            swept = _read(folder / f"{rows}.csv")
            if name == "silent":
                swept["value"] = [findings.setting(word) for word in swept.value]
            _save(folder, name, tables.sweep(swept), captions.sweep(swept))
            if (folder / f"{name}.png").is_file():
                pictures.save(figures.tradeoff(swept, swept.what[0]), folder, name)
    _save(folder, "map", _read(folder / "map.csv"), captions.psnr_accuracy())


def attenuation(folder: Path, _told: dict) -> None:
    """What notebook 03 writes."""
    rows = _read(folder / "shrinkage.csv")
    _save(folder, "headline", tables.attenuation(rows), captions.attenuation(rows))


_MADE = {"05_defense_tables": comparison, "06_tradeoff": tradeoff, "03_projection": attenuation}


def redraw(folder: Path) -> None:
    """All tables and notebooks in a folder."""
    for file in sorted(set(folder.rglob("table_*.json")) - set(folder.rglob("*_recipes.json"))):
        table(file)
    for file in sorted(folder.rglob("manifest.json")):
        text, place = file.read_text(), file.parent
        told, name = json.loads(text), place.name if place.name in _MADE else "05_defense_tables"
        _MADE[name](place, told)
        for kept in (kept for ran in told["notebooks"] if ran["name"] == name for kept in ran["files"]):
            mine = place / Path(kept["path"]).name.replace(" ", "_")
            if mine.is_file() and kept["path"].startswith(f"{name}/"):
                kept |= {**checkpoint.fingerprint(mine, place), "path": kept["path"]}
        indent = len(text.splitlines()[1]) - len(text.splitlines()[1].lstrip())
        checkpoint.write_whole(file, (json.dumps(told, indent=indent, ensure_ascii=False) + "\n").encode())


def table(file: Path) -> None:
    """The page of a table, from its rows and its JSON, as `Published.save` wrote them."""
    told, stem = json.loads(file.read_text()), file.with_suffix("")
    parts = (Path(f"{stem}{part}.csv") for part in ("_rows", "_worst", "_votes"))
    frames = [_read(part) if part.is_file() else pd.DataFrame() for part in parts]
    said = (tuple(map(tuple, told["missing"])), told["note"], told["checks"], told["images"], {})
    made = table_page.Published(stem.name.removeprefix("table_"), *frames, *said)
    checkpoint.write_whole(stem.with_suffix(".md"), made.text(told["command"]).encode())
    pictures.save(made.figure(), file.parent, stem.name)
    told["files"] = [checkpoint.fingerprint(file.with_name(kept["path"]), file.parent) for kept in told["files"]]
    checkpoint.write_whole(file, (json.dumps(told, indent=1, ensure_ascii=False) + "\n").encode())


def _note(dataset: str, folder: Path) -> str:
    """What `loaders.note` says of a data set, which may not be on this machine: as it is written already."""
    said = (folder / "likelihoods.md").is_file() and (folder / "likelihoods.md").read_text().splitlines()[-1]
    return said.partition(" Mean over n test images")[0] if said else loaders.note(dataset)


def _read(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype={"recipe": str})


def _save(folder: Path, name: str, frame: pd.DataFrame, caption: str) -> None:
    """The table as Markdown, and as CSV where that is a view of other rows; only what is there already."""
    rows = name.endswith("rows") or name == "map"
    there = {file: file.read_bytes() for file in (folder / f"{name}.csv", folder / f"{name}.md") if file.is_file()}
    tables.save(frame, folder, name, caption)
    for file in (folder / f"{name}.csv", folder / f"{name}.md"):
        if file not in there:
            file.unlink()
        elif rows and file.suffix == ".csv":
            file.write_bytes(there[file])


if __name__ == "__main__":
    for place in sys.argv[1:]:
        redraw(Path(place))

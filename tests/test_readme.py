"""What the README claims comes from the rows kept beside it."""

import json
import re
from pathlib import Path

from labkit.core import checkpoint
from labkit.experiments import published_numbers
from labkit.reporting import tables

import pandas as pd

ROOT = Path(__file__).resolve().parents[1]


def test_every_number_of_the_table_is_in_the_rows():
    rows = pd.read_csv(ROOT / "reports" / "quick" / "rows.csv")
    measured = {tables.cell(row) for row in rows.itertuples()}
    text = (ROOT / "README.md").read_text()
    shown = re.findall(r"\d\.\d{3} \[\d\.\d{3}, \d\.\d{3}\]", text)
    assert len(shown) >= 14 and set(shown) <= measured
    for line in text.splitlines():
        if line.startswith("| paper, Table 1"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert [float(cell) for cell in cells[4:]] == [
                published_numbers.table("1").loc[cells[1], attack]
                for attack in ("Clean", "FGSM-0.04", "FGSM-0.08", "BIM-0.03")
            ]
    said = r"(0\.\d{3}) in the grey box \(surrogate\) and (0\.\d{3}) in the white box \(exact\s+gradient\)"
    blind, exact = re.search(said, text).groups()
    bim = rows[rows.retrained & (rows.attack == "BIM-0.03") & (rows.defense == "STL")].set_index("knowledge").accuracy
    assert (f"{bim['transfer']:.3f}", f"{bim['exact']:.3f}") == (blind, exact)


def table(file: Path) -> list[list[str]]:
    """The lines of a file's tables, each as its cells."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_the_table_says_what_the_report_says():
    first, *rows = [row for row in table(ROOT / "README.md") if row[0] in ("block", "ours", "paper, Table 1")]
    kept = table(ROOT / "reports" / "quick" / "headline.md")
    assert first == kept[0] and len(rows) == 12 and [row for row in rows if row not in kept] == []


def test_every_link_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / target).exists(), target


def test_what_is_kept_of_a_report_is_what_it_wrote():
    kept, manifest = ROOT / "reports" / "quick", json.loads((ROOT / "reports" / "quick" / "manifest.json").read_text())
    files = {Path(f["path"]).name.replace(" ", "_"): f for n in manifest["notebooks"] for f in n["files"]}
    mine = [path for path in kept.iterdir() if path.name != "manifest.json"]
    assert len(mine) >= 7
    for path in mine:
        assert checkpoint.fingerprint(path, kept)["sha256"] == files[path.name]["sha256"], path.name

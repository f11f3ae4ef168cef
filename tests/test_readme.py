"""What README and docs claim: links lead somewhere, commands are ones we have, numbers are those of the files named."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

from labkit import cli
from labkit.core import checkpoint
from labkit.experiments import published_numbers
from labkit.reporting import tables

import check_jsonschema
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

ROOT = Path(__file__).resolve().parents[1]
README, RESULTS = ROOT / "README.md", ROOT / "docs" / "RESULTS.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
LAB = ROOT / "reports" / "lab" / "cifar10"
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def table(file: Path) -> list[list[str]]:
    """The lines of a file's tables, each as its cells."""
    lines = [line for line in file.read_text("utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def links(text: str) -> list[str]:
    return re.findall(r"\]\((?!https?:)([^)]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def anchors(page: Path) -> set[str]:
    """The headings of a page, as hosts name them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


@every_page
def test_every_link_leads_somewhere(page):
    for target in links(page.read_text("utf-8")):
        path, _, anchor = target.partition("#")
        where = (page.parent / path).resolve() if path else page
        assert where.exists(), target
        assert not anchor or anchor in anchors(where), target


def test_the_readme_is_short_and_shows_something_that_moves():
    text = README.read_text("utf-8")
    assert len(text.splitlines()) <= 150 and max(map(len, links(text))) < 100
    moving = (README.parent / links(text)[0]).read_bytes()
    assert moving[8:12] == b"WEBP" and b"ANIM" in moving[:64] and len(moving) <= 1_500_000
    indexed = links((ROOT / "docs" / "README.md").read_text("utf-8"))
    assert sorted(indexed) == [page.name for page in PAGES[1:] if page.name != "README.md"]


def commands(page: Path) -> list[list[str]]:
    """The words of every line of a page's shell blocks, without comments."""
    blocks = re.findall(r"```sh\n(.*?)```", page.read_text("utf-8"), re.DOTALL)
    return [words for block in blocks for line in block.splitlines() if (words := shlex.split(line, comments=True))]


def of_labkit(words: list[str]) -> list[list[str]]:
    """What a line says to labkit: one list of arguments, or one for each alternative `a|b …`."""
    for begin in (["labkit"], ["-m", "labkit"]):
        for at in range(len(words) - len(begin) + 1):
            if words[at : at + len(begin)] == begin and (at == 0 or begin[0] == "-m"):
                rest = words[at + len(begin) :]
                return [[name] for name in rest[0].split("|")] if rest[-1:] == ["…"] else [rest]
    return []


@every_page
def test_every_command_is_one_that_there_is(page):
    makefile, parser = (ROOT / "Makefile").read_text("utf-8"), cli.parser()
    for words in commands(page):
        for arguments in of_labkit(words):
            if len(arguments) == 1:
                assert f"\n    {arguments[0]}" in parser.format_help()
            else:
                parser.parse_args(arguments)  # ends the test where it cannot be parsed
        if words[0] == "make":
            for word in words[1:]:
                name, _, value = word.partition("=")
                assert re.search(rf"^{name} \?=|^ifdef {name}$" if value else rf"^{name}:", makefile, re.MULTILINE), (
                    word
                )
    for target in re.findall(r"`make ([\w-]+)[^`]*`", page.read_text("utf-8")):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for name in re.findall(r"`(?:python -m )?labkit ([a-z]+)[^`]*`", page.read_text("utf-8")):
        assert f"\n    {name}" in parser.format_help(), name


def test_what_the_pages_run_at_the_size_of_tests_runs(tmp_path):
    found = [words for page in PAGES for words in commands(page) if "smoke" in words and of_labkit(words)]
    assert len(found) == 1
    for words in found:
        arguments = [str(tmp_path / "out") if word == "DIR" else word for word in of_labkit(words)[0]]
        subprocess.run([sys.executable, "-m", "labkit", *arguments], cwd=ROOT, check=True, timeout=300)
    assert (tmp_path / "out" / "index.html").is_file()


@every_page
def test_numbers_beside_a_file_are_in_it(page):
    """In a paragraph that links to CSV files, every accuracy stands in one of them, rounded as it is quoted."""
    for part in re.split(r"\n\s*\n|\n(?=\d+\. |\* |- )", page.read_text("utf-8")):
        files = [page.parent / target for target in links(part) if target.endswith(".csv")]
        if not files or part.startswith("|"):
            continue
        there = pd.concat([pd.read_csv(file) for file in files]).select_dtypes("number").to_numpy().ravel()
        for number in re.findall(r"(?<![-\d.=] )(?<![-\d.=])\b0\.\d{2,}\b(?!\])", part):
            digits = len(number) - 2
            assert any(f"{value:.{digits}f}" == number for value in there if value == value), f"{number} in {part}"


def test_the_three_findings_are_what_was_measured():
    text = re.sub(r"\s+", " ", README.read_text("utf-8"))
    cells = pd.read_csv(LAB / "table_1.csv", keep_default_na=False)
    mine = cells[(cells.defense == "STL (cluster)") & (cells.attack != "Clean")].astype({"accuracy": float})
    ends = {
        block: "{:.2f} to {:.2f}".format(*part.accuracy.agg(["min", "max"])) for block, part in mine.groupby("block")
    }
    assert f"keeps {ends['paper']} under attack. In the grey boxes we find {ends['ours']}" in text
    assert f"STL (cluster) is left with {ends['worst']}, n = 200" in text
    rows = pd.read_csv(LAB / "06_tradeoff" / "lambda_rows.csv").set_index(["asked", "value"]).accuracy
    clean, grey, white = (
        [f"{rows[asked, lam]:.3f}" for lam in (0.05, 0.4)] for asked in ("clean", "attacked", "aware")
    )
    assert f"clean accuracy falls from {clean[0]} to {clean[1]}" in text
    assert f"FGSM-0.08 rises from {grey[0]} to {grey[1]} in the grey box (weights)" in text
    assert white == ["0.000"] * 2 and "(exact gradient) it is 0.000 at both" in text


def test_every_number_of_the_table_is_in_the_rows():
    rows = pd.read_csv(ROOT / "reports" / "quick" / "rows.csv")
    measured = {tables.cell(row) for row in rows.itertuples()}
    text = RESULTS.read_text("utf-8")
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


def test_the_table_says_what_the_report_says():
    first, *rows = [row for row in table(RESULTS) if row[0] in ("block", "ours", "paper, Table 1")]
    kept = table(ROOT / "reports" / "quick" / "headline.md")
    assert first == kept[0] and len(rows) == 12 and [row for row in rows if row not in kept] == []


def test_what_is_kept_of_a_report_is_what_it_wrote():
    kept, manifest = ROOT / "reports" / "quick", json.loads((ROOT / "reports" / "quick" / "manifest.json").read_text())
    files = {Path(f["path"]).name.replace(" ", "_"): f for n in manifest["notebooks"] for f in n["files"]}
    mine = [path for path in kept.iterdir() if path.name != "manifest.json"]
    assert len(mine) >= 7
    for path in mine:
        assert checkpoint.fingerprint(path, kept)["sha256"] == files[path.name]["sha256"], path.name


@pytest.mark.parametrize(
    ("file", "schema"),
    [(".github/workflows/reports.yml", "vendor.github-workflows"), ("docs/CI.md", "vendor.gitlab-ci"),
     ("CITATION.cff", "vendor.citation-file-format")],
)  # fmt: skip
def test_what_other_programs_read_fits_their_schema(file, schema, tmp_path):
    text = (ROOT / file).read_text("utf-8")
    if file.endswith(".md"):
        (text,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (tmp_path / "it.yml").write_text(text, "utf-8")
    done = CliRunner().invoke(check_jsonschema.main, ["--builtin-schema", schema, str(tmp_path / "it.yml")])
    assert done.exit_code == 0, done.output


def test_the_pipelines_run_the_makefile_and_keep_what_is_costly():
    github = (ROOT / ".github" / "workflows" / "reports.yml").read_text("utf-8")
    steps = yaml.safe_load(github)["jobs"]["report"]["steps"]
    assert "make reports" in [step.get("run") for step in steps]
    kept = [step["with"]["path"] for step in steps if "cache@" in step.get("uses", "")]
    assert kept == [".venv", "data/artifacts"] and not any("${{ inputs" in step.get("run", "") for step in steps)
    (gitlab,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "CI.md").read_text("utf-8"), re.DOTALL)
    report = yaml.safe_load(gitlab)["report"]
    assert "make reports" in report["script"] and [cache["paths"] for cache in report["cache"]] == [
        [path] for path in kept
    ]

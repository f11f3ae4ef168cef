"""Findings: the page over measured tables, with their figures and what their numbers say."""

import json
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import quote

from labkit.core import InputError, checkpoint
from labkit.core.wording import to_set, typed
from labkit.evaluation import ThreatModel, measurement
from labkit.experiments import causes, holding, published_numbers
from labkit.reporting import captions, cause_page, holding_page, questions, tables, verdicts
from labkit.reporting.judged import compare  # noqa: F401 (for others)
from labkit.reporting.leaderboard import leaderboard  # noqa: F401 (for others)

import pandas as pd

_MAIN = ("1", "2a", "2b", "5", "6a", "6b", "7", "3", "8a", "8b", "4")  # the first that is there is shown in full
_TABLE = "the paper's table"
# What a line of the first table has, by block.
_BLOCKS = {"paper": "the paper claims", "ours": "its attackers, here", "worst": ThreatModel.WORST_CASE.label}
_VANILLA = {"1": "5", "2a": "6a", "2b": "6b"}
# What notebooks leave in a data set's folder, and of 06 the rows that are read.
_PROJECTION, _TRADEOFF = "03_projection", "06_tradeoff"
_SWEEPS = "lambda_rows", "K_rows", "S_rows", "M_rows", "map", "silent_rows"
_TITLE = "# Measured results"
_END = "<!-- what stands above is made by `python -m labkit findings` -->"
_MARK = "<!-- what follows is made by `python -m labkit findings` -->"


def page(folder: Path, link: str = "") -> str:
    """The page over all `table_*.csv` in the folders below `folder`: figure, main table, findings. Markdown.

    link  what stands before the way to a file from `folder`, such as "lab/"

    Raises InputError when there is no table.
    """
    found = _measured(folder)
    if not found:
        raise InputError(f"{folder} holds no measured table; make one with `labkit table 5 --out {folder / 'mine'}`")
    places = [
        _section(place.relative_to(folder).as_posix(), place, measured, link) for place, measured in found.items()
    ]
    projected = [_projected(file.parents[1].relative_to(folder).as_posix(), file)
                 for file in sorted(folder.rglob(f"{_PROJECTION}/shrinkage.csv"))]  # fmt: skip
    return tables.page("findings.md", places=places, projected=projected)


def write(folder: Path, out: Path) -> None:
    """Put `opening` and `page` of a folder into a file, whose words between the marks stay.

    Raises InputError as `page` does.
    """
    if typed(out).is_dir():
        raise InputError(f"{out} is a folder; name the file to write, as with {to_set('out', 'FILE')}")
    told = page(typed(folder), f"{folder.name}/")
    first, between, rest = (out.read_text("utf-8").partition(_MARK)[0] if out.is_file() else "").partition(_END)
    words = rest if between else f"\n\n{first.removeprefix(_TITLE).lstrip()}"
    checkpoint.write_whole(out, f"{_TITLE}\n\n{opening(folder)}\n\n{_END}{words}{_MARK}\n\n{told}")


def opening(folder: Path) -> str:
    """What a reader may quote: a table of what the paper claims, what holds, and what is left, in three sentences."""
    lines = []
    for place, measured in _measured(typed(folder)).items():
        for name, cells in measured.items():
            attacked = cells[cells.attack != "Clean"]
            ends = attacked.groupby(["defense", "block"]).accuracy.agg(["min", "max"])
            left = {who: " to ".join(dict.fromkeys(map("{:.2f}".format, pair))) for who, *pair in ends.itertuples()}
            for whose in [own for own in questions.STL if all((own, block) in left for block in _BLOCKS)][-1:]:
                line = {"data": place.relative_to(folder).as_posix(), _TABLE: published_numbers.called(name)}
                line |= {"defense": whose, "n": f"{cells.n.max():,.0f}"}
                line |= {word: left[whose, block] for block, word in _BLOCKS.items()}
                lines.append(line | {"No Defense, its attackers": left.get(("No Defense", "ours"), "–")})
    if not lines:
        return "No table of the paper is measured in full yet."
    first = min(lines, key=lambda line: _MAIN.index(line[_TABLE].split()[0]))
    _, name, whose, _, claimed, here, worst, bare = first.values()
    told = {"defense": whose, "claimed": claimed, "name": name, "here": here, "bare": bare, "worst": worst}
    return tables.page("opening.md", lines=pd.DataFrame(lines), **told).strip()


def _measured(folder: Path) -> dict[Path, dict[str, pd.DataFrame]]:
    """The cells of all tables below a folder, by place and name."""
    found: dict[Path, dict[str, pd.DataFrame]] = {}
    for file in sorted({*folder.rglob("table_*.json")} - {*folder.rglob("*_recipes.json")}):
        cells = pd.read_csv(file.with_suffix(".csv")).fillna({"knowledge": ""})
        found.setdefault(file.parent, {})[file.stem.removeprefix("table_")] = cells
    return found


def _section(title: str, place: Path, measured: dict[str, pd.DataFrame], link: str) -> dict[str, Any]:
    """What the template needs of one data set."""
    main = min(measured, key=lambda name: _MAIN.index(published_numbers.convention(name)[0]))
    pairs = [(f"{a}{how}", f"{b}{how}") for a, b in _VANILLA.items() for how in ("", "_released")]
    again = [questions.retraining(measured[a], measured[b]) for a, b in pairs if {a, b} <= set(measured)]
    found, link = [], quote(f"{link}{title}/")
    for name, cells in measured.items():
        votes = place / f"table_{name}_votes.csv"
        said = questions.of_table(cells, pd.read_csv(votes) if votes.is_file() else pd.DataFrame())
        found.append((name, published_numbers.called(name), verdicts.summary(said)))
    twice = measurement.repeated([*sorted(place.glob("*_rows.csv")), *sorted(place.glob("*/*rows.csv"))])
    swept = _swept(place / _TRADEOFF)
    return {
        "title": title, "link": link, "main": main, "called": published_numbers.called(main),
        "setting": published_numbers.table(main).attrs["setting"], "command": _made(place / f"table_{main}.json"),
        "cells": tables.markdown(tables.blocks(measured[main], main)), "tables": found,
        "again": verdicts.markdown(verdicts.table(again)), "resolutions": _resolutions(place, measured),
        "own": _own(place), "swept": swept, "swept_by": swept and _command(place / _TRADEOFF, "06"),
        "twice": verdicts.markdown(questions.repeats(twice)) if len(twice) else "",
    }  # fmt: skip


def _resolutions(place: Path, measured: dict[str, pd.DataFrame]) -> list[tuple[str, ...]]:
    """What becomes of a defense as images grow, where one setting was measured at several resolutions."""
    settings: dict[str, list[str]] = {}
    for name in measured:
        how = published_numbers.table(name).attrs["setting"] + ", as released" * published_numbers.convention(name)[1]
        settings.setdefault(how, []).append(name)
    parts = []
    for how, names in settings.items():
        files = [place / f"table_{name}_rows.csv" for name in names if len(names) > 1]
        sides = [int(pd.read_csv(file).data.iloc[0].rpartition("×")[2]) for file in files]
        if len(pixels := dict(sorted(zip(sides, names, strict=False)))) > 1:
            cells = {side: measured[name] for side, name in pixels.items()}
            told = ", ".join(f"Table {name}: {side} pixels" for side, name in pixels.items())
            found = verdicts.markdown(questions.resolutions(cells))
            parts.append((how, told, tables.markdown(tables.resolutions(cells)), found))
    return parts


def _own(place: Path) -> dict[str, tuple[str, str]]:
    """What is read from the tables that the paper has not, where they were measured, and how they were made."""
    parts = {}
    for name, read in _OWN.items():
        if (place / f"{name}.json").is_file():
            files = (place / f"{name}_{part}.csv" for part in ("rows", "worst"))
            found = read(*(pd.read_csv(file) if file.is_file() else pd.DataFrame() for file in files))
            parts[name] = found, _made(place / f"{name}.json")
    return parts


_OWN = {
    "baselines": lambda rows, worst: verdicts.markdown(questions.baselines(rows, worst)),
    holding.HOLDS: lambda _rows, worst: verdicts.markdown(holding_page.questions(worst)),
    causes.CAUSES: lambda rows, _worst: cause_page.found(rows.fillna({"fault": ""})),
}


def _swept(folder: Path) -> dict[str, tuple[str, str]]:
    """The captions of the trade-off's figures, and what its rows say; nothing where it was not measured."""
    parts = {}
    for name in (name for name in _SWEEPS if (folder / f"{name}.csv").is_file()):
        rows, caption = pd.read_csv(folder / f"{name}.csv"), captions.psnr_accuracy()
        if name == "map":
            found = questions.psnr_accuracy(rows)
        else:
            rows["value"], caption = rows.value.map(setting), captions.sweep(rows)
            found = verdicts.table(questions.sweep(rows, what) for what in dict.fromkeys(rows.what))
        parts[name] = caption, verdicts.markdown(found)
    return parts


def _projected(title: str, file: Path) -> tuple[str, ...]:
    """What notebook 03 has measured of T alone, without a network behind it."""
    rows = pd.read_csv(file, dtype={"recipe": str})
    cells, found = tables.markdown(tables.attenuation(rows)), verdicts.markdown(questions.attenuation(rows))
    return title, rows.pixels[0], cells, captions.attenuation(rows), found, _command(file.parent, "03")


def _made(file: Path) -> str:
    return json.loads(file.read_bytes())["command"]


def _command(folder: Path, notebook: str) -> str:
    told = json.loads((folder / "manifest.json").read_bytes())
    what = f"--profile {told['profile']} --dataset {shlex.quote(told['dataset'])}"
    sized = f" --resolution {told['resolution']}" if told["resolution"] else ""
    return f"python -m labkit report --notebooks {notebook} {what}{sized} --out DIR"


def setting(word: str | float) -> str | float:
    """A value as it was before it came into one column with others, some of which are words."""
    try:
        return float(word)
    except ValueError:
        return word

"""The page of an evaluation (`evaluation.evaluate`), and how two of them differ."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from labkit.core import InputError, checkpoint, metrics
from labkit.core.wording import in_markdown, reason
from labkit.evaluation import Evaluation, ThreatModel
from labkit.experiments import attack_curves
from labkit.reporting import figures, html, pictures, tables

import pandas as pd

JSON = "evaluation.json"
_NONE, _CHECK = "–", ["check", "verdict", "said"]


def evaluation_page(evaluation: Evaluation, out: str | Path, bare: Evaluation | None = None) -> Path:
    """Writes index.html, the same in Markdown, figure, pictures and evaluation.json into the folder `out`.

    bare  the same network without the defense, on the same images and as hard: each number is then also told as a
          paired difference to it

    Returns the way to index.html.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint.write_whole(out / JSON, evaluation.to_json())
    told, other = (json.loads(each.to_json()) if each else None for each in (evaluation, bare))
    pictures.save(figures.evaluation(evaluation), out, "evaluation")
    if evaluation.smallest.numel():
        sizes = {each.rows.defense.iloc[0]: each.smallest for each in (evaluation, bare) if each}
        pictures.save(figures.security(attack_curves.securities(sizes)), out, "security")
    if shown := evaluation.pictures:
        pictures.save(pictures.strips(*shown), out, "pictures")
    text = _text(told, other, pictured=bool(shown))
    checkpoint.write_whole(out / "index.md", text)
    body = html.markdown(text, folder=str(out))
    checkpoint.write_whole(out / "index.html", html.fill("plain.html", title=_named(told), body=body))
    return out / "index.html"


def compare(ours: Path, other: Path) -> str:
    """Paired differences of two evaluations (JSON files, or their folders), attack by attack; Markdown.

    Raises InputError for files that are none, or of different images.
    """
    mine, theirs = read(ours), read(other)
    if mine["images"] != theirs["images"]:
        named = [f"{in_markdown(of['images']['name'])} ({of['images']['digest'][:12]})" for of in (mine, theirs)]
        raise InputError(f"the evaluations are of different images, {' and '.join(named)}; evaluate both on the same")
    frame = _rows(mine, theirs)
    if not (frame["difference"] != _NONE).any():
        raise InputError("the evaluations have no attack in common; evaluate both with the same effort and budgets")
    head = f"# {_named(mine)} beside {_named(theirs)}"
    how = "Difference: how much more the first has right (95 % interval, paired; p by McNemar's exact test)."
    return f"{head}\n\n{tables.exact(frame)}\n\n{how}\n"


def _text(told: Mapping[str, Any], bare: Mapping[str, Any] | None, *, pictured: bool) -> str:
    takes = {name: took + (bare["efforts"][name] if bare else 0) for name, took in told["efforts"].items()}
    return tables.page(
        "evaluation.md", named=_named(told), told=told, bare=bare, pictured=pictured,
        clean=next(row for row in told["rows"] if row["attack"] == "Clean"),
        left="; ".join(f"{row['accuracy']:.2f} at {tables.sized(row)}" for row in told["worst"] if row.get("size")),
        failed=[check for check in told["checks"] if check["verdict"] == "failed"],
        passed=pd.DataFrame([check for check in told["checks"] if check["verdict"] != "failed"], columns=_CHECK),
        attacks=_rows(told, bare), worst=_worst(told, bare), costs=_costs(told),
        halves=[(_named(each), _half(each["smallest"])) for each in (told, bare) if each and told["smallest"]],
        efforts=", ".join(f"{took / 60:,.1f} minutes for `{name}`" for name, took in takes.items()),
    )  # fmt: skip


def defense_of(told: Mapping[str, Any]) -> str:
    """The name of an evaluation's defense, as rows have it."""
    return (told["defense"] or {"name": "No Defense"})["name"]


def _rows(told: Mapping[str, Any], other: Mapping[str, Any] | None) -> pd.DataFrame:
    """A line per attack; with `other`, the paired difference to its row of the same attack, or to its strongest."""
    theirs, lines = {(row["attack"], row["knowledge"]): row for row in (other or told)["rows"]}, []
    for row in told["rows"]:
        line = {"attack": row["attack"], "threat model": ThreatModel.of(row["knowledge"], defense_of(told)).label}
        line |= {"n": f"{row['n']:,}", "accuracy": tables.cell(pd.Series(row))}
        twin = theirs.get((row["attack"], row["knowledge"])) or theirs.get((row["attack"], "classifier"))
        lines.append(line | (_difference(row, twin) if other else {}))
    return pd.DataFrame(lines)


def _worst(told: Mapping[str, Any], bare: Mapping[str, Any] | None) -> pd.DataFrame:
    theirs, lines = {tables.sized(row): row for row in bare["worst"]} if bare else {}, []
    for row in (row for row in told["worst"] if row.get("size")):
        line = {"size": tables.sized(row), "worst case": tables.cell(pd.Series(row))}
        line |= {name: row[name] for name in ("attacks", "hardest")}
        lines.append(line | (_difference(row, theirs.get(line["size"])) if bare else {}))
    return pd.DataFrame(lines)


def _half(smallest: list[float | None]) -> float | None:
    """The size from which on half of the images at most are right, of what changes each; None where there is none."""
    return sorted(smallest, key=lambda size: math.inf if size is None else size)[(len(smallest) - 1) // 2]


def _costs(told: Mapping[str, Any]) -> pd.DataFrame:
    """Seconds and passes an image of each attack."""
    lines, numbers = [], {"seconds": "{:.2g}", "forward": "{:,.4g}", "backward": "{:,.4g}"}
    for row in told["costs"]:
        model = "" if row["knowledge"] == _NONE else ThreatModel.of(row["knowledge"], defense_of(told)).label
        shown = {name: _NONE if row[name] is None else how.format(row[name]) for name, how in numbers.items()}
        lines.append({"what": row["what"], "threat model": model, **shown})
    return pd.DataFrame(lines)


def _difference(row: Mapping[str, Any], twin: Mapping[str, Any] | None) -> dict[str, str]:
    found = twin and metrics.compared(row["right"], twin["right"])
    shown = f"{found.number:+.3f} [{found.low:+.3f}, {found.high:+.3f}], p = {found.p:.2g}" if found else _NONE
    return {"difference": shown}


def _named(told: Mapping[str, Any]) -> str:
    defense = f" behind {told['defense']['name']}" if told["defense"] else ""
    return in_markdown(told["network"]["name"] + defense)


def read(path: Path) -> dict[str, Any]:
    """What an evaluation.json, or the one in a folder, says. Raises InputError where there is none."""
    file = path / JSON if path.is_dir() else path
    try:
        told = json.loads(file.read_bytes())
        if told["version"] != 1 or not isinstance(told["rows"], list):
            raise ValueError("it is of another version")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no evaluation ({reason(error)}); `labkit evaluate` writes one") from None
    return told

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
import torch

JSON = "evaluation.json"
_PAIR = ["attack", "knowledge"]
_NONE = "–"
# What to do about a check that failed, by what its name holds.
_ADVICE = {
    "state": "let it forget between calls; until then no number here can be measured twice",
    "one image at a time": "let it clean each image by itself; until then a verdict depends on the others in its batch",
    "depend on the batch": "let it decide for each image by itself; until then a verdict depends on the others",
    "[0, 1]": "clip in the defense, or say that it is part of it",
    "has a gradient": "read the rows of BPDA and of queries; where they are weak, too, write a smooth stand-in",
    "gradient that it says": "its gradient misleads attackers: read the rows of BPDA and of queries",
    "gradient is exactly zero": "gradients are masked: read the rows of BPDA and of queries",
    "finite differences": "the gradient is another one than that of what is judged: attack with BPDA",
    "queries": "queries beat gradients, which are masked: try more steps, other losses, a smooth stand-in",
    "random search": "the attack is weaker than chance: its gradient says nothing",
    "steps": "attack longer: the numbers are upper bounds",
    "falls": "a larger size leaves more: the attack fails, and its numbers say nothing",
    "no bound": "no size breaks it, which no classifier survives: gradients are masked",
    "BPDA": "the identity is the better gradient: the exact one is masked",
    "not knowing": "who does not know the defense is stronger: the attack through it fails",
    "rest": "judge and attack the logits of a network in evaluation mode",
    "evaluation mode": "call eval() in the function that makes it",
    "draw": "average over its draws, or fix them",
}  # fmt: skip


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
        pictures.save(figures.security(_curves(evaluation, bare)), out, "security")
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
        told = " and ".join(
            f"{in_markdown(each['images']['name'])} ({each['images']['digest'][:12]})" for each in (mine, theirs)
        )
        raise InputError(f"the evaluations are of different images, {told}; evaluate both on the same")
    frame = _rows(mine, theirs)
    if not (frame["difference"] != _NONE).any():
        raise InputError("the evaluations have no attack in common; evaluate both with the same effort and budgets")
    head = f"# {_named(mine)} beside {_named(theirs)}"
    how = "Difference: how much more the first has right (95 % interval, paired; p by McNemar's exact test)."
    return f"{head}\n\n{tables.markdown(frame, disable_numparse=True)}\n\n{how}\n"


def _text(told: Mapping[str, Any], bare: Mapping[str, Any] | None, *, pictured: bool) -> str:
    clean = next(row for row in told["rows"] if row["attack"] == "Clean")
    failed = [check for check in told["checks"] if check["verdict"] == "failed"]
    worst = [f"{row['accuracy']:.2f} at {tables.sized(row)}" for row in told["worst"] if row.get("size")]
    what = [f"network: {in_markdown(told['network']['name'])} ({told['network']['digest'][:12]})"]
    if told["defense"]:
        what.append(f"defense: {in_markdown(told['defense']['name'])} ({told['defense']['digest'][:12]})")
    what.append(f"images: {in_markdown(told['images']['name'])} ({told['images']['digest'][:12]}), n = {clean['n']:,}")
    what.append(f"effort: {told['effort']}, {told['seconds']:,.0f} seconds")
    parts = [
        f"# {_named(told)}",
        in_markdown(told.get("note", "")),
        f"Clean accuracy {clean['accuracy']:.2f}. Correct under every attack of effort “{told['effort']}”, so at most "
        f"robust: {'; '.join(worst) or 'not attacked'}. Sanity checks: {len(failed)} of {len(told['checks'])} failed.",
        "\n".join(f"- {line}" for line in what),
        "![Accuracy under each attack, by size](evaluation.png)",
        "## What does each attack leave?",
        tables.markdown(_rows(told, bare), disable_numparse=True),
        "Accuracy with 95 % Wilson intervals."
        + " Difference: to the network without the defense, paired." * bool(bare),
        "## And in the worst case?",
        tables.markdown(_worst(told, bare), disable_numparse=True),
        "An image counts as correct if no attack of this size changes that, and the clean image is right. Longer and "
        "other attacks (`--effort full`) can only leave less.",
        *(_security(told, bare) if told["smallest"] else ()),
        "## Can these numbers be trusted?",
        *(_checks(told["checks"]) if told["checks"] else ["No checks were run."]),
    ]
    if told["notes"]:
        parts += ["## What was assumed", "\n".join(f"- {in_markdown(note)}" for note in told["notes"])]
    if told["costs"]:
        parts += ["## What does it cost?", *_costs(told, bare)]
    if pictured:
        parts += [
            "## What does it look like?",
            "![Images, attacked images, their difference, what the network gets](pictures.png)",
        ]
    return "\n\n".join(parts) + "\n"


def _rows(told: Mapping[str, Any], other: Mapping[str, Any] | None) -> pd.DataFrame:
    """A line per attack; with `other`, the paired difference to its row of the same attack, or to its strongest."""
    defense, lines = (told["defense"] or {"name": "No Defense"})["name"], []
    theirs = {(row["attack"], row["knowledge"]): row for row in other["rows"]} if other else {}
    for row in told["rows"]:
        model = ThreatModel.of(row["knowledge"], defense)
        line = {
            "attack": row["attack"],
            "threat model": model.label,
            "n": f"{row['n']:,}",
            "accuracy": tables.cell(pd.Series(row)),
        }
        if other:
            twin = theirs.get((row["attack"], row["knowledge"])) or theirs.get((row["attack"], "classifier"))
            line |= _difference(row, twin)
        lines.append(line)
    return pd.DataFrame(lines)


def _worst(told: Mapping[str, Any], bare: Mapping[str, Any] | None) -> pd.DataFrame:
    lines, theirs = [], {tables.sized(row): row for row in bare["worst"]} if bare else {}
    for row in (row for row in told["worst"] if row.get("size")):
        line = {
            "size": tables.sized(row),
            "worst case": tables.cell(pd.Series(row)),
            "attacks": row["attacks"],
            "hardest": row["hardest"],
        }
        lines.append(line | (_difference(row, theirs.get(tables.sized(row))) if bare else {}))
    return pd.DataFrame(lines)


def _curves(evaluation: Evaluation, bare: Evaluation | None) -> dict[str, pd.DataFrame]:
    """The security curve of what was judged, and of the network without the defense, as far as an attack succeeded."""
    sizes = {each.rows.defense.iloc[0]: each.smallest for each in (evaluation, bare) if each}
    every = torch.cat([*sizes.values()])
    reach = 1.05 * float(every[every.isfinite()].max()) if every.isfinite().any() else 0.0
    return {name: attack_curves.security(mine, reach) for name, mine in sizes.items()}


def _security(told: Mapping[str, Any], bare: Mapping[str, Any] | None) -> list[str]:
    """The security curve, and where it falls to a half."""
    halves = []
    for each in (told, bare) if bare else (told,):
        sizes = sorted(math.inf if size is None else size for size in each["smallest"])
        half = sizes[(len(sizes) - 1) // 2]
        where = f"from relative L2 {half:.3g} on, half of the images at most are right"
        halves.append(f"{_named(each)}: {where if half < math.inf else 'no size tried leaves fewer than half right'}")
    return [
        "## How does it fall with the size?",
        "![Security curve: accuracy against the relative L2 size of the change, upper bounds](security.png)",
        "An image counts as correct up to the smallest change with which any attack of this page succeeded, "
        "whatever its norm; DDN looks for the smallest. The curve is an upper bound: other attacks find smaller ones.",
        "\n".join(f"- {half}." for half in halves),
    ]


def _costs(told: Mapping[str, Any], bare: Mapping[str, Any] | None) -> list[str]:
    """Seconds and passes an image of each attack, and what each effort takes, the bare network with it."""
    lines = []
    for row in told["costs"]:
        defense = (told["defense"] or {"name": "No Defense"})["name"]
        model = "" if row["knowledge"] == "–" else ThreatModel.of(row["knowledge"], defense).label
        numbers = {"seconds": "{:.2g}", "forward": "{:,.4g}", "backward": "{:,.4g}"}
        told_of = {name: _NONE if row[name] is None else how.format(row[name]) for name, how in numbers.items()}
        lines.append({"what": row["what"], "threat model": model, **told_of})
    takes = {name: took + (bare["efforts"][name] if bare else 0) for name, took in told["efforts"].items()}
    return [
        tables.markdown(pd.DataFrame(lines), disable_numparse=True),
        "Seconds and passes an image, on this machine; attacks with the judging of what they made. Passes are through "
        "all that the attacker differentiates or asks.",
        f"About {', '.join(f'{took / 60:,.1f} minutes for `{name}`' for name, took in takes.items())}"
        + ", the network without the defense among them." * bool(bare)
        + "." * (not bare),
    ]


def _difference(row: Mapping[str, Any], twin: Mapping[str, Any] | None) -> dict[str, str]:
    found = twin and metrics.compared(row["right"], twin["right"])
    shown = f"{found.number:+.3f} [{found.low:+.3f}, {found.high:+.3f}], p = {found.p:.2g}" if found else _NONE
    return {"difference": shown}


def _checks(checks: list[Mapping[str, str]]) -> list[str]:
    failed = [check for check in checks if check["verdict"] == "failed"]
    lines = []
    for check in failed:
        advice = next(
            (words for part, words in _ADVICE.items() if part in check["check"]), "read the numbers with care"
        )
        lines.append(f"- **failed: {in_markdown(check['check'])}** ({in_markdown(check['said'])}). To do: {advice}.")
    frame = pd.DataFrame([check for check in checks if check not in failed], columns=["check", "verdict", "said"])
    folded = f"<details><summary>{len(frame)} checks passed</summary>\n\n{tables.markdown(frame)}\n\n</details>"
    return ["\n".join(lines) or "All checks passed.", folded]


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

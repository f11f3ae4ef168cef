"""The leaderboard: one sortable page over evaluations and the lab's own tables, those of the same images together."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

from labkit.core import InputError, checkpoint
from labkit.core.wording import in_markdown, typed
from labkit.evaluation import ThreatModel
from labkit.reporting import html, tables
from labkit.reporting.judged import JSON, defense_of, read

import pandas as pd

_NONE = "–"
_COLUMNS = ("network", "defense", "clean"), ("threat models", "seconds", "failed checks")  # about the worst cases


def leaderboard(folder: Path, out: Path | None = None) -> Path:
    """Writes index.html over all that was measured below `folder` into `out` (or there); returns the way to it.

    What was measured is each evaluation.json, and each NAME_worst.csv with its NAME_rows.csv (`labkit table`).

    Raises InputError where there is nothing.
    """
    folder, out = typed(folder), typed(out or folder)
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for images, line, page in (*_evaluations(folder), *_tables(folder)):
        link = quote(Path(os.path.relpath(page, out)).as_posix())
        groups.setdefault(images, []).append(line | {"page": f"[{in_markdown(page.stem)}]({link})"})
    if not groups:
        raise InputError(f"{folder} holds no {JSON}; make one with `labkit evaluate --out {folder / 'mine'}`")
    ranked = [("; ".join(dict.fromkeys(line["images"] for line in lines)), n, digest, _ranked(lines))
              for (digest, n), lines in sorted(groups.items(), key=lambda group: -len(group[1]))]  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    body = html.markdown(tables.page("leaderboard.md", groups=ranked))
    checkpoint.write_whole(out / "index.html", html.fill("plain.html", title="Leaderboard", body=body))
    return out / "index.html"


def _ranked(lines: list[dict[str, Any]]) -> str:
    """Lines of the same images as a table, the best worst case first: of the commonest size, the others behind it."""
    counts = Counter(size for line in lines for size in line["worst"]).most_common(1)
    main, shown = counts[0][0] if counts else _NONE, []
    for line in sorted(lines, key=lambda line: -line["worst"].get(main, {}).get("accuracy", -1)):
        told = {size: tables.cell(pd.Series(row)) for size, row in line["worst"].items()}
        first, rest = ({name: in_markdown(str(line[name])) for name in names} for names in _COLUMNS)
        first |= {f"worst case, {main}": told.pop(main, _NONE)}
        first |= {"at other sizes": "<br>".join(f"{size}: {cell}" for size, cell in told.items()) or _NONE}
        shown.append(first | rest | {"page": line["page"]})
    return pd.DataFrame(shown).to_markdown(index=False, disable_numparse=True)


def _merged(labels: Iterable[str]) -> str:
    """Threat models by their boxes: "white box (BPDA, exact gradient)"."""
    boxes: dict[str, dict[str, None]] = {}
    for box, _, how in (label.removesuffix(")").partition(" (") for label in labels):
        boxes.setdefault(box, {})[how] = None
    return "; ".join(box + f" ({', '.join(filter(None, how))})" * any(how) for box, how in boxes.items()) or _NONE


def _evaluations(folder: Path) -> Iterator[tuple[tuple[str, int], dict[str, Any], Path]]:
    """Of each evaluation the images that it is of (digest, n), its line, and the way to its page."""
    for file in sorted(folder.rglob(JSON)):
        told = read(file)
        clean = next(row for row in told["rows"] if row["attack"] == "Clean")
        defense = defense_of(told)
        models = [ThreatModel.of(row["knowledge"], defense).label for row in told["rows"] if row is not clean]
        failed = [check["check"] for check in told["checks"] if check["verdict"] == "failed"]
        yield (clean["right"].split(":")[0], clean["n"]), {
            "network": told["network"]["name"], "defense": defense, "images": told["images"]["name"],
            "worst": {tables.sized(row): row for row in told["worst"] if row.get("size")},
            "clean": f"{clean['accuracy']:.3f}", "threat models": _merged(models),
            "seconds": f"{told['seconds']:,.0f}", "failed checks": "; ".join(failed) or "none",
        }, file.parent / "index.html"  # fmt: skip


def _tables(folder: Path) -> Iterator[tuple[tuple[str, int], dict[str, Any], Path]]:
    """The same of each network and defense of a table that the lab has measured."""
    for file in sorted(folder.rglob("*_worst.csv")):
        name = file.name.removesuffix("_worst.csv")
        rows = pd.read_csv(file.with_name(f"{name}_rows.csv"), dtype={"recipe": str})
        recipes, told = (json.loads(file.with_name(f"{name}{end}.json").read_bytes()) for end in ("_rows_recipes", ""))
        norms = {recipe["attack"]["size"]: recipe["attack"]["norm"] for recipe in recipes.values()}
        for (defense, retrained, n), mine in pd.read_csv(file).groupby(["defense", "retrained", "n"], sort=False):
            if not mine["size"].any():
                continue  # nothing of it is measured in full
            theirs = rows[(rows.defense == defense) & (rows.retrained == retrained)]
            models = [ThreatModel.of(word, defense).label for word in theirs.knowledge[theirs.attack != "Clean"]]
            models += mine.hardest[mine["size"] > 0].str.partition(", ")[2].tolist()
            said = re.search(rf"(?<!\w){re.escape(defense)}: (?:failed.*?: )?(.*?)\.(?: |$)", told["checks"])
            clean = pd.concat([mine[mine["size"] == 0], theirs[(theirs.attack == "Clean") & (theirs.n == n)]]).accuracy
            digest = told["images"][str(n)].split(":")[1][:12]
            trained = recipes[theirs.recipe.iloc[0]]["classifier"].get("epochs")
            network = theirs.classifier.iloc[0] + (f", {trained} epochs" if trained else "")
            network += ", retrained on T(x)" * bool(retrained)
            yield (digest, n), {
                "network": network, "defense": defense, "images": theirs.data.iloc[0],
                "worst": {tables.sized({"norm": norms[size], "size": size}): row
                          for size, row in zip(mine["size"], mine.to_dict("records"), strict=True) if size},
                "clean": f"{clean.iloc[0]:.3f}" if len(clean) else _NONE, "threat models": _merged(models),
                "seconds": f"{theirs.seconds.sum():,.0f}" if theirs.seconds.notna().all() else _NONE,
                "failed checks": "not run" if not said else "none" if said[1].startswith("all ") else said[1],
            }, file.with_name(f"{name}.md")  # fmt: skip

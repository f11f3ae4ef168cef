"""Tables: tidy rows pivoted for reading, beside what the paper printed."""

import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from labkit.core import checkpoint
from labkit.core.metrics import Point, said, told
from labkit.core.recipes import listed
from labkit.core.wording import in_markdown
from labkit.evaluation import ThreatModel, threat_models
from labkit.evaluation.threat_models import inside_network
from labkit.experiments import paper_tables, published_numbers
from labkit.experiments.ablations import CHOICES, named
from labkit.experiments.published_numbers import LINE, alike, by_resolution, kept

import jinja2
import pandas as pd

BROKEN, HELD = 0.1, "not broken here"  # robust accuracy above which a defense is called so
_MAJORITY = f"majority of {threat_models.ANSWERS} answers"
_ALL, _KNOWN = f"{ThreatModel.WORST_CASE.label}, at one size", ", defense known"
_UNKNOWN = "not said"
_MACHINE = ["right", "judged"]  # columns for programs: which images are right, in hundreds of digits, of which training
_BLOCKS = {"ours": "ours", "worst": f"ours, {ThreatModel.WORST_CASE.label}", "paper": "paper"}


def beside_paper(rows: pd.DataFrame, table: str = "1") -> pd.DataFrame:
    """Our accuracies above the paper's: one line per defense and threat model, one column per attack (`blocks`).

    rows   from `measurement.run`; those of vanilla or of retrained networks are chosen to match the table's setting
    table  a name of `published_numbers.names()`
    """
    return blocks(alike(rows, table), table)


def blocks(cells: pd.DataFrame, table: str) -> pd.DataFrame:
    """`measured` as it is read: a line per block, defense and threat model, a column per attack."""
    usual = cells.groupby(LINE, sort=False).n.transform("first")
    shown = [_printed(row) if pd.isna(n) or row.n == n else f"{_printed(row)} (n = {int(row.n):,})"
             for row, n in zip(cells.itertuples(), usual, strict=True)]  # fmt: skip
    counts = [_UNKNOWN if pd.isna(n) else f"{int(n):,}" for n in usual]
    lines = _across(_named(cells, table).assign(n=counts, shown=shown), [*LINE, "threat model", "n"], "attack")
    lines = lines.mask(lines.isna() & lines.block.str.startswith("paper").to_numpy()[:, None], "not reported")
    return lines.drop(columns="knowledge").fillna("")


def threat_model(block: str, knowledge: str, defense: str) -> str:
    """The label of a cell's threat model; the paper says it of its Table 4 alone."""
    if block == "worst":
        return ThreatModel.WORST_CASE.label
    return ThreatModel.of(knowledge, defense).label if knowledge else _UNKNOWN


def asked(row) -> str:
    """What a row of `ablations.sweep` measures: on which images, under which threat model."""
    if row.asked == "clean":
        return "clean accuracy"
    return f"accuracy under {row.attack}, {threat_model('ours', row.knowledge, row.defense)}"


def baselines(rows: pd.DataFrame, worst: pd.DataFrame, table: str) -> pd.DataFrame:
    """One line per defense: n, each attack by someone who does not know it, each by someone who does, and all of them.

    A network that is its own defense is known to whoever has its weights. Of an attack that was tried with several
    gradients, the lowest accuracy, with its threat model; of a random defense beside that of the majority. Where all
    attacks leave more than `BROKEN`, and no more of the network without a defense, the line says so.

    rows   from `measurement.run(baselines.cases(…))`
    worst  from `measurement.worst_case` of `baselines.alike`: those of one size
    table  the paper's, whose lines stand below ours, for the defenses that it has
    """
    printed, least, lines = published_numbers.table(table), worst.set_index("defense"), []
    knows = rows.knowledge.map(lambda word: ThreatModel(word).knows_defense)
    known = knows | ~rows.attack.isin(rows.attack[~knows & ~rows.defense.map(inside_network)])
    telling = least.accuracy.get("No Defense", 1.0) <= BROKEN
    for (defense, n), mine in rows.groupby(["defense", "n"], sort=False):
        line = {"source": "ours", "defense": defense, "n": f"{n:,}"}
        line |= {row.attack: cell(row) for row in mine[~known[mine.index]].itertuples()}
        for _, tried in mine[known[mine.index]].groupby("attack", sort=False):
            row = tried.loc[tried.accuracy.idxmin()]
            line[f"{row.attack}{_KNOWN}"] = f"{cell(row)} ({threat_model('ours', row.knowledge, defense)})"
            if pd.notna(row.get("majority")):
                line[f"{row.attack}{_KNOWN}, {_MAJORITY}"] = f"{row.majority:.3f}"
        if defense in least.index:
            all_of = least.loc[defense]
            held = f", {HELD}" if telling and all_of.accuracy > BROKEN else ""
            line[_ALL] = f"{cell(all_of)}{held} ({all_of.attacks} attacks)"
        lines.append(line)
    theirs, attacks = (list(dict.fromkeys(rows[column])) for column in ("defense", "attack"))
    for defense in (name for name in theirs if name in printed.index):
        values = {a: f"{printed.loc[defense, a]:.4f}" if a in printed else "not reported" for a in attacks}
        values = {name: value for name, value in values.items() if any(name in line for line in lines)}
        lines.append({"source": f"paper, Table {table}", "defense": defense, "n": _UNKNOWN, **values})
    columns = dict.fromkeys(name for line in lines for name in line if name != _ALL)
    order = [*(name for name in columns if _KNOWN not in name), *(name for name in columns if _KNOWN in name)]
    return pd.DataFrame(lines, columns=[*order, _ALL]).fillna("")


def gradients(rows: pd.DataFrame) -> pd.DataFrame:
    """What each way to differentiate a defense leaves, of the attacks that were tried with several: a line for each."""
    known = paper_tables.knowing(rows)
    known = known[known.groupby(["defense", "attack"]).knowledge.transform("nunique") > 1]
    named = _named(known.assign(block="ours", shown=known.apply(cell, axis=1)))
    named = named.assign(n=named.n.map("{:,}".format))
    return _across(named, ["defense", "attack", "n"], "threat model").fillna("–")


def retention(cells: pd.DataFrame, table: str) -> pd.DataFrame:
    """Accuracy under attack as a share of the same line's clean accuracy, for every cell of `measured`.

    A defense whose undefended network hardly notices an attack keeps much of nothing: compare with No Defense.
    """
    part = _named(cells, table).assign(shown=kept(cells).map("{:.2f}".format, na_action="ignore"))
    lines = _across(part[cells.attack != "Clean"], [*LINE, "threat model"], "attack")
    return lines.drop(columns="knowledge").fillna("–")


def adaptive(rows: pd.DataFrame) -> pd.DataFrame:
    """One line per attack and attacker, one column per defense, and the paper's Table 4 below (BPDA, L∞ 0.031)."""
    labels = _named(rows.assign(block="ours")).groupby(["attack", "knowledge"])["threat model"]
    models = labels.transform(lambda names: " / ".join(dict.fromkeys(names)))
    ours = rows.assign(source="ours", shown=rows.apply(cell, axis=1), **{"threat model": models})
    ours = _across(ours, ["source", "attack", "knowledge", "threat model"], "defense").drop(columns="knowledge")
    printed = published_numbers.table("4").iloc[:, -1]
    bpda = {"source": "paper, Table 4", "attack": "BPDA, L∞ 0.031", "threat model": ThreatModel.BPDA.label}
    bpda |= {name: f"{printed[name]:.2f}" for name in ours if name in printed.index}
    return pd.concat([ours, pd.DataFrame([bpda])], ignore_index=True).fillna("")


def sweep(rows: pd.DataFrame) -> pd.DataFrame:
    """Of `ablations.sweep`, a line per choice and value: PSNR of T(x), active coefficients, accuracies."""
    lines = []
    for (what, value), part in rows.groupby(["what", "value"], sort=False):
        first = part.iloc[0]
        line = {"choice": CHOICES[what][0], "value": f"{said(value)}{' (the lab’s)' if first.own else ''}"}
        line["PSNR of T(x)"] = told(Point(value, first.fidelity, first.fidelity_low, first.fidelity_high), " dB")
        line["active, %"] = f"{100 * first.active:.3g}"
        lines.append(line | {asked(row): cell(row) for row in part.itertuples()})
    return pd.DataFrame(lines)


def numbers(rows: pd.DataFrame) -> dict[str, str]:
    """Of `ablations.sweep` of one choice, a line for each value, by its name in `ablations.strip`."""
    found = {}
    for (what, value), part in rows.groupby(["what", "value"], sort=False):
        first, accuracies = part.iloc[0], [f"{asked(row)} {row.accuracy:.2f}" for row in part.itertuples()]
        words = [*accuracies, f"PSNR of T(x) {first.fidelity:.1f} dB", f"{first.active:.2%} of the code active"]
        found[named(what, value)] = f"{'; '.join(words)} (n = {first.n:,})."
    return found


def attenuation(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `attenuation.table` as people read them: numbers with their intervals."""

    def numbers(name: str, unit: str = "") -> list[str]:
        return [told(Point(None, *ends), unit) for ends in rows[[name, f"{name}_low", f"{name}_high"]].to_numpy()]

    return pd.DataFrame({
        "change": rows.change, "λ": rows["λ"].map("{:g}".format), "n": rows.n, "share left": numbers("kept"),
        "share left, largest": rows.worst.map("{:.3f}".format),
        "low-pass share": rows.lowpass_share.map("{:.3f}".format),
        "PSNR of T(x)": numbers("psnr", " dB"), "PSNR of T(x_adv)": numbers("psnr_adv", " dB"),
    })  # fmt: skip


def resolutions(measured: Mapping[int, pd.DataFrame]) -> pd.DataFrame:
    """`by_resolution` as it is read: accuracies with their intervals, a column for each resolution."""
    cells = by_resolution(measured)
    shares = cells.kept.mask(cells.attack == "Clean").map(" (relative {:.2f})".format, na_action="ignore").fillna("")
    shown = [_printed(row) + share for row, share in zip(cells.itertuples(), shares, strict=True)]
    named = _named(cells).assign(shown=shown, pixels=cells.value.map("{} pixels".format))
    counts = cells.n.map("{:,.0f}".format, na_action="ignore").groupby([cells[name] for name in ("attack", *LINE)])
    named["n"] = counts.transform(lambda n: " and ".join(dict.fromkeys(n.dropna())) or _UNKNOWN)
    return _across(named, ["attack", *LINE, "threat model", "n"], "pixels").drop(columns="knowledge")


def _named(cells: pd.DataFrame, table: str = "") -> pd.DataFrame:
    """Cells with their block in words, and their threat model; `table` says which of the paper's."""
    models = map(threat_model, cells.block, cells.knowledge, cells.defense)
    names = _BLOCKS | ({"paper": f"paper, Table {published_numbers.convention(table)[0]}"} if table else {})
    return cells.assign(block=cells.block.map(names), **{"threat model": list(models)})


def _across(cells: pd.DataFrame, line: list[str], column: str) -> pd.DataFrame:
    """Of each cell what is `shown`: a line for each value of the columns `line`, and a column for each of `column`."""
    wide = cells.pivot_table("shown", line, column, aggfunc="first")
    order = pd.MultiIndex.from_frame(cells[line].drop_duplicates())  # of first appearance
    return wide.reindex(order, columns=cells[column].unique()).rename_axis(columns=None).reset_index()


def _printed(row) -> str:
    """An accuracy: the paper's without an interval, as it gives none."""
    return f"{row.accuracy:.4g}" if row.block == "paper" else cell(row)


def cell(row) -> str:
    """One measured accuracy as a table shows it."""
    return f"{row.accuracy:.3f} [{row.low:.3f}, {row.high:.3f}]"


def sized(row: Mapping[str, Any]) -> str:
    """The size of a worst case of `evaluation.Evaluation`, in words."""
    words = {"dissimilarity": "relative L2 {:g}", "linf": "L∞ {:.3g}", "levels": "L∞ {:g}/255", "l2": "L2 {:g}"}
    return words.get(row["norm"], "{:g}").format(row["size"])


def view(frame: pd.DataFrame):
    """A table for a notebook: no index, numbers to three digits, and not what is for programs alone."""
    frame = frame.drop(columns=_MACHINE, errors="ignore")
    # Jupyter sets what lies between two $ as a formula, in every table that does not forbid it.
    shown = frame.style.hide(axis="index").set_table_attributes('class="tex2jax_ignore mathjax_ignore"')
    return shown.format(precision=3, na_rep="–", escape="html").format_index(escape="html", axis=1)


def save(frame: pd.DataFrame, out: str | Path, name: str, caption: str = "", recipes: Mapping | None = None) -> None:
    """Write a table as CSV and as Markdown into the folder `out`; nothing when `out` is empty.

    recipes  from `measurement.recipes_of`, for a table with recipe hashes; written beside it as NAME_recipes.json
    """
    if not str(out or ""):
        return
    folder = Path(str(out))
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint.write_whole(folder / f"{name}.csv", frame.to_csv(index=False))
    text = markdown(frame.astype(object).where(frame.notna(), None), missingval="–")
    checkpoint.write_whole(folder / f"{name}.md", f"{text}\n\n{caption}\n" if caption else f"{text}\n")
    if recipes is not None:
        checkpoint.write_whole(folder / f"{name}_recipes.json", listed(recipes))


def markdown(frame: pd.DataFrame, **how) -> str:
    """A table in Markdown, whatever words its cells hold, without what is for programs; `how` as for tabulate."""
    frame = frame.drop(columns=_MACHINE, errors="ignore")
    cells = [[in_markdown(c) if isinstance(c, str) else c for c in row] for row in frame.astype(object).to_numpy()]
    shown = pd.DataFrame(cells, columns=[*map(in_markdown, frame.columns)], dtype=object)
    return shown.to_markdown(index=False, **how)


def exact(frame: pd.DataFrame) -> str:
    """`markdown` with all cells as they are written, since 0.30 says more than 0.3; "" of a table without lines."""
    return markdown(frame, disable_numparse=True) if len(frame) else ""


def page(template: str, **values: Any) -> str:
    """A page in Markdown: the named one of `templates`, filled in; what has nothing to say leaves no gap."""
    return re.sub(r"\n{3,}", "\n\n", _templates().get_template(template).render(values)).strip() + "\n"


@cache
def _templates() -> jinja2.Environment:
    loader, strict = jinja2.PackageLoader("labkit.reporting"), jinja2.StrictUndefined
    found = jinja2.Environment(loader=loader, undefined=strict, trim_blocks=True, lstrip_blocks=True)
    found.filters |= {"text": in_markdown, "table": exact}
    return found

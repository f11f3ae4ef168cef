"""A table, measured: rows, worst case and verdicts, written with the command that made them."""

import json
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from labkit.core import InputError, checkpoint, hardware
from labkit.core.profiles import PROFILES, Profile
from labkit.core.recipes import AttackRecipe, DataRecipe, rebase
from labkit.core.store import locked
from labkit.core.wording import in_markdown
from labkit.datasets import loaders
from labkit.evaluation import ThreatModel, Workbench, measurement, sanity_checks
from labkit.experiments import (
    baselines,
    causes,
    cluster_stability,
    cost_estimate,
    holding,
    paper_tables,
    published_numbers,
)  # fmt: skip
from labkit.experiments.paper_tables import Asked
from labkit.reporting import captions, cause_page, figures, holding_page, pictures, questions, tables, verdicts

import pandas as pd
from matplotlib.figure import Figure

_PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "sporco")
_HOME = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Published:
    """What was measured for one table.

    rows, worst  from `measurement.run` and `paper_tables.worst`
    votes        from `cluster_stability.stability`, under the table's attacks on the undefended network; empty without
                 clusters
    missing      defenses of the paper's table that have no row here, and why
    note, checks what `captions.table` says of the networks and of the attacks
    images       digests of training and test images, by number of the latter
    recipes      of the rows, by their hashes (`measurement.recipes_of`)
    """

    name: str
    rows: pd.DataFrame
    worst: pd.DataFrame
    votes: pd.DataFrame
    missing: tuple[tuple[str, str], ...]
    note: str
    checks: str
    images: dict[str, str]
    recipes: dict[str, Any]

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return f"table_{self.name}"

    @property
    def beside(self) -> str:
        """The table of the paper beside which it stands."""
        return self.name

    @property
    def cells(self) -> pd.DataFrame:
        """`tables.measured`."""
        return tables.measured(self.rows, self.worst, self.name)

    @property
    def caption(self) -> str:
        """`captions.table`."""
        return captions.table(self.rows, self.beside, self.note, self.checks)

    def figure(self) -> Figure:
        """`figures.cells`."""
        return figures.cells(self.cells, self.name, _images(self.rows))

    def text(self, command: str) -> str:
        """The page of the table, in Markdown."""
        printed, exact = published_numbers.table(self.name).attrs, {"disable_numparse": True}  # 0.30 says more than 0.3
        title = f"# Table {published_numbers.called(self.name)}: "
        title += ", ".join(printed[what] for what in ("dataset", "classifier", "setting"))
        parts = [title, tables.markdown(tables.blocks(self.cells, self.name), **exact), self.caption]
        if self.missing:
            parts.append("Left out: " + "; ".join(f"{defense} ({why})" for defense, why in self.missing) + ".")
        found = questions.of_table(self.cells, self.votes)
        parts += ["## What it says", verdicts.markdown(found)] if len(found) else []
        kept = tables.retention(self.cells, self.name)
        if len(kept) and (self.rows.attack == "Clean").any():  # else there is nothing to divide by
            parts += ["## Relative robust accuracy (robust / clean)", tables.markdown(kept, **exact)]
        if len(self.votes):
            parts += ["## Which attacked images keep their cluster?", tables.markdown(self.votes.round(3), **exact)]
            parts.append("The attacks are on the undefended network; noise of each attack's size is beside them.")
        parts += ["## Again", f"    {command}"]
        return "\n\n".join(parts) + "\n"

    def save(self, out: Path, command: str) -> None:
        """Write page, figure, cells, rows and their recipes into the folder `out`, and where they come from."""
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / "tables", doing=f"writes into {out}"):
            stem = self.stem
            frames = {f"{stem}.csv": self.cells, f"{stem}_rows.csv": self.rows, f"{stem}_worst.csv": self.worst}
            if len(self.votes):
                frames[f"{stem}_votes.csv"] = self.votes
            for file, frame in frames.items():
                checkpoint.write_whole(out / file, frame.to_csv(index=False))
            checkpoint.write_whole(out / f"{stem}.md", self.text(command))
            checkpoint.write_whole(out / f"{stem}_rows_recipes.json", tables.listed(self.recipes))
            pictures.save(self.figure(), out, stem)
            files = [out / file for file in (*frames, f"{stem}_rows_recipes.json", f"{stem}.md", f"{stem}.png")]
            told = {"command": command, "commit": hardware.commit(_HOME), "versions": hardware.versions(*_PACKAGES)}
            told |= {name: getattr(self, name) for name in ("images", "missing", "note", "checks")}
            told["files"] = [checkpoint.fingerprint(file, out) for file in files]
            checkpoint.write_whole(out / f"{stem}.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class Compared(Published):
    """The baselines, each under all that is tried against it (`baselines.cases`): a table that the paper has not.

    curves  from `baselines.curves`
    """

    curves: pd.DataFrame = field(default_factory=pd.DataFrame, kw_only=True)

    @property
    def stem(self) -> str:
        return self.name

    @property
    def beside(self) -> str:
        plain = published_numbers.counterparts(int(self.rows.data.iloc[0].rpartition("×")[2]))[0]
        return plain + self.name.removeprefix(paper_tables.BASELINES)

    @property
    def cells(self) -> pd.DataFrame:
        return tables.baselines(self.rows, self.worst, self.beside)

    def figure(self) -> Figure:
        return figures.baselines(self.rows, self.worst, _images(self.rows))

    def text(self, command: str) -> str:
        exact, tried = {"disable_numparse": True}, tables.gradients(self.rows)
        found, checked = questions.baselines(self.rows, self.worst), captions.adaptive(self.rows)
        parts = ["# Which defenses hold?", tables.markdown(self.cells, **exact), *filter(None, [self.caption, checked])]
        parts += ["## What it says", verdicts.markdown(found)] if len(found) else []
        if len(tried):
            parts += ["## What is best differentiated?", tables.markdown(tried, **exact)]
        if len(self.curves):
            parts += ["## How does it fall with the size?", f"![Security curves]({self.stem}_curves.png)"]
            parts += [tables.markdown(tables.security(self.curves), **exact), captions.SECURITY]
        return "\n\n".join([*parts, "## Again", f"    {command}"]) + "\n"

    def save(self, out: Path, command: str) -> None:
        super().save(out, command)
        if len(self.curves):
            checkpoint.write_whole(out / f"{self.stem}_curves.csv", self.curves.to_csv(index=False))
            named = self.curves.groupby("defense", sort=False)
            pictures.save(figures.security(dict(iter(named))), out, f"{self.stem}_curves")


@dataclass(frozen=True)
class Explained(Compared):
    """What may have made the paper's numbers (`causes.hypotheses`): a study of our own."""

    @property
    def beside(self) -> str:
        return "1"

    @property
    def cells(self) -> pd.DataFrame:
        return cause_page.table(self.rows)

    @property
    def caption(self) -> str:
        return cause_page.caption(self.rows, self.note)

    def figure(self) -> Figure:
        return cause_page.figure(self.rows, _images(self.rows))

    def text(self, command: str) -> str:
        exact, found = {"disable_numparse": True}, cause_page.sentences(self.rows)
        parts = ["# What made the paper's numbers?", tables.markdown(self.cells, **exact), self.caption]
        parts += ["## What it says", "\n".join(f"- {line}" for line in found)]
        changed = cause_page.changes(self.rows)
        if len(changed):
            parts += ["## What does each cause change?", tables.markdown(changed, **exact)]
        return "\n\n".join([*parts, "## Again", f"    {command}"]) + "\n"


@dataclass(frozen=True)
class Held(Compared):
    """What holds against who knows it (`holding.cases`), and what of it is certain (`certified.rows`)."""

    certain: pd.DataFrame
    supports: pd.DataFrame

    @property
    def cells(self) -> pd.DataFrame:
        return holding_page.table(self.rows, self.worst)

    @property
    def caption(self) -> str:
        return holding_page.caption(self.rows, self.note)

    def figure(self) -> Figure:
        return holding_page.figure(self.rows, self.worst, self.certain, _images(self.rows))

    def text(self, command: str) -> str:
        return holding_page.text(self, command)

    def save(self, out: Path, command: str) -> None:
        super().save(out, command)
        checkpoint.write_whole(out / f"{self.stem}_certified.csv", self.certain.to_csv(index=False))


def ask(lab: Profile, names: Iterable[str], wanted: Mapping[str, Iterable[str]]) -> dict[str, Asked]:
    """`paper_tables.table` of each name, with only the cases that are wanted (`paper_tables.select`)."""
    ours = {causes.CAUSES: causes.asked, holding.HOLDS: holding.asked}
    found = {name: ours[name](lab) if name in ours else paper_tables.table(lab, name) for name in names}
    return {name: paper_tables.select(asked, wanted) for name, asked in found.items()} if wanted else found


def chosen(only: Iterable[str]) -> dict[str, list[str]]:
    """What each WHAT=A,B asks for; of several with one WHAT, all. Raises InputError for another form."""
    found: dict[str, list[str]] = {}
    for word in only:
        what, equals, values = word.partition("=")
        if not equals or not values:
            raise InputError(f"cells are chosen by WHAT=VALUE, such as defense=STL; got {word!r}")
        found.setdefault(what.strip(), []).extend(values.strip().split(","))
    return found


def command(name: str, lab: Profile, only: Iterable[str] = (), seed: int = 0) -> str:
    """What to type for one table, or the chosen cells of it, again."""
    # A folder's label is without the way to it, which is nobody else's business.
    name, released = published_numbers.convention(name)
    words = ["python", "-m", "labkit", "table", name, "--profile", lab.name, "--dataset", lab.data.label]
    words += ["--convention", "released"] * released
    words += ["--model", lab.classifier.network] * lab.classifier.foreign
    if lab.classifier.epochs < PROFILES[lab.name].classifier.epochs:
        words += ["--epochs", str(lab.classifier.epochs)]
    if lab.data.resolution:
        words += ["--resolution", str(lab.data.resolution)]
    words += [part for word in only for part in ("--only", word)]
    return shlex.join([*words, "--seed", str(seed)])


def overview(lab: Profile, bench: Workbench) -> pd.DataFrame:
    """Every table of the paper: what it shows, how many of its cells are measured, and the time for the others."""
    asked, lines = ask(lab, published_numbers.names(), {}), []
    planned = cost_estimate.each({name: (*mine.blind, *mine.aware) for name, mine in asked.items()}, bench)
    for name, steps in planned.items():
        printed = published_numbers.table(name).attrs
        cells = [step.kept for step in steps if step.kind == "row"]
        line = {"table": name, "paper's data": printed["dataset"], "network": printed["classifier"]}
        line |= {"setting": printed["setting"], "cells": len(cells), "measured": sum(cells)}
        line["the others take about"] = cost_estimate.hours(steps)
        lines.append(line | {"not affordable here": ", ".join(defense for defense, _ in asked[name].missing) or "–"})
    return pd.DataFrame(lines)


def measure(
    name: str, asked: Asked, lab: Profile, bench: Workbench, *,
    checked: bool = True, of: Asked | None = None, note: str = "",
) -> Published:  # fmt: skip
    """The table with everything that stands on its page; what was measured before is fetched.

    checked  whether the attacks are checked (`sanity_checks.verdicts`), which takes about as long as a row or two
    of       the whole table, where `asked` is what is finished of it
    note     what its caption says first of networks and images
    """
    lab = lab.released if published_numbers.convention(name)[1] else lab
    rows = measurement.run(asked.blind, bench)
    # `worst` would measure them as well, but without a bar.
    measurement.run(asked.aware, bench)
    worst = (holding.worst(lab, bench, asked.aware) if name == holding.HOLDS
             else paper_tables.worst(asked.aware, bench))  # fmt: skip
    said = "The attacks were not checked for this selection of cells."
    whole = {*(of or asked).blind, *(of or asked).aware}
    count = sum(measurement.kept(case, bench) for case in whole)
    part = f"**{count} of {len(whole)} cells are measured so far.** " * (count < len(whole))
    if checked and name not in (causes.CAUSES, holding.HOLDS):
        said = sanity_checks.verdicts(lab, bench, retrained=bool(rows.retrained.any()))
    note = f"{note} {part}{_training(asked)} {in_markdown(loaders.note(lab.data.name))}".strip()
    knows = [case for case in asked.aware if ThreatModel(case.knowledge).knows_defense]
    if attacks := ", ".join(dict.fromkeys(case.attack.label for case in knows)):
        said += f" Worst case: correct under all attacks of a column's size, among them {attacks} through the defense."
    images = {}
    for case in (*asked.blind, *asked.aware):
        train, test = (bench.images(case.data, split) for split in ("train", "test"))
        images[str(len(test))] = f"{train.digest}:{test.digest}"
    votes, kept = _votes(asked, lab, bench), measurement.recipes_of(rows, bench)
    page = Published
    if name.startswith(paper_tables.BASELINES):
        curves = baselines.curves([case for case in asked.blind if case.attack.norm == "none"], bench)
        rows, worst = rows[~rows.recipe.isin(curves.get("recipe", []))], worst[worst["size"] > 0]
        return Compared(name, rows, worst, votes, asked.missing, note, said, images, kept, curves=curves)
    if name == causes.CAUSES:
        page, rows = Explained, causes.rows(lab, bench, asked.blind)
    if name == holding.HOLDS:
        rows, certain = holding.rows(lab, bench, asked.blind), holding.certified.rows(lab, bench, kept=not checked)
        supports = holding.certified.supports(lab, bench, kept=not checked)
        return Held(name, rows, worst, pd.DataFrame(), asked.missing, note, said, images, kept, certain, supports)
    return page(name, rows, worst, votes, asked.missing, note, said, images, kept)


def _images(rows: pd.DataFrame) -> str:
    return f"{rows.data.iloc[0]}, {rows.classifier.iloc[0]}"


def _training(asked: Asked) -> str:
    """How long the networks were trained here."""
    networks = dict.fromkeys(case.classifier for case in (*asked.blind, *asked.aware) if not case.classifier.weights)
    if not networks:
        return "The network is given, and none is trained on what a defense makes of images."
    kinds: dict[str, set[int]] = {}
    for network in networks:
        kind = "on adversarial images" if network.adversarial else "on T(x)" if network.transform else "on the images"
        kinds.setdefault(kind, set()).add(network.epochs)
    told = (f"{kind} {' and '.join(map(str, sorted(epochs)))}" for kind, epochs in kinds.items())
    return f"Epochs of training: {', '.join(told)}."


def _votes(asked: Asked, lab: Profile, bench: Workbench) -> pd.DataFrame:
    """How stable the vote is under the attacks that the table makes on the undefended network."""
    if lab.stratified not in {case.defense for case in asked.blind}:
        return pd.DataFrame()
    by_data: dict[DataRecipe, list[AttackRecipe]] = {}
    for case in asked.blind:
        if case.defense is None and rebase(case.classifier, lab.data) == lab.classifier:
            by_data.setdefault(case.data, []).append(case.attack)
    found = [cluster_stability.stability(rebase(lab, few), bench, attacks) for few, attacks in by_data.items()]
    return pd.concat(found or [pd.DataFrame()])

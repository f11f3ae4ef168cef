"""A table, measured: rows, worst case and verdicts, written with the command that made them."""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from labkit.core import InputError, checkpoint, hardware, recipes
from labkit.core.profiles import PROFILES, Profile
from labkit.core.store import locked
from labkit.core.wording import in_markdown
from labkit.datasets import loaders
from labkit.evaluation import ThreatModel, Workbench, measurement, sanity_checks
from labkit.experiments import (
    baselines,
    causes,
    cluster_stability,
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
    certain, supports  of `certified.rows` and `certified.supports`, of the table of what holds
    curves       of `baselines.curves`, of the table of the baselines
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
    certain: pd.DataFrame | None = None
    supports: pd.DataFrame | None = None
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def kind(self) -> "_Kind":
        """How it is read."""
        return _OWN.get(published_numbers.convention(self.name)[0], _PAPERS)

    @property
    def stem(self) -> str:
        """What the names of its files begin with."""
        return f"table_{self.name}" if self.kind is _PAPERS else self.name

    @property
    def cells(self) -> pd.DataFrame:
        """The table, for programs."""
        return self.kind.cells(self)

    @property
    def caption(self) -> str:
        """What is said under it."""
        return self.kind.caption(self)

    def figure(self) -> Figure:
        """Its numbers drawn."""
        return self.kind.figure(self, f"{self.rows.data.iloc[0]}, {self.rows.classifier.iloc[0]}")

    def text(self, command: str) -> str:
        """Its page, in Markdown."""
        return self.kind.text(self, command)

    def save(self, out: Path, command: str) -> None:
        """Write page, figure, cells, rows and their recipes into the folder `out`, and where they come from."""
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / "tables", doing=f"writes into {out}"):
            stem = self.stem
            frames = {f"{stem}.csv": self.cells, f"{stem}_rows.csv": self.rows, f"{stem}_worst.csv": self.worst}
            frames |= {f"{stem}_votes.csv": self.votes} if len(self.votes) else {}
            for file, frame in frames.items():
                checkpoint.write_whole(out / file, frame.to_csv(index=False))
            checkpoint.write_whole(out / f"{stem}.md", self.text(command))
            checkpoint.write_whole(out / f"{stem}_rows_recipes.json", recipes.listed(self.recipes))
            pictures.save(self.figure(), out, stem)
            files = [out / file for file in (*frames, f"{stem}_rows_recipes.json", f"{stem}.md", f"{stem}.png")]
            told = {"command": command, "commit": hardware.commit(_HOME), "versions": hardware.versions(*_PACKAGES)}
            told |= {name: getattr(self, name) for name in ("images", "missing", "note", "checks")}
            told["files"] = [checkpoint.fingerprint(file, out) for file in files]
            checkpoint.write_whole(out / f"{stem}.json", json.dumps(told, indent=1, ensure_ascii=False) + "\n")
            if self.certain is not None:
                checkpoint.write_whole(out / f"{stem}_certified.csv", self.certain.to_csv(index=False))
            if len(self.curves):
                checkpoint.write_whole(out / f"{stem}_curves.csv", self.curves.to_csv(index=False))
                named = dict(iter(self.curves.groupby("defense", sort=False)))
                pictures.save(figures.security(named), out, f"{stem}_curves")


def _of_paper(page: Published, command: str) -> str:
    printed, kept = published_numbers.table(page.name).attrs, tables.retention(page.cells, page.name)
    return tables.page(
        "table.md", called=published_numbers.called(page.name), command=command, missing=page.missing,
        where=", ".join(printed[what] for what in ("dataset", "classifier", "setting")),
        cells=tables.blocks(page.cells, page.name), caption=page.caption, votes=page.votes.round(3),
        found=verdicts.markdown(questions.of_table(page.cells, page.votes)),
        kept=kept[: len(kept) * ("Clean" in {*page.rows.attack})],  # without clean rows there is nothing to divide by
    )  # fmt: skip


def _of_baselines(page: Published, command: str) -> str:
    found = verdicts.markdown(questions.baselines(page.rows, page.worst))
    caption = f"{page.caption}\n\n{captions.adaptive(page.rows)}"
    told = {"more": tables.gradients(page.rows), "curves": baselines.halves(page.curves), "stem": page.stem}
    return tables.page("baselines.md", cells=page.cells, caption=caption, found=found, command=command, **told)


def _of_causes(page: Published, command: str) -> str:
    told = {"cells": page.cells, "caption": page.caption, "found": cause_page.found(page.rows)}
    return tables.page("study.md", more=cause_page.changes(page.rows), command=command, **told)


def _beside(page: Published) -> str:
    """The table of the paper beside which the baselines stand."""
    plain = published_numbers.counterparts(int(page.rows.data.iloc[0].rpartition("×")[2]))[0]
    return plain + page.name.removeprefix(paper_tables.BASELINES)


class _Kind(NamedTuple):
    """How a table is read: each a function of what was measured, and of a title or the command that makes it."""

    cells: Callable[[Published], pd.DataFrame]
    caption: Callable[[Published], str]
    figure: Callable[[Published, str], Figure]
    text: Callable[[Published, str], str]


_PAPERS = _Kind(
    cells=lambda page: published_numbers.measured(page.rows, page.worst, page.name),
    caption=lambda page: captions.table(page.rows, page.name, page.note, page.checks),
    figure=lambda page, title: figures.cells(page.cells, page.name, title),
    text=_of_paper,
)
# Those that the paper has not: each baseline under all that is tried against it, and two studies of our own.
_OWN = {
    paper_tables.BASELINES: _Kind(
        cells=lambda page: tables.baselines(page.rows, page.worst, _beside(page)),
        caption=lambda page: captions.table(page.rows, _beside(page), page.note, page.checks),
        figure=lambda page, title: figures.baselines(page.rows, page.worst, title),
        text=_of_baselines,
    ),
    causes.CAUSES: _Kind(
        cells=lambda page: cause_page.table(page.rows),
        caption=lambda page: cause_page.caption(page.rows, page.note),
        figure=lambda page, title: cause_page.figure(page.rows, title),
        text=_of_causes,
    ),
    holding.HOLDS: _Kind(
        cells=lambda page: holding_page.table(page.rows, page.worst),
        caption=lambda page: holding_page.caption(page.rows, page.note),
        figure=lambda page, title: holding_page.figure(page.rows, page.worst, page.certain, title),
        text=holding_page.text,
    ),
}


def ask(lab: Profile, names: Iterable[str], wanted: Mapping[str, Iterable[str]]) -> dict[str, Asked]:
    """`paper_tables.table` of each name, with only the cases that are wanted (`paper_tables.select`)."""
    ours = {causes.CAUSES: causes.asked, holding.HOLDS: holding.asked}
    found = {name: ours[name](lab) if name in ours else paper_tables.table(lab, name) for name in names}
    return {name: paper_tables.select(asked, wanted) for name, asked in found.items()} if wanted else found


def chosen(only: Iterable[str]) -> dict[str, list[str]]:
    """What each WHAT=A,B asks for; of several with one WHAT, all. Raises InputError for another form."""
    found: dict[str, list[str]] = {}
    for word in only:
        if not (form := re.fullmatch(r"\s*(.*?)\s*=\s*(.+?)\s*", word)):
            raise InputError(f"cells are chosen by WHAT=VALUE, such as defense=STL; got {word!r}")
        found.setdefault(form[1], []).extend(re.split(r",(?![^(]*\))", form[2]))  # "(one step, through T)" is a name
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
    """Every table of the paper: what it shows, and how many of its cells are measured."""
    lines = []
    for name, asked in ask(lab, published_numbers.names(), {}).items():
        printed = published_numbers.table(name).attrs
        cells = [measurement.kept(case, bench) for case in dict.fromkeys((*asked.blind, *asked.aware))]
        line = {"table": name, "paper's data": printed["dataset"], "network": printed["classifier"]}
        line |= {"setting": printed["setting"], "cells": len(cells), "measured": sum(cells)}
        lines.append(line | {"not affordable here": ", ".join(defense for defense, _ in asked.missing) or "–"})
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
    tests = {case.data: bench.images(case.data, "test") for case in (*asked.blind, *asked.aware)}
    images = {str(len(test)): bench.digest(data) for data, test in tests.items()}
    votes, kept, more = cluster_stability.of_table(asked.blind, lab, bench), measurement.recipes_of(rows, bench), ()
    if name.startswith(paper_tables.BASELINES):
        curves = baselines.curves([case for case in asked.blind if case.attack.norm == "none"], bench)
        rows, worst = rows[~rows.recipe.isin(curves.get("row", []))], worst[worst["size"] > 0]
        kept, more = measurement.recipes_of(rows, bench), (None, None, curves)
    if name == causes.CAUSES:
        rows = causes.rows(lab, bench, asked.blind)
    if name == holding.HOLDS:
        rows, votes, sure = holding.rows(lab, bench, asked.blind), pd.DataFrame(), holding.certified
        more = sure.rows(lab, bench, kept=not checked), sure.supports(lab, bench, kept=not checked)
    return Published(name, rows, worst, votes, asked.missing, note, said, images, kept, *more)


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

"""The folder of a report: pages, executed notebooks, index and manifest, each written whole or not at all."""

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from labkit.core import InputError, checkpoint, hardware, recipes, store, wording
from labkit.reporting import html, runner

import nbformat
from markupsafe import Markup
from plotly.offline import get_plotlyjs

_SHOWN = ("profile", "dataset", "resolution")  # the settings that distinguish one result from another
_FIGURES = (".png", ".svg", ".jpg")
_OPENS = "overview"  # the tag of cells whose outputs open the report


@dataclass(frozen=True)
class Settings:
    """What every notebook of one report is given, as plain scalars.

    profile     name of a profiles.Profile
    dataset     as for `loaders.load`
    resolution  side of the images in pixels, 0 for as stored
    data_root, store  folders of downloaded data sets and of artifacts, "" for the default
    """

    profile: str = "quick"
    dataset: str = "fashion"
    resolution: int = 0
    data_root: str = ""
    store: str = ""


class ReportFolder:
    """The folder of one report. Remembers the manifest's `entries`, by notebook name, while the notebooks run."""

    def __init__(self, out: Path, settings: Settings, sources: Path) -> None:
        label = recipes.DataRecipe(wording.here(settings.dataset)).label  # without the way to it, as in tables
        self.out, self.settings, self.sources = out, replace(settings, dataset=label), sources
        self.begun, self.before = datetime.now(UTC), self._artifacts()
        self.entries: dict[str, dict[str, Any]] = {}
        self.leads: dict[str, Markup] = {}
        self.openings: dict[str, list[tuple[str, Markup]]] = {}
        self.old_files: dict[str, list[str]] = {}
        self.found: dict[str, dict[Path, int]] = {}

    def begin(self, plan: Mapping[Path, nbformat.NotebookNode]) -> None:
        """Take over an earlier report's other notebooks, and give each planned one its place."""
        for name in ("executed", "assets", *(path.stem for path in plan)):
            if (self.out / name).is_symlink():
                raise InputError(f"{self.out / name} is a link, and may lead out of the report; remove it")
        (self.out / "executed").mkdir(parents=True, exist_ok=True)
        (self.out / "assets").mkdir(exist_ok=True)
        for left in (*self.out.glob(".*.partial"), *(self.out / "executed").glob(".*.partial*")):
            left.unlink(missing_ok=True)  # of a run that was killed
        checkpoint.write_whole(self.out / "assets" / "plotly.min.js", get_plotlyjs())

        kept, planned = {}, {path.stem: notebook for path, notebook in plan.items()}
        earlier = {entry["name"]: entry for entry in _earlier(self.out)}
        self.old_files = {name: [file["path"] for file in entry["files"]] for name, entry in earlier.items()}
        for name, entry in earlier.items():
            executed = self.out / entry["executed"]
            if name not in planned and entry["status"] != "waiting" and executed.is_file():
                try:
                    kept[name] = nbformat.read(executed, as_version=4)
                except Exception:  # as in `runner.inspect`
                    print(f"labkit: {executed} is damaged; its page is left out", file=sys.stderr)
        for name, notebook in sorted({**kept, **planned}.items()):
            self._place(name, notebook, earlier[name] if name in kept else {})
        for name, notebook in kept.items():  # again, for the links to the new neighbours
            self._write_page(name, notebook)
            own = [self.out / path for path in _own(self.entries[name])]
            self._fingerprint(self.entries[name], [path for path in own if path.is_file()])
        for name in planned:
            if not (self.out / f"{name}.html").exists():
                title = nbformat.v4.new_markdown_cell(f"# {self.entries[name]['title']}")
                self._write_page(name, nbformat.v4.new_notebook(cells=[title]))
        self._write_index()

    def prepare(self, name: str) -> Path:
        """The notebook's own folder, without the files that the manifest says an earlier run left there."""
        folder = self.out / name
        folder.mkdir(exist_ok=True)
        for file in self.old_files.get(name, []):
            if Path(file).parts[0] == name and ".." not in Path(file).parts:
                (self.out / file).unlink(missing_ok=True)
        self.found[name] = _stamps(folder)
        return folder

    def finish(self, name: str, outcome: runner.Outcome, begun: datetime) -> None:
        """Write what one notebook left: the executed copy, its page, its entry, the index."""
        entry, failure = self.entries[name], outcome.failure
        checkpoint.write_whole(self.out / entry["executed"], nbformat.writes(outcome.notebook))
        entry |= {"status": "failed" if failure else "finished", "begun": begun.isoformat(timespec="seconds")}
        entry["seconds"] = round(outcome.seconds, 2)
        entry["error"] = {**asdict(failure), "sentence": failure.sentence} if failure else None
        # What somebody else put there is neither listed nor, next time, removed.
        made = [path for path, stamp in _stamps(self.out / name).items() if self.found[name].get(path) != stamp]
        figures = [path.relative_to(self.out).as_posix() for path in made if path.suffix in _FIGURES]
        entry["headline"] = min(figures, key=lambda path: not path.endswith("/headline.png"), default=None)
        self.openings[name] = html.tagged(outcome.notebook, _OPENS)
        self._write_page(name, outcome.notebook)
        self._fingerprint(entry, made)
        self._write_index()

    def _fingerprint(self, entry: dict[str, Any], made: list[Path]) -> None:
        paths = [self.out / entry["page"], self.out / entry["executed"], *made]
        entry["files"] = [checkpoint.fingerprint(path, self.out) for path in paths]

    def _place(self, name: str, notebook: nbformat.NotebookNode, earlier: Mapping[str, Any]) -> None:
        (title, self.leads[name]), self.openings[name] = html.heading(notebook, name), html.tagged(notebook, _OPENS)
        entry = {"name": name, "title": title, "status": "waiting"}
        entry |= {key: getattr(self.settings, key) for key in _SHOWN}
        entry |= {"begun": None, "seconds": None, "error": None, "headline": None, "files": []}
        self.entries[name] = {**entry, "page": f"{name}.html", "executed": f"executed/{name}.ipynb", **earlier}

    def _write_page(self, name: str, notebook: nbformat.NotebookNode) -> None:
        views = [self._view(entry) for entry in self.entries.values()]
        at = list(self.entries).index(name)
        previous, entry, following = [None, *views, None][at : at + 3]
        facts = [*_choices(entry), *entry["facts"][:1]]
        text = html.page(notebook, folder=self.sources, title=name, here=name, entry=entry, entries=views,
                         previous=previous, following=following, facts=facts)  # fmt: skip
        checkpoint.write_whole(self.out / f"{name}.html", text)

    def _write_index(self) -> None:
        seconds = sum(entry["seconds"] or 0 for entry in self.entries.values())
        done = sum(entry["status"] == "finished" for entry in self.entries.values())
        begun, written = (time.isoformat(timespec="seconds") for time in (self.begun, datetime.now(UTC)))
        manifest = {**asdict(self.settings), "begun": begun, "written": written}
        manifest |= {"versions": hardware.versions("torch"), "commit": hardware.commit(self.sources)}
        manifest["artifacts"] = {"before": self.before, "after": self._artifacts()}  # 0 before: nothing was kept
        manifest["notebooks"] = list(self.entries.values())
        checkpoint.write_whole(self.out / "manifest.json", json.dumps(manifest, indent=1) + "\n")
        facts = [*_choices(manifest), f"{done} of {len(self.entries)} notebooks finished"]
        facts.append(f"{wording.duration(seconds)} together")  # some of them side by side
        facts.append(self.begun.strftime("%d %B %Y, %H:%M UTC").lstrip("0"))
        entries = [self._view(entry) for entry in self.entries.values()]
        opening = [(kind, shown, entry) for entry in entries for kind, shown in self.openings[entry["name"]]]
        text = html.fill("index.html", title="labkit report", facts=facts, entries=entries, manifest=manifest,
                         opening=opening)  # fmt: skip
        checkpoint.write_whole(self.out / "index.html", text)

    def _artifacts(self) -> int:
        """How many are in the store: whether a report had to build them is what its time says most about."""
        return sum(1 for _ in store.Store(self.settings.store or None).root.glob("[!.]*/*/manifest.json"))

    def _view(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """An entry with what only the templates need."""
        facts = [] if entry["seconds"] is None else [wording.duration(entry["seconds"])]
        if any(entry[key] != getattr(self.settings, key) for key in _SHOWN):
            facts += ["earlier run", *_choices(entry)]
        return {**entry, "facts": facts, "lead": self.leads[entry["name"]], "own": _own(entry)}


def _own(entry: Mapping[str, Any]) -> list[str]:
    """The files of an entry that its notebook made, relative to the report."""
    return [file["path"] for file in entry["files"] if file["path"].startswith(f"{entry['name']}/")]


def _stamps(folder: Path) -> dict[Path, int]:
    """Each file below `folder`, in order, with the time it was last changed in any way."""
    return {path: path.stat().st_ctime_ns for path in sorted(folder.rglob("*")) if path.is_file()}


def _choices(entry: Mapping[str, Any]) -> list[str]:
    side = [f"{entry['resolution']} × {entry['resolution']} pixels"] if entry["resolution"] else []
    return [f"profile {entry['profile']}", f"data set {entry['dataset']}", *side]


def _earlier(out: Path) -> list[dict[str, Any]]:
    try:
        entries = json.loads((out / "manifest.json").read_bytes())["notebooks"]
        if not isinstance(entries, list) or not all(_ours(entry, out) for entry in entries):
            raise ValueError("an entry is none of ours")
        return entries
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        print(f"labkit: {out / 'manifest.json'} is damaged; starting a new one", file=sys.stderr)
        return []


def _ours(entry: dict[str, Any], out: Path) -> bool:
    """Whether we could have written an entry of a manifest: above all, that it names no file outside the report.

    May raise KeyError, TypeError or AttributeError if not.
    """
    name, error, headline = entry["name"], entry["error"], entry["headline"]
    paths = [file["path"] for file in entry["files"]] + ([] if headline is None else [headline])
    seconds = 0 if entry["seconds"] is None else entry["seconds"]
    return (
        re.fullmatch(r"[\w.,()+ -]*[\w)]", name) is not None  # no way to elsewhere, and no address
        and all(isinstance(entry[key], str) for key in ("title", "status", "profile", "dataset"))
        and isinstance(entry["resolution"], int)
        and type(seconds) in (int, float)
        and 0 <= seconds < 1e9
        and (error is None or isinstance(error["sentence"], str))
        and (entry["page"], entry["executed"]) == (f"{name}.html", f"executed/{name}.ipynb")
        and all((out / path).parent.resolve().is_relative_to(out.resolve()) for path in (name + "/x", *paths))
    )

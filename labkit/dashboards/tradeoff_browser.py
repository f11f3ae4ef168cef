"""The trade-off browser: λ, K, S and M against accuracy and PSNR, from rows that are kept or computed on request."""

from collections.abc import Sequence
from functools import partial
from html import escape
from operator import attrgetter

from labkit.core import metrics
from labkit.core.profiles import Profile
from labkit.dashboards import arena
from labkit.dashboards.page import LOOK, Desk, Page, button, choice
from labkit.dashboards.parts import Hover, chart
from labkit.datasets import encoding
from labkit.evaluation import Case, ThreatModel, Workbench, measurement
from labkit.experiments import ablations, paper_tables
from labkit.reporting import captions, interactive, questions

import ipywidgets as w
import pandas as pd

_WORDS = """Every point was measured on the same test images and is kept; what is not measured yet can be. The curves
are clean accuracy and robust accuracy under two threat models: a grey box, as in the paper, and a white box."""
_SIGNS = "A disc is clean accuracy, a square robust accuracy, a thin line a 95 % interval."
_MAP = "map of all defenses (Figure 6)"
_CHOICES = {"λ": "lam", "K, filters": "K", "S, pixels a side": "S", "M, clusters": "M", _MAP: "map"}


class TradeoffBrowser(Page):
    """A `Page` of one chart; `view` is the widget to display."""

    TRY = "Hover a point to see its pictures. A higher λ takes more of the attack, and of the image."

    def __init__(self, lab: Profile, bench: Workbench):
        self.desk, self.lab = Desk(lab, bench), lab
        self.what = choice("what", _CHOICES)
        self.values = w.SelectMultiple(options=[], description="values", rows=8, style=LOOK["style"])
        self.output, self.hover, self.words = w.Output(), Hover(), w.HTML()
        self.hint = w.HTML("<span class='lk-soft'>Ctrl and click chooses several values; ✓ is measured.</span>")
        self.compute = button("Compute what is missing", lambda: self.request(compute=True))
        controls = [self.what, self.values, self.hint, self.compute, self.hover]
        super().__init__("Trade-off browser", _WORDS, controls, [self.output, self.words], wait=0.12)
        self._quiet = False
        self.what.observe(lambda _: self._changed(), names="value")
        self.values.observe(lambda _: self._quiet or self.request(), names="value")
        self._changed()

    def request(self, compute: bool = False) -> None:
        self.output.add_class("lk-dim")
        self.work(self.what.value, tuple(self.values.value), compute)

    def _changed(self) -> None:
        what = self.what.value
        if what != "map":
            self._list(what, getattr(self.lab.tradeoff, what))
        self.values.layout.display = self.hint.layout.display = "none" if what == "map" else ""
        self.hover.layout.display = "" if what == "map" else "none"
        self.request()

    def _list(self, what: str, chosen: Sequence) -> None:
        """The values to choose from, with a sign at those that are measured."""
        values = getattr(self.lab.tradeoff, what)
        options = [(f"{metrics.said(value)}{' ✓' if self._kept(what, value) else ''}", value) for value in values]
        self._quiet = True
        self.values.index = ()  # before there are fewer options than it says
        self.values.options, self.values.value = options, tuple(chosen)
        self._quiet = False

    def _retrained(self, what: str) -> bool:
        """Whether a network is trained for every value, as notebook 06 has it."""
        return what != "lam" and self.lab.tradeoff.retrained

    def _kept(self, what: str, value) -> bool:
        asked = ablations.cases(self.lab, what, value, retrained=self._retrained(what))
        return all(map(self.desk.kept, asked.values()))

    def _rows(self, what: str, values: Sequence) -> pd.DataFrame:
        return ablations.sweep(self.lab, self.desk.bench, what, values, retrained=self._retrained(what))

    def _show(self, check, what: str, values: tuple, compute: bool) -> None:
        self.idle()
        if what == "map":
            self._map(check, compute)
            return
        kept, run = partial(self._kept, what), lambda value: self._rows(what, [value])
        told = lambda value: f"{self.what.label} = {metrics.said(value)}"  # noqa: E731
        missing = self.measure(values, compute, check, kept=kept, run=run, told=told)
        if compute:
            self._list(what, values)
        there = [value for value in values if value not in missing]
        if not there:
            self._draw("chosen values", missing)
            return
        rows = self._rows(what, there)
        check()
        found = questions.summary(questions.sweep(rows, what)).to_html(index=False, border=0) if len(there) > 1 else ""
        words = f"{found}<p class='lk-soft'>{escape(captions.sweep(rows))}</p>"
        outputs = chart(interactive.tradeoff(rows, what), "PSNR of T(x) and accuracies for every value")
        self._draw("chosen values", missing, outputs, words)

    def _map(self, check, compute: bool) -> None:
        cases, run = paper_tables.figure_6(self.lab), partial(measurement.run, bench=self.desk.bench)
        how = {"kept": self.desk.kept, "run": lambda case: run([case]), "told": attrgetter("label")}
        missing = self.measure(cases, compute, check, **how)
        cases = [case for case in cases if case not in missing]
        rows = paper_tables.intervals(run(cases)) if cases else pd.DataFrame()
        if rows.empty:
            self._draw("rows", missing)
            return
        pictures = self._pictures([case for case in cases if case.attack.name != "clean"], check)
        words = f"<p class='lk-soft'>Vanilla network; {ThreatModel.WEIGHTS.told('FGSM-0.08')}. {_SIGNS}</p>"
        outputs = chart(interactive.intervals(rows, pictures), "PSNR of T(x_adv) and accuracies of every defense")
        self._draw("rows", missing, outputs, words)

    def _draw(self, what: str, missing: Sequence, outputs: tuple = (), words: str = "") -> None:
        """The chart, the words below it and, above, how much is measured; without `outputs`, the old chart goes."""
        self.compute.disabled = not missing
        self.output.outputs, self.words.value = outputs, words
        if outputs:
            self.output.remove_class("lk-dim")
            self.say(f"{len(missing)} {what} are not measured yet." if missing else f"All {what} are measured.")
        else:
            self.say("None of these is measured yet; “Compute what is missing” does it and keeps it.")

    def _pictures(self, cases: list[Case], check) -> dict[str, tuple[str, str]]:
        """Each defense's output for one image, as a URI, and a line about it; kept once they are made."""
        bench, found = self.desk.bench, {}
        index = measurement.telling(next((case for case in cases if case.label == "No Defense"), cases[0]), bench)
        for case in cases:
            check()
            self.say(f"Preparing the picture of {escape(case.label)} …")
            test = bench.images(case.data, "test")
            face = arena.face(case, index if index < len(test) else 0, bench)
            found[case.label] = (encoding.uri(face["seen"]), arena.told(case, face, test.classes))
        return found

    def stopped(self) -> None:
        self.say("It stops after the point that is being measured; what is measured is kept.")

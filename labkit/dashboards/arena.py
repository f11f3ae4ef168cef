"""The arena: every defense under every attack and threat model, the worst cell of each, and one image in any cell."""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape

from labkit.core import metrics
from labkit.core.profiles import Profile
from labkit.dashboards.explorer import top
from labkit.dashboards.page import Desk, Page, button, choice, images
from labkit.dashboards.parts import SMALL, Board, filled
from labkit.evaluation import Case, ThreatModel, Workbench, measurement, threat_models
from labkit.evaluation.adversarial_examples import adversarial
from labkit.experiments import baselines, paper_tables
from labkit.models import predict

import ipywidgets as w
import pandas as pd
import torch
from torch import Tensor

_WORDS = """Every column names its attack and its threat model. The outlined cell is a defense's lowest accuracy: read
that one. Choose a defense and an attack to see what they do to an image."""


class Arena(Page):
    """A `Page` of all rows that are kept; `view` is the widget to display."""

    TRY = "Choose the attack of an outlined cell: what has it changed in the image?"

    def __init__(self, lab: Profile, bench: Workbench, theirs=None):
        self.desk, self.asked_of = Desk(lab, bench, theirs=theirs), theirs.cases if theirs else cases(lab)
        self.network = choice("classifier", {"vanilla": False, "retrained on T(x)": True})
        self.defense, self.attack, self.index = choice("defense", []), choice("attack", []), images(last=19)
        self.compute = button("Measure what is missing", lambda: self.load(compute=True))
        self.board, self.table = Board(across=4), w.HTML().add_class("lk-table").add_class("lk-scroll")
        self.cases: dict[tuple, Case] = {}
        self.rows, self._quiet = pd.DataFrame(), False
        controls = [self.network, self.defense, self.attack, self.index, self.compute][bool(theirs) :]
        super().__init__("Arena", _WORDS, controls, [self.board, self.table])
        self.pictures = self.worker(self._picture)
        for control in (self.network, self.defense):
            control.observe(lambda _: self._fill(), names="value")
        self.ask(self.attack, self.index)
        self.load()

    def load(self, compute: bool = False) -> None:
        """Fetch the rows that are kept; with `compute`, measure the others first, which can be stopped."""
        self.work(compute)

    def request(self) -> None:
        if not self._quiet and self.attack.value is not None:
            self.board.pending = True
            self.pictures(self.network.value, self.defense.value, self.attack.value, self.index.value)

    def stopped(self) -> None:
        self.load()

    def _show(self, check, compute: bool) -> None:
        self.say("Looking for rows …")
        everything, run = self.asked_of, lambda case: measurement.run([case], self.desk.bench)
        missing = set(self.measure(everything, compute, check, kept=self.desk.kept, run=run, told=_words))
        there = [case for case in everything if case not in missing]
        self.compute.disabled = not missing
        if not there:
            self.say("Nothing is measured yet for these images; “Measure what is missing” does it and keeps it.")
            return
        self.rows = measurement.run(there, self.desk.bench)
        pairs = sorted(zip(there, self.rows.itertuples(), strict=True), key=lambda pair: pair[1].n)
        self.cases = {(row.retrained, row.defense, row.attack, row.knowledge): case for case, row in pairs}
        self._fill()
        left = f", {len(missing)} more can be" if missing else ""
        what = escape(f"{self.rows.data[0]}; {self.rows.classifier[0]}; brackets are 95 % Wilson intervals, then n.")
        self.say(f"{len(there)} cases are measured{left}. <span class='lk-soft'>{what}</span>")

    def _fill(self) -> None:
        """The table of the network that is chosen, and the defenses and attacks that it leaves to choose from."""
        if self._quiet or self.rows.empty:
            return
        grid, before = table(self.rows, retrained=self.network.value), self.defense.value
        self.table.value = filled("arena.html", grid=grid)
        self._quiet = True
        self.defense.options = list(grid.index)
        self.defense.value = before if before in grid.index else grid.index[0]
        both = self.defense.value == "No Defense"  # there is one such network, in either table
        mine = {
            (attack, knowledge): ThreatModel.of(knowledge, defense).told(attack)
            for retrained, defense, attack, knowledge in self.cases
            if defense == self.defense.value and (both or retrained == self.network.value)
        }
        wanted = [self.attack.value, *(key for key in mine if key[0] != "Clean"), *mine]
        self.attack.options = [(words, key) for key, words in mine.items()]
        self.attack.value = next((key for key in wanted if key in mine), None)
        self._quiet = False
        self.request()

    def _picture(self, check, retrained: bool, defense: str, attack: tuple[str, str], index: int) -> None:
        case = self.cases.get((retrained, defense, *attack)) or self.cases[not retrained, defense, *attack]
        test = self.desk.bench.images(case.data, "test")
        index = min(index, len(test) - 1)
        found = face(case, index, self.desk.bench)
        check()
        x, x_adv, seen, true = found["x"], found["x_adv"], found["seen"], int(test.y[index])
        classes = [*test.classes, "rejected"]
        near = [f"{float(v):.1f} dB to x" for v in metrics.psnr(torch.stack([x_adv, seen]), x.expand(2, *x.shape))]
        self.board.side = 170 if x.shape[-1] <= SMALL else 220
        self.board.show([
            {"title": "image x", "x": x, "note": f"{test.classes[true]}, no defense:",
             "bars": top(found["before"], classes, true)},
            {"title": attack[0], "x": x_adv, "note": near[0]},
            {"title": "10 × the difference", "x": 0.5 + 10 * (x_adv - x), "note": "grey is 0"},
            {"title": "the network gets", "x": seen, "note": near[1], "bars": top(found["after"], classes, true)},
        ])  # fmt: skip


def cases(lab: Profile) -> list[Case]:
    """All that notebooks 05 and 07 measure: the grid, the baselines, and the adaptive attacks; each case once."""
    return list(dict.fromkeys([*paper_tables.grid(lab), *baselines.cases(lab), *paper_tables.adaptive(lab)]))


def table(rows: pd.DataFrame, *, retrained: bool) -> pd.DataFrame:
    """Rows of `measurement.run` as a grid: one line per defense, one column per (attack, threat model).

    Cells are (accuracy, low, high, n, worst), or None where nothing was measured; of a case on several numbers of
    images, the one on most. `worst` marks each line's lowest accuracy. Networks are vanilla or `retrained`; the
    undefended one stands in both.
    """
    mine = rows[(rows.retrained == retrained) | (rows.defense == "No Defense")].sort_values("n", kind="stable")
    models = [ThreatModel.of(*pair).label for pair in zip(mine.knowledge, mine.defense, strict=True)]
    mine = mine.assign(model=models).drop_duplicates(["defense", "attack", "model"], keep="last")
    worst = mine.accuracy == mine.groupby("defense").accuracy.transform("min")
    mine["cell"] = list(zip(mine.accuracy, mine.low, mine.high, mine.n, worst, strict=True))
    grid = mine.pivot(index="defense", columns=["attack", "model"], values="cell")
    order = {"attack": list(rows.attack.unique()), "model": [model.label for model in ThreatModel]}
    grid = grid.sort_index(axis=1, key=lambda names: names.map(order[names.name].index))
    grid = grid.reindex([name for name in rows.defense.unique() if name in grid.index])
    return grid.where(grid.notna(), None)


@dataclass(frozen=True)
class Face:
    """One test image in one case; `face` says what is kept of it."""

    case: Case
    index: int
    version: int = 1


def face(case: Case, index: int, bench: Workbench) -> dict[str, Tensor]:
    """One test image: x, x_adv and seen (C, H, W), before and after (classes,); kept in the store.

    seen    what the network gets of x_adv: the defense's output, or x_adv itself where a defense outputs no image. T
            solves for it alone; among other images it may end elsewhere within its gap
    before  the probabilities of the network alone for x
    after   those of the judged system for x_adv; a detector has one class more, "rejected"
    """
    test = bench.images(case.data, "test")

    def build(_scratch):
        x, x_adv = test.x[index : index + 1], adversarial(case.attempt(), bench)[index : index + 1]
        defense, network = bench.transform(case.defense), bench.classifier(case.classifier)
        seen, logits = threat_models.decide(network, defense, x_adv)
        odds = {"before": predict(network, x).softmax(1)[0], "after": logits.softmax(1)[0]}
        return {"x": x[0].clone(), "x_adv": x_adv[0].clone(), "seen": seen[0].clone(), **odds}, {}

    return bench.store.fetch("face", Face(case, index), build, digest=bench.digest(case.data)).tensors


def told(case: Case, found: dict[str, Tensor], classes: Iterable[str]) -> str:
    """A line about a face: the defense, the class decided for, and the PSNR of what the network gets."""
    names = [*classes, "rejected"]
    near = float(metrics.psnr(found["seen"][None], found["x"][None]))
    return f"{case.label}: {names[int(found['after'].argmax())]}, {near:.1f} dB"


def _words(case: Case) -> str:
    return f"{case.label}: {ThreatModel.of(case.knowledge, case.label).told(case.attack.label)}"

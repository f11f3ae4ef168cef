"""Live accuracy: the explorer's sliders over many test images, with intervals that narrow as images are done."""

import re
from html import escape

from labkit.core.metrics import Accuracy
from labkit.core.profiles import Profile
from labkit.dashboards import live
from labkit.dashboards.page import LOOK, OFFERS, Desk, Page, T, choice, settings
from labkit.dashboards.parts import filled
from labkit.evaluation import ThreatModel, Workbench

import ipywidgets as w

_WORDS = """Clean and robust accuracy on test images, without T and behind it. Bars grow as images are done; the thin
line is the 95 % interval. Without T, the attack is a white box. Moving a control stops the run and starts another."""
_ROWS = {"clean": ("no defense, clean", "#8c8c8c"), "attacked": ("no defense, attacked", "#8c8c8c8c"),
         "T clean": ("behind {}, clean", "#0072b2"), "T attacked": ("behind {}, attacked", "#d55e00")}  # fmt: skip


class LiveAccuracy(Page):
    """A `Page` about many images at once; `view` is the widget to display, `found` the numbers that it shows."""

    TRY = "Give the attacker the exact gradient: what is left of what T had gained?"

    def __init__(self, lab: Profile, bench: Workbench, offers=OFFERS[:-1], theirs=None):
        self.desk = Desk(lab, bench, offers, theirs)
        self.data = choice("images", list(self.desk.labs))
        self.count = w.SelectionSlider(options=(50, 100, 200, 500, 1000), value=100, description="how many", **LOOK)
        self.network = choice("classifier", {"vanilla": False, "retrained on the lab's T": True})
        chosen = settings(lab, self.desk.known)
        self.attack, self.size, self.knowledge, self.lam, self.K, self.S, self.stratified = chosen
        self.size.continuous_update = False
        self.bars = w.HTML().add_class("lk-table")
        self.found: dict[str, Accuracy] = {}
        controls = [self.data, self.count, self.network, *chosen]
        shown = [one for one in controls if one not in (chosen[3:] if self.desk.defense else ())]
        if theirs:
            shown.remove(self.network)
        words = re.sub(r"\bT\b", escape(self.desk.label), _WORDS)
        super().__init__("Live accuracy", words, shown, [self.bars], wait=0.25)
        self.ask(*controls)

    def request(self) -> None:
        self.bars.add_class("lk-dim")
        super().request()

    def _show(self, check, data, count, retrained, attack, size, knowledge, lam, K, S, stratified) -> None:
        lab = self.desk.labs[data]
        recipe = T(lab, K, S, stratified)
        network = lab.retrained(lab.stratified if stratified else lab.transform) if retrained else lab.classifier
        layer = self.desk.defense
        self.idle()
        if self.lacks(network, *((recipe,) if layer is None else ())):
            return
        test = self.desk.bench.images(lab.data, "test")
        n = min(count, len(test))
        layer, judge = layer or live.at(self.desk.layer(recipe), lam), self.desk.network(network)

        def attacker(before, x, y):
            return live.attack(attack, judge, before, x, y, size, knowledge if before is not None else "classifier")

        self.busy(0)
        against, kinds = ThreatModel(knowledge), {k: (v[0].format(self.desk.label), v[1]) for k, v in _ROWS.items()}
        settings = "" if self.desk.defense else f"λ = {lam:.3f}, K = {K}, S = {S}; "
        settings += f"{against.told(attack)}, size {size:.2f}. The attacker of {self.desk.label} {against.words}."
        for found in live.accuracies(judge, layer, test.x[:n], test.y[:n], attacker=attacker, stop=check):
            check()
            self.found, done = found, next(iter(found.values())).n
            self.bars.value = filled("bars.html", rows=found, kinds=kinds)
            self.bars.remove_class("lk-dim")
            self.busy(done / n)
            self.say(f"{done:,} of {n:,} test images. <span class='lk-soft'>{escape(settings)}</span>")
        self.idle()

    def stopped(self) -> None:
        n = next((a.n for a in self.found.values()), 0)
        self.say(f"Stopped after {n:,} images. Move a control to begin again.")

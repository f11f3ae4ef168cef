"""The projection explorer: move λ or K and see T's output, of an image and of its attacked twin."""

import time
from html import escape

from labkit.core import InputError, metrics
from labkit.core.profiles import Profile
from labkit.dashboards import live
from labkit.dashboards.page import OFFERS, Desk, Page, T, choice, images, settings
from labkit.dashboards.parts import SMALL, Board, Upload, glowing
from labkit.datasets import decoding
from labkit.evaluation import Workbench, threat_models
from labkit.models import predict

import ipywidgets as w
import torch
from torch import Tensor

_ROUGH = 0.2  # relative duality gap of a first look at a large image
_WORDS = """T keeps the low-pass part of an image and codes the rest sparsely. The upper row is the clean image, the
lower row the attacked one: each with its parts, T's output, and what the classifier decides. Arrow keys move the slider
that has the focus."""
_THEIRS = """{} stands before the classifier. The upper row is what comes in: the clean image, the attacked one, and ten
times their difference. The lower row is what the defense makes of each, and of that difference."""


class Explorer(Page):
    """A `Page` about one image at a time; `view` is the widget to display."""

    TRY = "Drag λ: from where on does the attack shrink faster than the picture loses detail?"

    def __init__(self, lab: Profile, bench: Workbench, offers=OFFERS, theirs=None):
        self.desk = Desk(lab, bench, offers, theirs)
        self.data, self.index, self.upload = choice("images", list(self.desk.labs)), images(), Upload(self.take)
        chosen = settings(lab, self.desk.known)
        self.attack, self.size, self.knowledge, self.lam, self.K, self.S, self.stratified = chosen
        self.board = Board(across=3 if self.desk.defense else 5)
        self._opened: set[str] = set()
        self._file: tuple[str, bytes] | None = None  # the visitor's picture, as it came
        self._attacked, self._seen, self._judged = (None, None), (None, None), (None, None)
        unit = w.HTML("<span class='lk-soft'>size: ‖x_adv − x‖₂ / ‖x‖₂</span>")
        rows = [self.data, self.index, self.upload, self.attack, self.size, unit, *chosen[2:]]
        words = _THEIRS.format(escape(self.desk.label)) if self.desk.defense else _WORDS
        super().__init__("Projection explorer", words, rows[:7] if self.desk.defense else rows, [self.board])
        self.data.observe(lambda _: setattr(self.index, "value", 0), names="value")
        self.index.observe(lambda _: self._moved(), names="value")
        self.ask(self.data, self.index, *chosen)

    def take(self, name: str, raw: bytes) -> None:
        """A visitor's picture, in whatever format; the largest centred square of it, as large as the images."""
        self._file, self._attacked = (name, raw), (None, None)
        self.request()

    def _moved(self) -> None:
        self._file = None
        self.upload.said = ""

    def _show(self, check, data, index, attack, size, knowledge, lam, K, S, stratified) -> None:
        started = time.perf_counter()
        lab = self.desk.labs[data]
        test = self.desk.bench.images(lab.data, "test")
        self.index.max = len(test) - 1
        if data not in self._opened:
            self._opened.add(data)
            if index == 0 and self._file is None and (best := colourful(test.x[:100])):
                self.index.value = best  # which asks again
                return
        recipe, layer = T(lab, K, S, stratified), self.desk.defense
        if layer is None and self.lacks(recipe):
            return
        layer = layer or live.at(self.desk.layer(recipe), lam)
        missing = self.desk.missing(lab.classifier, said=self.say)
        network = None if missing else self.desk.network(lab.classifier)
        check()
        x, y, name = self._image(test, min(index, len(test) - 1), network)
        x_adv = self._attack(network, layer, x, y, (data, name, attack, size, knowledge), (lam, K, S, stratified))
        check()
        pair, key = torch.cat([x, x_adv]), (data, name, K, S, stratified)
        seen = self._seen[1] if self._seen[0] == key else None
        looks = [None] if seen or max(x.shape[-2:]) <= SMALL else [_ROUGH, None]
        if self.desk.defense:
            looks = []
            self._theirs(test, pair, y, network, name)
        for gap_tol in looks:
            seen = live.look(layer, pair, start=seen, gap_tol=gap_tol)
            check()
            clean, attacked = (int(m) + 1 for m in seen.stratum)
            where = f"; voted to cluster {clean}, attacked to {attacked}" if stratified else ""
            took = f"K = {K}, S = {S}{where}; {1000 * (time.perf_counter() - started):.0f} ms"
            self._draw(test, pair, y, seen, network, name, f"λ = {lam:.3f}, {'a first look …' if gap_tol else took}")
        self._seen = (key, seen)
        self.idle()
        if missing:
            self.offer([lab.classifier], missing, needed=False)

    def _image(self, test, index: int, network) -> tuple[Tensor, Tensor | None, str]:
        """x (1, C, H, W), its class (1,), and what to call it; a visitor's own has the class the network gives it."""
        if self._file is None:
            return test.x[index : index + 1], test.y[index : index + 1], f"test image {index}"
        name, raw = self._file
        try:
            pixels = decoding.decode(raw, name, test.x.shape[-1], test.x.shape[1])
        except InputError as error:
            self._file = None
            self.upload.said = str(error)
            return self._image(test, index, network)
        x = pixels[None].float() / 255
        y = predict(network, x).argmax(1) if network is not None else None
        return x, y, f"your picture {name}"

    def _attack(self, network, layer, x, y, key, T_key) -> Tensor:
        _, _, attack, size, knowledge = key
        key = (*key, network is None, *(() if knowledge == "classifier" else T_key))
        if self._attacked[0] != key or self._attacked[1].shape != x.shape:
            name = attack if network is not None or attack in ("none", "random noise") else "random noise"
            if network is None:  # noise asks it nothing
                network, y = torch.nn.Flatten(), torch.zeros(1, dtype=torch.int64)
            self._attacked = (key, live.attack(name, network, layer, x, y, size, knowledge))
        return self._attacked[1]

    def _draw(self, test, pair, y, seen: live.Look, network, name, settings) -> None:
        x, x_adv = pair
        odds = [None] * 4
        if network is not None:
            if self._judged[0] is not self._attacked[1]:  # λ changes neither of the two
                self._judged = (self._attacked[1], predict(network, pair).softmax(1))
            odds = [*self._judged[1], *predict(network, seen.seen).softmax(1)]
        true = None if y is None else int(y)
        bars = [top(p, test.classes, true) for p in odds]
        shown = torch.stack([x_adv, *seen.seen])
        near = [f"{float(v):.1f} dB to x" for v in metrics.psnr(shown, x.expand_as(shown))]
        far = float(metrics.dissimilarity(x_adv[None], x[None]))
        fires = [f"{int(n):,} of {seen.fires[0].numel():,}" for n in seen.active]
        self.board.side = 150 if x.shape[-1] <= SMALL else x.shape[-1]
        self.board.show([
            {"title": "image x", "x": x, "bars": bars[0]},
            {"title": "low-pass part", "x": seen.low[0], "note": "T keeps it"},
            {"title": "the rest", "x": 0.5 + seen.high[0], "note": "grey is 0"},
            {"title": "its sparse code", "x": glowing(seen.fires[0].abs().sum(0)), "note": fires[0]},
            {"title": "T(x)", "x": seen.seen[0], "note": near[1], "bars": bars[2]},
            {"title": "attacked x_adv", "x": x_adv, "note": near[0], "bars": bars[1]},
            {"title": "10 × change", "x": 0.5 + 10 * (x_adv - x), "note": f"x_adv − x, size {far:.3f}"},
            {"title": "what T leaves", "x": 0.5 + 10 * (seen.seen[1] - seen.seen[0]), "note": "10 × (T(x_adv) − T(x))"},
            {"title": "its sparse code", "x": glowing(seen.fires[1].abs().sum(0)), "note": fires[1]},
            {"title": "T(x_adv)", "x": seen.seen[1], "note": near[2], "bars": bars[3]},
        ])  # fmt: skip
        self._told(test, true, network, name, settings)

    def _theirs(self, test, pair, y, network, name) -> None:
        """The board of a defense that is no T, in front of a network."""
        seen, logits = threat_models.decide(network or torch.nn.Flatten(), self.desk.defense, pair)
        classes, true = [*test.classes, "rejected"], None if y is None else int(y)
        odds = [*predict(network, pair).softmax(1), *logits.softmax(1)] if network is not None else [None] * 4
        bars = [top(p, classes, true) for p in odds]
        (x, x_adv), near = pair, metrics.psnr(torch.cat([pair[1:], seen]), pair[:1].expand(3, *pair.shape[1:]))
        notes = [f"{float(v):.1f} dB to x" for v in near]
        self.board.side = 150 if x.shape[-1] <= SMALL else x.shape[-1]
        self.board.show([
            {"title": "image x", "x": x, "bars": bars[0]},
            {"title": "attacked x_adv", "x": x_adv, "note": notes[0], "bars": bars[1]},
            {"title": "10 × change", "x": 0.5 + 10 * (x_adv - x), "note": "grey is 0"},
            {"title": "defense of x", "x": seen[0], "note": notes[1], "bars": bars[2]},
            {"title": "defense of x_adv", "x": seen[1], "note": notes[2], "bars": bars[3]},
            {"title": "what it leaves", "x": 0.5 + 10 * (seen[1] - seen[0]), "note": "10 × the difference"},
        ])  # fmt: skip
        self._told(test, true, network, name, escape(self.desk.label))

    def _told(self, test, true: int | None, network, name: str, settings: str) -> None:
        kind = "seen as" if name.startswith("your") else "true class"
        known = "" if true is None else f", {kind} <b>{escape(test.classes[true])}</b>"
        blind = " No classifier is trained for these images yet: random noise replaces the attack." * (network is None)
        self.say(f"{escape(name)}{known}. <span class='lk-soft'>{settings}.{blind}</span>")


def colourful(x: Tensor) -> int:
    """Which of some images (n, C, H, W) has the most varied colours; of grey ones, the first."""
    return int((x - x.mean(1, keepdim=True)).flatten(2).std(2).sum(1).argmax())


def top(odds: Tensor | None, classes, true: int | None, count: int = 3) -> list[tuple[str, float, str]]:
    """The likeliest classes: name, share, and whether the first is "right" or "wrong", where the true one is known."""
    if odds is None:
        return []
    share, at = (found.tolist() for found in odds.topk(min(count, len(odds))))
    kinds = [""] * len(at)
    if true is not None:
        kinds[0] = "right" if at[0] == true else "wrong"
    return [(classes[c], s, kind) for c, s, kind in zip(at, share, kinds, strict=True)]

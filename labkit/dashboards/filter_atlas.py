"""The filter atlas: dictionaries by cluster, K, S and λ; choose a filter and see where it is active."""

import ipywidgets as w
import torch
from torch import Tensor

from labkit.core.profiles import Profile
from labkit.dashboards import live
from labkit.dashboards.explorer import heat
from labkit.dashboards.page import LABEL, OFFERS, WIDE, Desk, Page, T, choice, slider
from labkit.dashboards.parts import SMALL, Board, Mosaic
from labkit.dashboards.work import Latest
from labkit.evaluation import Workbench
from labkit.experiments.ablations import varied
from labkit.models import SparseTransform, StratifiedTransform
from labkit.reporting import pictures

_WORDS = """A dictionary is all that T knows of natural images. Click a filter, or use the arrow keys. The page shows
where in the image the filter is active, what it adds there, and the images in which it is most active."""
_SEARCHED = 100  # test images, among which those are shown in which a filter is most active
_BATCH = 10


class FilterAtlas:
    """A `Page` of one dictionary; `view` is the widget to display."""

    def __init__(self, lab: Profile, bench: Workbench, offers=OFFERS[:-1]):
        self.desk = Desk(lab, bench, offers)
        own, how = lab.transform.dictionary, lab.tradeoff
        self.data = choice("images", list(self.desk.labs))
        clusters = {"all images": 0} | {f"cluster {m + 1}": m + 1 for m in range(lab.stratified.strata.clusters)}
        self.cluster = choice("learned from", clusters)
        self.K = slider("K, filters", sorted({*how.K, own.K}), own.K)
        self.S = slider("S, pixels", sorted({*how.S, own.S}), own.S)
        self.lam = slider("λ", sorted({*how.lam, own.lam}), own.lam)
        self.index = w.IntSlider(0, 0, 1, description="test image", layout=WIDE, style=LABEL)
        self.mosaic, self.board, self.most = Mosaic(), Board(), Board()
        self.board.across, self.most.across, self.most.side = 4, 6, 110
        title = w.HTML("<h2>Test images in which it is most active</h2>")
        self.controls = (self.data, self.cluster, self.K, self.S, self.lam, self.index)
        content = [self.mosaic, self.board, title, self.most]
        self.page = Page("Filter atlas", _WORDS, self.controls, content)
        self.view = self.page.view
        self._coded: tuple = (None, None)
        self._looked: tuple = (None, None)
        self.work = Latest(self._show, self.page.trouble)
        self.search = Latest(self._search, self.page.trouble, wait=0.12)
        for control in self.controls:
            control.observe(lambda _: self.request(), names="value")
        self.mosaic.observe(lambda _: self.request(), names="chosen")
        self.request()

    def request(self) -> None:
        self.board.pending = self.most.pending = True
        asked = (*(control.value for control in self.controls), self.mosaic.chosen)
        self.work(*asked)

    def settled(self, timeout: float = 60) -> bool:
        return self.work.settled(timeout) and self.page.settled(timeout) and self.search.settled(timeout)

    def _show(self, check, data, cluster, K, S, lam, index, chosen) -> None:
        lab = self.desk.labs[data]
        recipe = varied(T(lab, K, S, cluster > 0), "lam", lam)
        if missing := self.desk.missing(recipe, said=self.page.say):
            self.page.offer(missing, self.request)
            return
        self.page.idle()
        found = self.desk.layer(recipe)
        layer = found.transforms[cluster - 1] if isinstance(found, StratifiedTransform) else found
        test = self.desk.bench.images(lab.data, "test")
        self.index.max = len(test) - 1
        chosen, index = min(chosen, K - 1), min(index, len(test) - 1)
        key = (data, cluster, K, S, lam)
        if self._looked[0] != key:
            self.mosaic.show(pictures.scaled(layer.d), f"{K} filters of {S}×{S} pixels; arrow keys choose one")
        x = test.x[index : index + 1]
        if self._looked[:1] != (key,) or self._looked[1][0] != index:
            self._looked = (key, (index, live.look(layer, x)))
        seen = self._looked[1][1]
        check()
        alone = live.of_filter(layer, seen, chosen)[0]
        uses = (seen.fires != 0).flatten(2).sum(2)[0]
        share = int(uses[chosen]) / max(int(uses.sum()), 1)
        self.board.side = 170 if x.shape[-1] <= SMALL else 220
        self.board.show([
            {"title": f"filter {chosen + 1}", "x": pictures.scaled(layer.d)[chosen],
             "note": f"norm {float(layer.d[chosen].norm()):.2f}"},
            {"title": f"test image {index}", "x": x[0], "note": test.classes[int(test.y[index])]},
            {"title": "where it is active", "x": heat(seen.fires[0, chosen : chosen + 1]),
             "note": f"{int(uses[chosen])} coefficients, {share:.1%} of all"},
            {"title": "what it adds", "x": 0.5 + 2 * alone, "note": "twice as strong; grey is 0"},
        ])  # fmt: skip
        self.page.say(f"{K} filters of {S}×{S} pixels, learned with λ = {lam:g} from "
                      f"{'all training images' if not cluster else f'those of cluster {cluster}'}.")  # fmt: skip
        self.search(key, layer, test, chosen)

    def _search(self, check, key, layer: SparseTransform, test, chosen: int) -> None:
        if self._coded[0] != key:
            parts = []
            for start in range(0, min(_SEARCHED, len(test)), _BATCH):
                check()
                parts.append(live.amounts(layer, test.x[start : start + _BATCH]))
            self._coded = (key, torch.cat(parts))
        amount = self._coded[1][:, chosen]
        best = amount.argsort(descending=True)[:6].tolist()
        check()
        self.most.show([
            {"title": f"test image {i}", "x": test.x[i], "note": _sum(amount[i])} for i in best
        ])  # fmt: skip


def _sum(amount: Tensor) -> str:
    return f"Σ|z| = {float(amount):.2f}"

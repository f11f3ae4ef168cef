"""The filter atlas: dictionaries by cluster, K, S and λ; choose a filter and see where it is active."""

from labkit.core.profiles import Profile
from labkit.dashboards import live
from labkit.dashboards.page import OFFERS, Desk, Page, T, choice, images, swept
from labkit.dashboards.parts import SMALL, Board, Mosaic, glowing
from labkit.evaluation import Workbench
from labkit.experiments.ablations import varied
from labkit.models import SparseTransform
from labkit.models.strata import StratifiedTransform
from labkit.reporting import pictures

import ipywidgets as w
import torch

_WORDS = """A dictionary is all that T knows of natural images. Click a filter, or use the arrow keys. The page shows
where in the image the filter is active, what it adds there, and the images in which it is most active."""
_SEARCHED = 100  # test images, among which those are shown in which a filter is most active
_BATCH = 10


class FilterAtlas(Page):
    """A `Page` of one dictionary; `view` is the widget to display."""

    TRY = "Choose an edge, then a spot: where in the image is each of them active?"

    def __init__(self, lab: Profile, bench: Workbench, offers=OFFERS[:-1]):
        self.desk = Desk(lab, bench, offers)
        self.data, self.index = choice("images", list(self.desk.labs)), images()
        clusters = {"all images": 0} | {f"cluster {m + 1}": m + 1 for m in range(lab.stratified.strata.clusters)}
        self.cluster = choice("learned from", clusters)
        self.K, self.S, self.lam = swept(lab, "K, filters", "K"), swept(lab, "S, pixels", "S"), swept(lab, "λ", "lam")
        self.mosaic, self.board, self.most = Mosaic(), Board(across=4), Board(across=6, side=110)
        self._coded, self._looked = (None, None), ((), None)
        title = w.HTML("<h2>Test images in which it is most active</h2>")
        controls = [self.data, self.cluster, self.K, self.S, self.lam, self.index]
        super().__init__("Filter atlas", _WORDS, controls, [self.mosaic, self.board, title, self.most])
        self.search = self.worker(self._search, wait=0.12)
        self.mosaic.observe(lambda _: self.request(), names="chosen")
        self.ask(*controls)

    def _show(self, check, data, cluster, K, S, lam, index) -> None:
        lab = self.desk.labs[data]
        recipe = varied(T(lab, K, S, cluster > 0), "lam", lam)
        if self.lacks(recipe):
            return
        self.idle()
        found = self.desk.layer(recipe)
        layer = found.transforms[cluster - 1] if isinstance(found, StratifiedTransform) else found
        test = self.desk.bench.images(lab.data, "test")
        self.index.max = len(test) - 1
        chosen, index = min(self.mosaic.chosen, K - 1), min(index, len(test) - 1)
        key = (data, cluster, K, S, lam)
        if self._looked[0][:-1] != key:
            self.mosaic.show(pictures.scaled(layer.d), f"{K} filters of {S}×{S} pixels; arrow keys choose one")
        x = test.x[index : index + 1]
        if self._looked[0] != (*key, index):
            self._looked = ((*key, index), live.look(layer, x))
        check()
        seen = self._looked[1]
        alone = live.of_filter(layer, seen, chosen)[0]
        uses = (seen.fires != 0).flatten(2).sum(2)[0]
        share = int(uses[chosen]) / max(int(uses.sum()), 1)
        self.board.side = 170 if x.shape[-1] <= SMALL else 220
        self.board.show([
            {"title": f"filter {chosen + 1}", "x": pictures.scaled(layer.d)[chosen],
             "note": f"norm {float(layer.d[chosen].norm()):.2f}"},
            {"title": f"test image {index}", "x": x[0], "note": test.classes[int(test.y[index])]},
            {"title": "where it is active", "x": glowing(seen.fires[0, chosen].abs()),
             "note": f"{int(uses[chosen])} coefficients, {share:.1%} of all"},
            {"title": "what it adds", "x": 0.5 + 2 * alone, "note": "twice as strong; grey is 0"},
        ])  # fmt: skip
        where = f"those of cluster {cluster}" if cluster else "all training images"
        self.say(f"{K} filters of {S}×{S} pixels, learned with λ = {lam:g} from {where}.")
        self.search(key, layer, test, chosen)

    def _search(self, check, key, layer: SparseTransform, test, chosen: int) -> None:
        if self._coded[0] != key:
            parts = []
            for x in test.x[:_SEARCHED].split(_BATCH):
                check()
                parts.append(live.look(layer, x).fires.abs().sum((2, 3)))
            self._coded = (key, torch.cat(parts))
        amount = self._coded[1][:, chosen]
        best = [(i, f"Σ|z| = {float(amount[i]):.2f}") for i in amount.argsort(descending=True)[:6].tolist()]
        check()
        self.most.show([{"title": f"test image {i}", "x": test.x[i], "note": note} for i, note in best])

"""The frame of every dashboard: its title, its controls, what it says, and what it does while something is missing."""

import base64
import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from html import escape

from labkit.core import InputError, profiles, wording
from labkit.core.profiles import Profile
from labkit.core.recipes import ClassifierRecipe, DefenseRecipe, StratifiedRecipe, TransformRecipe, rebase
from labkit.dashboards import live
from labkit.dashboards.parts import Board, Heart, filled, resend
from labkit.dashboards.work import Latest, clock
from labkit.evaluation import ThreatModel, Workbench, measurement, own, threat_models
from labkit.experiments import cost_estimate
from labkit.experiments.ablations import varied

import ipywidgets as w

LOOK = {"layout": w.Layout(width="325px"), "style": {"description_width": "96px"}}
OFFERS = (("fashion", None), ("photos", 64), ("photos", 224))  # embedded, so that everybody has them
Recipe = TransformRecipe | StratifiedRecipe | ClassifierRecipe
_Widgets = Sequence[w.Widget]
_STEPS = 400  # of a progress bar
_PATH = re.compile(r"(?<![\w.])(?:~|/)(?:[^/\s]*/)+")


def choice(name: str, options, **more) -> w.Dropdown:
    """A choice from a few options, the first or `value=` chosen."""
    return w.Dropdown(options=options, description=name, **LOOK, **more)


def images(last: int = 1) -> w.IntSlider:
    """Which test image is shown, from 0 to `last`."""
    return w.IntSlider(0, 0, last, description="test image", **LOOK)


def swept(lab: Profile, name: str, what: str) -> w.SelectionSlider:
    """A slider over the values of lam, K or S for which the lab learns dictionaries, that of its T among them."""
    own = getattr(lab.transform.dictionary, what)
    return w.SelectionSlider(options=sorted({*getattr(lab.tradeoff, what), own}), value=own, description=name, **LOOK)


def settings(lab: Profile, known: Sequence[str] = ("identity", "exact")) -> tuple[w.Widget, ...]:
    """What attacks T, and what T is: attack, size, threat model, λ, K, S, and one dictionary or one a cluster.

    known  what who knows the defense can differentiate (`threat_models.sensible`)
    """
    quick = (ThreatModel.WEIGHTS, *map(ThreatModel, known))  # whose answer comes while somebody waits
    return (
        choice("attack", list(live.ATTACKS_LIVE), value="FGSM"),
        w.FloatSlider(0.08, min=0, max=0.2, step=0.01, description="size", **LOOK),
        choice("threat model", {model.label: model.value for model in quick}),
        w.FloatLogSlider(lab.transform.lam, base=10, min=-2, max=0.5, step=0.05, description="λ", **LOOK),
        swept(lab, "K, filters", "K"),
        swept(lab, "S, pixels", "S"),
        choice("dictionary", {"one for all images": False, "one for each cluster": True}),
    )


def button(text: str, pressed: Callable[[], None], *, display: str = "", **more) -> w.Button:
    """A button as wide as its text, or hidden with display="none"."""
    made = w.Button(description=text, layout=w.Layout(width="auto", display=display), **more)
    made.on_click(lambda _: pressed())
    return made


class Page:
    """Title, controls at the left, content at the right, a line that says what is shown, and a way on from trouble.

    `view` is what a cell displays. A dashboard is a Page with a `desk`: its `_show(check, *values)` draws what the
    `asked` controls say, off the main thread, and `work` is who does it.

    wait  seconds for which a request lies before it is begun, as for `Latest`
    TRY   what its help says to try first
    """

    TRY = ""

    def __init__(self, title: str, words: str, controls: _Widgets, content: _Widgets, *, wait: float = 0):
        self.status = w.HTML().add_class("lk-status")
        self.bar = w.IntProgress(0, 0, _STEPS, layout=w.Layout(width="325px", display="none"))
        self.button = button("", lambda: self._agreed(), display="none", button_style="primary")
        self.cancel = button("Cancel", self._cancelled, display="none")
        self._agreed = lambda: None
        self._workers: list[Latest] = []
        self._builder, self.work = self.worker(self._build), self.worker(self._show, wait=wait)
        self.asked: _Widgets = ()
        self._content, self._boards = content, [part for part in content if isinstance(part, Board)]
        heading = w.HTML(filled("heading.html", title=title, words=words, tried=self.TRY))
        left = w.VBox([*controls, self.button, self.bar, self.cancel]).add_class("lk-controls")
        columns = w.HBox([left, w.VBox([self.status, *content]).add_class("lk-content")]).add_class("lk-columns")
        self.view = w.VBox([Heart(lambda: resend(self.view)), heading, columns]).add_class("lk-page")

    def _repr_mimebundle_(self, **options) -> dict:
        """In a notebook, the page itself; where no widgets run, as in a report, what it showed first."""
        self.settled(300)
        first = [self.status.value]
        for part in self._content:
            first += map(still, part.pictures, part.images) if isinstance(part, Board) else []
            first += [part.value] if isinstance(part, w.HTML) else []
        charts = [each["data"] for part in self._content if isinstance(part, w.Output) for each in part.outputs]
        static = f"<div class='first'>{''.join(first)}</div>".replace("\n", " ")
        return {**self.view._repr_mimebundle_(**options), "text/markdown": static, **(charts[0] if charts else {})}

    def worker(self, work: Callable[..., None], *, wait: float = 0) -> Latest:
        """Somebody who does the newest request; what fails is told on the page, and `settled` waits for it."""
        self._workers.append(Latest(work, self.trouble, wait=wait))
        return self._workers[-1]

    def ask(self, *controls: w.Widget) -> None:
        """From now on, and at once, `_show` is given the values of these controls, whenever one of them changes."""
        self.asked = controls
        for control in controls:
            control.observe(lambda _: self.request(), names="value")
        self.request()

    def request(self) -> None:
        """Ask for what the controls say; a newer request overtakes this one. Boards fade until they show it."""
        for board in self._boards:
            board.pending = True
        self.work(*(control.value for control in self.asked))

    def settled(self, timeout: float = 60) -> bool:
        """Wait until nothing is left to do, for at most `timeout` seconds at a time; False when it took longer."""
        return all(worker.settled(timeout) for worker in (*self._workers, *self._workers))

    def say(self, html: str) -> None:
        """The line above the content: HTML, whatever comes from outside escaped."""
        self.status.value = f"<div role='status'>{wording.writable(html)}</div>"

    def trouble(self, sentence: str) -> None:
        """A sentence about what went wrong; of paths, which are the server's business, only the last part is shown."""
        self.idle()
        told = escape(_PATH.sub("…/", wording.printable(sentence)))
        self.status.value = f"<div role='alert' class='lk-trouble'>{told}</div>"

    def busy(self, done: float) -> None:
        """Show the bar at a share of its length, and the button that cancels."""
        self.bar.value = int(_STEPS * done)
        self.bar.layout.display = self.cancel.layout.display = ""

    def idle(self) -> None:
        """Hide the bar and the buttons."""
        for part in (self.bar, self.button, self.cancel):
            part.layout.display = "none"

    def stopped(self) -> None:
        """What follows when somebody has cancelled."""

    def measure(self, asked: Sequence, compute: bool, check, *, kept: Callable, run: Callable, told: Callable) -> list:
        """Those of `asked` not `kept`; with `compute`, each is `run`, with a bar and a name (`told`): none is left."""
        missing = [one for one in asked if not kept(one)]
        for done, one in enumerate(missing if compute else ()):
            self.say(f"Measuring {escape(told(one))}, {done + 1} of {len(missing)} …")
            self.busy((done + 0.5) / len(missing))
            run(one)
            check()
        self.idle()
        return [] if compute else missing

    def lacks(self, *recipes: Recipe) -> bool:
        """Whether something of these is not in the store; it is then offered, and asked for again once it is there."""
        if steps := self.desk.missing(*recipes, said=self.say):
            self.offer(recipes, steps)
        return bool(steps)

    def offer(self, recipes: Sequence[Recipe], steps: Sequence[cost_estimate.Step], *, needed: bool = True) -> None:
        """A button that makes what is missing, and then asks again; where it is `needed`, the line says what it is."""
        self.idle()
        words = "; ".join(f"{step.kind} ({step.what})" for step in steps)
        seconds = sum(step.seconds or 0 for step in steps)
        duration = f"{max(seconds, 1):.0f} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"
        if needed:
            offered = f"Not there yet: {escape(words)}. Making it takes about {duration}, once; it is then kept for "
            offered += "all dashboards, notebooks and reports."
            self.status.value = f"<div role='status' class='lk-offer'>{offered}</div>"
        self.button.description = f"Make {' and '.join(dict.fromkeys(step.kind for step in steps))} ({duration})"
        self.button.layout.display = ""
        self._agreed = lambda: self._builder(recipes, words, seconds)

    def _show(self, check: Callable[[], None], *values) -> None:
        """Draw what the controls say; each dashboard has its own."""

    def _build(self, check, recipes: Sequence[Recipe], words: str, seconds: float) -> None:
        self.idle()
        self.say(f"Making {escape(words)} …")
        self.bar.value, self.bar.layout.display = 0, ""
        with clock(self.bar, seconds):
            for recipe in recipes:
                (self.desk.network if isinstance(recipe, ClassifierRecipe) else self.desk.layer)(recipe)
                check()
        self.idle()
        self.request()

    def _cancelled(self) -> None:
        self.work.cancel()
        self.idle()
        self.stopped()


class Desk:
    """What a dashboard works with: the lab, also at each (data set, resolution) of `offers`, and what is fetched.

    With somebody else's network or defense (`own.theirs`) there are no offers: they are for these images. `defense` is
    theirs, where it is none of the lab's own T; then `known` is what can be differentiated of it.
    """

    def __init__(self, lab: Profile, bench: Workbench, offers: Sequence[tuple[str, int | None]] = (), theirs=None):
        if theirs:
            lab, offers = replace(rebase(lab, theirs.network.data), classifier=theirs.network), ()
        named = theirs.defense if theirs else None
        self.defense = bench.transform(named) if isinstance(named, DefenseRecipe) else None
        self.known = threat_models.sensible(self.defense) or ("identity", "exact")
        self.label = named.label if self.defense else "T"
        self.bench, self.labs = bench, {_named(lab): lab}
        for name, resolution in offers:
            other = rebase(lab, replace(lab.data, name=name, resolution=resolution))
            self.labs.setdefault(_named(other), other)
        self.layer, self.network = cache(bench.transform), cache(bench.classifier)
        self.kept = partial(measurement.kept, bench=bench)
        self._there: set[tuple] = set()

    def missing(self, *recipes: Recipe, said: Callable[[str], None]) -> list[cost_estimate.Step]:
        """The steps that make these, none when all is in the store; `said` that it is being looked into."""
        if recipes in self._there:
            return []
        said("Looking at what is there, and how long the rest would take …")
        steps = [step for step in cost_estimate.parts(recipes, self.bench) if not step.kept]
        if not steps:
            self._there.add(recipes)
        return steps


def still(picture: dict, image: bytes) -> str:
    """A picture of a board as HTML."""
    return filled("still.html", picture=picture, uri=f"data:;base64,{base64.b64encode(image).decode()}")


def T(lab: Profile, K: int, S: int, stratified: bool) -> TransformRecipe | StratifiedRecipe:
    """The lab's T with K filters of S×S pixels: one dictionary for all images, or one for each cluster."""
    return varied(varied(lab.stratified if stratified else lab.transform, "K", K), "S", S)


def _named(lab: Profile) -> str:
    return f"{lab.data.label}, {lab.data.resolution} pixels" if lab.data.resolution else lab.data.label


def opened(dashboard, profile="", dataset="", resolution=0, *, data_root="", store="") -> w.Widget:
    """What a dashboard's cell displays: its view or, where the lab cannot be set up, a page that says why.

    $LABKIT_MODEL and $LABKIT_DEFENSE are SPECs (`own.theirs`) for the pages that take them. Only who starts the server
    sets them: nothing that comes from a page is read as one.
    """
    try:
        lab = profiles.profile(profile, dataset=dataset, resolution=resolution)
        # One image at a time, begun from its last codes: work for a CPU, wherever the networks were trained.
        bench = Workbench(store, data_root=data_root, progress=False, device="cpu")
        specs, more = [os.environ.get(f"LABKIT_{name}", "") for name in ("MODEL", "DEFENSE")], {}
        if any(specs) and "theirs" in inspect.signature(dashboard).parameters:
            model, defense = map(lab.named, specs)
            more["theirs"] = own.theirs(model or lab.classifier, defense, lab.data, bench)
        return dashboard(lab, bench, **more).view
    except InputError as error:
        page = Page("This dashboard could not be opened", "Once that is mended, reload the page.", [], [])
        page.trouble(str(error))
        return page.view

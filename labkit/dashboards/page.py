"""The frame of every dashboard: its title, its controls, what it says, and what it does while something is missing."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from html import escape

import ipywidgets as w

from labkit.core import InputError, profiles
from labkit.core.profiles import Profile
from labkit.core.recipes import ClassifierRecipe, StratifiedRecipe, TransformRecipe, rebase
from labkit.dashboards.parts import Heart, resend
from labkit.dashboards.work import Latest, clock
from labkit.evaluation import ThreatModel, Workbench
from labkit.experiments import cost_estimate
from labkit.experiments.ablations import varied

LABEL = {"description_width": "96px"}
WIDE = w.Layout(width="325px")
OFFERS = (("fashion", None), ("photos", 64), ("photos", 224))  # embedded, so that everybody has them
_STEPS = 400  # of a progress bar
_PATH = re.compile(r"(?<![\w.])(?:~|/)(?:[^/\s]*/)+")


def slider(name: str, values: Sequence, value, **more) -> w.SelectionSlider:
    """A slider over a few values, such as the K for which dictionaries are learned."""
    return w.SelectionSlider(options=list(values), value=value, description=name, layout=WIDE, style=LABEL, **more)


def choice(name: str, options, value=None) -> w.Dropdown:
    value = {} if value is None else {"value": value}
    return w.Dropdown(options=options, description=name, layout=WIDE, style=LABEL, **value)


def lambdas(value: float) -> w.FloatLogSlider:
    return w.FloatLogSlider(value, base=10, min=-2, max=0.5, step=0.02, description="λ", layout=WIDE, style=LABEL)


def models() -> w.Dropdown:
    """Who attacks T: the threat models whose answer comes while somebody waits."""
    offered = (ThreatModel.WEIGHTS, ThreatModel.BPDA, ThreatModel.EXACT)
    return choice("threat model", {model.label: model.value for model in offered})


class Page:
    """Title, controls at the left, content at the right, a line that says what is shown, and a way on from trouble.

    `view` is what a cell displays. `offer` makes what is missing, with a bar, and calls back when it is there.
    """

    def __init__(self, title: str, words: str, controls: Sequence[w.Widget], content: Sequence[w.Widget]):
        self.status = w.HTML()
        self.status.add_class("lk-status")
        self.bar = w.IntProgress(0, 0, _STEPS, layout=w.Layout(width="325px", display="none"))
        self.button = w.Button(layout=w.Layout(width="auto", display="none"), button_style="primary")
        self.cancel = w.Button(description="Cancel", layout=w.Layout(width="auto", display="none"))
        self.button.on_click(lambda _: self._agreed())
        self.cancel.on_click(lambda _: self._cancelled())
        self._agreed, self._cancelled = (lambda: None), (lambda: None)
        self._builder = Latest(self._build, self.trouble)
        heading = w.HTML(f"<h1>{escape(title)}</h1><p class='lk-soft'>{words}</p>")
        left, right = w.VBox([*controls, self.button, self.bar, self.cancel]), w.VBox([self.status, *content])
        for box, name in ((left, "lk-controls"), (right, "lk-content")):
            box.add_class(name)
        columns = w.HBox([left, right])
        columns.add_class("lk-columns")
        self.view = w.VBox([Heart(lambda: resend(self.view)), heading, columns])
        self.view.add_class("lk-page")

    def say(self, html: str) -> None:
        """The line above the content: HTML, whatever comes from outside escaped."""
        self.status.value = f"<div role='status'>{html}</div>"

    def trouble(self, sentence: str) -> None:
        """A sentence about what went wrong; of paths, which are the server's business, only the last part is shown."""
        self.idle()
        self.status.value = f"<div role='alert' class='lk-trouble'>{escape(_PATH.sub('…/', sentence))}</div>"

    def busy(self, done: float, cancel: Callable[[], None] | None = None) -> None:
        """Show the bar at a share of its length and, where there is something to cancel, the button for it."""
        self.bar.value, self.bar.layout.display = int(_STEPS * done), ""
        self._cancelled = cancel or self._cancelled
        self.cancel.layout.display = "" if cancel else "none"

    def idle(self) -> None:
        for part in (self.bar, self.button, self.cancel):
            part.layout.display = "none"

    def measure(self, missing: Sequence, told: Callable[..., str], run: Callable, check, stopped) -> None:
        """`run` each of `missing`, with a bar and the line that `told` makes of it; `stopped` is what Cancel calls."""
        for done, one in enumerate(missing):
            self.say(f"Measuring {escape(told(one))}, {done + 1} of {len(missing)} …")
            self.busy((done + 0.5) / len(missing), stopped)
            run(one)
            check()
        self.idle()

    def offer(self, missing: "Missing", then: Callable[[], None], *, needed: bool = True) -> None:
        """A button that makes what is missing, and then goes on; where it is `needed`, the line says what it is."""
        self.idle()
        if needed:
            self.status.value = (
                f"<div role='status' class='lk-offer'>Not there yet: {escape(missing.words)}. Making it takes about "
                f"{missing.duration}, once; it is then kept for all dashboards, notebooks and reports.</div>"
            )
        self.button.description = f"Make {missing.kinds} ({missing.duration})"
        self.button.layout.display = ""
        self._agreed = lambda: self._builder(missing, then)

    def settled(self, timeout: float = 60) -> bool:
        return self._builder.settled(timeout)

    def _build(self, check, missing: "Missing", then: Callable[[], None]) -> None:
        self.idle()
        self.say(f"Making {escape(missing.words)} …")
        self.bar.value, self.bar.layout.display = 0, ""
        with clock(self.bar, missing.seconds):
            for each in missing.make:
                each()
                check()
        self.idle()
        then()


@dataclass(frozen=True)
class Missing:
    """What has to be made before something can be shown: the plan's steps, and the functions that make it."""

    steps: Sequence[cost_estimate.Step]
    make: Sequence[Callable[[], object]]

    @property
    def words(self) -> str:
        return "; ".join(f"{step.kind} ({step.what})" for step in self.steps)

    @property
    def kinds(self) -> str:
        return " and ".join(dict.fromkeys(step.kind for step in self.steps))

    @property
    def seconds(self) -> float:
        return sum(step.seconds or 0 for step in self.steps)

    @property
    def duration(self) -> str:
        return f"{max(self.seconds, 1):.0f} s" if self.seconds < 100 else f"{self.seconds / 60:.0f} minutes"


class Desk:
    """What a dashboard works with: the lab at each of the offered data sets, and what it has fetched from the store.

    offers  (data set, resolution) beside the lab's own
    """

    def __init__(self, lab: Profile, bench: Workbench, offers: Sequence[tuple[str, int | None]] = OFFERS):
        self.bench, self.labs = bench, {_named(lab): lab}
        for name, resolution in offers:
            other = rebase(lab, replace(lab.data, name=name, resolution=resolution))
            self.labs.setdefault(_named(other), other)
        self.layer, self.network = cache(bench.transform), cache(bench.classifier)
        self._there: set[tuple] = set()

    def missing(
        self, *recipes: TransformRecipe | StratifiedRecipe | ClassifierRecipe, said: Callable[[str], None]
    ) -> Missing | None:
        """What has to be made of these, None when all is in the store; `said` that it is being looked into."""
        if recipes in self._there:
            return None
        said("Looking at what is there, and how long the rest would take …")
        todo = [step for step in cost_estimate.parts(recipes, self.bench) if not step.kept]
        if not todo:
            self._there.add(recipes)
        make = [
            partial(self.network if isinstance(recipe, ClassifierRecipe) else self.layer, recipe) for recipe in recipes
        ]
        return Missing(todo, make) if todo else None


def T(lab: Profile, K: int, S: int, stratified: bool) -> TransformRecipe | StratifiedRecipe:
    """The lab's T with K filters of S×S pixels: one dictionary for all images, or one for each cluster."""
    return varied(varied(lab.stratified if stratified else lab.transform, "K", K), "S", S)


def _named(lab: Profile) -> str:
    return f"{lab.data.label}, {lab.data.resolution} pixels" if lab.data.resolution else lab.data.label


def opened(dashboard, profile="", dataset="", resolution=0, *, data_root="", store="") -> w.Widget:
    """What a dashboard's cell displays: its view or, where the lab cannot be set up, a page that says why."""
    try:
        lab = profiles.profile(profile, dataset=dataset, resolution=resolution)
        # One image at a time, begun from its last codes: work for a CPU, wherever the networks were trained.
        return dashboard(lab, Workbench(store, data_root=data_root, progress=False, device="cpu")).view
    except InputError as error:
        page = Page("This dashboard could not be opened", "Once that is mended, reload the page.", [], [])
        page.trouble(str(error))
        return page.view

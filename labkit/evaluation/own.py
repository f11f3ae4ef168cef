"""Judge your own: `evaluate` measures any classifier behind any defense as the lab measures its own."""

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

from labkit.attacks import Budget
from labkit.core import InputError
from labkit.core.recipes import DEFENSES, AttackRecipe, ClassifierRecipe, DataRecipe, DefenseRecipe, Weights, rebase
from labkit.core.wording import here
from labkit.datasets import Images, check_pixels
from labkit.defenses import unfitted
from labkit.evaluation import measurement, probe, sanity_checks
from labkit.evaluation.efforts import EFFORTS, Effort, against, seconds, takes
from labkit.evaluation.measurement import Case
from labkit.evaluation.threat_models import ThreatModel
from labkit.evaluation.workbench import AnyDefense, Workbench
from labkit.models import Defense, foreign, networks, predict
from labkit.models.defense import Detector

import pandas as pd
import torch
from torch import Tensor, nn

VERSION = 1  # of what `Evaluation.to_json` writes
BUDGETS = Budget.dissimilarity(0.03), Budget.linf(8 / 255), Budget.l2(0.5)
_PROBED = 8  # images


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found.

    rows      as of `measurement.run`
    worst     as of `measurement.worst_case`, for each budget (columns norm, size)
    checks    what probing and `sanity_checks` found: check, verdict ("passed" or "failed"), said
    notes     sentences on what was assumed, changed or left out
    about     network, defense (None for none) and images, each with name and digest; effort; seconds
    pictures  what the hardest attack does to five images: columns and notes (`measurement.picture`); () without attacks
    smallest  of each image, the smallest dissimilarity at which any attack succeeded (DDN looks for it): 0 for one that
              is wrong when clean, infinite where none did
    costs     as of `measurement.costs`, a line for the network and for the defense alone before those of attacks
    efforts   seconds that each of `EFFORTS` should take
    """

    rows: pd.DataFrame
    worst: pd.DataFrame
    checks: pd.DataFrame
    notes: list[str]
    about: dict
    pictures: tuple = ()
    smallest: Tensor = field(default_factory=lambda: torch.empty(0))
    costs: pd.DataFrame = field(default_factory=pd.DataFrame)
    efforts: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """All but the pictures as a JSON object: version, the keys of `about`, frames (lists of objects), the rest.

        In rows and worst, `right` says which images are right, as `metrics.packed` writes it; null is not measured, and
        in `smallest` infinite.
        """
        frames = {"rows": self.rows, "worst": self.worst, "checks": self.checks, "costs": self.costs}
        found = {name: json.loads(frame.to_json(orient="records")) for name, frame in frames.items()}
        smallest = [round(size, 6) if size < math.inf else None for size in self.smallest.tolist()]
        told = {"version": VERSION, **self.about, **found, "smallest": smallest, "efforts": self.efforts}
        told["notes"] = self.notes
        return json.dumps(told, indent=1, ensure_ascii=False)


def evaluate(
    model: nn.Module | str | foreign.Found | ClassifierRecipe,
    images: Images | tuple[Tensor, Tensor] | DataRecipe | str, *,
    defense: Callable | str | AnyDefense | None = None, threat_models: Iterable[ThreatModel | str] = (),
    budgets: Iterable[Budget] = BUDGETS, effort: str = "standard", attacks: Iterable[Callable | str] = (),
    surrogate: nn.Module | str | ClassifierRecipe | None = None, store: str | Path | Workbench | None = None,
    mean: Sequence[float] | None = None, std: Sequence[float] | None = None, classes: Sequence[int] | None = None,
    differentiable: bool | None = None, stochastic: bool | None = None, progress: bool = True,
) -> Evaluation:  # fmt: skip
    """Robust accuracy of a classifier, behind a defense or without, under every attack that its effort has.

    model      a network, images (B, C, H, W) in [0, 1] -> logits (B, classes); its SPEC, or what `foreign.network` has
               found, which runs somebody's file once for several evaluations; or a recipe
    images     labelled test images: `Images`, (x, y) with x in [0, 1], a DataRecipe, or a data set's name, as
               "folder:PATH" (of which test images are taken). Of more than the effort has, some are drawn
    defense    a function of images, (B, C, H, W) in [0, 1] to the same shape; its SPEC; one of `labkit.defenses` by
               name, fitted to the training images of `images`; or a recipe
    threat_models  only these, as members or values of `ThreatModel`; all that make sense by default
    effort     "fast", "standard" or "full": `EFFORTS`
    attacks    of one's own, (model, x, y, *, budget) -> x_adv, or "file.py:FUNCTION", tried on the strongest white box
    surrogate  another network for the same classes, from which attacks are transferred
    store      where what is measured is kept, so that a second call goes on; a folder, or a workbench
    mean, std, classes  what the network wants subtracted and divided by, a number per channel; and the position in its
               outputs of each class of the images
    differentiable, stochastic  of the defense, where probing it (`probe`) should not decide

    Raises InputError for what cannot be evaluated. Nothing that is given is changed; networks are judged in evaluation
    mode. Errors of the given code come with its line.
    """
    started = time.perf_counter()
    if effort not in EFFORTS:
        raise InputError(f"unknown effort {effort!r}; the known ones are {', '.join(EFFORTS)}")
    how, words = EFFORTS[effort], [model.value for model in ThreatModel if model.value]
    asked = [getattr(known, "value", known) for known in threat_models]
    if unknown := set(asked) - set(words):
        raise InputError(f"unknown threat model {min(unknown)!r}; the known ones are {', '.join(words)}")
    bench = store if isinstance(store, Workbench) else Workbench(store, progress=progress)
    door = _Door(bench, images, how.n)
    network = door.network(model, mean, std, classes)
    before = None if defense is None else door.defense(defense, network, differentiable, stochastic)
    other = None if surrogate is None else door.network(surrogate, judged=False)
    if other is None:
        door.notes.append("Transfer from another network is left out: none was given as surrogate=.")
    own = [door.attack(attack) for attack in attacks]

    cleaner, budgets = bench.transform(before), list(budgets)

    def tried(how: Effort) -> list[Case]:
        """The clean images, each attack at each budget and, in the end, those that look for the smallest change."""
        cases = [case for at in (*budgets, None) for case in against(network, before, cleaner, at, how, other, own)]
        if not door.gradient:
            cases = [case for case in cases if case.attack.name in ("square", "hopskipjump", *own)]
        if asked:
            cases = [case for case in cases if ThreatModel.of(case.knowledge, case.label).value in asked]
        return list(dict.fromkeys([Case(network, before, AttackRecipe("clean", 0.0, 0)), *cases]))

    if not door.gradient:
        door.notes.append("The network gives no gradient: only attacks by queries are left.")
    everything = tried(how)
    cases = [case for case in everything if case.attack.norm != "none"]
    rows, smallest = measurement.run(cases, bench), measurement.smallest(everything, bench)
    if isinstance(cleaner, Detector):
        door.notes.append("The sanity checks of attacks are left out: they do not know what a detector rejects.")
    elif door.gradient:
        audit = sanity_checks.Audit(network, before, n=50, steps=min(how.steps, 20), queries=min(how.queries, 200))
        door.checks += sanity_checks.panel(audit, bench).to_dict("records")
    door.ask_again()
    about = {
        "network": {"name": network.network, "digest": bench.recipe_key(network, door.data)},
        "defense": before and {"name": before.label, "digest": bench.recipe_key(before, door.data)},
        "images": {"name": door.data.label, "digest": bench.images(door.data, "test").digest},
        "effort": effort,
        "seconds": round(time.perf_counter() - started, 1),
    }
    costs = measurement.costs(everything, bench)
    planned = {name: (min(each.n or door.there, door.there), tried(each)) for name, each in EFFORTS.items()}
    efforts = takes(planned, everything, costs, len(door.test), about["seconds"])
    parts = {"the network": bench.classifier(network), "the defense": cleaner}
    parts = {name: part for name, part in parts.items() if getattr(part, "maps", part is not None)}
    alone = [(name, "–", seconds(part, door.x), 1.0, 0.0) for name, part in parts.items()]
    hardest = cases[rows.accuracy.to_numpy().argmin()]
    shown = measurement.picture(hardest, bench, n=5) if hardest.attack.size else ()
    costs = pd.concat([pd.DataFrame(alone, columns=costs.columns), costs.astype(object)], ignore_index=True)
    worst, checks = _worst(cases, bench), pd.DataFrame(door.checks)
    return Evaluation(rows, worst, checks, door.notes, about, shown, smallest, costs, efforts)


class Theirs(NamedTuple):
    """What two SPECs name (`theirs`): recipes on the workbench, the defense None for none, and the cases to try."""

    network: ClassifierRecipe
    defense: AnyDefense | None
    cases: tuple[Case, ...]


def theirs(model, defense, data: DataRecipe, bench: Workbench) -> Theirs:
    """A network and a defense, as for `evaluate`, and what that would try of both, and of the network alone, "fast"."""
    how = EFFORTS["fast"]
    door = _Door(bench, data, how.n)
    network = door.network(model)
    before = door.defense(defense, network) if defense else None
    cases = []
    for each in dict.fromkeys((None, before)):
        cases.append(Case(network, each, AttackRecipe("clean", 0.0, 0)))
        cases += [case for at in BUDGETS for case in against(network, each, bench.transform(each), at, how)]
    return Theirs(network, before, tuple(cases))


def _worst(cases: Sequence[Case], bench: Workbench) -> pd.DataFrame:
    """`measurement.worst_case` for each norm and size, the clean images, which come first, among the cases of each."""
    clean, *others = cases
    places: dict[tuple, list[Case]] = {}
    for case in others:
        places.setdefault((case.attack.norm, case.attack.size), [clean]).append(case)
    found = [measurement.worst_case(mine, bench).assign(norm=at[0], size=at[1]) for at, mine in places.items()]
    return pd.concat(found or [measurement.worst_case([], bench)], ignore_index=True)


class _Door:
    """Takes in what is given: probes it, adopts it on the workbench, and names it by a recipe; collects what to say.

    gradient  whether the network gives any
    there     how many images there are, of which some are tested
    """

    def __init__(self, bench: Workbench, images, n: int | None):
        self.bench, self.notes, self.checks, self.gradient = bench, [], [], True
        self.probed: list[tuple[nn.Module, probe.Findings]] = []
        self.named = not isinstance(images, tuple)
        self.data = self._images(images, n)
        self.test = bench.images(self.data, "test")
        self.x = self.test.x[:_PROBED].to(bench.device)

    def _images(self, images, n: int | None) -> DataRecipe:
        if isinstance(images, (str, DataRecipe)):
            images = DataRecipe(here(images)) if isinstance(images, str) else images
            self.there = images.test or len(self.bench.images(images, "test"))
            return images.at_most(n)
        if not self.named:
            x, y = images[0], torch.as_tensor(images[1]).cpu().long()
            check_pixels(x)
            x = x.detach().cpu().float()
            sha = hashlib.sha256(f"{tuple(x.shape)}".encode() + x.numpy().tobytes() + y.numpy().tobytes())
            images = Images(x, y, tuple(map(str, range(int(y.max()) + 1))), sha.hexdigest())
        self.there = len(images)
        if n is not None and len(images) > n:
            self.notes.append(f"{n} of the {len(images):,} images are used, drawn at random from seed 0.")
            images = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:n].sort().values]
        name = f"given:{images.digest[:12]}"
        self.bench.adopted[name] = images
        return DataRecipe(name)

    def network(self, what, mean=None, std=None, classes=None, *, judged=True) -> ClassifierRecipe:
        """The recipe of a network; what is found of the one that is judged, is told."""
        if isinstance(what, ClassifierRecipe):
            if self._same(what.data):
                return rebase(what, self.data)
            what = self.bench.classifier(what)
        found = what if isinstance(what, foreign.Found) else foreign.network(what)
        made = networks.frozen(foreign.Network(found, mean, std, classes), self.bench.device)
        notes = made.meet(self.x, len(self.test.classes), self.named)
        if not (predict(made, self.test.x).argmax(1) == self.test.y).any():
            how = "nothing is left to attack; do mean=, std= and classes= fit it?"
            raise InputError(f"{found.name} gets none of {len(self.test)} images right; {how}")
        seen = probe.probe(made, self.x)
        if judged:
            self.gradient, self.notes = seen.gives, self.notes + notes
            self._heard(found, made, seen)
        weights = self._adopted(found, made, seen.answers, mean, std, classes)
        return ClassifierRecipe(self.data, found.label, width=1.0, weights=weights)

    def defense(self, what, victim: ClassifierRecipe, differentiable=None, stochastic=None) -> AnyDefense:
        """The recipe of a defense, in front of the network `victim`."""
        if isinstance(what, str) and what in DEFENSES:
            if DEFENSES[what].given == "like":
                raise InputError(f"{what} needs a recipe that it is like; give a DefenseRecipe with like=")
            what = DefenseRecipe(what, self.data, victim=victim if DEFENSES[what].given else None)
        if isinstance(what, AnyDefense):
            if self._same(what.data):
                if self.data.name in self.bench.adopted and unfitted(what).learns:
                    raise InputError(f"{what.label} is fitted to training images; name a data set or a folder")
                return rebase(what, self.data)
            what = self.bench.transform(what)
        found, answers = foreign.function(what), torch.empty(0, 0)
        made = found.thing
        if not isinstance(made, Defense):
            made = foreign.Cleaner(found).to(self.bench.device)
            seen = probe.probe(made, self.x, differentiable=differentiable, stochastic=stochastic)
            made.differentiable, made.stochastic, answers = seen.differentiable, seen.stochastic, seen.answers
            self._heard(found, made, seen)
        weights = self._adopted(found, made.to(self.bench.device), answers)
        flags = (("differentiable", made.differentiable), ("stochastic", made.stochastic))
        return DefenseRecipe(found.label, self.data, (("source", weights), *flags))

    def attack(self, what) -> str:
        """The name, in recipes, of somebody's attack, whose images are checked."""
        found = foreign.function(what)

        def checked(model, x: Tensor, y: Tensor, *, budget: Budget) -> Tensor:
            with foreign.theirs(found.name):
                made = found.thing(model, x, y, budget=budget)
            if getattr(made, "shape", ()) != x.shape:
                raise InputError(f"{found.name} answers no images {tuple(x.shape)}; return the attacked ones")
            if wrong := int((~budget.holds(made.detach(), x)).sum()):
                how = "bring them back with budget.project(x_adv, x)"
                raise InputError(f"{found.name} leaves its budget on {wrong} of {len(x)} images; {how}")
            return made.detach()

        name = f"{found.name}@{found.digest()[:8]}"
        self.bench.adopted[name] = checked
        return name

    def ask_again(self) -> None:
        """What keeps a state may have needed more calls than probing made: it is asked once more in the end."""
        for system, seen in self.probed:
            with torch.no_grad():
                alike = probe.same(seen.answers, probe.answers(system, self.x))
            state = next(row for row in seen.rows if "state" in row["check"])
            if state["verdict"] == "passed" and not alike:
                state |= {"verdict": "failed", "said": "after it was attacked, it answers otherwise than before"}

    def _heard(self, found: foreign.Found, system: nn.Module, seen: probe.Findings) -> None:
        if found.restless:
            told = "parts of it stay in training mode; it is judged without"
            seen.note(f"{found.name} goes into evaluation mode when told to", False, told)
        self.probed.append((system, seen))
        self.checks, self.notes = self.checks + seen.rows, self.notes + seen.notes

    def _adopted(self, found: foreign.Found, made: nn.Module, answers: Tensor, *facts) -> Weights:
        # In few digits, as other threads or another machine give them, too.
        told = [f"{value:.4g}" for value in answers.double().flatten(1).norm(dim=1).tolist()]
        named = Weights(found.label, found.digest(told, *facts))
        self.bench.adopted[named.digest] = made
        return named

    def _same(self, data: DataRecipe) -> bool:
        """Whether a recipe's images are those of this evaluation, but for how many are tested."""
        return replace(data, test=None) == replace(self.data, test=None)

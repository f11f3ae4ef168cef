"""Adversarial examples: made batch by batch, resumable, and kept in the store."""

import inspect
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from labkit import defenses
from labkit.attacks import ATTACKS, MINIMAL, Budget, TrainingMode, at_average, fit_universal, quantize
from labkit.core import InputError, checkpoint
from labkit.core.recipes import LATER, AttackRecipe, ClassifierRecipe, DataRecipe, SurrogateRecipe
from labkit.evaluation import threat_models
from labkit.evaluation.workbench import AnyDefense, Workbench
from labkit.models import predict
from labkit.models.defense import Detector
from labkit.models.strata import StratifiedTransform

import torch
from torch import Tensor
from tqdm.auto import tqdm

_BATCH = 250
_FITTED_ON = 500  # training images for a universal perturbation
_LENGTHS = ("steps", "queries", "draws")  # what an attack calls the `steps` of its recipe
_NORMS = ("dissimilarity", "average", "l2", "linf", "levels", "none")
# Passes forward and backward that an attack makes through what it attacks, per image and step, and its fixed part.
_PASSES: dict[str, Callable[[AttackRecipe], float]] = {
    "noise": lambda a: a.steps / 2,
    "square": lambda a: a.steps / 2,
    "hopskipjump": lambda a: a.steps / 2,
    "deepfool": lambda a: 40,  # ten classes, and few images need more than four steps
    "cw": lambda a: 4 * a.steps,  # of five searches, some end early
    "universal": lambda a: 10,
    "ladder": lambda a: 3 * a.steps,  # of twelve, as few images survive the first climb
    "autoattack": lambda a: 400,  # most images fall to its first attacks
}


@dataclass(frozen=True)
class Attempt:
    """One set of adversarial examples: against which network, seen how, by which attack.

    victim     what is attacked: a network, or several, whose mean logits count
    defense    what the attacker takes into account: None unless the knowledge includes it
    surrogate  for "learned", how the stand-in of the defense is trained; its own `defense` is always this one
    """

    victim: ClassifierRecipe | tuple[ClassifierRecipe, ...]
    defense: AnyDefense | None
    attack: AttackRecipe
    knowledge: str
    version: int = 3
    surrogate: SurrogateRecipe | None = field(default=None, metadata=LATER)

    def __post_init__(self):
        asked, known = self.surrogate or SurrogateRecipe(), self.knowledge == "learned"
        object.__setattr__(self, "surrogate", replace(asked, defense=self.defense) if known else None)

    @property
    def victims(self) -> tuple[ClassifierRecipe, ...]:
        return self.victim if isinstance(self.victim, tuple) else (self.victim,)

    @property
    def data(self) -> DataRecipe:
        return self.victims[0].data

    @property
    def before(self) -> "Attempt":
        """What hands this one its start: the attack that it comes after, by who knows no defense."""
        attack = replace(self.attack, name=self.attack.after, after="", loss="log-odds")
        return replace(self, defense=None, attack=attack, knowledge="classifier")


def adversarial(attempt: Attempt, bench: Workbench) -> Tensor:
    """The attacked test images (n, C, H, W) of an attempt, kept or made now; a kill costs one batch at most."""
    return timed(attempt, bench)[0]


def passes(attack: AttackRecipe) -> float:
    """How many passes, forward and backward, an attack should make through what it attacks, per image."""
    return _PASSES.get(attack.name, lambda a: a.steps * a.restarts)(attack)


class Counted(torch.nn.Module):
    """A model that counts the images of its passes: `passes`, forward and backward."""

    def __init__(self, model: torch.nn.Module, passes: Counter | None = None):
        super().__init__()
        self.model, self.passes = model, Counter(forward=0, backward=0) if passes is None else passes

    def forward(self, x: Tensor) -> Tensor:
        self.passes.update(forward=len(x))
        if (logits := self.model(x)).requires_grad:
            logits.register_hook(lambda _: self.passes.update(backward=len(x)))  # at each differentiation
        return logits


def timed(attempt: Attempt, bench: Workbench) -> tuple[Tensor, dict]:
    """The images of `adversarial`, and what the attack took when they were made: `seconds`, and `passes` an image.

    The clock starts when the network and the defense are built. Passes are [forward, backward], through what is
    attacked. Both are None where the making was interrupted and resumed, and passes in old files.
    """
    test, attack = bench.images(attempt.data, "test"), attempt.attack
    if attack.name == "clean":
        return test.x[:], {"seconds": 0.0, "passes": [0.0, 0.0]}
    attacks = ("clean", *ATTACKS, *bench.adopted)
    for what, name, known in (("attack", attack.name, attacks), ("norm", attack.norm, _NORMS)):
        if name not in known:
            raise InputError(f"unknown {what} {name!r}; the known ones are {', '.join(known)}")

    if "jpeg" in attack.faults:
        others = tuple(fault for fault in attack.faults if fault != "jpeg")
        made, took = timed(replace(attempt, attack=replace(attack, faults=others)), bench)
        return defenses.build("jpeg")(made), took
    if attack.stored:  # the same images, rounded: they are made once
        made, took = timed(replace(attempt, attack=replace(attack, stored=False)), bench)
        return quantize(made, test.x[:], None if attack.norm == "average" else sized(attack, test.x)), took

    def build(scratch):
        resumed = any(Path(scratch).glob("*.safetensors"))
        system = _System(attempt, bench)
        _attackable(attempt, system.network, bench)
        begun = adversarial(attempt.before, bench) if attack.after else None
        started = time.perf_counter()
        budget, options, parts, right = sized(attack, test.x), _options(attack, system, bench), [], 0
        bar = tqdm(range(0, len(test), _BATCH), desc=attack.label, unit="batch", disable=not bench.progress, delay=2)
        for start in bar:
            x, y = (part[start : start + _BATCH] for part in (test.x, test.y))
            begin = {} if begun is None else {"begin": begun[start : start + _BATCH].to(bench.device)}
            make = partial(system.attack, start, x.to(bench.device), y.to(bench.device), budget, options, **begin)
            parts.append(checkpoint.kept(Path(scratch) / f"{start:09d}.safetensors", make))
            logits = threat_models.decide(system.network, system.defense, parts[-1])[1]
            right += int(threat_models.correct(logits, y, system.defense).sum())
            bar.set_postfix(accuracy=f"{right / (start + len(y)):.3f}")
        x_adv = torch.cat(parts)
        if attack.norm == "average":
            x_adv = at_average(x_adv, test.x[:], attack.size)
        took = time.perf_counter() - started, [count / len(test) for count in system.passes.values()]
        return {"x_adv": x_adv}, dict(zip(("seconds", "passes"), (None, None) if resumed else took, strict=True))

    found = bench.store.fetch("attack", attempt, build, digest=bench.digest(attempt.data))
    return found.tensors["x_adv"], {"passes": None} | found.facts


def _attackable(attempt: Attempt, network: torch.nn.Module, bench: Workbench) -> None:
    """Raises InputError where an undefended network gets no test image right, so that none could be fooled."""
    for n in dict.fromkeys((attempt.data.test, None)):
        test = bench.images(replace(attempt.data, test=n), "test")
        right = ((predict(network, x).argmax(1) == y).any() for x, y in test.batches(_BATCH))
        if any(victim != victim.undefended for victim in attempt.victims) or any(right):
            return
    none = f"the network gets none of {len(test):,} test images of {attempt.data.label} right: there is none to attack"
    raise InputError(f"{none}; give more images a class, or train it longer (another profile)")


class _System:
    """What an attempt attacks: the view of its attacker, group by group where it differs between images."""

    def __init__(self, attempt: Attempt, bench: Workbench):
        self.attempt = attempt
        self.adopted, self.passes = bench.adopted, Counter(forward=0, backward=0)
        self.network, self.defense = bench.classifier(attempt.victim), bench.transform(attempt.defense)
        self.stand_in = bench.surrogate(attempt.surrogate)[0] if attempt.surrogate else None
        self.seeded(0)

    @property
    def run(self) -> Callable[..., Tensor]:
        """The attack: one of the lab's, or somebody else's."""
        return {**ATTACKS, **self.adopted}[self.attempt.attack.name]

    def seeded(self, start: int) -> None:
        """Makes a random defense's samples depend on a batch's `start` alone; it is judged on others."""
        if self.defense is not None:
            self.defense.seeded(start)

    def view(self, gap: float = 0.0, **group) -> torch.nn.Module:
        how = {"draws": self.attempt.attack.draws, "gap": gap, "stand_in": self.stand_in}
        system = threat_models.view(self.network, self.defense, self.attempt.knowledge, **how, **group)
        return Counted(faulty(system, self.attempt.attack.faults), self.passes)

    def attack(self, start: int, x: Tensor, y: Tensor, budget: Budget | None, options: dict, **each: Tensor) -> Tensor:
        """A batch, attacked; where an approximation of T alone was fooled, once more without it.

        each  options of the attack that have a part for every image, such as where it begins
        """
        self.seeded(start)
        if "predicted" in self.attempt.attack.faults:
            y = predict(self.network, x).argmax(1).to(y.device)
        gap, made = self.attempt.attack.gap, x.clone()

        def attack(view: torch.nn.Module, mine) -> Tensor:
            return self.run(view, x[mine], y[mine], budget=budget, **options, **{k: v[mine] for k, v in each.items()})

        for mine, group in self._groups(x, y):
            exact, near = self.view(**group), self.view(gap, **group)
            made[mine] = attack(near, mine)
            if gap:
                with torch.no_grad():
                    seen, judged = (system(made[mine]).argmax(1) != y[mine] for system in (near, exact))
                misled = torch.arange(len(x), device=x.device)[mine][seen & ~judged]
                if len(misled):
                    made[misled] = attack(exact, misled)
        return made

    def _groups(self, x: Tensor, y: Tensor):
        """Which images are attacked together, and what their view has to be told."""
        if self.attempt.knowledge == "fixed-stratum" and isinstance(self.defense, StratifiedTransform):
            home = self.defense.strata.vote(x)
            return [(home == m, {"stratum": m}) for m in home.unique().tolist()]
        if isinstance(self.defense, Detector):
            return [(y == c, {"label": c}) for c in y.unique().tolist()]
        return [(slice(None), {})]


def faulty(system: torch.nn.Module, faults: tuple[str, ...]) -> torch.nn.Module:
    """What an attacker with these faults differentiates in place of the system: the system itself without any."""
    batch = max([int(fault.removeprefix("batch-")) for fault in faults if fault.startswith("batch-")], default=0)
    dropout = "dropout" in faults
    return TrainingMode(system, batch=batch, dropout=dropout) if batch or dropout else system


def sized(attack: AttackRecipe, x) -> Budget | None:
    """The budget of an attack on images x (n, C, H, W); None where the attack finds the size itself, or has none."""
    if attack.norm == "none":
        return None
    if attack.norm == "average":
        return None if attack.name in MINIMAL else Budget.average(attack.size, x[:])
    if attack.norm == "levels":
        step = attack.size / 255
        if attack.name not in MINIMAL:
            return Budget.linf(step)
        length = x[:].flatten(1).norm(dim=1).double()
        return Budget.dissimilarity(step * math.sqrt(x[0].numel()) * float((1 / length[length > 0]).mean()))
    return {"dissimilarity": Budget.dissimilarity, "l2": Budget.l2, "linf": Budget.linf}[attack.norm](attack.size)


def _options(attack: AttackRecipe, system: _System, bench: Workbench) -> dict:
    """The keywords of an attack that its recipe has: `steps` (or `queries`, or `draws`), `restarts` and `loss`."""
    if attack.name == "autoattack":  # has nothing to set
        return {}
    if attack.name == "universal":
        train = bench.images(system.attempt.data, "train")
        budget = Budget.dissimilarity(attack.size) if attack.norm == "average" else sized(attack, train.x)
        return {"pattern": fit_universal(system.view(), train[:_FITTED_ON], budget=budget)}
    told = {"restarts": attack.restarts, "loss": attack.loss, **dict.fromkeys(_LENGTHS, attack.steps)}
    return {name: told[name] for name in inspect.signature(system.run).parameters if name in told}

"""Sanity checks: what must hold of an attack before its failure says anything about a defense."""

import copy
import itertools
import math
from dataclasses import dataclass

from labkit.attacks import Budget, TrainingMode, ascent, fgsm, log_odds, noise, pgd, square
from labkit.core import InputError
from labkit.core.profiles import Profile
from labkit.core.recipes import ClassifierRecipe, rebase
from labkit.core.wording import reason
from labkit.evaluation import threat_models
from labkit.evaluation.threat_models import ThreatModel
from labkit.evaluation.workbench import AnyTransform, Workbench
from labkit.models import Defense, SparseTransform, predict

import pandas as pd
import torch
from torch import Tensor, nn

_SIZES = (0.02, 0.08, 0.3)
_STEPS = (1e-6, 1e-7, 1e-8)  # of finite differences
_CHECKED = 50  # images: a dozen attacks are run on them


@dataclass(frozen=True)
class Audit:
    """Which system is checked, on how many test images, at which dissimilarity, with how many steps of PGD."""

    classifier: ClassifierRecipe
    defense: AnyTransform | None
    n: int = 100
    size: float = 0.08
    steps: int = 20
    queries: int = 200
    version: int = 5


def panel(audit: Audit, bench: Workbench) -> pd.DataFrame:
    """One row per check: check, verdict ("passed" or "failed"), said. Kept in the store.

    The list follows Carlini et al., "On evaluating adversarial robustness" (2019), and Athalye et al. (2018). A
    failed check does not say that the defense is weak or strong: it says that this evaluation cannot tell.
    """
    test = bench.images(audit.classifier.data, "test")

    def build(_scratch):
        network, defense = bench.classifier(audit.classifier), bench.transform(audit.defense)
        x, y = (part[: audit.n].to(bench.device) for part in (test.x, test.y))
        known = (threat_models.sensible(defense) or ("exact",))[-1]
        how = {"size": audit.size, "steps": audit.steps, "queries": audit.queries, "knowledge": known}
        return {}, {"rows": run(network, defense, x, y, **how).to_dict("records")}

    found = bench.store.fetch("checks", audit, build, digest=bench.digest(audit.classifier.data))
    # As earlier versions kept it.
    return pd.DataFrame(found.facts["rows"]).replace({"verdict": {"green": "passed", "red": "failed"}})


def audits(profile: Profile, *, retrained: bool = True) -> dict[str, Audit]:
    """What is checked beside a profile's tables: the undefended network and, behind each T, it or one `retrained`."""
    how = profile.adaptive
    small = rebase(profile, profile.data.at_most(how.n))
    effort = {"n": small.data.at_most(_CHECKED).test, "steps": how.steps, "queries": how.queries}
    every = {"No Defense": Audit(small.classifier, None, **effort)}
    for T in small.defenses:
        every[T.label] = Audit(small.retrained(T) if retrained else small.classifier, T, **effort)
    return every


def verdicts(profile: Profile, bench: Workbench, *, retrained: bool = True) -> str:
    """For the caption of a table: the summary of each of its `audits`."""
    found = {name: summary(panel(audit, bench)) for name, audit in audits(profile, retrained=retrained).items()}
    return "Sanity checks of the attacks. " + " ".join(f"{name}: {said}" for name, said in found.items())


def run(
    network: nn.Module, defense: Defense | None, x: Tensor, y: Tensor, *,
    size=0.08, steps=20, queries=200, knowledge="exact",
) -> pd.DataFrame:  # fmt: skip
    """The checks themselves, on images x (n, C, H, W) of classes y, at a dissimilarity of `size`.

    Of a gradient that is not exact, finite differences are not asked; nor is what only holds of a system that answers
    twice alike, where the defense draws at random.
    """
    white, judge = threat_models.view(network, defense, knowledge), threat_models.judged(network, defense)
    fixed = defense is None or not defense.stochastic
    budget, rows = Budget.dissimilarity(size), []

    def note(check: str, passed: bool, said: str) -> None:
        rows.append({"check": check, "verdict": "passed" if passed else "failed", "said": said})

    def accuracy(images: Tensor) -> float:
        return float((threat_models.decide(network, defense, images)[1].argmax(1) == y.cpu()).double().mean())

    def attacked(size: float, steps: int = steps) -> Tensor:
        return pgd(white, x, y, budget=Budget.dissimilarity(size), steps=steps)

    one = 1 / len(x) + 1e-9  # one image more or less is no finding
    clean = accuracy(x)
    if not clean:
        note("there is an image to attack", False, f"the network gets none of {len(x)} right")
    still = attacked(0.0, 2)
    note("size 0 changes nothing", bool(torch.equal(still, x)), f"accuracy {accuracy(still):.3f}, clean {clean:.3f}")
    x_adv = attacked(size)
    mine = accuracy(x_adv)
    curve = {s: mine if s == size else accuracy(attacked(s)) for s in _SIZES}
    falls = all(after <= before + one for before, after in itertools.pairwise([clean, *curve.values()]))
    note("accuracy falls as the size grows", falls, ", ".join(f"{s:g}: {a:.3f}" for s, a in curve.items()))
    top = accuracy(attacked(2.0, 2 * steps))
    note("no bound leaves no accuracy", top <= 0.01 + one, f"dissimilarity 2: {top:.3f}")

    longer = accuracy(attacked(size, 2 * steps))
    said = f"{steps}: {mine:.3f}, {2 * steps}: {longer:.3f}"
    note("twice the steps change little", mine - longer <= 0.01 + one, said)
    single = accuracy(fgsm(white, x, y, budget=budget))
    note("many steps beat one", mine <= single + one, f"PGD {mine:.3f}, FGSM {single:.3f}")
    asked = accuracy(square(threat_models.view(network, defense, "queries"), x, y, budget=budget, queries=queries))
    note("gradients beat queries", mine <= asked + one, f"PGD {mine:.3f}, Square with {queries} queries {asked:.3f}")
    drawn = accuracy(noise(judge, x, y, budget=budget, draws=10))
    note("gradients beat random search", mine <= drawn + one, f"PGD {mine:.3f}, best of 10 draws {drawn:.3f}")
    weaker = {"classifier": "knowing T beats not knowing it"}
    weaker |= {"identity": "the exact gradient beats BPDA"} if knowledge == "exact" else {}
    for less, name in weaker.items() if defense is not None else ():
        other = accuracy(pgd(threat_models.view(network, defense, less), x, y, budget=budget, steps=steps))
        note(name, mine <= other + one, f"{knowledge} {mine:.3f}, {ThreatModel(less).label} {other:.3f}")

    _, gradient = ascent(white, x, y, log_odds)
    zero = float((gradient.flatten(1).abs().amax(1) == 0).double().mean())
    note("no gradient is exactly zero", zero <= 0.01, f"{zero:.1%} of the images")
    if fixed and knowledge == "exact":
        try:
            worst = _slopes(white, x[:4], y[:4])
            said = f"largest relative error {worst:.1e}, in float64, codes converged"
        except (InputError, TypeError) as error:  # not all that is somebody else's can be copied, or takes float64
            worst, said = math.inf, f"cannot be asked for in float64: {reason(error)}"
        note("finite differences agree", worst <= 0.02, said)
    inside = bool(budget.holds(x_adv, x).all())
    note("attacked images are images within the size", inside, "finite, in [0, 1], measured after clipping")
    if fixed:
        alone = predict(judge, x_adv[:16], batch=1).argmax(1)
        same = torch.equal(alone, predict(judge, x_adv, batch=len(x))[:16].argmax(1))
        note("an image's verdict does not depend on the batch", same, f"{len(alone)} images alone and together")
    logits = predict(judge, x, batch=len(x))
    odds = bool(((logits.sum(1) - 1).abs() < 1e-3).all() and (logits >= 0).all())
    wrong = ["probabilities"] * odds + restless(white)
    said = ", ".join(wrong) or "not probabilities, not training"
    note("the attacker sees logits of a network at rest", not wrong, said)
    return pd.DataFrame(rows)


def restless(system: nn.Module) -> list[str]:
    """The kinds of modules in a system that answer as in training mode, by name: a `TrainingMode` always does."""
    names = (type(m).__name__ for m in system.modules() if m.training or isinstance(m, TrainingMode))
    return [f"training mode ({name})" for name in dict.fromkeys(names)]


def summary(rows: pd.DataFrame) -> str:
    """For a caption: that all sanity checks passed, or which failed."""
    failed = rows[rows.verdict == "failed"]
    if failed.empty:
        return f"all {len(rows)} passed."
    return "failed, so read with care: " + "; ".join(f"{row.check} ({row.said})" for row in failed.itertuples()) + "."


def _slopes(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Largest relative error of the gradient along a random direction, per image, against a central difference.

    In float64 and with converged codes: at the lab's own gap, T is only nearly differentiable. For each image the best
    of three steps counts: a kink may lie within the longest, but a wrong gradient agrees with none.
    """
    model = copy.deepcopy(model).double()
    for module in model.modules():
        if isinstance(module, SparseTransform):
            module.gap_tol = 1e-12
    # Off the kinks: on a ground of one colour, max-pooling has no derivative.
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(x.device)
    x = (0.01 + 0.98 * x.double() + 1e-3 * noise).clamp(1e-3, 1 - 1e-3)
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x.device)
    _, gradient = ascent(model, x, y, log_odds)
    slope, errors = (gradient * direction).flatten(1).sum(1), []
    for step in _STEPS:
        with torch.no_grad():
            ahead, behind = (log_odds(model(x + s * direction), y) for s in (step, -step))
        measured = (ahead - behind) / (2 * step)
        errors.append((slope - measured).abs() / measured.abs().clamp_min(1e-6))
    return float(torch.stack(errors).amin(0).max())

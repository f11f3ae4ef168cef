"""Probing: what somebody else's callable is, found by asking it about a few images."""

import copy
from dataclasses import dataclass, field

from labkit.attacks import drawn
from labkit.core import InputError
from labkit.models.foreign import Cleaner, Network

import torch
from torch import Tensor

# Of finite differences, where float64 is understood, and where it is not. The first are so short that a staircase of
# 256 levels has no slope; on the others it has a wild one.
_STEPS = {torch.float64: (1e-5, 1e-6, 1e-7), torch.float32: (1e-3, 3e-4)}


@dataclass
class Findings:
    """What was found: flags, rows as of `sanity_checks.run`, and sentences.

    differentiable  whether it has a gradient of its own that is not zero
    gives           whether it has any gradient, zero or not
    answers         (B, …) to the images, when all random states begin at 0
    """

    differentiable: bool
    gives: bool
    stochastic: bool
    answers: Tensor
    rows: list[dict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def note(self, check: str, passed: bool, said: str) -> None:
        self.rows.append({"check": check, "verdict": "passed" if passed else "failed", "said": said})


def probe(
    system: Cleaner | Network, x: Tensor, *, differentiable: bool | None = None, stochastic: bool | None = None
) -> Findings:
    """Asks a defense or a network about images x (B, C, H, W) in [0, 1].

    differentiable, stochastic  what the caller knows better

    Raises InputError where it answers with what is not finite, or is called differentiable and gives no gradient.
    """
    maps, call = isinstance(system, Cleaner), getattr(system, "raw", system)
    what = "the defense" if maps else "the network"
    with torch.no_grad():
        with drawn(0):
            before = torch.get_rng_state()
            first, drew = call(x), not torch.equal(before, torch.get_rng_state())
            second = call(x)
        again = answers(system, x)
    if not first.isfinite().all():
        count = int((~first.isfinite()).flatten(1).any(1).sum())
        raise InputError(f"{what} answers NaN or infinity to {count} of {len(x)} images; mend it")
    random, moved = not same(first, second), not same(first, again)
    slope, zero, error = _gradient(system, x) if differentiable is not False else (False, 1.0, None)
    if differentiable and not slope:
        raise InputError(f"{what} gives no gradient; call it with differentiable=False, or leave that to be found out")
    has, draws = slope and zero < 1, random or moved
    found = Findings(differentiable if differentiable is not None else has, slope,
                     stochastic if stochastic is not None else draws, first)  # fmt: skip
    if maps:
        low, high = float(first.min()), float(first.max())
        inside = -1e-6 <= low and high <= 1 + 1e-6
        said = f"{low:.3g} to {high:.3g}" + ("" if inside else "; what lies outside is clipped")
        found.note(f"{what} answers images in [0, 1]", inside, said)
    told = "asked twice with all random states reset, it answers " + ("otherwise" if moved else "the same")
    found.note(f"{what} keeps no state between calls", not moved, told)
    if not maps:
        told = "otherwise: attacks do not average over its draws" if random else "the same"
        found.note(f"{what} does not draw at random", not random, f"asked twice, it answers {told}")
    elif found.stochastic:
        found.notes.append(f"{what.capitalize()} is random: gradients are of fresh draws, and it is judged on others.")
    elif drew and not random:
        found.notes.append(f"{what.capitalize()} draws at random from a fixed seed, which an attacker knows, too.")
    if not found.stochastic:
        with torch.no_grad():
            alone = torch.cat([answers(system, part) for part in x.split(1)])
        apart = float((alone - first).abs().max()) / max(float(first.abs().max()), 1e-12)
        found.note(f"{what} looks at one image at a time", apart < 1e-3, f"alone and together differ by {apart:.1e}")
    if differentiable is not False:
        said = f"zero for {zero:.0%} of the images" if slope else "none at all"
        found.note(f"{what} has a gradient", slope and zero < 0.01, said)
    if error is not None and zero < 1 and not moved:
        found.note(f"{what} has the gradient that it says", error <= 0.05, f"finite differences differ by {error:.1e}")
    return found


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two answers are the same, but for rounding."""
    return torch.allclose(a, b, rtol=1e-4, atol=1e-5 * float(a.abs().max()))


def answers(system: Cleaner | Network, x: Tensor) -> Tensor:
    """What a network, or the callable in a defense itself, answers when all random states begin at 0."""
    with drawn(0):
        return getattr(system, "raw", system)(x)


def _gradient(system: Cleaner | Network, x: Tensor) -> tuple[bool, float, float | None]:
    """Whether there is a gradient, the share of images where it is zero, and its largest relative error or None.

    Along one random direction for each image, of one random sum of the answers; the best of several steps counts. Of a
    network the error is None: `sanity_checks` has it.
    """
    draw = torch.Generator().manual_seed(0)
    noise, along = (torch.randn(x.shape, generator=draw).to(x) for _ in range(2))
    x = (0.01 + 0.98 * x + 1e-3 * noise).clamp(1e-3, 1 - 1e-3)  # off the kinks
    try:
        with torch.enable_grad():
            at = x.clone().requires_grad_()
            out = answers(system, at)
            weights = torch.randn(out.shape, generator=draw).to(out)
            (gradient,) = torch.autograd.grad((out * weights).sum(), at)
    except (InputError, RuntimeError):  # it leaves torch on the way, or nothing depends on x
        return False, 1.0, None
    zero = float((gradient.flatten(1).abs().amax(1) == 0).double().mean())
    for kind, steps in _STEPS.items() if isinstance(system, Cleaner) else ():
        try:
            twin, here, errors = copy.deepcopy(system).to(kind), x.to(kind).requires_grad_(), []
            with torch.enable_grad():
                out = answers(twin, here)
                (exact,) = torch.autograd.grad((out * weights).sum(), here)
            if kind == torch.float64 and torch.equal(out, out.float().double()):
                continue  # what it computes is float32 all the same
            told, least = (exact * along).flatten(1).sum(1), 1e-3 * exact.flatten(1).norm(dim=1) + 1e-12
            for step in steps:
                with torch.no_grad():
                    ahead, behind = (answers(twin, here + s * along) for s in (step, -step))
                line = ((ahead - behind) / (2 * step) * weights).flatten(1).sum(1)
                errors.append((told - line).abs() / least.maximum(told.abs()).maximum(line.abs()))
        except (InputError, RuntimeError, TypeError):  # not all can be copied, or takes float64
            continue
        return True, zero, float(torch.stack(errors).amin(0).max())
    return True, zero, None

"""What the attacks share: losses and their gradients for each image, and draws that depend on that image alone."""

import hashlib
from collections.abc import Callable
from functools import partial

from labkit.core import InputError

import torch
import torch.nn.functional as F
from torch import Tensor

Model = Callable[[Tensor], Tensor]


def column(a: Tensor) -> Tensor:
    """(B,) as (B, 1, 1, 1)."""
    return a[:, None, None, None]


def norm(change: Tensor) -> Tensor:
    """L2 norm of each image: (B,)."""
    return change.flatten(1).norm(dim=1)


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest logit of another class less that of class y: (B,), positive where the decision is wrong."""
    return _others(logits, y).amax(1) - logits.gather(1, y[:, None])[:, 0]


def log_odds(logits: Tensor, y: Tensor) -> Tensor:
    """log (1 − p_y) / p_y: (B,). The direction of its gradient is that of the cross-entropy.

    ∇ cross-entropy = (1 − p_y) ∇ log-odds. Where a network is sure, float32 rounds p_y to 1 and loses the gradient
    of the former; the latter has none of that factor.
    """
    return _others(logits, y).logsumexp(1) - logits.gather(1, y[:, None])[:, 0]


# Losses by name, each (logits, y) -> (B,); the cross-entropy −log p_y is torch's.
LOSSES = {"cross-entropy": partial(F.cross_entropy, reduction="none"), "log-odds": log_odds, "margin": margin}


def _others(logits: Tensor, y: Tensor) -> Tensor:
    return logits.scatter(1, y[:, None], -torch.inf)


def fooled(logits: Tensor, y: Tensor) -> Tensor:
    """Which decisions are wrong: (B,). A network that answers NaN has decided nothing."""
    return (logits.argmax(1) != y) & logits.isfinite().all(1) & (margin(logits, y) >= 0)


@torch.no_grad()
def logits_at(model: Model, x: Tensor) -> Tensor:
    """The model's logits (B, classes), from which no gradient can be taken."""
    return model(x)


def ascent(model: Model, x: Tensor, y: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Logits (B, classes), and each image's gradient of its own loss (B, C, H, W): zero where it is not finite."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        logits = model(x)
        # Summed, not averaged: an image's gradient must not depend on what else is in the batch.
        total = loss(logits, y).sum()
    return logits.detach(), differentiate(total, x)


def differentiate(total: Tensor, x: Tensor, *, again: bool = False) -> Tensor:
    """Gradient of a number with respect to images x; zero where it is not finite. `again` keeps the graph."""
    if not total.requires_grad:
        raise InputError("what the attacker sees gives no gradient; use square, hopskipjump or noise, which need none")
    (gradient,) = torch.autograd.grad(total, x, retain_graph=again)
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def free(direction: Tensor, x: Tensor) -> Tensor:
    """`direction` without the pixels that stand at an end of [0, 1] and would be pushed out of it.

    Clipping takes those moves away again; left in, they use up most of an L2 step on a picture with a black ground.
    """
    return direction * ~(((x <= 0) & (direction < 0)) | ((x >= 1) & (direction > 0)))


def unit(direction: Tensor) -> Tensor:
    """`direction` with each image's L2 norm one; zero stays zero."""
    # Two steps: the square of a gradient of 1e-30 is no float32, and a normal one must not be clamped.
    direction = direction / column(direction.flatten(1).abs().amax(1).clamp_min(1e-38))
    return direction / column(norm(direction).clamp_min(1e-12))


def normal(x: Tensor, seed: int | str) -> Tensor:
    """Standard normal noise (B, C, H, W), for each image drawn from the seed and that image's own pixels.

    So an image gets the same noise in any batch and on any device, and different images get independent noise.
    """
    return torch.stack([torch.randn(x.shape[1:], generator=g) for g in seeded(x, seed)]).to(x)


def seeded(x: Tensor, seed: int | str) -> list[torch.Generator]:
    """One for each image of x (B, C, H, W), from the seed and that image's own pixels."""
    images = (image.contiguous().numpy().tobytes() for image in x.detach().float().cpu())
    digests = (hashlib.blake2b(f"{seed}:".encode() + image, digest_size=7).digest() for image in images)
    return [torch.Generator().manual_seed(int.from_bytes(digest, "big")) for digest in digests]


def in_ball(x: Tensor, seed: int | str, kind: str) -> Tensor:
    """A random point of the unit ball of the norm `kind`, for each image drawn as `normal` draws: (B, C, H, W).

    Uniform in the L∞ ball; on the L2 sphere, where nearly all of a ball of this dimension lies.
    """
    noise = normal(x, seed)
    return torch.erf(noise / 2**0.5) if kind == "linf" else unit(noise)

"""Convolutional dictionary learning (CDL) from statistics that add.

Filters have support S, so their update needs only the codes' correlations at lags below S: K·K·(2S−1)² + K·C·S²
numbers, whatever the number and the size of the images. They add over images, batches and processes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from labkit.core import InputError, distributed
from labkit.core import checkpoint as checkpoint_file
from labkit.core.recipes import DictionaryRecipe, canonical
from labkit.core.wording import to_set
from labkit.csc import cbpdn, conv
from labkit.csc.codes import Codes
from labkit.csc.tikhonov import extend, split

import torch
import torch.nn.functional as F
from torch import Tensor

METHODS = ("online", "batch")
NORMS = ("whole", "channel")
_UPDATES = 20  # iterations of a filter update while learning; more lower the next codes' objective no further


class Stats(NamedTuple):
    """Sufficient statistics of codes z and images x for the filter update; those of parts add up to those of all.

    ztz (K, K, 2S−1, 2S−1) and ztx (K, C, S, S) as `conv.correlations`.
    """

    ztz: Tensor
    ztx: Tensor


@dataclass(frozen=True)
class Progress:
    """Where `learn` stands: batches done of all, and the objective per image of the latest batch.

    held  the same of the images kept aside, after a whole pass (otherwise None)
    """

    done: int
    total: int
    objective: float
    held: float | None = None


def statistics(z: Tensor | Codes, x: Tensor, S: int) -> Stats:
    """Stats of codes z, (B, K, H, W) or `Solution.code`, of images x (B, C, H, W) for filters of S×S, in float64."""
    return Stats(*conv.correlations(z, x, S))


def update(d: Tensor, stats: Stats, *, max_iter: int = _UPDATES, norm: str = "whole") -> Tensor:
    """Filters that minimise ½ Σ‖x − Σₖ dₖ ∗ zₖ‖², of what is in `stats`, subject to ‖dₖ‖ ≤ 1, from d (K, C, S, S).

    With norm "channel", subject to ‖dₖ,c‖ ≤ 1 for every channel c.

    Accelerated projected gradient (FISTA, with restart) on the statistics. Without the constraint, of which Eq. 2 of
    the paper says nothing, the codes could shrink to nothing while the filters grow.
    """
    spectrum, momentum = _spectrum(stats.ztz), 1.0
    point = ahead = d.double()
    # The circular convolution that `_normal` is cut from bounds its eigenvalues.
    step = 1 / max(float(torch.linalg.eigvalsh(spectrum).max()), 1e-30)
    for _ in range(max_iter):
        moved = ahead - step * (_normal(ahead, spectrum) - stats.ztx)
        moved = moved / _norms(moved, norm).clamp_min(1)
        if ((ahead - moved) * (moved - point)).sum() > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved + (momentum - 1) / following * (moved - point)
        point, momentum = moved, following
    return point.to(d.dtype)


def learn(
    images, recipe: DictionaryRecipe, *,
    callback: Callable[[Progress], None] | None = None, checkpoint: str | Path | None = None,
) -> Tensor:  # fmt: skip
    """A dictionary of K unit-norm filters (K, C, S, S) for the high-pass part of natural images (see `recipe.norm`).

    Alternates between codes with fixed filters and filters with fixed codes (paper, Section 3.3). `recipe.method` is

    "online"  filters are updated after every batch, from statistics that remember about one pass, so that codes
              made with old filters fade (Mairal et al., JMLR 2010)
    "batch"   filters are updated once a pass, from the statistics of all images

    Starts from image patches; a filter that no code uses is replaced by a patch that is coded badly. Stops early when
    a pass lowers the objective of `recipe.held` images kept aside by less than the share `recipe.stop`.

    Within `distributed.session` each rank codes its share of every batch, and the statistics are added up in one
    message. Every rank makes the same update: what is learned is what one rank learns, up to rounding.

    images      `Images` (or anything with x (N, C, H, W), by index); `recipe.images` of them are drawn
    callback    called with a Progress after every batch
    checkpoint  folder for the state after the last whole pass: a run that was killed goes on from there
    """
    for what, value, known in (("method", recipe.method, METHODS), ("norm", recipe.norm, NORMS)):
        if value not in known:
            raise InputError(f"unknown {what} {value!r} of learning; choose from {', '.join(known)}")
    chosen, aside = _drawn(images, recipe)
    batches = -(-len(chosen) // recipe.batch)
    fade = 1 - 1 / batches if recipe.method == "online" else 1.0  # online, they remember about one pass
    run = {"recipe": canonical(recipe, getattr(images, "digest", "")), "images": [*images.x.shape]}
    file = Path(checkpoint) / "learning.safetensors" if checkpoint is not None else None
    found = distributed.first(lambda: checkpoint_file.read(file, run)) if file else None
    if found:
        tensors, facts = found
        d, done, best, over = tensors["d"], facts["passes"], facts["best"], facts["over"]
        memory = Stats(tensors["ztz"], tensors["ztx"])
    else:
        d, done, best, over, memory = start(images, recipe), 0, 1e300, False, None  # JSON can hold no infinity
    for step in range(done, recipe.passes):
        if over:
            break
        generator = checkpoint_file.draws(recipe.seed, step)
        memory = memory if recipe.method == "online" else None
        for n, part in enumerate(chosen[torch.randperm(len(chosen), generator=generator)].split(recipe.batch)):
            x = _high(images.x[distributed.shard(part)], recipe)
            solution = cbpdn.solve(x, d, recipe.lam, gap_tol=recipe.gap_tol)
            fresh = statistics(solution.code, x, recipe.S)
            fresh = Stats(*distributed.all_reduce(*fresh))
            memory = fresh if memory is None else Stats(*(fade * m + f for m, f in zip(memory, fresh, strict=True)))
            last, held = n + 1 == batches, None
            if recipe.method == "online" or last:
                d = update(d, memory, norm=recipe.norm)
                use = memory.ztz[:, :, recipe.S - 1, recipe.S - 1].diagonal()  # Σ z² of each filter
                d = _revive(d, use, x - solution.synthesis, generator)
            if last and len(aside):
                kept = _high(images.x[distributed.shard(aside)], recipe)
                coded = cbpdn.solve(kept, _unit(d, recipe.norm), recipe.lam, gap_tol=recipe.gap_tol)
                held = _mean(coded.objective(kept, recipe.lam))
                over, best = held > (1 - recipe.stop) * best, min(best, held)
            reached = _mean(solution.objective(x, recipe.lam))  # every rank takes part in the sum
            if callback:
                callback(Progress(step * batches + n + 1, batches * recipe.passes, reached, held))
        if file and distributed.rank() == 0:
            facts = {"passes": step + 1, "best": best, "over": over}
            checkpoint_file.write(file, run, {"d": d, **memory._asdict()}, facts)
    return _unit(d, recipe.norm)


def start(images, recipe: DictionaryRecipe) -> Tensor:
    """The filters `learn` starts from: patches of the high-pass images that it draws."""
    chosen, _ = _drawn(images, recipe)
    generator = torch.Generator().manual_seed(recipe.seed)
    return patches(_high(images.x[chosen[: 4 * recipe.batch]], recipe), recipe.K, recipe.S, generator)


def _drawn(images, recipe: DictionaryRecipe) -> tuple[Tensor, Tensor]:
    """The positions of the images to learn from, and of those to keep aside."""
    count = min(recipe.images, len(images.x))
    if count == 0:
        raise InputError("a dictionary cannot be learned from no images; give some")
    drawn = torch.randperm(len(images.x), generator=torch.Generator().manual_seed(recipe.seed))
    return drawn[:count], drawn[count : count + recipe.held]


def _mean(objectives: Tensor) -> float:
    """The mean over the images of all ranks."""
    total, count = distributed.all_reduce(objectives.double().sum(), objectives.new_tensor(len(objectives)))
    return float(total / count)


def _high(x: Tensor, recipe: DictionaryRecipe) -> Tensor:
    high = split(x, recipe.lowpass, recipe.pad)[1] if len(x) else x  # more ranks than images leave some without any
    return high if recipe.boundary == "circular" else extend(high, recipe.S - 1)


def patches(x: Tensor, K: int, S: int, generator: torch.Generator) -> Tensor:
    """K patches of S×S from images x (B, C, H, W), of unit norm, the liveliest of ten times as many."""
    H, W = x.shape[2:]
    if min(H, W) < S:
        other = to_set("S", min(H, W), f"larger images, as with {to_set('resolution', 32)}")
        raise InputError(f"filters of {S}×{S} pixels are larger than the image of {H}×{W}; use {other}")
    places = [torch.randint(n, (10 * K,), generator=generator).tolist() for n in (len(x), H - S + 1, W - S + 1)]
    patches = torch.stack([x[b, :, i : i + S, j : j + S] for b, i, j in zip(*places, strict=True)])
    lively = patches.flatten(1).norm(dim=1).argsort(descending=True)[: 4 * K]
    return _unit(patches[lively[torch.randperm(len(lively), generator=generator)[:K]]])


def _revive(d: Tensor, use: Tensor, residual: Tensor, generator: torch.Generator) -> Tensor:
    """Replace filters that the codes do not use by patches of what is left unexplained."""
    dead = use <= 1e-6 * use.mean()
    if dead.any():
        d = d.clone()
        d[dead] = patches(distributed.join(residual), int(dead.sum()), d.shape[-1], generator)
    return d


def _spectrum(ztz: Tensor) -> Tensor:
    """What `_normal` needs of ztz: a K×K matrix for each frequency of a 2S×2S grid, (2S, S + 1, K, K)."""
    lags = torch.fft.ifftshift(F.pad(ztz, (1, 0, 1, 0)), dim=(2, 3))
    return torch.fft.rfft2(lags).permute(2, 3, 0, 1).contiguous()


def _normal(d: Tensor, spectrum: Tensor) -> Tensor:
    """The quadratic part's gradient: (k, c, s) ↦ Σ_l,t ztz[k, l, s − t] d_l,c[t].

    A circular convolution on 2S×2S is exact at the S×S places wanted, and costs a fraction of the direct sum.
    """
    N, S = spectrum.shape[0], d.shape[-1]
    spread = torch.fft.rfft2(d, s=(N, N)).permute(2, 3, 0, 1)
    return torch.fft.irfft2((spectrum @ spread).permute(2, 3, 0, 1), s=(N, N))[..., :S, :S]


def _unit(d: Tensor, norm: str = "whole") -> Tensor:
    # Of "channel", the longest channel gets unit norm: were each of them stretched to it, every filter would be grey.
    return d / _norms(d, norm).amax(1, keepdim=True).clamp_min(1e-12)


def _norms(d: Tensor, norm: str) -> Tensor:
    """Norms of filters (K, C, S, S): of the whole filter (K, 1, 1, 1), or of each channel (K, C, 1, 1)."""
    if norm == "whole":
        return d.flatten(1).norm(dim=1)[:, None, None, None]
    return d.flatten(2).norm(dim=2)[..., None, None]

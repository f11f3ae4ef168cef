"""Convolutional dictionary learning (CDL) from statistics that add.

Filters have support S, so all that the filter update needs to know of the codes are their correlations at lags below
S: K·K·(2S−1)² + K·C·S² numbers, whatever the number and the size of the images. They add over images, batches and
processes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from labkit import cbpdn, conv
from labkit.errors import InputError
from labkit.recipes import DictionaryRecipe
from labkit.sparse import Codes
from labkit.split import extend, split


@dataclass(frozen=True)
class Stats:
    """Sufficient statistics of codes z and images x for the filter update; `a + b` and `0.9 * a` do what they say.

    ztz (K, K, 2S−1, 2S−1) and ztx (K, C, S, S) as `conv.lag_gram` and `conv.cross`; xtx is Σ‖x‖²; count, of images.
    """

    ztz: Tensor
    ztx: Tensor
    xtx: Tensor
    count: float

    def __add__(self, other: "Stats") -> "Stats":
        return Stats(self.ztz + other.ztz, self.ztx + other.ztx, self.xtx + other.xtx, self.count + other.count)

    def __rmul__(self, decay: float) -> "Stats":
        return Stats(decay * self.ztz, decay * self.ztx, decay * self.xtx, decay * self.count)


@dataclass(frozen=True)
class Progress:
    """Where `learn` stands: batches done of all, and the objective per image of the latest batch before its update."""

    done: int
    total: int
    objective: float


def statistics(z: Tensor | Codes, x: Tensor, S: int) -> Stats:
    """Stats of codes z, (B, K, H, W) or `Solution.code`, of images x (B, C, H, W) for filters of S×S, in float64."""
    ztz, ztx = conv.correlations(z, x, S)
    return Stats(ztz, ztx, x.double().square().sum(), len(x))


def loss(d: Tensor, stats: Stats) -> Tensor:
    """½ Σ‖x − Σₖ dₖ ∗ zₖ‖² over everything in `stats`, in float64, without seeing an image again."""
    d = d.double()
    return 0.5 * stats.xtx - (d * stats.ztx).sum() + 0.5 * (d * _normal(d, _spectrum(stats.ztz))).sum()


def update(d: Tensor, stats: Stats, *, max_iter: int = 50) -> Tensor:
    """Filters that minimise `loss` subject to ‖dₖ‖ ≤ 1, started from d (K, C, S, S).

    Accelerated projected gradient (FISTA, with restart) on the statistics. Without the constraint, of which Eq. 2 of
    the paper says nothing, the codes could shrink to nothing while the filters grow.
    """
    spectrum = _spectrum(stats.ztz)
    point = ahead = d.double()
    step = 1 / max(_largest(spectrum), 1e-30)
    momentum = 1.0
    for _ in range(max_iter):
        moved = _into_ball(ahead - step * (_normal(ahead, spectrum) - stats.ztx))
        if ((ahead - moved) * (moved - point)).sum() > 0:
            momentum = 1.0
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = moved + (momentum - 1) / following * (moved - point)
        point, momentum = moved, following
    return point.to(d.dtype)


def learn(images, recipe: DictionaryRecipe, *, callback: Callable[[Progress], None] | None = None) -> Tensor:
    """A dictionary of K unit-norm filters (K, C, S, S) for the high-pass part of natural images.

    Alternates between codes of a batch with fixed filters and filters with fixed codes (paper, Section 3.3), online
    after Mairal et al. (JMLR 2010): the statistics remember about one pass over the images, so that codes made with
    an old dictionary fade. Starts from image patches; a filter that no code uses is replaced by a patch that is coded
    badly.

    images    `data.Images` (or anything with x (N, C, H, W), by index); `recipe.images` of them are drawn
    callback  called with a Progress after every batch
    """
    generator = torch.Generator().manual_seed(recipe.seed)
    count = min(recipe.images, len(images.x))
    if count == 0:
        raise InputError("a dictionary cannot be learned from no images")
    chosen = torch.randperm(len(images.x), generator=generator)[:count]
    batches = -(-count // recipe.batch)
    d = _patches(_high(images.x[chosen[: 4 * recipe.batch]], recipe), recipe.K, recipe.S, generator)
    memory, done = None, 0
    for _ in range(recipe.passes):
        order = chosen[torch.randperm(count, generator=generator)]
        for part in order.split(recipe.batch):
            x = _high(images.x[part], recipe)
            solution = cbpdn.solve(x, d, recipe.lam, gap_tol=recipe.gap_tol)
            fresh = statistics(solution.code, x, recipe.S)
            memory = fresh if memory is None else (1 - 1 / batches) * memory + fresh
            reached = cbpdn.objective(solution.z, x, d, recipe.lam)
            d = _revive(update(d, memory), memory, x - solution.synthesis, generator)
            done += 1
            if callback:
                callback(Progress(done, batches * recipe.passes, float(reached.mean())))
    return _unit(d)


def _high(x: Tensor, recipe: DictionaryRecipe) -> Tensor:
    high = split(x, recipe.lowpass, recipe.pad)[1]
    return high if recipe.boundary == "circular" else extend(high, recipe.S - 1)


def _patches(x: Tensor, K: int, S: int, generator: torch.Generator) -> Tensor:
    """K patches of S×S from images x, of unit norm, the liveliest of ten times as many."""
    H, W = x.shape[-2:]
    if min(H, W) < S:
        raise InputError(f"filters of {S}×{S} pixels are larger than the image of {H}×{W}; use a smaller S")
    n = 10 * K
    image = torch.randint(len(x), (n,), generator=generator).tolist()
    row = torch.randint(H - S + 1, (n,), generator=generator).tolist()
    column = torch.randint(W - S + 1, (n,), generator=generator).tolist()
    patches = torch.stack([x[b, :, i : i + S, j : j + S] for b, i, j in zip(image, row, column, strict=True)])
    lively = patches.flatten(1).norm(dim=1).argsort(descending=True)[: 4 * K]
    return _unit(patches[lively[torch.randperm(len(lively), generator=generator)[:K]]])


def _revive(d: Tensor, memory: Stats, residual: Tensor, generator: torch.Generator) -> Tensor:
    """Replace filters that the codes in memory do not use by patches of what is left unexplained."""
    K, S = len(d), d.shape[-1]
    use = memory.ztz[torch.arange(K), torch.arange(K), S - 1, S - 1]
    dead = use <= 1e-6 * use.mean()
    if not dead.any():
        return d
    d = d.clone()
    d[dead] = _patches(residual, int(dead.sum()), S, generator)
    return d


def _spectrum(ztz: Tensor) -> Tensor:
    """What `_normal` needs of ztz: a K×K matrix for each frequency of a 2S×2S grid, (2S, S + 1, K, K)."""
    S = (ztz.shape[-1] + 1) // 2
    lags = F.pad(ztz, (0, 1, 0, 1)).roll((1 - S, 1 - S), dims=(2, 3))
    return torch.fft.rfft2(lags).permute(2, 3, 0, 1).contiguous()


def _normal(d: Tensor, spectrum: Tensor) -> Tensor:
    """The quadratic part's gradient: (k, c, s) ↦ Σ_l,t ztz[k, l, s − t] d_l,c[t].

    A circular convolution on 2S×2S is exact at the S×S places wanted, and costs a fraction of the direct sum.
    """
    N, S = spectrum.shape[0], d.shape[-1]
    spread = torch.fft.rfft2(d, s=(N, N)).permute(2, 3, 0, 1)
    return torch.fft.irfft2((spectrum @ spread).permute(2, 3, 0, 1), s=(N, N))[..., :S, :S]


def _largest(spectrum: Tensor) -> float:
    """An upper bound on the largest eigenvalue of `_normal`: that of the circular convolution it is cut from."""
    return float(torch.linalg.eigvalsh(spectrum).max())


def _into_ball(d: Tensor) -> Tensor:
    return d / d.flatten(1).norm(dim=1).clamp_min(1)[:, None, None, None]


def _unit(d: Tensor) -> Tensor:
    return d / d.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]

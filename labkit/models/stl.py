"""The Sparse Transformation Layer (STL): an image's low-pass part, and the sparse code of the rest."""

import copy
import math
from dataclasses import replace

from labkit.core import InputError, metrics
from labkit.core.recipes import TransformRecipe
from labkit.csc import cbpdn, codes, conv, extend, split
from labkit.csc.codes import Codes
from labkit.models.defense import Defense

import numpy as np
import torch
from torch import Tensor

BACKWARDS = ("exact", "identity", "none")
BOUNDARIES = ("circular", "reflect")
_DARK = 1e-3  # largest pixel of an image that is not stretched further
_FLAT = 1e-3  # least λ that leaves nothing of an image, where λ follows it: a flat one has none
_APPROXIMATE = 1e-2  # relative residual of the projected gradient, where only its direction counts


class SparseTransform(Defense):
    """T(x) = clip(low(x) + Σₖ dₖ ∗ zₖ), with z the CBPDN code of the high-pass part of x (paper, Section 3.2).

    With dim < 1, mean + dim · (low − mean) replaces low, by the mean of each image's and channel's low-pass part. The
    sparse map never pushes images apart, but the low-pass part passes T as it is; dimming narrows that way.

    d         (K, C, S, S)  dictionary; `load_dictionary` reads a stored one
    lam       λ of Eq. 2, for pixels in [0, 1]
    lowpass   weight of the low-pass filter (`split`), and `pad` its padding
    backward  "exact": with the dictionary fixed, the residual of CBPDN is a Euclidean projection onto a convex set, so
              almost everywhere the Jacobian of the sparse map is the orthogonal projector onto the active atoms.
              "identity": T passes gradients unchanged (BPDA). "none": asking for a gradient raises RuntimeError
    boundary  "circular", as in the authors' code, or "reflect": mirrored by S − 1 pixels, coded, cropped
    gap_tol, method  as in `cbpdn.solve`
    dim       share of the low-pass part's contrast that T keeps; 1 is the paper's T
    bits      a channel to which T(x) is rounded, which gradients pass unchanged; 0 for not
    stretched whether each T(x) is then divided by its largest pixel, as in the authors' script
    top, shaken, relative  as in TransformRecipe; the draws of a call are the same for all its images

    Raises InputError for another channel number or an image smaller than a filter.
    """

    limits = "dim, shaken in [0, 1]; bits in 0 to 16; top in 0 to inf"

    def __init__(
        self, d, *, lam=0.2, lowpass=5.0, pad=16, backward="exact", boundary="circular", gap_tol=1e-2, method="auto",
        dim=1.0, bits=0, stretched=False, top=0, shaken=0.0, relative=False,
    ):  # fmt: skip
        conv.check(d)
        told = {"lam": lam, "lowpass": lowpass, "pad": pad, "boundary": boundary, "gap_tol": gap_tol, "dim": dim}
        super().__init__(**told, bits=bits, stretched=stretched, top=top, shaken=shaken, relative=relative)
        for what, value, known in (("backward", backward, BACKWARDS), ("boundary", boundary, BOUNDARIES)):
            if value not in known:
                raise InputError(f"unknown {what} {value!r}; choose from {', '.join(known)}")
        self.register_buffer("d", d.detach().clone())
        self.backward_mode, self.method, self.stochastic = backward, method, shaken > 0
        self._last: tuple | None = None  # high-pass parts and codes asked about last; None where it remembers nothing

    @classmethod
    def of(cls, recipe: TransformRecipe, d: Tensor) -> "SparseTransform":
        """The layer of a recipe with filters d, which were learned by `recipe.dictionary`, in evaluation mode."""
        fields = "lam lowpass pad boundary gap_tol dim bits stretched top shaken relative".split()
        return cls(d, **{field: getattr(recipe, field) for field in fields}).eval()

    def approximate(self, gap: float) -> "SparseTransform":
        """The same layer for attackers: codes down to a gap of `gap`, each begun with that of the last image it saw."""
        layer = copy.copy(self)
        layer.gap_tol, layer._last = gap, ()
        return layer

    def parts(self, x: Tensor, *, start=None, gap_tol: float | None = None) -> tuple[Tensor, Tensor, cbpdn.Solution]:
        """Low-pass part (not dimmed), high-pass part (both as x) and the code of the latter, for looking at.

        start    a code (dense or `Codes`) to start from, such as that of another λ
        gap_tol  another than the layer's, for a quick look
        """
        self._check(x)
        low, high = split(x, self.lowpass, self.pad)
        wide = self._wide(high)
        return low, high, self._solve(wide, start, gap_tol, (self.d, self._lams(wide)))

    def join(self, low: Tensor, code: cbpdn.Solution) -> Tensor:
        """T(x) of the image that `parts` took apart; no gradient passes."""
        return self._joined(low, self._narrow(code.synthesis, low.shape[2:]))

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        if self.backward_mode == "identity" and torch.is_grad_enabled() and x.requires_grad:
            with torch.no_grad():
                moved = self(x) - x
            return x + moved
        return self._joined(*self.both(x))

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Low-pass part (not dimmed) and what the code synthesises, both as x and with their gradients."""
        low, high = split(x, self.lowpass, self.pad)
        wide = self._wide(high)
        # An image that is twice as strong has a code that is, for twice the λ.
        most = self._most(wide)[:, None, None, None] if self.relative else 1
        sparse = most * _SparseMap.apply(wide / most, self)
        return low, self._narrow(sparse, x.shape[2:])

    def extra_repr(self) -> str:
        K, C, S, _ = self.d.shape
        return f"K={K}, S={S}, C={C}, {super().extra_repr()}, backward={self.backward_mode!r}"

    def _joined(self, low: Tensor, sparse: Tensor) -> Tensor:
        if self.dim != 1:
            mean = low.mean((2, 3), keepdim=True)
            low = mean + self.dim * (low - mean)
        x = low + sparse
        if self.stretched:
            x = x / x.amax((1, 2, 3), keepdim=True).clamp_min(_DARK)
        x = x.clamp(0, 1)
        if not self.bits:
            return x
        steps = 2**self.bits - 1
        return x + ((x * steps).round() / steps - x).detach()

    def drawn(self) -> tuple[Tensor, float]:
        """Filters and λ of a call: the layer's own, or, if it is `shaken`, what it draws."""
        if not self.shaken:
            return self.d, self.lam
        draw = torch.rand(2, generator=self.generator).tolist()
        left = math.ceil(len(self.d) * (1 - draw[0] * self.shaken / 2))
        some = torch.randperm(len(self.d), generator=self.generator)[:left]
        return self.d[some.to(self.d.device)], self.lam * 2 ** (self.shaken * (2 * draw[1] - 1))

    def _solve(
        self, high: Tensor, start=None, gap_tol: float | None = None, drawn: tuple[Tensor, float] | None = None
    ) -> cbpdn.Solution:
        d, lam = drawn or (self.d, self.lam)
        how = {"gap_tol": gap_tol or self.gap_tol, "method": self.method, "z0": start}
        found = cbpdn.solve(high, d.to(high.dtype), lam, **how)
        # ADMM gains little from a code without its multipliers.
        if self._last is not None and not self.shaken and isinstance(found.code, Codes):
            self._last = high, found.code
        return largest(found, d.to(high.dtype), self.top) if self.top else found

    def _code(self, high: Tensor, drawn: tuple[Tensor, float]) -> cbpdn.Solution:
        """The code of each image, begun where it remembers any with that of the image last asked about and nearest."""
        return self._solve(high, _nearest(high, *self._last) if self._last else None, drawn=drawn)

    def _most(self, high: Tensor) -> Tensor:
        """The smallest λ of each image that leaves nothing of it, with its gradient: (B,)."""
        return cbpdn.lambda_max(high, self.d.to(high.dtype)).clamp_min(_FLAT)

    def _lams(self, high: Tensor) -> float | Tensor:
        return self.lam * self._most(high) if self.relative else self.lam

    def _wide(self, high: Tensor) -> Tensor:
        return high if self.boundary == "circular" else extend(high, self.d.shape[3] - 1)

    def _narrow(self, sparse: Tensor, size) -> Tensor:
        edge = 0 if self.boundary == "circular" else self.d.shape[3] - 1
        return sparse[..., edge : edge + size[0], edge : edge + size[1]]

    def _check(self, x: Tensor, channels: int | None = None) -> None:
        super()._check(x, channels)
        conv.check(self.d, x.shape[2:], x.shape[1])

    def quality(self, x: Tensor) -> dict[str, float]:
        """How T treats images x (B, C, H, W): means of PSNR, objective and active coefficients, and the largest gap."""
        with torch.no_grad():
            _, high, code = self.parts(x)
            energy, wide = 0.5 * high.square().flatten(1).sum(1), self._wide(high)
            objective = cbpdn.objective(code.z, wide, self.d.to(x.dtype), self._lams(wide))
            return {
                "PSNR of T(x), dB": float(metrics.psnr(self(x), x).mean()),
                "objective per image": float(objective.mean()),
                "active coefficients": (active := float(metrics.sparsity(code.z).float().mean())),
                "of all, %": 100 * active / code.z[0].numel(),
                "largest relative gap": float((code.gap / energy.clamp_min(1e-12)).max()),
            }


class _SparseMap(torch.autograd.Function):
    """high ↦ D z(high); on a GPU, where codes are dense, in chunks so that memory does not grow with the batch."""

    @staticmethod
    def forward(ctx, high, layer):
        size = _at_once(high, len(layer.d)) if high.is_cuda else max(len(high), 1)
        ctx.layer, drawn = layer, layer.drawn()
        ctx.d = drawn[0]
        found = [layer._code(part.detach(), drawn) for part in high.split(size)]
        ctx.supports = [f.code if isinstance(f.code, Codes) else f.code != 0 for f in found if high.requires_grad]
        ctx.sizes = [len(f.gap) for f in found]
        return torch.cat([f.synthesis for f in found])

    @staticmethod
    def backward(ctx, grad):
        if ctx.layer.backward_mode == "none":
            raise RuntimeError('this SparseTransform was built with backward="none"; use "exact" or "identity"')
        d, tol = ctx.d.to(grad.dtype), None if ctx.layer._last is None else _APPROXIMATE
        parts = zip(grad.split(ctx.sizes), ctx.supports, strict=True)
        return torch.cat([project(g, s, d, tol=tol) for g, s in parts]), None


def largest(found: cbpdn.Solution, d: Tensor, top: int) -> cbpdn.Solution:
    """The `top` largest coefficients of each image, and what they synthesise; the others stay in the code as 0.

    They belong to the active atoms, on all of which depends how the others answer to a change of the image.
    """
    code, kept = found.code if isinstance(found.code, Codes) else Codes.of(found.code.cpu()), []
    for one in code.codes:
        size = np.abs(one.v)
        least = np.partition(size, -top)[-top] if len(size) > top else 0
        kept.append(one._replace(v=np.where(size >= least, one.v, 0).astype(one.v.dtype)))
    code = Codes(kept, code.shape, code.dtype)
    return replace(found, code=code, synthesis=conv.synthesize(code.dense().to(d), d))


def _nearest(high: Tensor, last: Tensor, known: Codes) -> Codes:
    """For each image the code of the nearest of `last`; an empty one where that is farther than half the way to 0."""
    far, which = torch.cdist(high.flatten(1), last.flatten(1)).min(1)
    near = far < high.flatten(1).norm(dim=1) / 2
    none = Codes.of(high.new_zeros(1, 1, 1, 1)).codes[0]
    codes = [known.codes[i] if use else none for i, use in zip(which.tolist(), near.tolist(), strict=True)]
    return Codes(codes, (len(high), *known.shape[1:]), known.dtype)


def _at_once(high: Tensor, K: int) -> int:
    """How many images have dense codes of K filters in 128 MiB; one at least."""
    return max(1, 128 * 2**20 // (high.shape[-2] * high.shape[-1] * K * high.element_size()))


def project(g: Tensor, support: Tensor | Codes, d: Tensor, *, tol: float | None = None) -> Tensor:
    """Orthogonal projection of each image onto the span of its active atoms: the Jacobian of the sparse map.

    g        (B, C, H, W)  images or gradients
    support  (B, K, H, W)  bool, which shifted filters of d (K, C, S, S) are active; or the codes that say so
    tol      relative residual at which conjugate gradients stop; by default 1e-4, or 1e-12 in float64
    """
    tol = tol or (1e-12 if g.dtype == torch.float64 else 1e-4)
    if g.is_cuda:
        asked = span = support
        if isinstance(support, Codes):
            asked, ones = support.dense() != 0, [code._replace(v=np.ones_like(code.v)) for code in support.codes]
            span = Codes(ones, support.shape, g.dtype).dense()
        return _project_dense(g, span.to(g), d, tol, asked.to(g))
    return codes.project(g, support if isinstance(support, Codes) else Codes.of(support), d, tol)


def _project_dense(g, mask, d, tol, asked=None, max_iter=200) -> Tensor:
    """The same with dense convolutions, batched, for a GPU; g is asked for the atoms `asked` alone, or for all."""
    dot = lambda a, b: (a * b).flatten(1).sum(1)[:, None, None, None]  # noqa: E731
    v = torch.zeros_like(mask)
    rest = (mask if asked is None else asked) * conv.analyze(g, d)
    direction, rho = rest, dot(rest, rest)
    goal = tol**2 * rho
    for _ in range(max_iter):
        if (rho <= goal).all():
            break
        moved = mask * conv.analyze(conv.synthesize(direction, d), d)
        step = torch.where(rho > goal, rho / dot(direction, moved).clamp_min(1e-30), 0.0)
        v, rest = v + step * direction, rest - step * moved
        last, rho = rho, dot(rest, rest)
        direction = rest + rho / last.clamp_min(1e-30) * direction
    return conv.synthesize(v, d)

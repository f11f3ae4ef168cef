"""Total-variation minimisation (TVM): an image rebuilt from half of its pixels as the flattest one that fits them."""

from labkit.models import Defense

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Pixel values solved for at once: about as many as stay in a CPU's cache.
_VALUES_AT_ONCE = 100_000
_IMAGES_AT_ONCE = 32
_VALUES_AT_ONCE_CUDA = 2**24
_RED_THEN_BLACK = ((0, 0), (1, 1), (0, 1), (1, 0))


class TVM(Defense):
    """Guo, Rana, Cissé & van der Maaten, "Countering adversarial images using input transformations", ICLR 2018.

    Section 4: pixels are dropped at random, and from those that are kept, M = 1, each channel is rebuilt as

        min over z of  ‖M ⊙ (z − x)‖² + λ Σ ‖∇z‖₂,

    by the split Bregman method (Goldstein & Osher, "The split Bregman method for L1-regularized problems", 2009). ∇
    are forward differences, zero across the border.

    drop       share of the pixels that are dropped; 0 gives plain denoising, which is not random
    weight     λ, for pixels in [0, 1] and a data term without ½: `denoise_tv_bregman` of scikit-image calls this 2/λ
    tolerance  an image is finished once an outer iteration moves it (root mean square) by less than this · mean ‖∇z‖₂
    inner      Gauss–Seidel sweeps an outer iteration
    outer      iterations at most

    Differentiable by autograd through the iterations, with the mask held; memory grows with the outer ones only. What
    was dropped has no influence: iterations start from the mean of kept neighbours.

    The publication's formula squares neither norm and sums ℓ₂ norms of whole rows and columns; here they are those of
    the solver that it names. Our tolerance ends half a percent above the minimum.
    """

    smallest = 2
    limits = "drop in [0, 1); weight in (0, inf]; tolerance in [0, inf]; inner, outer in [1, inf)"

    def __init__(self, drop=0.5, weight=0.03, tolerance=0.01, inner=10, outer=50):
        super().__init__(drop=drop, weight=weight, tolerance=tolerance, inner=inner, outer=outer)
        self.stochastic = drop > 0

    def forward(self, x: Tensor) -> Tensor:
        self._check(x)
        kept = (torch.rand(x.shape, generator=self.generator) >= self.drop).to(x) if self.drop else torch.ones_like(x)
        most = _VALUES_AT_ONCE_CUDA if x.is_cuda else max(_VALUES_AT_ONCE, _IMAGES_AT_ONCE * min(x[0].numel(), 2**16))
        size = max(1, most // x[0].numel())
        parts = [self._minimise(*part) for part in zip(x.split(size), kept.split(size), strict=True)]
        return torch.cat(parts).clamp(0, 1)

    def _minimise(self, x: Tensor, kept: Tensor) -> Tensor:
        # Pixels first, images and channels last: every step below then works on long contiguous rows.
        start = functional.pad(_inpaint(x, kept).permute(2, 3, 0, 1), (0, 0, 0, 0, 1, 1, 1, 1))
        x, kept = (a.permute(2, 3, 0, 1).contiguous() for a in (x, kept))
        none = torch.zeros_like(x)
        mu = self.weight / _jump(start[1:-1, 1:-1])
        state = [start, none, none, none, none]
        at, order, done = torch.arange(x.shape[2], device=x.device), [], []
        for left in reversed(range(self.outer)):
            before, state = state[0], self._iterate(x, kept, mu, *state)
            with torch.no_grad():
                z = state[0][1:-1, 1:-1]
                moved = (z - before[1:-1, 1:-1]).square().mean((0, 1, 3)).sqrt()
                lively = _length(*_gradient(z)).mean((0, 1, 3)) + 1e-4  # or else flat images never end
                going = (moved > self.tolerance * lively) & (left > 0)
            if not (all_go := going.all()):
                order.append(at[~going])
                done.append(state[0][1:-1, 1:-1, ~going])
            if not going.any():
                break
            if not all_go:
                at, x, kept, mu, *state = at[going], *(a[:, :, going] for a in (x, kept, mu, *state))
        z = torch.cat(done, 2)[:, :, torch.cat(order).argsort()]
        return z.permute(2, 3, 0, 1).contiguous()

    def _iterate(self, x, kept, mu, z, dx, dy, bx, by) -> tuple[Tensor, ...]:
        """One outer iteration on pixels (H, W, B, C); z has a border of zeros, d stands for ∇z, b is Bregman's."""
        H, W = x.shape[:2]
        # z-step, ‖M ⊙ (z − x)‖² + μ/2 ‖∇z − d + b‖²: (2M − μΔ) z = 2Mx + μ∇ᵀ(d − b), by Gauss–Seidel in red-black
        # order, so that half of the pixels are updated at once.
        ex, ey = mu * (dx - bx), mu * (dy - by)
        right = 2 * kept * x
        right[:, 1:] += ex[:, :-1]
        right[:, :-1] -= ex[:, :-1]
        right[1:] += ey[:-1]
        right[:-1] -= ey[:-1]
        rows, columns = (2 - functional.one_hot(torch.tensor([0, n - 1]), n).sum(0) for n in (H, W))
        diagonal = 2 * kept + mu * (rows[:, None] + columns)[:, :, None, None].to(x)  # μ times the number of neighbours
        z = _Sweeps.apply(z, right / diagonal, mu / diagonal, self.inner)
        # d-step: shrink ∇z + b by λ/μ; what is cut off is the next b.
        gx, gy = _gradient(z[1:-1, 1:-1])
        tx, ty = gx + bx, gy + by
        share = (1 - self.weight / mu / _length(tx, ty)).clamp_min(0)
        dx, dy = share * tx, share * ty
        return z, dx, dy, tx - dx, ty - dy


class _Sweeps(torch.autograd.Function):
    """Red-black Gauss–Seidel: z ← given + pull · (sum of the four neighbours), `count` times.

    z has a border of zeros, given and pull (H, W, B, C) have none. The derivative is written out because autograd
    would copy the images for every quarter of a sweep.
    """

    @staticmethod
    def forward(ctx, z, given, pull, count):
        ctx.save_for_backward(pull)
        ctx.count = count
        z = z.clone()
        some = lambda of, a, b: of[a::2, b::2].contiguous()  # noqa: E731
        quarters = [(*_cells(z, a, b), some(given, a, b), some(pull, a, b)) for a, b in _RED_THEN_BLACK]
        for _ in range(count):
            for here, up, down, left, right, own, share in quarters:
                here.copy_(torch.addcmul(own, share, (up + down).add_(left).add_(right)))
        return z

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (pull,) = ctx.saved_tensors
        grad, given = grad.clone(), torch.zeros_like(pull)
        quarters = [(*_cells(grad, a, b), given[a::2, b::2], pull[a::2, b::2].contiguous()) for a, b in _RED_THEN_BLACK]
        for _ in range(ctx.count):
            for here, *around, own, share in reversed(quarters):
                own += here
                passed = share * here
                here.zero_()
                for neighbour in around:
                    neighbour += passed
        return grad, given, None, None


def _gradient(z: Tensor) -> tuple[Tensor, Tensor]:
    """Forward differences of (H, W, ...) along W and H, zero across the border."""
    gx, gy = torch.zeros_like(z), torch.zeros_like(z)
    gx[:, :-1] = z[:, 1:] - z[:, :-1]
    gy[:-1] = z[1:] - z[:-1]
    return gx, gy


def _length(gx: Tensor, gy: Tensor) -> Tensor:
    return (gx * gx + gy * gy).clamp_min(1e-20).sqrt()  # not hypot, whose derivative at 0 is no number


@torch.no_grad()
def _jump(z: Tensor) -> Tensor:
    """Gradient λ/μ that an iteration shrinks to nothing, for each image (H, W, B, C): (1, 1, B, 1).

    Goldstein & Osher leave the weight μ of the splitting open. It changes the pace and not the minimum; near the best
    is an image's mean gradient. A power of two, so that no derivative passes through it.
    """
    mean = _length(*_gradient(z)).mean((0, 1, 3), keepdim=True).clamp_min(1e-4)
    return mean.log2().round().exp2()


def _cells(z: Tensor, a: int, b: int) -> list[Tensor]:
    """Views of every second pixel from (a, b) on, and of its four neighbours, in images z with a border."""
    H, W = z.shape[0] - 2, z.shape[1] - 2
    steps = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
    return [z[1 + a + i : H + 1 + i : 2, 1 + b + j : W + 1 + j : 2] for i, j in steps]


def _inpaint(x: Tensor, kept: Tensor) -> Tensor:
    """Kept pixels as they are, dropped ones as the mean of their kept neighbours: where the iterations start."""
    C = x.shape[1]
    window = torch.outer(*2 * [x.new_tensor([1.0, 2.0, 1.0])]).expand(C, 1, 3, 3)
    seen = kept * x
    mean = seen.sum((2, 3), keepdim=True) / kept.sum((2, 3), keepdim=True).clamp_min(1)
    # The faint mean stands alone only where no neighbour was kept.
    near = functional.conv2d(seen, window, padding=1, groups=C) + 1e-3 * mean
    return seen + (1 - kept) * near / (functional.conv2d(kept, window, padding=1, groups=C) + 1e-3)

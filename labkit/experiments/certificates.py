"""What T's own mathematics certifies, without any chance: for a linear head behind T, and for its codes."""

from typing import NamedTuple

from labkit.core import InputError
from labkit.csc import conv, split
from labkit.csc.codes import Codes
from labkit.models import SparseTransform

import numpy as np
import torch
from torch import Tensor, nn

_BLOCK = 512  # unit impulses that are filtered at once
_SURE = 1e-6  # relative duality gap of codes of which the support is asked


class Head(NamedTuple):
    """Logits of an image that T has taken apart: low · a + sparse · b + bias; a, b (classes, C, H, W)."""

    a: Tensor
    b: Tensor
    bias: Tensor

    def logits(self, layer: SparseTransform, x: Tensor) -> Tensor:
        """Of images x (n, C, H, W): (n, classes). T's clipping to [0, 1] is left out."""
        low, _, code = layer.parts(x)
        return _told(self, low, code.synthesis)


def fit(layer: SparseTransform, x: Tensor, y: Tensor, classes: int, decay: float = 1e-2) -> Head:
    """Multinomial regression on both parts of training images, with the same decay on all weights."""
    low, _, code = layer.parts(x)
    seen = torch.cat([low.flatten(1), code.synthesis.flatten(1)], 1)
    weight, bias = (torch.zeros(classes, size, requires_grad=True) for size in (seen.shape[1], 1))
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        fitted = torch.nn.functional.cross_entropy(seen @ weight.T + bias[:, 0], y)
        total = fitted + decay / 2 * weight.square().sum()
        total.backward()
        return total

    with torch.enable_grad():
        optimizer.step(loss)
    a, b = (part.reshape(classes, *x.shape[1:]) for part in weight.detach().chunk(2, 1))
    return Head(a, b, bias.detach()[:, 0])


class Headed(nn.Module):
    """Images to the head's logits, with T's exact gradient, for attackers."""

    def __init__(self, layer: SparseTransform, head: Head):
        super().__init__()
        self.layer, self.head = layer, head

    def forward(self, x: Tensor) -> Tensor:
        low, sparse = self.layer.both(x)
        return _told(self.head, low, sparse)


def _told(head: Head, low: Tensor, sparse: Tensor) -> Tensor:
    return low.flatten(1) @ head.a.flatten(1).T + sparse.flatten(1) @ head.b.flatten(1).T + head.bias


def radii(layer: SparseTransform, head: Head, x: Tensor) -> tuple[Tensor, Tensor]:
    """The head's class of each image (n,), and an L2 radius (n,) within which no change of the image moves it.

    The low-pass part is linear, so a difference of logits changes through it by at most ‖Lᵀ(a − a′)‖ ‖δ‖. The sparse
    map never pushes its input, the high-pass part (I − L) x, apart, so through it by at most ‖b − b′‖ ‖I − L‖ ‖δ‖.
    Codes are not exact: D z is within √(2 gap) of the optimum's, here and, with a gap of up to
    gap_tol · ½‖(I − L)(x + δ)‖², at the attacked image; both are taken from the margin.

    Raises InputError for a T that is not the paper's, as `support` does.
    """
    _check(layer)
    L, moved = _lowpass(layer, x.shape[-2:])
    low, high, code = layer.parts(x)
    logits = _told(head, low, code.synthesis)
    top, energy = logits.argmax(1), high.flatten(1).norm(dim=1)
    inexact, most = (2 * code.gap).clamp_min(0).sqrt(), layer.gap_tol**0.5
    least = torch.full((len(x),), torch.inf)
    for other in range(logits.shape[1]):
        a, b = head.a[top] - head.a[other], head.b[top] - head.b[other]
        through_low = torch.einsum("npq,ncq->ncp", L.T.expand(len(x), -1, -1), a.flatten(2)).flatten(1).norm(dim=1)
        length = b.flatten(1).norm(dim=1)
        margin = logits.gather(1, top[:, None])[:, 0] - logits[:, other] - length * (inexact + most * energy)
        radius = margin / (through_low + length * moved * (1 + most)).clamp_min(1e-30)
        least = torch.where(top == other, least, torch.minimum(least, radius))
    return top, least.clamp_min(0)


class Support(NamedTuple):
    """How firmly a code stands: radius within which its support stays, and the worst conditioned of its atoms.

    radius    (n,) of changes of the high-pass part, in L2, that leave support and signs; the code is then linear
    smallest  (n,) smallest eigenvalue of the Gram matrix of the active atoms: 1 − η of Sulam et al. is at most that
    active    (n,) how many atoms
    """

    radius: Tensor
    smallest: Tensor
    active: Tensor


def support(layer: SparseTransform, x: Tensor) -> Support:
    """Of the codes of images x (n, C, H, W): what the encoder gap is about (Sulam, Muthukumar & Arora, NeurIPS 2020).

    Inactive atoms stay so while their correlation with the residual, at most λ, moves by less than what is left of it;
    active ones keep their sign while they move by less than themselves. Both are exact for one support. Where active
    atoms depend on each other, or a code has no such room, the radius is 0.

    Raises InputError for a T that is not the paper's: none of its options is allowed.
    """
    _check(layer)
    d, (_, high, code) = layer.d.double(), layer.parts(x.double(), gap_tol=_SURE)
    held = code.code if isinstance(code.code, Codes) else Codes.of(code.code.cpu())
    found = []
    for image, one, synthesis in zip(high, held.codes, code.synthesis, strict=True):
        slack = layer.lam - conv.analyze((image - synthesis)[None], d)[0].abs()
        slack[one.k, one.i, one.j] = torch.inf
        corner = np.zeros((len(d), *image.shape))
        corner[:, :, : d.shape[-1], : d.shape[-1]] = d.numpy()
        atoms = [np.roll(corner[k], (i, j), (1, 2)).ravel() for k, i, j in zip(one.k, one.i, one.j, strict=True)]
        atoms = np.array(atoms).reshape(len(atoms), image.numel())
        values, vectors = np.linalg.eigh(atoms @ atoms.T) if len(atoms) else (np.ones(1), np.zeros((0, 1)))
        smallest, room = float(values.min()), float(slack.min())
        if smallest > 1e-10 and len(atoms):
            spread = np.sqrt((vectors**2 / values).sum(1))  # of a coefficient, for a change of length 1
            room = min(room, float((np.abs(one.v) / spread).min()))
        found.append((max(room, 0.0) * (smallest > 1e-10), max(smallest, 0.0), len(one.v)))
    return Support(*(torch.tensor(part) for part in zip(*found, strict=True)))


def _check(layer: SparseTransform) -> None:
    other = layer.dim != 1 or layer.boundary != "circular" or layer.stretched or layer.relative
    if other or layer.bits or layer.top or layer.shaken:
        raise InputError("only the paper's T is certified; choose one without any of its options")


def _lowpass(layer: SparseTransform, size) -> tuple[Tensor, float]:
    """The low-pass filter of one channel as a matrix (pixels, pixels), and the norm of what it leaves."""
    H, W = size
    impulses = torch.eye(H * W).reshape(-1, 1, H, W)
    columns = [split(part, layer.lowpass, layer.pad)[0].reshape(len(part), -1) for part in impulses.split(_BLOCK)]
    L = torch.cat(columns).T
    return L, float(torch.linalg.matrix_norm((torch.eye(H * W) - L).double(), 2))

"""Convolutional codes as lists of their few non-zero coefficients."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

from labkit.csc import atoms

import numpy as np
import torch
from numba import njit
from torch import Tensor


class Code(NamedTuple):
    """The non-zero coefficients of one image: filters, rows and columns (int32), and values, ordered by row."""

    k: np.ndarray
    i: np.ndarray
    j: np.ndarray
    v: np.ndarray


@dataclass(frozen=True)
class Codes:
    """The codes of a batch; `shape` is (B, K, H, W), what `dense()` has."""

    codes: Sequence[Code]
    shape: tuple[int, int, int, int]
    dtype: torch.dtype

    @classmethod
    def of(cls, z: Tensor) -> "Codes":
        """The non-zero coefficients of z (B, K, H, W), on the CPU; of a mask, those that are set."""
        values = z.float() if z.dtype == torch.bool else z
        codes = []
        for code in values:
            i, j, k = code.permute(1, 2, 0).nonzero(as_tuple=True)
            codes.append(Code(*(a.to(torch.int32).numpy() for a in (k, i, j)), code[k, i, j].numpy()))
        return cls(codes, tuple(z.shape), values.dtype)

    def dense(self) -> Tensor:
        """All coefficients: (B, K, H, W)."""
        z = torch.zeros(self.shape, dtype=self.dtype)
        for one, code in zip(z.numpy(), self.codes, strict=True):
            one[code.k, code.i, code.j] = code.v
        return z

    def l1(self) -> Tensor:
        """‖z‖₁ of each image: (B,)."""
        return torch.tensor([float(np.abs(code.v).sum()) for code in self.codes], dtype=self.dtype)

    def active(self) -> Tensor:
        """‖z‖₀ of each image: (B,), int64."""
        return torch.tensor([len(code.v) for code in self.codes])


def correlations(codes: Codes, x: Tensor, S: int) -> tuple[Tensor, Tensor]:
    """`conv.correlations` of codes and images x (B, C, H, W), in float64."""
    (_, K, H, W), C = codes.shape, x.shape[1]
    frame = atoms.frame(C, H, W, S)
    pixels, ztz, ztx = x.contiguous().numpy(), np.zeros((K, K, 2 * S - 1, 2 * S - 1)), np.zeros((K, S, S, C))
    threads = torch.get_num_threads()

    # Each thread adds up the rows of its own filters, over all images in order: one table for all, and no race.
    def add_up(first):
        image = np.empty(frame.H * frame.row, pixels.dtype)
        for code, pixel in zip(codes.codes, pixels, strict=True):
            atoms.put(pixel, image, frame)
            _correlate(*code, image, ztz, ztx, frame, first, threads)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(add_up, range(threads)))
    return torch.from_numpy(ztz), torch.from_numpy(ztx).permute(0, 3, 1, 2).contiguous()


@njit(nogil=True, cache=True)
def _correlate(k, i, j, v, image, ztz, ztx, frame, first, step):
    """Add the correlations of one code with itself to ztz (K, K, P, P), and with its image to ztx (K, S, S, C).

    Only those of filters `first`, `first + step`, …
    """
    H, W, S = frame.H, frame.W, frame.S
    atoms.wrap(image, frame)
    row = np.searchsorted(i, np.arange(H + 1))
    for a in range(len(k)):
        if k[a] % step != first:
            continue
        for p in range(S):
            y = i[a] + p if i[a] + p < H else i[a] + p - H
            at = y * frame.row + (j[a] + S - 1) * frame.C
            for q in range(S):
                for c in range(frame.C):
                    ztx[k[a], p, q, c] += v[a] * image[at + q * frame.C + c]
        for p in range(2 * S - 1):
            y = (i[a] + p - S + 1) % H
            for b in range(row[y], row[y + 1]):
                q = (j[b] - j[a] + S - 1) % W
                while q < 2 * S - 1:  # more than once only where the image is smaller than 2S − 1
                    ztz[k[a], k[b], p, q] += v[a] * v[b]
                    q += W


def project(g: Tensor, support: Codes, d: Tensor, tol: float) -> Tensor:
    """Orthogonal projection of each image g (B, C, H, W) onto the span of the atoms in its code.

    Conjugate gradients on the normal equations of those atoms, down to a relative residual of `tol`. Atoms of value 0
    are in the span, but g is not asked for them (`stl.largest`).
    """
    _, C, H, W = g.shape
    frame, filters = atoms.frame(C, H, W, d.shape[-1]), atoms.layout(d)
    pixels, out = g.contiguous().numpy(), torch.empty_like(g, memory_format=torch.contiguous_format)

    def one(b):
        atoms.take(_project(pixels[b], *support.codes[b], filters, frame, tol), out.numpy()[b], frame)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(one, range(len(g))))
    return out


@njit(nogil=True, cache=True)
def _project(g, k, i, j, v, filters, frame, tol):
    image, rest = np.empty(frame.H * frame.row, g.dtype), np.empty(len(k), g.dtype)
    atoms.put(g, image, frame)
    atoms.wrap(image, frame)
    for a in range(len(k)):
        rest[a] = atoms.correlate(filters, k[a], i[a], j[a], image, frame) if v[a] else 0
    found = atoms.solve(filters, k, i, j, rest, tol, 4 * len(k), frame)
    image[:] = 0
    atoms.add_all(filters, k, i, j, found, image, frame)
    return image

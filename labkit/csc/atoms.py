"""Shifted filters on one image with wrapped borders: the inner loops of the sparse solvers, compiled with numba.

All else is made of correlating one atom with an image, or adding one to it. numba's own vectoriser spends more on its
checks than on such short loops, so these two are written as eight-lane vector code: two to four times faster.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

_LANES = 8
_INT, _INDEX = ir.IntType(64), ir.IntType(32)


class Frame(NamedTuple):
    """How an image is stored for the loops: rows of interleaved channels, with margins in which columns wrap.

    A row holds S − 1 columns of margin, W columns, S − 1 columns that repeat the first ones, and room that is written
    but never read, so that every atom is S runs of `run` numbers (S·C rounded up to whole vectors). Rows wrap by index.
    """

    C: int
    H: int
    W: int
    S: int
    row: int
    run: int


def frame(C: int, H: int, W: int, S: int) -> Frame:
    """The frame of images (C, H, W) and filters of S×S."""
    run = -(-S * C // _LANES) * _LANES
    return Frame(C, H, W, S, (W + 2 * (S - 1)) * C + run, run)


def layout(d: Tensor) -> np.ndarray:
    """Filters d (K, C, S, S) as the loops read them: (K · S · run,), rows interleaved and padded with zeros."""
    K, C, S, _ = d.shape
    rows = d.new_zeros(K, S, frame(C, S, S, S).run)
    rows[:, :, : S * C] = d.permute(0, 2, 3, 1).reshape(K, S, S * C)
    return rows.numpy().reshape(-1)


def _walk(builder, filter_at, image_at, i, frame, step):
    """Emit the loop over an atom: `step(filter offset, image offset)` for each vector of each of its rows."""
    H, S, row, run = (builder.extract_value(frame, Frame._fields.index(name)) for name in ("H", "S", "row", "run"))
    vectors = builder.udiv(run, ir.Constant(_INT, _LANES))
    with cgutils.for_range(builder, S, intp=_INT) as line:
        y = builder.add(i, line.index)
        y = builder.select(builder.icmp_signed(">=", y, H), builder.sub(y, H), y)
        start = builder.add(builder.mul(y, row), image_at)
        filter_start = builder.add(filter_at, builder.mul(line.index, run))
        with cgutils.for_range(builder, vectors, intp=_INT) as vector:
            offset = builder.mul(vector.index, ir.Constant(_INT, _LANES))
            step(builder.add(filter_start, offset), builder.add(start, offset))


def _vectors(context, builder, array_type, array):
    """The vector type for an array's numbers, and a function from an offset into the array to a vector's address."""
    size = 4 if array_type.dtype == types.float32 else 8
    vector = ir.VectorType(ir.FloatType() if size == 4 else ir.DoubleType(), _LANES)
    data = context.make_array(array_type)(context, builder, array).data
    return vector, size, lambda offset: builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())


@intrinsic
def _inner(typing, filters, filter_at, image, image_at, i, frame):
    signature = filters.dtype(filters, types.intp, image, types.intp, types.intp, frame)

    def generate(context, builder, signature, args):
        filters, filter_at, image, image_at, i, frame = args
        vector, size, left = _vectors(context, builder, signature.args[0], filters)
        _, _, right = _vectors(context, builder, signature.args[2], image)
        total = cgutils.alloca_once(builder, vector)
        builder.store(ir.Constant(vector, [0.0] * _LANES), total)

        def step(a, b):
            one, other = builder.load(left(a), align=size), builder.load(right(b), align=size)
            product = builder.fmul(one, other, flags=("fast",))
            builder.store(builder.fadd(builder.load(total), product, flags=("fast",)), total)

        _walk(builder, filter_at, image_at, i, frame, step)
        lanes = builder.load(total)
        result = builder.extract_element(lanes, ir.Constant(_INDEX, 0))
        for lane in range(1, _LANES):
            result = builder.fadd(result, builder.extract_element(lanes, ir.Constant(_INDEX, lane)), flags=("fast",))
        return result

    return signature, generate


@intrinsic
def _outer(typing, filters, filter_at, image, image_at, i, frame, v):
    signature = types.void(filters, types.intp, image, types.intp, types.intp, frame, filters.dtype)

    def generate(context, builder, signature, args):
        filters, filter_at, image, image_at, i, frame, v = args
        vector, size, left = _vectors(context, builder, signature.args[0], filters)
        _, _, right = _vectors(context, builder, signature.args[2], image)
        undefined = ir.Constant(vector, ir.Undefined)
        factor = builder.insert_element(undefined, v, ir.Constant(_INDEX, 0))
        factor = builder.shuffle_vector(factor, undefined, ir.Constant(ir.VectorType(_INDEX, _LANES), [0] * _LANES))

        def step(a, b):
            product = builder.fmul(builder.load(left(a), align=size), factor, flags=("fast",))
            place = right(b)
            builder.store(builder.fadd(builder.load(place, align=size), product, flags=("fast",)), place, align=size)

        _walk(builder, filter_at, image_at, i, frame, step)
        return context.get_dummy_value()

    return signature, generate


@njit(nogil=True, cache=True)
def correlate(filters, k, i, j, image, frame):
    """⟨filter k moved to (i, j), image⟩."""
    return _inner(filters, k * frame.S * frame.run, image, (j + frame.S - 1) * frame.C, i, frame)


@njit(nogil=True, cache=True)
def add(filters, k, i, j, v, image, frame):
    """image += v · (filter k moved to (i, j)), in all the places where a column near the border is stored."""
    at, column = k * frame.S * frame.run, (j + frame.S - 1) * frame.C
    _outer(filters, at, image, column, i, frame, v)
    if j > frame.W - frame.S:
        _outer(filters, at, image, column - frame.W * frame.C, i, frame, v)
    if j < frame.S - 1:
        _outer(filters, at, image, column + frame.W * frame.C, i, frame, v)


@njit(nogil=True, cache=True)
def add_all(filters, k, i, j, v, image, frame):
    """image += Σ v · (filter k moved to (i, j)) over lists, for an image whose columns are not repeated before."""
    for a in range(len(v)):
        if v[a] != 0:
            _outer(filters, k[a] * frame.S * frame.run, image, (j[a] + frame.S - 1) * frame.C, i[a], frame, v[a])
    first, width = (frame.S - 1) * frame.C, frame.W * frame.C
    for y in range(frame.H):
        for q in range(y * frame.row + first, y * frame.row + 2 * first):
            image[q] += image[q + width]
            image[q + width] = image[q]


@njit(nogil=True, cache=True)
def put(x, image, frame):
    """An image x (C, H, W) into its frame, without repeated columns: `wrap` or `add_all` repeats them."""
    image[:] = 0
    for y in range(frame.H):
        at = y * frame.row + (frame.S - 1) * frame.C
        for w in range(frame.W):
            for c in range(frame.C):
                image[at + w * frame.C + c] = x[c, y, w]


def take(image, x, frame):
    """The image in a frame out into x (C, H, W)."""
    first = (frame.S - 1) * frame.C
    rows = image.reshape(frame.H, frame.row)[:, first : first + frame.W * frame.C]
    x[:] = rows.reshape(frame.H, frame.W, frame.C).transpose(2, 0, 1)


@njit(nogil=True, cache=True)
def wrap(image, frame):
    """Repeat the first columns of an image after its last."""
    first, width = (frame.S - 1) * frame.C, frame.W * frame.C
    for y in range(frame.H):
        for q in range(y * frame.row + first, y * frame.row + 2 * first):
            image[q + width] = image[q]


@njit(nogil=True, cache=True)
def solve(filters, k, i, j, rest, tol, rounds, frame):
    """The v with ⟨atom, Σ v · atom⟩ = `rest` for every atom of a list, by conjugate gradients; `rest` is used up.

    Down to a relative residual of `tol`, or for so many rounds.
    """
    n, image, rho = len(rest), np.empty(frame.H * frame.row, rest.dtype), 0.0
    v, direction, moved = np.zeros_like(rest), rest.copy(), np.empty_like(rest)
    for a in range(n):
        rho += float(rest[a]) ** 2
    goal = tol * tol * rho
    for _ in range(rounds):
        if rho <= goal or rho == 0:
            break
        image[:] = 0
        add_all(filters, k, i, j, direction, image, frame)
        curve = 0.0
        for a in range(n):
            moved[a] = correlate(filters, k[a], i[a], j[a], image, frame)
            curve += float(moved[a]) * float(direction[a])
        if curve <= 0:
            break
        step, last = rho / curve, rho
        rho = 0.0
        for a in range(n):
            v[a] += step * direction[a]
            rest[a] -= step * moved[a]
            rho += float(rest[a]) ** 2
        for a in range(n):
            direction[a] = rest[a] + rho / last * direction[a]
    return v

"""Coordinate descent on a growing working set, for the code of one image, compiled with numba.

The codes of natural images are very sparse (about 270 of 65,536 coefficients at the paper's setting). So torch computes
the correlations Dᵀr with all shifted filters rarely and densely (`batch_solver`). Between two of these passes,
coordinate descent works on the few coefficients that can be non-zero, in the image itself: correlating an atom with the
residual, or moving its coefficient, costs S·S·C multiplications and no table. New coefficients enter where Dᵀr exceeds
λ and no neighbour exceeds it more: the greediness of Moreau, Oudre & Vayatis (DICOD, ICML 2018).
"""

from labkit.csc import atoms

import numpy as np
from numba import njit

# Shares of the largest violation of optimality: what may enter (fewer take more passes, more a larger set), how well
# the working set is solved, and what is worth a move. And the relative residual of `_newton`.
_ENTER, _INNER, _MOVE, _STEP = 0.25, 0.35, 0.25, 0.17


@njit(nogil=True, cache=True)
def scan(bits, K, sign, level, peak, arg):
    """Per pixel of bits (pixels · K,) the largest and, where that is above `level`, its filter.

    Floats of any width, seen as unsigned integers, order by size when the bit of their sign is left out (`sign` is
    the mask). So compared, many fit one instruction, where numba compares floats one by one.
    """
    n, at = np.uint64(K), np.uint64(0)
    for u in range(len(peak)):
        m = sign ^ sign
        for k in range(n):
            m = max(m, bits[at + k] & sign)
        peak[u] = m
        if m > level:
            for k in range(n):
                if bits[at + k] & sign == m:
                    arg[u] = k
        at += n


@njit(nogil=True, cache=True)
def subtract(x, filters, k, i, j, v, residual, frame):
    """x − D z into a frame."""
    atoms.put(x, residual, frame)
    atoms.add_all(filters, k, i, j, -v, residual, frame)


@njit(nogil=True, cache=True)
def advance(x, residual, k, i, j, v, top, arg, worst, filters, lam, frame, target, early):
    """One outer step for one image: certify, and if the gap is above `target`, improve its code and residual.

    x           (C, H, W) image; residual, x − D z in its frame
    k, i, j, v  the code z, which must have every non-zero coefficient
    top, arg    per pixel by how much the largest of |Dᵀr| is above the level, and its filter; `worst`, the largest of
                all over the level
    lam         (K,) λ for each filter of unit norm (infinite for a zero filter)
    early       whether to be choosy, as is good while most of the image is still to be explained

    Returns the duality gap of the code as it came in, for the dual point s·r with the best s, and the code.
    """
    rr, zc, l1, peak = 0.0, 0.0, 0.0, float(top.max())
    for y in range(frame.H):
        at = y * frame.row + (frame.S - 1) * frame.C
        for q in range(at, at + frame.W * frame.C):
            rr += float(residual[q]) ** 2
    for a in range(len(v)):
        c, own = atoms.correlate(filters, k[a], i[a], j[a], residual, frame), lam[k[a]]
        zc += float(v[a]) * float(c)
        l1 += abs(float(v[a])) * float(own)
        peak = max(peak, float(abs(c - max(min(c + v[a], own), -own))))  # how far from its best: |z − soft(z + c, λ)|
    xr = rr + zc
    s = xr / rr if rr > 0 else 0.0
    if worst > 0:
        bound = 1 / (worst * (1 + (1e-6 if v.itemsize == 4 else 1e-14)))
        s = min(max(s, -bound), bound)
    gap = 0.5 * rr + l1 - (s * xr - 0.5 * s * s * rr)
    if gap <= target or peak <= 0:
        return gap, k, i, j, v
    k, i, j, v = _grow(k, i, j, v, top, arg, _ENTER * peak, 1 if early else 0, frame)
    la = lam[k]
    for _ in range(20):
        if _sweep(filters, k, i, j, v, la, residual, frame, _INNER * peak, 20) <= _INNER * peak:
            break
        _newton(filters, k, i, j, v, la, residual, frame)
    subtract(x, filters, k, i, j, v, residual, frame)  # afresh, so that rounding does not pile up
    used = v != 0
    return gap, k[used], i[used], j[used], v[used]


@njit(nogil=True, cache=True)
def _grow(k, i, j, v, top, arg, level, reach, frame):
    """The code with new coefficients, still zero, by row: where `top` is above `level` and nowhere higher in reach."""
    H, W = frame.H, frame.W
    room = len(v) + H * W
    k2, i2, j2 = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32)
    v2 = np.zeros(room, v.dtype)
    n, a = 0, 0
    for y in range(H):
        row = n
        while a < len(v) and i[a] == y:
            k2[n], i2[n], j2[n], v2[n] = k[a], i[a], j[a], v[a]
            n, a = n + 1, a + 1
        kept = n
        for w in range(W):
            t = top[y * W + w]
            if t <= level:
                continue
            highest = t
            for p in range(y - reach, y + reach + 1):
                for q in range(w - reach, w + reach + 1):
                    highest = max(highest, top[(p % H) * W + q % W])
            new = t >= highest
            for b in range(row, kept):
                new = new and not (j2[b] == w and k2[b] == arg[y * W + w])
            if new:
                k2[n], i2[n], j2[n] = arg[y * W + w], y, w
                n += 1
    return k2[:n], i2[:n], j2[:n], v2[:n]


@njit(nogil=True, cache=True)
def _sweep(filters, k, i, j, v, la, residual, frame, tol, max_sweeps):
    """Cyclic coordinate descent on the working set until no update exceeds `tol`; returns the last largest one."""
    most = la[0] * 0
    for _ in range(max_sweeps):
        most = la[0] * 0
        for a in range(len(v)):
            best = v[a] + atoms.correlate(filters, k[a], i[a], j[a], residual, frame)
            best -= max(min(best, la[a]), -la[a])  # an exact zero where it is one: the gradient asks what is active
            move = best - v[a]
            if abs(move) > _MOVE * tol or (best == 0 and move != 0):
                v[a] = best
                atoms.add(filters, k[a], i[a], j[a], -move, residual, frame)
                most = max(most, abs(move))
        if most <= tol:
            break
    return most


@njit(nogil=True, cache=True)
def _newton(filters, k, i, j, v, la, residual, frame):
    """One step towards the minimum that the working set has if no sign changes, up to the first sign that would.

    Coordinate descent crawls where filters are nearly dependent; conjugate gradients do not. The objective falls all
    the way, since it is quadratic as long as signs hold.
    """
    used = np.flatnonzero(v)
    k, i, j, rest = k[used], i[used], j[used], np.empty(len(used), v.dtype)
    for a, b in enumerate(used):
        c = atoms.correlate(filters, k[a], i[a], j[a], residual, frame)
        rest[a] = c - (la[b] if v[b] > 0 else -la[b])
    step = atoms.solve(filters, k, i, j, rest, _STEP, 100, frame)
    length, first = 1.0, -1
    for a, b in enumerate(used):
        if v[b] * (v[b] + length * step[a]) < 0:
            length, first = -v[b] / step[a], a
    for a, b in enumerate(used):
        step[a] = -v[b] if a == first else length * step[a]
        if step[a] != 0:
            v[b] += step[a]
            atoms.add(filters, k[a], i[a], j[a], -step[a], residual, frame)
    if first >= 0:
        v[used[first]] = 0

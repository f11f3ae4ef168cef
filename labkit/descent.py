"""Coordinate descent over a growing working set, for one convolutional code, compiled with numba.

The codes of natural images are very sparse (about 230 of 65,536 coefficients at the paper's setting). So the
correlations Dᵀr with all shifted filters are computed rarely, for a whole batch at once and by a fast dense
convolution (`cbpdn` does that), and between two of those passes coordinate descent works on the few coefficients
that can be non-zero, where one update touches only their neighbours. New coefficients enter where Dᵀr exceeds λ
and no close one exceeds it more: the local greediness of Moreau, Oudre & Vayatis (DICOD, ICML 2018), in batches.
"""

import numpy as np
from numba import njit

from labkit.sparse import coordinates, neighbours, residual


@njit(fastmath=True, nogil=True, cache=True)
def _peaks(c, lam, top, arg):
    """Per pixel the largest |c| − λ over the filters, and that filter; returns the largest |c| / λ of all."""
    K, H, W = c.shape
    worst = 0.0
    top[:] = -np.inf
    for k in range(K):
        m = c[k, 0, 0] * 0
        for i in range(H):
            for j in range(W):
                a = abs(c[k, i, j])
                m = max(m, a)
                better = a - lam[k] > top[i, j]
                top[i, j] = a - lam[k] if better else top[i, j]
                arg[i, j] = k if better else arg[i, j]
        worst = max(worst, m / lam[k])
    return worst


@njit(nogil=True, cache=True)
def _fresh(z, top, arg, level):
    """Where a new coefficient may enter: pixels whose `top` is above `level` and not below any neighbour's."""
    H, W = top.shape
    fresh = np.zeros((H, W), np.bool_)
    for i in range(H):
        for j in range(W):
            v = top[i, j]
            if v <= level or z[arg[i, j], i, j] != 0:
                continue
            highest = v
            for p in range(i - 1, i + 2):
                for q in range(j - 1, j + 2):
                    highest = max(highest, top[p % H, q % W])
            fresh[i, j] = v >= highest
    return fresh


@njit(fastmath=True, nogil=True, cache=True)
def _sweep(za, ca, la, start, member, value, tol, max_sweeps):
    """Cyclic coordinate descent on the working set until no update exceeds `tol`; returns the last largest one."""
    most = ca[0] * 0
    for _ in range(max_sweeps):
        most = ca[0] * 0
        for a in range(len(za)):
            v = ca[a]
            move = v - max(min(v + za[a], la[a]), -la[a])
            if abs(move) > 0.3 * tol:
                za[a] += move
                for t in range(start[a], start[a + 1]):
                    ca[member[t]] -= move * value[t]
                most = max(most, abs(move))
        if most <= tol:
            break
    return most


@njit(fastmath=True, nogil=True, cache=True)
def _newton(za, ca, la, start, member, value):
    """One step towards the minimum that the working set has if no sign changes, up to the first sign that would.

    Coordinate descent crawls where filters are nearly dependent; conjugate gradients do not. The objective is
    quadratic as long as signs hold, so it falls all the way.
    """
    n = len(za)
    step, rest, moved = np.zeros(n, za.dtype), np.zeros(n, za.dtype), np.zeros(n, za.dtype)
    rho = 0.0
    for a in range(n):
        if za[a] != 0:
            rest[a] = ca[a] - (la[a] if za[a] > 0 else -la[a])
            rho += float(rest[a]) * float(rest[a])
    direction = rest.copy()
    goal = 1e-4 * rho
    for _ in range(100):
        if rho <= goal or rho == 0:
            break
        curve = 0.0
        for a in range(n):
            v = za[a] * 0
            if za[a] != 0:
                for t in range(start[a], start[a + 1]):
                    v += value[t] * direction[member[t]]
                curve += float(v) * float(direction[a])
            moved[a] = v
        if curve <= 0:
            break
        alpha = rho / curve
        last, rho = rho, 0.0
        for a in range(n):
            step[a] += alpha * direction[a]
            rest[a] -= alpha * moved[a]
            rho += float(rest[a]) * float(rest[a])
        for a in range(n):
            direction[a] = rest[a] + rho / last * direction[a]
    length, first = 1.0, -1
    for a in range(n):
        if za[a] * (za[a] + length * step[a]) < 0:
            length, first = -za[a] / step[a], a
    for a in range(n):
        if step[a] != 0:
            move = length * step[a]
            za[a] += move
            for t in range(start[a], start[a + 1]):
                ca[member[t]] -= move * value[t]
    if first >= 0:
        move = -za[first]  # what rounding left of it
        za[first] = 0
        for t in range(start[first], start[first + 1]):
            ca[member[t]] -= move * value[t]


@njit(nogil=True, cache=True)
def certificate(c, z, r, lam, worst):
    """Objective and duality gap from r = x − D z and c = Dᵀr.

    The dual point is s·r, with the best s for which |Dᵀ(s r)| ≤ λ; `worst` is max |c| / λ.
    """
    rr, zc, l1 = 0.0, 0.0, 0.0
    flat = r.reshape(-1)
    for a in range(len(flat)):
        rr += np.float64(flat[a]) * np.float64(flat[a])
    K, H, W = z.shape
    for k in range(K):
        for i in range(H):
            for j in range(W):
                v = z[k, i, j]
                if v != 0:
                    zc += np.float64(v) * np.float64(c[k, i, j])
                    l1 += abs(v) * lam[k]
    primal = 0.5 * rr + l1
    xr = rr + zc
    s = xr / rr if rr > 0 else 0.0
    if worst > 0:
        s = min(max(s, -1 / worst), 1 / worst)
    return primal, primal - (s * xr - 0.5 * s * s * rr)


@njit(nogil=True, cache=True)
def advance(x, r, c, z, gram, d, lam, target):
    """One outer step for one image: certify, and if the gap is above `target`, improve the code z and r, in place.

    x, r  (C, H, W)      image, and residual x − D z
    c     (K, H, W)      Dᵀr, which holds for z as it comes in
    gram  (K, P, P, K)   correlations of the unit-norm filters d (K, C, S, S) at lags −(S−1) … S−1
    lam   (K,)           λ over each filter's norm (infinite for a zero filter)

    Returns the duality gap of z as it came in.
    """
    K, H, W = c.shape
    top, arg = np.empty((H, W), c.dtype), np.zeros((H, W), np.int32)
    worst = _peaks(c, lam, top, arg)
    rounding = 1e-6 if c.itemsize == 4 else 1e-14
    _, gap = certificate(c, z, r, lam, worst * (1 + rounding))
    if gap <= target:
        return gap
    peak = c[0, 0, 0] * 0
    for i in range(H):
        for j in range(W):
            peak = max(peak, top[i, j])
    row, ak, ai, aj = coordinates(z, _fresh(z, top, arg, 0.1 * peak), arg)
    n = len(ak)
    if n == 0:
        return gap
    start, member, value = neighbours(row, ak, ai, aj, gram, (H, W))
    za, ca, la = np.empty(n, c.dtype), np.empty(n, c.dtype), np.empty(n, c.dtype)
    for a in range(n):
        k, i, j = ak[a], ai[a], aj[a]
        za[a], ca[a], la[a] = z[k, i, j], c[k, i, j], lam[k]
    for _ in range(20):
        if _sweep(za, ca, la, start, member, value, 0.1 * peak, 10) <= 0.1 * peak:
            break
        _newton(za, ca, la, start, member, value)
    for a in range(n):
        z[ak[a], ai[a], aj[a]] = za[a]
    residual(x, z, d, r)
    return gap

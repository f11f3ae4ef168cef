"""Coordinate descent over a growing working set, for one convolutional code, compiled with numba.

The codes of natural images are very sparse (about 230 of 65,536 coefficients at the paper's setting). So the
correlations Dᵀr with all shifted filters are computed rarely, for a whole batch at once and by a fast dense
convolution (`cbpdn` does that), and between two of those passes coordinate descent works on the few coefficients
that can be non-zero, where one update touches only their neighbours. New coefficients enter where Dᵀr exceeds λ
and no close one exceeds it more: the local greediness of Moreau, Oudre & Vayatis (DICOD, ICML 2018), in batches.
"""

import numpy as np
from numba import njit

from labkit.sparse import active, grow, nobody, subtract

# Both as shares of the largest violation of optimality. Entering fewer coefficients takes more dense passes, more of
# them a larger working set; the working set need not be solved better than the rest will be known.
_ENTER, _INNER = 0.2, 0.3


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
def _entering(z, top, arg, level, reach):
    """Coefficients that may enter: where `top` is above `level` and no neighbour's within `reach` is higher."""
    H, W = top.shape
    ek, ei, ej = np.empty(H * W, np.int32), np.empty(H * W, np.int32), np.empty(H * W, np.int32)
    n = 0
    for i in range(H):
        for j in range(W):
            v = top[i, j]
            if v <= level or z[arg[i, j], i, j] != 0:
                continue
            highest = v
            for p in range(i - reach, i + reach + 1):
                for q in range(j - reach, j + reach + 1):
                    highest = max(highest, top[p % H, q % W])
            if v >= highest:
                ek[n], ei[n], ej[n] = arg[i, j], i, j
                n += 1
    return ek[:n], ei[:n], ej[:n]


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
    goal = 0.03 * rho
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
def _certificate(r, za, ca, la, worst):
    """Duality gap from r = x − D z, the coefficients za that can be non-zero, and c = Dᵀr at them.

    The dual point is s·r, with the best s for which |Dᵀ(s r)| ≤ λ; `worst` is max |c| / λ.
    """
    rr, zc, l1 = 0.0, 0.0, 0.0
    flat = r.reshape(-1)
    for a in range(len(flat)):
        rr += np.float64(flat[a]) * np.float64(flat[a])
    for a in range(len(za)):
        zc += np.float64(za[a]) * np.float64(ca[a])
        if za[a] != 0:
            l1 += abs(np.float64(za[a])) * la[a]
    xr = rr + zc
    s = xr / rr if rr > 0 else 0.0
    if worst > 0:
        s = min(max(s, -1 / worst), 1 / worst)
    return 0.5 * rr + l1 - (s * xr - 0.5 * s * s * rr)


@njit(nogil=True, cache=True)
def begin(x, z, gram, d, r):
    """The working set of a given code, and its residual in r."""
    k, i, j = active(z)
    v = np.empty(len(k), z.dtype)
    for a in range(len(k)):
        v[a] = z[k[a], i[a], j[a]]
    r[:] = x
    subtract(k, i, j, v, d, r)
    return grow(nobody(d), np.empty(0, np.bool_), k, i, j, gram, z.shape[1], z.shape[2])


@njit(nogil=True, cache=True)
def advance(x, r, c, z, links, gram, d, lam, target, early):
    """One outer step for one image: certify, and if the gap is above `target`, improve the code z and r, in place.

    x, r   (C, H, W)      image, and residual x − D z
    c      (K, H, W)      Dᵀr, which holds for z as it comes in
    links                 the working set (`sparse.grow`), which has every non-zero coefficient of z
    gram   (K, P, P, K)   correlations of the unit-norm filters d (K, C, S, S) at lags −(S−1) … S−1
    lam    (K,)           λ over each filter's norm (infinite for a zero filter)
    early                 whether to be choosy, as is good while most of the image is still to be explained

    Returns the duality gap of z as it came in, and the working set.
    """
    _, H, W = c.shape
    top, arg = np.empty((H, W), c.dtype), np.zeros((H, W), np.int32)
    worst = _peaks(c, lam, top, arg)
    n = len(links[0])
    za, ca, la = _gather(z, c, lam, links)
    rounding = 1e-6 if c.itemsize == 4 else 1e-14
    gap = _certificate(r, za, ca, la, worst * (1 + rounding))
    if gap <= target:
        return gap, links
    peak = c[0, 0, 0] * 0
    for i in range(H):
        for j in range(W):
            peak = max(peak, top[i, j])
    for a in range(n):  # where the working set itself is not solved yet, that counts too
        peak = max(peak, abs(ca[a] - max(min(ca[a] + za[a], la[a]), -la[a])))
    ek, ei, ej = _entering(z, top, arg, _ENTER * peak, 1 if early else 0)
    links = grow(links, za != 0, ek, ei, ej, gram, H, W)
    za, ca, la = _gather(z, c, lam, links)
    start, member, value = links[3], links[4], links[5]
    for _ in range(20):
        if _sweep(za, ca, la, start, member, value, _INNER * peak, 10) <= _INNER * peak:
            break
        _newton(za, ca, la, start, member, value)
    r[:] = x
    subtract(links[0], links[1], links[2], za, d, r)
    for a in range(len(za)):
        z[links[0][a], links[1][a], links[2][a]] = za[a]
    return gap, links


@njit(nogil=True, cache=True)
def _gather(z, c, lam, links):
    n = len(links[0])
    za, ca, la = np.empty(n, c.dtype), np.empty(n, c.dtype), np.empty(n, c.dtype)
    for a in range(n):
        k, i, j = links[0][a], links[1][a], links[2][a]
        za[a], ca[a], la[a] = z[k, i, j], c[k, i, j], lam[k]
    return za, ca, la

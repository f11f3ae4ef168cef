"""Compiled loops over the few non-zero coefficients of one convolutional code."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def coordinates(z, fresh, arg):
    """The non-zero coefficients of z (K, H, W), and those of filter `arg` where `fresh`, in raster order.

    Returns (row, k, i, j): the members of row i stand at row[i]:row[i + 1].
    """
    K, H, W = z.shape
    row = np.zeros(H + 1, np.int64)
    for k in range(K):
        for i in range(H):
            for j in range(W):
                row[i + 1] += z[k, i, j] != 0
    for i in range(H):
        for j in range(W):
            row[i + 1] += fresh[i, j] and z[arg[i, j], i, j] == 0
    row = np.cumsum(row)
    at = row[:-1].copy()
    ak, ai, aj = np.empty(row[-1], np.int32), np.empty(row[-1], np.int32), np.empty(row[-1], np.int32)
    for k in range(K):
        for i in range(H):
            for j in range(W):
                if z[k, i, j] != 0 or (fresh[i, j] and arg[i, j] == k):
                    ak[at[i]], ai[at[i]], aj[at[i]] = k, i, j
                    at[i] += 1
    return row, ak, ai, aj


@njit(nogil=True, cache=True)
def active(z):
    """The non-zero coefficients of z alone, as `coordinates`."""
    H, W = z.shape[1:]
    return coordinates(z, np.zeros((H, W), np.bool_), np.zeros((H, W), np.int32))


@njit(nogil=True, cache=True)
def neighbours(row, ak, ai, aj, gram, size):
    """Correlations between members of the working set closer than S, as compressed rows (start, member, value)."""
    H, W = size
    P = gram.shape[1]
    n = len(ak)
    start = np.empty(n + 1, np.int64)
    room = 64 * n + 64
    member, value = np.empty(room, np.int32), np.empty(room, gram.dtype)
    e = 0
    for a in range(n):
        start[a] = e
        for p in range(P):
            i = (ai[a] + p - P // 2) % H
            for b in range(row[i], row[i + 1]):
                q = aj[b] - aj[a] + P // 2
                if q < 0:
                    q += W
                elif q >= W:
                    q -= W
                while q < P:  # more than once only where the image is smaller than 2S − 1
                    if e == room:
                        room *= 2
                        wider = np.empty(room, np.int32)
                        wider[:e] = member
                        member = wider
                        longer = np.empty(room, gram.dtype)
                        longer[:e] = value
                        value = longer
                    member[e], value[e] = b, gram[ak[a], p, q, ak[b]]
                    e += 1
                    q += W
    start[n] = e
    return start, member, value


@njit(nogil=True, cache=True)
def residual(x, z, d, r):
    """r = x − D z for one image, at the cost of the non-zero coefficients. x, r (C, H, W), z (K, H, W)."""
    K, H, W = z.shape
    C, S = d.shape[1], d.shape[2]
    r[:] = x
    for k in range(K):
        for i in range(H):
            for j in range(W):
                v = z[k, i, j]
                if v == 0:
                    continue
                for c in range(C):
                    for p in range(S):
                        ip = i + p if i + p < H else i + p - H
                        for q in range(S):
                            jq = j + q if j + q < W else j + q - W
                            r[c, ip, jq] -= v * d[k, c, p, q]


@njit(nogil=True, cache=True)
def correlate(z, x, ztz, ztx):
    """Add the lag correlations of one code to ztz (K, K, P, P), and those of code and image to ztx (K, C, S, S)."""
    K, H, W = z.shape
    C, S = ztx.shape[1], ztx.shape[2]
    P = 2 * S - 1
    row, ak, ai, aj = active(z)
    for a in range(len(ak)):
        v = z[ak[a], ai[a], aj[a]]
        for c in range(C):
            for p in range(S):
                for q in range(S):
                    ztx[ak[a], c, p, q] += v * x[c, (ai[a] + p) % H, (aj[a] + q) % W]
        for p in range(P):
            i = (ai[a] + p - S + 1) % H
            for b in range(row[i], row[i + 1]):
                q = (aj[b] - aj[a] + S - 1) % W
                while q < P:
                    ztz[ak[a], ak[b], p, q] += v * z[ak[b], i, aj[b]]
                    q += W


@njit(nogil=True, cache=True)
def project(g, support, gram, d, tol, out):
    """Orthogonal projection of g (C, H, W) onto the span of the shifted filters in `support` (K, H, W), into `out`.

    Conjugate gradients on the normal equations of the active atoms; stops at a relative residual of `tol`.
    """
    K, H, W = support.shape
    C, S = d.shape[1], d.shape[2]
    out[:] = 0
    row, ak, ai, aj = active(support)
    n = len(ak)
    if n == 0:
        return
    start, member, value = neighbours(row, ak, ai, aj, gram, (H, W))
    v, rest = np.zeros(n), np.zeros(n)
    for a in range(n):
        for c in range(C):
            for p in range(S):
                for q in range(S):
                    rest[a] += d[ak[a], c, p, q] * g[c, (ai[a] + p) % H, (aj[a] + q) % W]
    direction = rest.copy()
    moved = np.empty(n)
    rho = np.dot(rest, rest)
    goal = tol * tol * rho
    for _ in range(4 * n):
        if rho <= goal or rho == 0:
            break
        for a in range(n):
            s = 0.0
            for t in range(start[a], start[a + 1]):
                s += value[t] * direction[member[t]]
            moved[a] = s
        curve = np.dot(direction, moved)
        if curve <= 0:
            break
        step = rho / curve
        v += step * direction
        rest -= step * moved
        last, rho = rho, np.dot(rest, rest)
        direction = rest + (rho / last) * direction
    for a in range(n):
        for c in range(C):
            for p in range(S):
                for q in range(S):
                    out[c, (ai[a] + p) % H, (aj[a] + q) % W] += v[a] * d[ak[a], c, p, q]

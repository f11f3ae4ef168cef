"""Compiled loops over the few non-zero coefficients of one convolutional code."""

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def active(z):
    """The non-zero coefficients of z (K, H, W): their filters, rows and columns, ordered by row."""
    K, H, W = z.shape
    row = np.zeros(H + 1, np.int64)
    for k in range(K):
        for i in range(H):
            for j in range(W):
                row[i + 1] += z[k, i, j] != 0
    at = np.cumsum(row)
    ak, ai, aj = np.empty(at[-1], np.int32), np.empty(at[-1], np.int32), np.empty(at[-1], np.int32)
    for k in range(K):
        for i in range(H):
            for j in range(W):
                if z[k, i, j] != 0:
                    ak[at[i]], ai[at[i]], aj[at[i]] = k, i, j
                    at[i] += 1
    return ak, ai, aj


@njit(nogil=True, cache=True)
def nobody(like):
    """The empty working set: see `grow`. `like` is any array of the number format in use."""
    none = np.empty(0, np.int32)
    return none, none, none, np.zeros(1, np.int64), none, np.empty(0, like.dtype)


@njit(nogil=True, cache=True)
def grow(links, keep, fk, fi, fj, gram, H, W):
    """A working set with those members of `links` that are to be kept, and new ones.

    A working set is (k, i, j, start, member, value): coefficients ordered by row, and for each the members closer
    than S, as compressed rows of positions and correlations. Correlations of kept pairs are not looked up again: the
    table is larger than a fast cache, and looking up is most of the cost.

    keep        (n,) bool          which members stay
    fk, fi, fj  (m,) int32         new coefficients, ordered by row
    gram        (K, P, P, K)       correlations of the filters at all lags, P = 2S − 1
    """
    k0, i0, j0, start0, member0, value0 = links
    P, K = gram.shape[1], gram.shape[0]
    row = np.zeros(H + 1, np.int64)
    for a in range(len(k0)):
        row[i0[a] + 1] += keep[a]
    for f in range(len(fk)):
        row[fi[f] + 1] += 1
    row = np.cumsum(row)
    n = row[-1]
    k, i, j = np.empty(n, np.int32), np.empty(n, np.int32), np.empty(n, np.int32)
    old = np.full(n, -1, np.int32)
    new = np.full(len(k0), -1, np.int32)
    at = row[:-1].copy()
    for a in range(len(k0)):
        if keep[a]:
            b = at[i0[a]]
            at[i0[a]] += 1
            k[b], i[b], j[b], old[b], new[a] = k0[a], i0[a], j0[a], a, b
    for f in range(len(fk)):
        b = at[fi[f]]
        at[fi[f]] += 1
        k[b], i[b], j[b] = fk[f], fi[f], fj[f]

    # Where the correlations of new members stand is written down first and read afterwards, in a loop so plain that
    # the processor waits for many of them at once.
    room = 96 * len(fk) + 64
    one, other, place = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int64)
    degree = np.zeros(n + 1, np.int64)
    e = 0
    for a in range(n):
        if old[a] >= 0:
            continue
        for p in range(P):
            ip = i[a] + p - P // 2
            ip = ip % H if ip < 0 or ip >= H else ip
            if e + 2 * (row[ip + 1] - row[ip]) * (1 + P // W) >= room:
                room = 2 * room + 2 * (row[ip + 1] - row[ip]) * (1 + P // W)
                one, other, place = _longer(one, room), _longer(other, room), _longer(place, room)
            for b in range(row[ip], row[ip + 1]):
                q = j[b] - j[a] + P // 2
                if q < 0:
                    q += W
                elif q >= W:
                    q -= W
                while q < P:  # more than once only where the image is smaller than 2S − 1
                    one[e], other[e], place[e] = a, b, ((k[a] * P + p) * P + q) * K + k[b]
                    degree[a + 1] += 1
                    degree[b + 1] += old[b] >= 0
                    e += 1
                    q += W
    found = np.empty(e, gram.dtype)
    table = gram.reshape(-1)
    for t in range(e):
        found[t] = table[place[t]]

    for a in range(n):
        if old[a] >= 0:
            for t in range(start0[old[a]], start0[old[a] + 1]):
                degree[a + 1] += new[member0[t]] >= 0
    start = np.cumsum(degree)
    member, value = np.empty(start[-1], np.int32), np.empty(start[-1], gram.dtype)
    to = start[:-1].copy()
    for a in range(n):
        if old[a] >= 0:
            for t in range(start0[old[a]], start0[old[a] + 1]):
                b = new[member0[t]]
                if b >= 0:
                    member[to[a]], value[to[a]] = b, value0[t]
                    to[a] += 1
    for t in range(e):
        a, b = one[t], other[t]
        member[to[a]], value[to[a]] = b, found[t]
        to[a] += 1
        if old[b] >= 0:
            member[to[b]], value[to[b]] = a, found[t]
            to[b] += 1
    return k, i, j, start, member, value


@njit(nogil=True, cache=True)
def _longer(a, n):
    b = np.empty(n, a.dtype)
    b[: len(a)] = a
    return b


@njit(nogil=True, cache=True)
def subtract(k, i, j, v, d, r):
    """r −= Σ v · (filter k moved to (i, j)), over lists of coefficients; r (C, H, W), d (K, C, S, S)."""
    C, H, W = r.shape
    S = d.shape[2]
    for a in range(len(v)):
        if v[a] == 0:
            continue
        for c in range(C):
            for p in range(S):
                ip = i[a] + p if i[a] + p < H else i[a] + p - H
                if j[a] + S <= W:
                    for q in range(S):
                        r[c, ip, j[a] + q] -= v[a] * d[k[a], c, p, q]
                else:
                    for q in range(S):
                        r[c, ip, (j[a] + q) % W] -= v[a] * d[k[a], c, p, q]


@njit(nogil=True, cache=True)
def correlate(z, x, ztz, ztx):
    """Add the lag correlations of one code to ztz (K, K, P, P), and those of code and image to ztx (K, C, S, S)."""
    H, W = z.shape[1:]
    C, S = ztx.shape[1], ztx.shape[2]
    P = 2 * S - 1
    k, i, j = active(z)
    row = np.searchsorted(i, np.arange(H + 1))
    for a in range(len(k)):
        v = z[k[a], i[a], j[a]]
        for c in range(C):
            for p in range(S):
                for q in range(S):
                    ztx[k[a], c, p, q] += v * x[c, (i[a] + p) % H, (j[a] + q) % W]
        for p in range(P):
            ip = (i[a] + p - S + 1) % H
            for b in range(row[ip], row[ip + 1]):
                q = (j[b] - j[a] + S - 1) % W
                while q < P:
                    ztz[k[a], k[b], p, q] += v * z[k[b], ip, j[b]]
                    q += W


@njit(nogil=True, cache=True)
def project(g, support, gram, d, tol, out):
    """Orthogonal projection of g (C, H, W) onto the span of the shifted filters in `support` (K, H, W), into `out`.

    Conjugate gradients on the normal equations of the active atoms; stops at a relative residual of `tol`.
    """
    H, W = support.shape[1:]
    C, S = d.shape[1], d.shape[2]
    out[:] = 0
    fk, fi, fj = active(support)
    n = len(fk)
    if n == 0:
        return
    k, i, j, start, member, value = grow(nobody(d), np.empty(0, np.bool_), fk, fi, fj, gram, H, W)
    v, rest = np.zeros(n), np.zeros(n)
    for a in range(n):
        for c in range(C):
            for p in range(S):
                for q in range(S):
                    rest[a] += d[k[a], c, p, q] * g[c, (i[a] + p) % H, (j[a] + q) % W]
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
    subtract(k, i, j, -v, d, out)

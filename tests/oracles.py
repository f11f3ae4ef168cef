"""Slow, dense and obvious versions of what labkit computes quickly; no line is shared with it."""

import numpy as np


def synthesize(z, d):
    """Σₖ dₖ ∗ zₖ for one image, by its definition: z (K, H, W), d (K, C, S, S) -> (C, H, W)."""
    K, H, W = z.shape
    C, S = d.shape[1], d.shape[2]
    x = np.zeros((C, H, W))
    for k in range(K):
        for c in range(C):
            for i in range(H):
                for j in range(W):
                    for p in range(S):
                        for q in range(S):
                            x[c, i, j] += d[k, c, p, q] * z[k, (i - p) % H, (j - q) % W]
    return x


def matrix(d, size):
    """The linear map z ↦ Σₖ dₖ ∗ zₖ as a dense matrix (C·H·W, K·H·W), column by column."""
    K, H, W = len(d), *size
    columns = []
    for k in range(K):
        for i in range(H):
            for j in range(W):
                x = np.zeros((d.shape[1], H, W))
                for c in range(d.shape[1]):
                    for p in range(d.shape[2]):
                        for q in range(d.shape[3]):
                            x[c, (i + p) % H, (j + q) % W] += d[k, c, p, q]
                columns.append(x.ravel())
    return np.stack(columns, axis=1)


def lasso(x, d, lam):
    """The optimal code of one image by scikit-learn's Lasso on the dense matrix: (K, H, W)."""
    from sklearn.linear_model import Lasso

    D = matrix(d, x.shape[1:])
    # scikit-learn minimises 1/(2n) ‖x − Dz‖² + α‖z‖₁.
    model = Lasso(alpha=lam / len(D), fit_intercept=False, max_iter=200_000, tol=1e-13)
    return model.fit(D, x.ravel()).coef_.reshape(len(d), *x.shape[1:])


def objective(z, x, d, lam):
    """½‖x − Σₖ dₖ ∗ zₖ‖² + λ‖z‖₁ for one image."""
    return 0.5 * ((x - synthesize(z, d)) ** 2).sum() + lam * np.abs(z).sum()


def rejects(detector, x):
    """Which images (B,) score above a detector's threshold."""
    return detector.score(x) > detector.threshold

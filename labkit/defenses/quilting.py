"""Image quilting: an image sewn together anew from patches of training images."""

from typing import Self

from labkit.core import InputError
from labkit.datasets import Images
from labkit.defenses.d3 import starts
from labkit.models import Defense
from labkit.models.defense import check

import numpy as np
import torch
from numba import njit
from torch import Tensor
from tqdm.auto import tqdm

_COMPONENTS, _GROUP = 15, 128  # of a patch's features, and patches in a group: the fastest at natural images
_SLACK, _ROUNDING = np.float32(1 + 1e-4), np.float32(1e-2)  # of squared distances in single precision, for [0, 255]
_IMAGES_AT_ONCE, _PATCHES_AT_ONCE = 100, 2**16
_DISTANCES_AT_ONCE = 2**24
_SOFT = 10  # nearest patches that the smooth stand-in mixes


class Quilting(Defense):
    """Replaces the patches of an image by their nearest neighbours among patches of clean training images.

    Guo, Rana, Cissé & van der Maaten, "Countering adversarial images using input transformations", ICLR 2018,
    Section 4; the sewing is that of Efros & Freeman, "Image quilting for texture synthesis and transfer",
    SIGGRAPH 2001: where two patches overlap, each is kept on its side of the cut along which they differ least.

    patch       pixels a side
    overlap     pixels by which neighbouring patches overlap
    patches     most patches that `fit` draws, evenly over the training images; of equal ones it keeps one
    neighbours  one of so many nearest patches is drawn at random: 1 in Guo et al. for whole images, 10 for crops

    Chosen here: where the grid does not fit the image, the last patches end at the border, and overlap more; the cuts
    above and to the left are found one by one, and the new patch fills what is beyond both; patches have 8 bits.

    Not differentiable. Its smooth stand-in takes, in place of the nearest patch, the mean of the ten nearest by softmax
    weights of their squared distances, and keeps the seams. Their unit is `temperature` times the mean excess over the
    least distance; at 0 the stand-in is quilting itself.

    index  (N, C, patch, patch) uint8, the fitted patches
    """

    differentiable = False
    temperature = 1.0
    sized_by_fit = ("index",)

    def __init__(self, patch: int = 5, overlap: int = 2, patches: int = 1_000_000, neighbours: int = 1):
        super().__init__(patch=patch, overlap=overlap, patches=patches, neighbours=neighbours)
        limits = f"overlap in [0, {patch}); neighbours in [1, {patches}]"
        check("Quilting", {"overlap": overlap, "neighbours": neighbours}, limits)
        self.smallest, self.stochastic = patch, neighbours > 1
        self.register_buffer("index", torch.empty(0, 0, patch, patch, dtype=torch.uint8))
        self._search = None

    @torch.no_grad()
    def fit(self, images: Images, *, progress: bool = False) -> Self:
        """Draw the patches, with `seeded`'s draws; all there are, when they are fewer than `patches`. Returns self."""
        self._check(images.x)
        N, C, H, W = images.x.shape
        spots = (H - self.patch + 1) * (W - self.patch + 1)
        each, rest = divmod(min(self.patches, N * spots), N)
        counts = torch.full((N,), each)
        counts[torch.randperm(N, generator=self.generator)[:rest]] += 1
        found, parts = [], counts.nonzero()[:, 0].split(_IMAGES_AT_ONCE)
        for part in tqdm(parts, desc="drawing patches", unit="batch", disable=not progress, delay=2):
            pixels = (images.x[part] * 255).round().byte()
            for windows, count in zip(self._windows(pixels), counts[part].tolist(), strict=True):
                at = torch.randperm(spots, generator=self.generator)[:count]
                found.append(windows[:, at // windows.shape[2], at % windows.shape[2]].transpose(0, 1).cpu())
        # Flat ones are equal by the thousand, and would hide every other candidate from the search.
        distinct = np.unique(torch.cat(found).flatten(1).numpy(), axis=0)
        if len(distinct) < self.neighbours:
            raise InputError(f"{len(distinct)} patches differ, not {self.neighbours}; give more images")
        self.index = torch.from_numpy(distinct).reshape(-1, C, self.patch, self.patch).to(self.index.device)
        self._search = None
        return self

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return self._sewn(x, self.nearest(self._grid(x).flatten(0, 2)))[0]

    def smooth(self, x: Tensor) -> Tensor:
        return self.both(x)[1]

    def smoothed(self) -> Defense:
        return _Smoothed(self)

    def both(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What `forward` and `smooth` make of x (B, C, H, W), by one search, the same draws and the same seams."""
        p = self._grid(x)
        found = self.nearest(p.detach().flatten(0, 2), min(max(_SOFT, self.neighbours), len(self.index)))
        out, owner = self._sewn(x, found)
        near = (self.index[found].to(x) / 255).flatten(2)
        first, other = near[:, 0], near - near[:, :1]
        # |x − pₖ|² − |x − p₀|², without the digits that cancel.
        excess = other.square().sum(2) - 2 * torch.einsum("nkd,nd->nk", other, p.reshape(first.shape) - first)
        scale = self.temperature * excess.detach().mean(1, keepdim=True).clamp_min(1e-6)
        soft = first + torch.einsum("nk,nkd->nd", torch.softmax(-excess / scale, 1), other)
        parts = soft.reshape(len(x), -1, x.shape[1], self.patch**2).transpose(1, 2).flatten(2)
        return out, parts.gather(2, owner.expand(-1, x.shape[1], -1)).reshape(x.shape)

    @torch.no_grad()
    def nearest(self, patches: Tensor, neighbours: int | None = None) -> Tensor:
        """Positions (n, neighbours) in `index` of the nearest patches, nearest first, to (n, C, patch, patch)."""
        self._check_fitted(len(self.index) >= self.neighbours)
        queries, k = patches.to(self.index.device).flatten(1), neighbours or self.neighbours
        if self.index.is_cuda:
            return _scan(queries.float(), self.index.flatten(1), k)
        if self._search is None:
            self._search = _Search(self.index.flatten(1))
        return self._search(queries, k)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, fitted to {len(self.index)} patches"

    def _grid(self, x: Tensor) -> Tensor:
        """The patches (B, R, L, C, patch, patch) of x that are replaced, in raster order."""
        self._check_fitted(len(self.index) >= self.neighbours)
        self._check(x, self.index.shape[1])
        rows, columns = (starts(side, self.patch, self.overlap) for side in x.shape[2:])
        return self._windows(x)[:, :, rows][:, :, :, columns].permute(0, 2, 3, 1, 4, 5)

    def _sewn(self, x: Tensor, found: Tensor) -> tuple[Tensor, Tensor]:
        """x sewn from one of the first `neighbours` patches found, and (B, 1, H · W) where each pixel is from."""
        if self.stochastic:
            drawn = torch.randint(self.neighbours, (len(found), 1), generator=self.generator)
            found = found.gather(1, drawn.to(found.device))
        (B, C, H, W), p = x.shape, self.patch
        rows, columns = (np.array(starts(side, p, self.overlap)) for side in (H, W))
        chosen = self.index[found[:, 0]].cpu().numpy().reshape(B, len(rows), len(columns), C, p, p)
        out, owner = np.empty(x.shape, np.uint8), np.empty((B, 1, H, W), np.int64)
        _sew(chosen, rows, columns, out, owner)
        return torch.from_numpy(out).to(x) / 255, torch.from_numpy(owner).flatten(2).to(x.device)

    def _windows(self, x: Tensor) -> Tensor:
        return x.unfold(2, self.patch, 1).unfold(3, self.patch, 1)

    def _prepare(self, stored: dict[str, Tensor]) -> None:
        self._search = None


class _Smoothed(Defense):
    def __init__(self, quilting: Quilting):
        super().__init__()
        self.quilting = quilting

    def forward(self, x: Tensor) -> Tensor:
        out, near = self.quilting.both(x)
        return near + (out - near).detach()


class _Search:
    """Exact nearest neighbours among patches (N, D) uint8.

    The first principal components of two patches, and the norms of the rests, are never farther apart than the
    patches (Parseval and the triangle inequality). scikit-learn's tree groups the patches by these features. A query
    skips a group whose box is farther than its nearest patches so far, then a patch whose features are.
    """

    def __init__(self, patches: Tensor):
        from sklearn.neighbors import KDTree  # as in `Strata.fit`

        self.patches = patches.numpy()
        self.mean = self.patches.mean(0, dtype=np.float64)
        # In parts, because a floating-point copy of all patches would be eight times as large as they.
        parts = [self.patches[at : at + _PATCHES_AT_ONCE] for at in range(0, len(patches), _PATCHES_AT_ONCE)]
        centred = (part - self.mean for part in parts)
        _, axes = np.linalg.eigh(sum(part.T @ part for part in centred))
        self.axes = axes[:, ::-1]
        tree = KDTree(np.concatenate([self._features(part) for part in parts]), leaf_size=_GROUP)
        features, ids, nodes, boxes = (np.asarray(array) for array in tree.get_arrays())
        leaf = nodes["is_leaf"].astype(bool)
        spans = np.stack([nodes["idx_start"], nodes["idx_end"]], 1)[leaf]
        self.groups = (features[ids].astype(np.float32), ids, spans, *boxes[:, leaf].astype(np.float32))

    def __call__(self, queries: Tensor, k: int) -> Tensor:
        wanted = 255 * queries.double().numpy()
        seen = self._features(wanted).astype(np.float32)
        return torch.from_numpy(_visit(wanted.astype(np.float32), seen, self.patches, *self.groups, k))

    def _features(self, patches: np.ndarray) -> np.ndarray:
        rotated = (patches - self.mean) @ self.axes
        rest = np.linalg.norm(rotated[:, _COMPONENTS:], axis=1, keepdims=True)
        return np.concatenate([rotated[:, :_COMPONENTS], rest], 1)


@njit(nogil=True, cache=True, fastmath=True)
def _visit(queries, seen, patches, features, ids, spans, low, high, k):
    """The search for `queries` (n, D) with features `seen`, among groups `spans` (G, 2) with boxes `low`, `high`."""
    found = np.empty((len(queries), k), np.int64)
    bounds = np.empty(len(spans), np.float32)
    for n in range(len(queries)):
        query, at = queries[n], seen[n]
        for g in range(len(spans)):
            total = np.float32(0)
            for d in range(len(at)):
                total += max(low[g, d] - at[d], at[d] - high[g, d], np.float32(0)) ** 2
            bounds[g] = total
        best = np.full(k, np.float32(1e30))
        least = bounds.argmin()
        for turn in range(2):
            # The likeliest group first: what it holds rules most of the others out before they are sorted.
            groups = np.array([least]) if turn == 0 else np.flatnonzero(bounds <= best[-1] * _SLACK + _ROUNDING)
            for g in groups[bounds[groups].argsort()]:
                limit = best[-1] * _SLACK + _ROUNDING
                if bounds[g] > limit:
                    break
                if turn and g == least:
                    continue
                for i in range(spans[g, 0], spans[g, 1]):
                    bound = np.float32(0)
                    for d in range(len(at)):
                        bound += (features[i, d] - at[d]) ** 2
                    if bound > limit:
                        continue
                    patch = patches[ids[i]]
                    distance = np.float32(0)
                    for d in range(len(query)):
                        distance += (np.float32(patch[d]) - query[d]) ** 2
                    if distance < best[-1]:
                        place = k - 1
                        while place and best[place - 1] > distance:
                            best[place], found[n, place] = best[place - 1], found[n, place - 1]
                            place -= 1
                        best[place], found[n, place] = distance, ids[i]
                        limit = best[-1] * _SLACK + _ROUNDING
    return found


def _scan(queries: Tensor, patches: Tensor, k: int) -> Tensor:
    """The same (n, k) without a tree, on any device: candidates by matrix products, decided by the full distance."""
    wanted = min(k + 8, len(patches))  # because the products cancel digits where patches nearly agree
    found = []
    for part in queries.split(512):
        scores, ids = part.new_empty(len(part), 0), torch.empty(len(part), 0, dtype=torch.int64, device=part.device)
        for start in range(0, len(patches), _DISTANCES_AT_ONCE // 512):
            some = patches[start : start + _DISTANCES_AT_ONCE // 512].to(part) / 255 - 0.5
            apart = torch.addmm(some.square().sum(1), part - 0.5, some.T, alpha=-2)
            best, at = apart.topk(min(wanted, len(some)), 1, largest=False, sorted=False)
            scores, ids = torch.cat([scores, best], 1), torch.cat([ids, at + start], 1)
        ids = ids.gather(1, scores.topk(wanted, 1, largest=False).indices)
        exact = (patches[ids].double() / 255 - part[:, None]).square().sum(2)
        found.append(ids.gather(1, exact.topk(k, 1, largest=False).indices))
    return torch.cat(found)


@njit(nogil=True, cache=True)
def cheapest_path(error):
    """The path down `error` (rows, columns) of least sum, as its column in each row; steps are of at most one column.

    By dynamic programming; of equally cheap paths the one that ends farthest left.
    """
    rows, columns = error.shape
    total = error.copy()
    for i in range(1, rows):
        for j in range(columns):
            total[i, j] += total[i - 1, max(j - 1, 0) : j + 2].min()
    path = np.empty(rows, np.int64)
    path[-1] = total[-1].argmin()
    for i in range(rows - 2, -1, -1):
        first = max(path[i + 1] - 1, 0)
        path[i] = first + total[i, first : path[i + 1] + 2].argmin()
    return path


@njit(nogil=True, cache=True)
def _sew(chosen, rows, columns, out, owner):
    """Patches (B, R, L, C, p, p) at `rows` (R,) × `columns` (L,), in raster order, into `out` (B, C, H, W).

    `owner` (B, 1, H, W) becomes where among the patches (R, L, p, p) of its image each pixel is from.
    """
    B, R, L, _, p, _ = chosen.shape
    for b in range(B):
        for i in range(R):
            for j in range(L):
                r, c = rows[i], columns[j]
                error = ((chosen[b, i, j].astype(np.int64) - out[b, :, r : r + p, c : c + p]) ** 2).sum(0)
                beside, above = np.zeros(p, np.int64), np.zeros(p, np.int64)
                if j and columns[j - 1] + p > c:
                    beside = cheapest_path(np.ascontiguousarray(error[:, : columns[j - 1] + p - c]))
                if i and rows[i - 1] + p > r:
                    above = cheapest_path(np.ascontiguousarray(error[: rows[i - 1] + p - r].T))
                for u in range(p):
                    for v in range(p):
                        if u >= above[v] and v >= beside[u]:
                            out[b, :, r + u, c + v] = chosen[b, i, j, :, u, v]
                            owner[b, 0, r + u, c + v] = ((i * L + j) * p + u) * p + v

"""The stratified space: clusters of the training images, the vote of an image to one, and a dictionary for each."""

import warnings
from collections.abc import Iterator, Sequence
from typing import Self

from labkit.core import InputError
from labkit.core.recipes import StrataRecipe
from labkit.core.wording import to_set
from labkit.datasets import Images, Lazy, check_pixels
from labkit.models.autoencoder import Autoencoder
from labkit.models.defense import Defense, FittedBuffers
from labkit.models.stl import SparseTransform

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

_ENCODED_AT_ONCE = 250
_DISTANCES_AT_ONCE = 2**24


class Strata(FittedBuffers):
    """M clusters of training images by the features of a denoising autoencoder (paper, Section 3.4).

    autoencoder  trained; the features are its code, reduced by principal component analysis (PCA)
    recipe       how many clusters and components, and how many neighbours vote

    `fit` or `load_state_dict` fills the buffers; until then everything else raises InputError.

    mean, components   (F,) of the codes of the training images, and (P, F), the axes of the PCA
    centroids          (M, P) of the clusters
    training_features  (N, P) of the training images
    labels             (N,) int64, the cluster of each training image
    """

    sized_by_fit = ("mean", "components", "centroids", "training_features", "labels")

    def __init__(self, autoencoder: Autoencoder, recipe: StrataRecipe):
        super().__init__()
        self.autoencoder, self.recipe = autoencoder.eval(), recipe
        weight = next(autoencoder.parameters())
        for name in self.sized_by_fit:
            self.register_buffer(name, weight.new_empty(0, dtype=torch.int64 if name == "labels" else None))

    @torch.no_grad()
    def fit(self, images: Images, *, progress: bool = False) -> Self:
        """Finds the clusters of these images, which must be training images alone. Returns self.

        PCA and k-means (k-means++ seeds, the best of ten starts) by scikit-learn, drawn from `recipe.seed`. Raises
        InputError when the images fall into fewer distinct clusters than the recipe asks for.
        """
        # Here, because it takes a second and 80 MB, and whoever only votes has no use for it.
        from sklearn.cluster import KMeans
        from sklearn.decomposition import PCA
        from sklearn.exceptions import ConvergenceWarning

        M = self.recipe.clusters
        if len(images) < max(M, 2):
            fewer = to_set("clusters", max(len(images), 1), "the profile smoke, which has two")
            raise InputError(f"too few training images ({len(images)}) for {M} clusters; give more, or try {fewer}")
        codes = torch.cat([z.cpu() for z in self._codes(images.x, progress)]).float()
        codes -= (mean := codes.mean(0))  # else scikit-learn would subtract two large numbers, in single precision
        pca = PCA(min(self.recipe.components, *codes.shape), svd_solver="covariance_eigh")
        with np.errstate(invalid="ignore"):  # of shares of the variance, where the images are all alike
            pca.fit(codes.numpy())
        features = codes @ torch.from_numpy(pca.components_.T)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of fewer clusters than asked for; said below
            means = KMeans(M, n_init=10, random_state=self.recipe.seed).fit(features.numpy())
        labels = torch.from_numpy(means.labels_).long()
        if (found := len(labels.unique())) < M:
            better = to_set("clusters", found, "images that differ more")
            raise InputError(f"the training images fall into {found} distinct clusters, not {M}; try {better}")
        found = (mean, pca.components_, means.cluster_centers_, features, labels)
        for name, values in zip(self.sized_by_fit, found, strict=True):
            setattr(self, name, torch.as_tensor(values).to(getattr(self, name)).contiguous())
        return self

    def features(self, x: Tensor | Lazy) -> Tensor:
        """Features (B, P), on the device of the strata, of images x (B, C, H, W) in [0, 1], differentiable in x."""
        self._check_fitted(bool(len(self.labels)))
        check_pixels(x)
        return torch.cat([(code - self.mean) @ self.components.T for code in self._codes(x)])

    @torch.no_grad()
    def vote(self, x: Tensor | Lazy) -> Tensor:
        """The cluster (B,), int64, of each image x (B, C, H, W) in [0, 1].

        It is the cluster of the majority of the training images with the nearest features, as many as the recipe's
        neighbours, and of clusters with equally many the one that holds the nearest of all.
        """
        features = self.features(x)
        rows = max(1, _DISTANCES_AT_ONCE // len(self.labels))
        return torch.cat([self._elect(part) for part in features.split(rows)])

    def sizes(self) -> list[int]:
        """How many training images each cluster holds."""
        self._check_fitted(bool(len(self.labels)))
        return torch.bincount(self.labels, minlength=self.recipe.clusters).tolist()

    def train(self, mode: bool = True) -> Self:
        """As for every module, but the autoencoder always normalises by what it saw in training."""
        super().train(mode)
        self.autoencoder.eval()
        return self

    def extra_repr(self) -> str:
        recipe = self.recipe
        return f"clusters={recipe.clusters}, neighbours={recipe.neighbours}, fitted to {len(self.labels)} images"

    def _codes(self, x: Tensor | Lazy, progress: bool = False) -> Iterator[Tensor]:
        starts = range(0, len(x), _ENCODED_AT_ONCE)
        for start in tqdm(starts, desc="encoding images", unit="batch", disable=not progress, delay=2):
            yield self.autoencoder.encode(x[start : start + _ENCODED_AT_ONCE].to(self.mean))

    def _elect(self, features: Tensor) -> Tensor:
        k = min(self.recipe.neighbours, len(self.labels))
        nearest = torch.cdist(features, self.training_features).topk(k, largest=False, sorted=True).indices
        ballots = self.labels[nearest]
        counts = nn.functional.one_hot(ballots, self.recipe.clusters).sum(1)
        # A ballot weighs as many votes as its cluster has, less up to one vote the farther it stands in the row.
        weights = counts.gather(1, ballots) * k - torch.arange(k, device=ballots.device)
        return ballots.gather(1, weights.argmax(1, keepdim=True))[:, 0]


class StratifiedTransform(Defense):
    """T(x) with the dictionary of the cluster that x is voted to: "STL (cluster)" in the paper's tables.

    strata      fitted; votes
    transforms  one `SparseTransform` for each cluster, in order

    Gradients pass through each cluster's transform, and none through the vote, which is constant almost everywhere.
    """

    def __init__(self, strata: Strata, transforms: Sequence[SparseTransform]):
        super().__init__()
        if len(transforms) != (M := strata.recipe.clusters):
            raise InputError(f"{M} clusters need as many transforms, got {len(transforms)}; pass all")
        self.strata, self.transforms = strata, nn.ModuleList(transforms)

    def forward(self, x: Tensor) -> Tensor:
        stratum = self.strata.vote(x)
        # Sorted by cluster, solved cluster by cluster, and put back: one gather each way, which autograd follows.
        order = stratum.argsort(stable=True).to(x.device)
        sizes = torch.bincount(stratum, minlength=len(self.transforms)).tolist()
        seen = [T(part) for T, part in zip(self.transforms, x[order].split(sizes), strict=True) if len(part)]
        return torch.cat(seen)[order.argsort()]

    def approximate(self, gap: float) -> "StratifiedTransform":
        """The same with the `approximate` transform of each cluster."""
        return StratifiedTransform(self.strata, [T.approximate(gap) for T in self.transforms]).eval()

"""D3: every patch of an image replaced by a combination of few patches of natural images."""

from typing import Self

from labkit.core import InputError
from labkit.datasets import Images
from labkit.models import Defense

import torch
from torch import Tensor
from tqdm.auto import tqdm

_CORRELATIONS_AT_ONCE = 2**20
_CANDIDATES_AT_ONCE = 1000
_DRAWN_AT_ONCE = 100
_PATCHES_AT_ONCE = 20_000
# Norm of a patch, for pixels in [0, 1], below which nothing is left to code: a fortieth of a grey level in one pixel.
_NOTHING = 1e-4
# Norm of what is new in an atom, of unit norm, below which it is a combination of those chosen before.
_DEPENDENT = 1e-5


class D3(Defense):
    """ "Divide, Denoise, and Defend against Adversarial Attacks" (Moosavi-Dezfooli, Shrivastava & Tuzel, 2018).

    Of each of an image's overlapping patches, orthogonal matching pursuit keeps a combination of `sparsity` atoms; the
    result is the average of the patches. The atoms are patches of training images, one taken after the other if it is
    not too similar to those before. "D3 (40K-5)" is atoms=40_000, sparsity=5.

    atoms       how many patches the dictionary has: 40,000 or 10,000
    sparsity    how many of them make a patch: 5 or 4
    patch       its side in pixels
    overlap     of neighbouring patches, in pixels
    similarity  the largest |correlation| of an atom with those before it; open in the publication
    candidates  patches drawn from the training images for each atom (`choose`)

    The publication works at 224 pixels. Chosen here: patch and overlap, after which noisy training images of CIFAR-10
    are closest to those without noise (sides of 4, 5, 6 and 8 were tried); patches are coded without their means.

    The publication calls D3 non-differentiable. With the choice of atoms held, which it is almost everywhere, D3 is an
    orthogonal projection of each patch, and this is the gradient that it has here.

    d  (atoms, C · patch · patch)  the dictionary, each atom of unit norm and of mean 0 in each channel
    """

    sized_by_fit = ("d",)
    limits = "atoms, sparsity, candidates in [1, inf); patch in [2, inf); overlap in [0, inf); similarity in (0, 1]"

    def __init__(self, atoms=10_000, sparsity=5, *, patch=6, overlap=3, similarity=0.9, candidates=4):
        settings = {"patch": patch, "overlap": overlap, "similarity": similarity, "candidates": candidates}
        super().__init__(atoms=atoms, sparsity=sparsity, **settings)
        if overlap >= patch:
            raise InputError(f"D3 got overlap={overlap}; choose one below the {patch} pixels of a patch")
        self.smallest = patch
        self.register_buffer("d", torch.empty(0, 0))

    @torch.no_grad()
    def fit(self, images: Images, *, progress: bool = False) -> Self:
        """Chooses the dictionary among patches of these images, which must be training images alone. Returns self."""
        self._check(images.x[:1])
        patches = self._draw(images).to(self.d)
        norms = patches.norm(dim=1)
        patches = (patches / norms[:, None])[norms > _NOTHING]
        if len(patches) < self.atoms:
            found = f"{len(patches)} patches that are not flat for {self.atoms} atoms"
            raise InputError(f"D3 found {found}; give more images, or ask for fewer atoms")
        self.d = patches[choose(patches, self.atoms, self.similarity, progress)].contiguous()
        return self

    def forward(self, x: Tensor) -> Tensor:
        self._check_fitted(bool(len(self.d)))
        P = self.patch
        self._check(x, self.d.shape[1] // P**2)
        rows, columns = (torch.tensor(starts(side, P, self.overlap), device=x.device) for side in x.shape[2:])
        # Position in the image, (H · W) in all, of each pixel of each patch.
        inside = torch.arange(P, device=x.device)
        row = (rows[:, None] + inside)[:, None, :, None]
        at = (row * x.shape[3] + (columns[:, None] + inside)[None, :, None, :]).flatten()
        size = max(1, _PATCHES_AT_ONCE // (len(rows) * len(columns)))
        return torch.cat([self._clean(part, at) for part in x.split(size)])

    def _clean(self, x: Tensor, at: Tensor) -> Tensor:
        (B, C, H, W), PP = x.shape, self.patch**2
        patches = x.flatten(2)[..., at].reshape(B, C, -1, PP).transpose(1, 2)
        means = patches.mean(3, keepdim=True)
        p = (patches - means).reshape(-1, C * PP)
        with torch.no_grad():
            parts, d = p.detach().split(max(1, _CORRELATIONS_AT_ONCE // len(self.d))), self.d.to(p.dtype)
            basis = torch.cat([pursue(part, d, self.sparsity) for part in parts])
        # With the basis held, a projection; autograd makes the same of it.
        coded = torch.einsum("nsi,ns->ni", basis, torch.einsum("nsi,ni->ns", basis, p))
        patches = coded.reshape(B, -1, C, PP) + means
        total = x.new_zeros(B, C, H * W).index_add(2, at, patches.transpose(1, 2).reshape(B, C, -1))
        return (total / torch.bincount(at, minlength=H * W)).reshape(x.shape).clamp(0, 1)

    def _draw(self, images: Images) -> Tensor:
        """Patches (n, C · P · P) without their means, from anywhere in any images."""
        N, _, H, W = images.x.shape
        P, n = self.patch, self.atoms * self.candidates
        whose, row, column = (torch.randint(high, (n,), generator=self.generator) for high in (N, H - P + 1, W - P + 1))
        whose = whose.sort().values  # so that an image in a file is decoded once or twice, not for every patch
        inside, drawn = torch.arange(P), []
        for part in torch.arange(n).split(_DRAWN_AT_ONCE):
            different, mine = whose[part].unique(return_inverse=True)
            y, x = row[part, None, None] + inside[:, None], column[part, None, None] + inside
            patches = images.x[different][mine[:, None, None], :, y, x].permute(0, 3, 1, 2).flatten(2)
            drawn.append((patches - patches.mean(2, keepdim=True)).flatten(1))
        return torch.cat(drawn)[torch.randperm(n, generator=self.generator)]


def starts(side: int, patch: int, overlap: int) -> list[int]:
    """Where patches start on a side: one stride apart, but the last one ends where the image ends."""
    return [*range(0, side - patch, patch - overlap), side - patch]


def pursue(p: Tensor, d: Tensor, sparsity: int) -> Tensor:
    """Orthogonal matching pursuit (Pati, Rezaiifar & Krishnaprasad, 1993) of patches p (N, D) with atoms d (K, D).

    Each step takes the atom, of unit norm, with the largest |correlation| with what the span of those taken so far
    leaves of p. Instead of solving for coefficients, it keeps an orthonormal basis of that span (N, sparsity, D), so
    that Σₛ ⟨basisₛ, p⟩ basisₛ is the code of p; 0 where there was nothing left to code.
    """
    rest, basis = p, []
    for _ in range(sparsity):
        atom = d[(rest @ d.T).abs_().argmax(1)]
        # Twice, because rounding leaves some of the span in an atom that lies almost within it.
        for q in basis * 2:
            atom = atom - (atom * q).sum(1, keepdim=True) * q
        length = atom.norm(dim=1, keepdim=True)
        worth = (rest.norm(dim=1, keepdim=True) > _NOTHING) & (length > _DEPENDENT)
        atom = torch.where(worth, atom / length.clamp_min(_DEPENDENT), 0)
        rest = rest - (rest * atom).sum(1, keepdim=True) * atom
        basis.append(atom)
    return torch.stack(basis, 1)


def choose(patches: Tensor, n: int, similarity: float, progress: bool = False) -> Tensor:
    """Positions (n,) of n of these patches (N, D) of unit norm that are as little alike as `similarity` asks for.

    In order, each patch is taken whose |correlation| with all that are taken is at most `similarity`. Should these be
    fewer than n, those of the others follow whose |correlation| was least.
    """
    taken, passed, likeness = [], [], []
    dictionary = patches.new_empty(n, patches.shape[1])
    with tqdm(total=n, desc="choosing patches", unit="atom", disable=not progress, delay=2) as bar:
        for start in range(0, len(patches), _CANDIDATES_AT_ONCE):
            block = patches[start : start + _CANDIDATES_AT_ONCE]
            among = (block @ block.T).abs().cpu().numpy()
            closest = among[0] * 0
            if taken:
                closest = (block @ dictionary[: len(taken)].T).abs().amax(1).cpu().numpy()
            for i in range(len(block)):
                if closest[i] > similarity:
                    passed.append(start + i)
                    likeness.append(closest[i])
                elif len(taken) < n:
                    dictionary[len(taken)] = block[i]
                    taken.append(start + i)
                    closest = closest.clip(min=among[i])
                    bar.update()
            if len(taken) == n:
                break
    alike = torch.tensor(passed, dtype=torch.int64)[torch.tensor(likeness).argsort(stable=True)]
    return torch.cat([torch.tensor(taken, dtype=torch.int64), alike])[:n].to(patches.device)

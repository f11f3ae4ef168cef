"""Live answers: T of a few images, a quick look before the exact one, and accuracies that grow as images are done."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from labkit.attacks import ATTACKS, Budget
from labkit.core.metrics import Accuracy, accuracy
from labkit.csc import conv
from labkit.csc.codes import Codes
from labkit.dashboards.parts import SMALL
from labkit.evaluation import threat_models
from labkit.models import SparseTransform
from labkit.models.strata import StratifiedTransform

import torch
from torch import Tensor, nn

# Attacks that answer while somebody waits: what to call them, and their options.
ATTACKS_LIVE = {"none": ("", {}), "random noise": ("noise", {"draws": 1}), "FGSM": ("fgsm", {}),
                "BIM, 10 steps": ("bim", {"steps": 10}), "PGD, 10 steps": ("pgd", {"steps": 10})}  # fmt: skip
_BATCH = 25
_FINER = 10  # times the layer's accuracy, of a code that begins with another; of large images, a third of that

Layer = SparseTransform | StratifiedTransform
Attacker = Callable[[Layer | None, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Look:
    """What T makes of images (B, C, H, W).

    low, high, seen  (B, C, H, W)  low-pass part, the rest, and T(x)
    fires            (B, K, H, W)  the code, its places moved to the middles of the filters
    gap              (B,) relative duality gap that was reached
    stratum          (B,) the cluster each image was voted to; 0 where there is one dictionary for all
    codes            of each image, to start the next look from
    """

    low: Tensor
    high: Tensor
    seen: Tensor
    fires: Tensor
    gap: Tensor
    stratum: Tensor
    codes: tuple[Codes, ...]

    @property
    def active(self) -> Tensor:
        """Coefficients of each image that are not zero: (B,)."""
        return torch.cat([code.active() for code in self.codes])


def at(layer: Layer, lam: float) -> Layer:
    """The same T with another λ, on the same filters in memory; the one it is made from keeps its own."""
    if isinstance(layer, StratifiedTransform):
        return StratifiedTransform(layer.strata, [at(T, lam) for T in layer.transforms]).train(layer.training)
    other = copy.copy(layer)
    other.lam = lam
    return other


@torch.no_grad()
def look(layer: Layer, x: Tensor, *, start: Look | None = None, gap_tol: float | None = None) -> Look:
    """T of images x (B, C, H, W) and its parts, image by image from the codes of an earlier look at the same images.

    start    of the same dictionary; used for the images that are voted to the same cluster again. Then the accuracy is
             finer, because a code that was good enough for the last λ often is for this one: nothing would move
    gap_tol  another accuracy: a rough one for a first look
    """
    home = layer.strata.vote(x) if isinstance(layer, StratifiedTransform) else torch.zeros(len(x), dtype=torch.int64)
    found, codes = [], []
    for i, m in enumerate(home.tolist()):
        T = layer.transforms[m] if isinstance(layer, StratifiedTransform) else layer
        begin = start.codes[i] if start is not None and int(start.stratum[i]) == m else None
        enough = gap_tol or T.gap_tol / (1 if begin is None else _FINER if max(x.shape[-2:]) <= SMALL else _FINER / 3)
        low, high, code = T.parts(x[i : i + 1], start=begin, gap_tol=enough)
        codes.append(code.code if isinstance(code.code, Codes) else Codes.of(code.code.cpu()))
        half = T.d.shape[-1] // 2
        fires = T._narrow(codes[-1].dense().roll((half, half), (-2, -1)), x.shape[-2:])
        energy = 0.5 * high.square().sum().clamp_min(1e-12)
        found.append((low, high, T.join(low, code), fires, code.gap / energy))
    return Look(*(torch.cat(part).cpu() for part in zip(*found, strict=True)), home.cpu(), tuple(codes))


@torch.no_grad()
def of_filter(T: SparseTransform, seen: Look, k: int) -> Tensor:
    """What filter k adds to T(x): (B, C, H, W), from a look through that T."""
    z = torch.cat([code.dense()[:, k : k + 1] for code in seen.codes])
    return T._narrow(conv.synthesize(z, T.d[k : k + 1].cpu()), seen.low.shape[-2:])


def attack(
    name: str, network: nn.Module, layer: Layer | None, x: Tensor, y: Tensor, size: float, knowledge: str
) -> Tensor:
    """x_adv of images x (B, C, H, W) of classes y (B,), by an attack of ATTACKS_LIVE of relative L2 size `size`.

    layer, knowledge  as for `threat_models.view`; a stratified T votes anew at every step
    """
    kind, options = ATTACKS_LIVE[name]
    if not kind or size <= 0:
        return x.clone()
    view = threat_models.view(network, layer, knowledge)
    return ATTACKS[kind](view, x, y, budget=Budget.dissimilarity(size), **options).detach()


def accuracies(
    network: nn.Module, layer: Layer, x: Tensor, y: Tensor, attacker: Attacker, stop: Callable[[], None] = lambda: None
) -> Iterator[dict[str, Accuracy]]:
    """Accuracies over more and more of the images x (n, C, H, W), some at a time, the last over all of them.

    attacker  (T or None, x, y) -> x_adv: how the system behind T, and the one without, are attacked
    stop      called between steps; it may raise

    Yields, by name: "clean" and "attacked" without T, and "T clean" and "T attacked" behind it.
    """
    right = dict.fromkeys(("clean", "attacked", "T clean", "T attacked"), 0)
    for start in range(0, len(x), _BATCH):
        some, mine = x[start : start + _BATCH], y[start : start + _BATCH]
        for name, defense in (("", None), ("T ", layer)):
            stop()
            right[f"{name}clean"] += _right(network, defense, some, mine)
            stop()
            right[f"{name}attacked"] += _right(network, defense, attacker(defense, some, mine), mine)
        yield {name: accuracy(count, start + len(some)) for name, count in right.items()}


def _right(network: nn.Module, layer: Layer | None, x: Tensor, y: Tensor) -> int:
    return int((threat_models.decide(network, layer, x)[1].argmax(1) == y.cpu()).sum())

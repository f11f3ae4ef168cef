"""How near attacks come to the smallest change, and how many passes they make: docs/ATTACKS.md has the numbers."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from labkit.core import metrics

import pandas as pd
import torch
from torch import Tensor, nn


class Counted(nn.Module):
    """A model that counts the images of its passes: `passes`, forward and backward."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.passes = model, Counter(forward=0, backward=0)

    def forward(self, x: Tensor) -> Tensor:
        self.passes.update(forward=len(x))
        if (logits := self.model(x)).requires_grad:
            logits.register_hook(lambda _: self.passes.update(backward=len(x)))  # at each differentiation
        return logits


def reached(model: nn.Module, x: Tensor, y: Tensor, attacks: Mapping[str, Callable]) -> tuple[dict, dict]:
    """What attacks (model, x, y) -> x_adv reach on images x (n, C, H, W) of classes y, by name: two dicts.

    They are ‖x_adv − x‖₂ (n,), infinite where the decision is right, and the passes an image, [forward, backward].
    """
    lengths, passes = {}, {}
    for name, attack in attacks.items():
        x_adv = attack(counted := Counted(model), x, y)
        lengths[name] = (x_adv - x).flatten(1).norm(dim=1).masked_fill(model(x_adv).argmax(1) == y, torch.inf)
        passes[name] = [count / len(x) for count in counted.passes.values()]
    return lengths, passes


def optimality(lengths: Mapping[str, Tensor], passes: Mapping[str, Sequence[float]]) -> pd.DataFrame:
    """How near each attack comes to the smallest change that any finds (AttackBench, Cinà et al., 2024, per image).

    Rows: attack, optimality, low, high, n, forward, backward, for each attack's lengths and passes, as from `reached`.
    Optimality is the smallest length by this attack's, mean and interval over the n images that were right at first
    and that one attack at least fooled: 1 is the best of all for every image, 0 fools none.
    """
    found = torch.stack([*lengths.values()]).double()
    shares = found.amin(0) / found
    shares = shares[:, ~shares.isnan().any(0)]  # without 0 / 0, wrong at first, and ∞ / ∞, fooled by none
    rows = [(name, *metrics.mean(mine), len(mine), *passes[name]) for name, mine in zip(lengths, shares, strict=True)]
    return pd.DataFrame(rows, columns=["attack", "optimality", "low", "high", "n", "forward", "backward"])


def security(lengths: Tensor, reach: float) -> pd.DataFrame:
    """Robust accuracy against size, from the smallest success (n,) of each image (`reached`; 0 if wrong at first).

    Rows: size, accuracy, low, high, area, for the sizes 0, `reach`, and every length between. `area` lies under the
    curve from 0 to this size: it is the mean length, where a longer one counts as `size`.
    """
    sizes = torch.cat([lengths[lengths < reach], lengths.new_tensor([0, reach])]).unique()
    rows = [(float(s), *metrics.accuracy(lengths > s)[:3], float(lengths.clamp_max(s).mean())) for s in sizes]
    return pd.DataFrame(rows, columns=["size", "accuracy", "low", "high", "area"])

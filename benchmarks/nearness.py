"""How near attacks come to the smallest change, and how many passes they make: docs/ATTACKS.md has the numbers."""

from collections.abc import Callable, Mapping, Sequence

from labkit.core import metrics
from labkit.evaluation.adversarial_examples import Counted
from labkit.experiments.attack_curves import security  # noqa: F401 (for docs/ATTACKS.md)

import pandas as pd
import torch
from torch import Tensor, nn


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

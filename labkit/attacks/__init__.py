"""Attacks: each a pure function (model, x, y, *, budget, …) -> x_adv, batched, with a radius for every image.

Knows     the attacks by the names that recipes use (`ATTACKS`), which of them look for the smallest change (`MINIMAL`),
          how far an attack may go (`Budget`), and losses with their gradients (`ascent`, `log_odds`). Each attack is
          here under its own name, too: `from labkit.attacks import pgd`. `climb` is for training, `TrainingMode` for
          one study alone; within `drawn`, the global random states begin at a seed
Comes in  a model that maps images (B, C, H, W) in [0, 1] to logits, images, their classes, a budget. What the model
          holds is what the attacker knows (`threat_models.view`); `door` checks them and leaves the model as it was
Goes out  x_adv, finite, in [0, 1] and within the budget; an image that cannot be attacked comes back unchanged. What
          is random is drawn from a seed, for each image alone: an image fares the same in any batch
"""

import inspect

from labkit.attacks.budget import Budget, at_average, quantize
from labkit.attacks.common import ascent, log_odds
from labkit.attacks.door import behind, drawn
from labkit.attacks.gradient_based import climb
from labkit.attacks.training_mode import TrainingMode
from labkit.attacks.universal_perturbation import fit_universal
from labkit.core import recipes

ATTACKS = {name: behind(named.load()) for name, named in recipes.ATTACKS.items()}
globals().update(ATTACKS)
# These look for the smallest change, and run without a budget as well.
MINIMAL = tuple(n for n, attack in ATTACKS.items() if inspect.signature(attack).parameters["budget"].default is None)

__all__ = [
    "ATTACKS", "MINIMAL", "Budget", "TrainingMode", "ascent", "at_average", "climb", "drawn", "fit_universal",
    "log_odds", "quantize",
]  # fmt: skip

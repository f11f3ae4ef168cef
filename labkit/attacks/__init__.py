"""Attacks: each a pure function (model, x, y, *, budget, …) -> x_adv, batched, with a radius for every image.

`model` maps images (B, C, H, W) in [0, 1] to logits; what it holds is what the attacker knows (`threat.view`).
x_adv is finite, in [0, 1], within the budget; an image that cannot be attacked comes back unchanged. What is random is
drawn from a seed, for each image alone: an image fares the same in any batch.
"""

import inspect

from labkit import catalogue
from labkit.attacks.patterns import fit_universal

ATTACKS = {name: named.load() for name, named in catalogue.ATTACKS.items()}
globals().update(ATTACKS)  # each under its own name as well
# These look for the smallest change, and run without a budget as well.
MINIMAL = tuple(n for n, attack in ATTACKS.items() if inspect.signature(attack).parameters["budget"].default is None)

__all__ = ["ATTACKS", "MINIMAL", "fit_universal", *ATTACKS]

"""Attacks: each a pure function (model, x, y, *, budget, …) -> x_adv, batched, with a radius for every image.

`model` maps images (B, C, H, W) in [0, 1] to logits; what it holds is what the attacker knows (`threat.view`).
x_adv is finite, in [0, 1], within the budget; an image that cannot be attacked comes back unchanged.
"""

from labkit.attacks.gradient import bim, fgsm

ATTACKS = {"fgsm": fgsm, "bim": bim}

__all__ = ["ATTACKS", "bim", "fgsm"]

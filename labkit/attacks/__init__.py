"""Attacks: each a pure function (model, x, y, *, budget, …) -> x_adv, batched, with a radius for every image.

`model` maps images (B, C, H, W) in [0, 1] to logits; what it holds is what the attacker knows (`threat.view`).
x_adv is finite, in [0, 1], within the budget; an image that cannot be attacked comes back unchanged. What is random is
drawn from a seed, for each image alone: an image fares the same in any batch.
"""

from labkit.attacks.ensemble import autoattack
from labkit.attacks.frequency import lowfreq
from labkit.attacks.gradient import bim, fgsm, pgd
from labkit.attacks.minimal import cw, ddn, deepfool
from labkit.attacks.patterns import fit_universal, universal
from labkit.attacks.search import noise, square

ATTACKS = {
    "fgsm": fgsm,
    "bim": bim,
    "pgd": pgd,
    "deepfool": deepfool,
    "cw": cw,
    "ddn": ddn,
    "universal": universal,
    "lowfreq": lowfreq,
    "square": square,
    "autoattack": autoattack,
    "noise": noise,
}
MINIMAL = ("deepfool", "cw", "ddn")  # these look for the smallest change, and run with budget=None as well

__all__ = ["ATTACKS", "MINIMAL", "fit_universal", *ATTACKS]

"""AutoAttack through pyautoattack: the common yardstick, an ensemble that has nothing to tune."""

from torch import Tensor

from labkit.attacks.black_box import begin
from labkit.attacks.budget import Budget
from labkit.attacks.common import Model, ascent, check, margin
from labkit.core import InputError

VERSIONS = ("standard", "rand")


def autoattack(
    model: Model, x: Tensor, y: Tensor, *, budget: Budget, version: str = "standard", steps: int = 100,
    queries: int = 5000, seed: int = 0,
) -> Tensor:  # fmt: skip
    """AutoAttack (Croce & Hein, 2020), part after part, each on what `model` still gets right.

    version  "standard": AutoPGD on the cross-entropy; AutoPGD on the difference of logits ratio (DLR) and FAB, towards
             each of the nine likeliest other classes; Square. The targeted DLR needs four classes, and is left out
             where there are fewer.
             "rand", for a model that draws at random: AutoPGD on the cross-entropy and on the DLR, each gradient the
             mean of 20
    steps, queries  of each part; as published by default

    An image that none of them fools comes back unchanged.
    """
    check("autoattack", x, y, budget)
    if version not in VERSIONS:
        raise InputError(f"unknown version {version!r} of AutoAttack; choose from {', '.join(VERSIONS)}")
    run = begin("autoattack", model, x, y, budget, seed)
    classes = run.classes
    ascent(model, x[:1], y[:1], margin)  # tells, before the library does, when there is no gradient
    if version == "rand":
        for loss in ("ce", "dlr") if classes > 2 else ("ce",):
            run.apgd(loss, steps=steps, averaged=20)
        return run.x_adv
    ranks = range(2, min(classes, 10) + 1)
    run.apgd("ce", steps=steps)
    for rank in ranks if classes > 3 else ():
        run.apgd("dlr-targeted", steps=steps, rank=rank)
    for rank in ranks:
        run.fab(steps=steps, rank=rank)
    run.square(queries, rescale=False)
    return run.x_adv

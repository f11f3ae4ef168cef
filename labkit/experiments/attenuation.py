"""What T leaves of a perturbation, which the paper's Condition 2 (Section 3.1) asks to be little, and of an image."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from labkit.attacks import ATTACKS
from labkit.core import metrics, recipes
from labkit.core.profiles import Profile
from labkit.core.recipes import AttackRecipe, ClassifierRecipe
from labkit.csc import split
from labkit.evaluation import Workbench
from labkit.evaluation.adversarial_examples import Attempt, adversarial, sized
from labkit.models import SparseTransform
from labkit.models.strata import StratifiedTransform

import pandas as pd
import torch
from torch import Tensor, nn

_BATCH = 50
_COUNT = 200


def table(lab: Profile, bench: Workbench, lams: Sequence[float]) -> pd.DataFrame:
    """`measured` of the lab's T at each λ, on up to 200 test images, FGSM-0.08 and noise as large (`perturbed`).

    More columns: change (which of the two), data, pixels (a side), recipe (T's hash at this λ) and images (the digest
    of the training images, with which that hash is made).
    """
    train, test = bench.images(lab.data, "train"), bench.images(lab.data, "test")
    layers = {lam: bench.transform(replace(lab.transform, lam=lam)) for lam in lams}
    keys = list(recipes_of(lab, bench, lams))
    x, found = test.x[:_COUNT].to(bench.device), []
    for change, x_adv in perturbed(lab.classifier, lab.attack("FGSM-0.08"), bench).items():
        found.append(measured(layers, x, x_adv[:_COUNT].to(bench.device)).assign(change=change, recipe=keys))
    return pd.concat(found, ignore_index=True).assign(data=lab.data.label, pixels=test.x.shape[-1], images=train.digest)


@torch.no_grad()
def strip(lab: Profile, bench: Workbench, lams: Sequence[float], n: int = 5) -> tuple[dict, dict, dict]:
    """Columns, notes and codes for `dashboards.moving`: T of the first n test images, with its PSNR, at each λ."""
    x = bench.images(lab.data, "test").x[:n].to(bench.device)
    columns, notes, codes = {"image x": x}, {}, {}
    for lam in lams:
        layer, name = bench.transform(replace(lab.transform, lam=lam)), f"λ = {metrics.said(lam)}"
        columns[name], z = layer(x), layer.parts(x)[2].z
        codes[name], pairs = z.abs().sum(1), zip(metrics.psnr(columns[name], x), metrics.sparsity(z), strict=True)
        notes[name] = [f"{near:.1f} dB, {int(active):,} active" for near, active in pairs]
    return columns, notes, codes


def recipes_of(lab: Profile, bench: Workbench, lams: Sequence[float]) -> dict[str, Any]:
    """The recipe of the lab's T at each λ, by the hash that `table` gives it."""
    digest = bench.images(lab.data, "train").digest
    layers = [replace(lab.transform, lam=lam) for lam in lams]
    return {bench.recipe_key(T, lab.data): recipes.plain(T, digest) for T in layers}


def perturbed(classifier: ClassifierRecipe, attack: AttackRecipe, bench: Workbench) -> dict[str, Tensor]:
    """The test images (n, C, H, W) attacked on a network without defense, and with noise as large, by name.

    Noise alone where no test image is of a class that was trained on, as in a folder with one image a class.
    """
    train, test = bench.images(classifier.data, "train"), bench.images(classifier.data, "test")
    made, x = {}, test.x[:]
    if set(train.y.tolist()) & set(test.y.tolist()):
        made[attack.label] = adversarial(Attempt(classifier.undefended, None, attack, "classifier"), bench)
    noise = ATTACKS["noise"](nn.Flatten(), x, test.y, budget=sized(replace(attack, name="noise"), x))
    return made | {f"noise-{attack.size:g}": noise}


@torch.no_grad()
def measured(layers: Mapping[float, SparseTransform | StratifiedTransform], x: Tensor, x_adv: Tensor) -> pd.DataFrame:
    """How much of a perturbation each layer leaves, one row per λ.

    x, x_adv  images (n, C, H, W) in [0, 1], clean and perturbed, where the layers are

    Columns: λ, n; kept (the mean over images of ‖T(x_adv) − T(x)‖ / ‖x_adv − x‖, 0 where nothing was changed), psnr
    (of T(x), dB) and psnr_adv (of T(x_adv) to x), each with _low and _high, the 95 % interval of the mean; worst (the
    largest kept); lowpass_share (of the perturbation's energy, in the part that T does not code).
    """
    rows = []
    for lam, layer in layers.items():
        parts = [_one(layer, *pair) for pair in zip(x.split(_BATCH), x_adv.split(_BATCH), strict=True)]
        kept, share, near, near_adv = (torch.cat(part) for part in zip(*parts, strict=True))
        row = {"λ": lam, "n": len(x), "worst": float(kept.max()), "lowpass_share": float(share.mean())}
        for name, values in (("kept", kept), ("psnr", near), ("psnr_adv", near_adv)):
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), metrics.mean(values), strict=True))
        rows.append(row)
    return pd.DataFrame(rows)


def _one(layer: SparseTransform | StratifiedTransform, x: Tensor, x_adv: Tensor) -> tuple[Tensor, ...]:
    clean, attacked = layer(x), layer(x_adv)
    first = layer if isinstance(layer, SparseTransform) else layer.transforms[0]  # they differ in their filters alone
    low = split(x_adv - x, first.lowpass, first.pad)[0]
    size = (x_adv - x).flatten(1).norm(dim=1).clamp_min(1e-12)
    kept, share = (part.flatten(1).norm(dim=1) / size for part in (attacked - clean, low))
    return kept, share.square(), *(metrics.psnr(seen, x).clamp_max(metrics.MOST) for seen in (clean, attacked))

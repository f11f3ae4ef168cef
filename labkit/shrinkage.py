"""What T leaves of a perturbation, which the paper's Condition 2 (Section 3.1) asks to be little, and of an image."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
import torch
from torch import Tensor, nn

from labkit import metrics, threat
from labkit.apart import Point, course, moved, told
from labkit.artifacts import Workbench
from labkit.attacks import ATTACKS
from labkit.attempts import Attempt, adversarial, sized
from labkit.profiles import Profile
from labkit.recipes import AttackRecipe, ClassifierRecipe
from labkit.split import split
from labkit.stl import SparseTransform
from labkit.strata import StratifiedTransform

_BATCH = 50
_COUNT = 200


def table(lab: Profile, bench: Workbench, lams: Sequence[float]) -> pd.DataFrame:
    """`measured` of the lab's T at each λ, on up to 200 test images, FGSM-0.08 and noise as large (`perturbed`).

    More columns: change (which of the two), maker (who aimed it, and knowing what), data, pixels (a side), recipe (T's
    hash at this λ) and images (the digest of the training images, with which that hash is made).
    """
    train, test = bench.images(lab.data, "train"), bench.images(lab.data, "test")
    recipes = {lam: replace(lab.transform, lam=lam) for lam in lams}
    layers = {lam: bench.transform(T) for lam, T in recipes.items()}
    keys = [bench.recipe_key(T, lab.data) for T in recipes.values()]
    x, found = test.x[:_COUNT].to(bench.device), []
    for change, (maker, x_adv) in perturbed(lab.classifier, lab.attack("FGSM-0.08"), bench).items():
        rows = measured(layers, x, x_adv[:_COUNT].to(bench.device))
        found.append(rows.assign(change=change, maker=maker, recipe=keys))
    return pd.concat(found, ignore_index=True).assign(data=lab.data.label, pixels=test.x.shape[-1], images=train.digest)


def perturbed(classifier: ClassifierRecipe, attack: AttackRecipe, bench: Workbench) -> dict[str, tuple[str, Tensor]]:
    """The test images (n, C, H, W) attacked on a network without defense, and with noise as large: by name, with maker.

    Where no test image is of a class that was trained on, as in a folder with one image a class, no network can tell
    them apart, and there is nothing to attack: then there is noise alone.
    """
    train, test = bench.images(classifier.data, "train"), bench.images(classifier.data, "test")
    made, x = {}, test.x[:]
    if set(train.y.tolist()) & set(test.y.tolist()):
        x_adv = adversarial(Attempt(classifier.undefended, None, attack, "classifier"), bench)
        made[attack.label] = (f"made on the undefended network, attacker has {threat.SHORT['classifier']}", x_adv)
    noise = ATTACKS["noise"](nn.Flatten(), x, test.y, budget=sized(replace(attack, name="noise"), x))
    return made | {f"noise-{attack.size:g}": ("aimed by nobody", noise)}


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
    kept, share = ((part.flatten(1).norm(dim=1) / size) for part in (attacked - clean, low))
    return kept, share.square(), *(metrics.psnr(seen, x).clamp_max(metrics.MOST) for seen in (clean, attacked))


def caption(rows: pd.DataFrame) -> str:
    """What stands under the rows of `table`: what was done, to how many images of what, and what the columns mean."""
    first = rows.iloc[0]
    made = "; ".join(f"{row.change}: {row.maker}" for row in rows.drop_duplicates("change").itertuples())
    keys = ", ".join(f"{row['recipe']} (λ = {row['λ']:g})" for row in rows.drop_duplicates("λ").to_dict("records"))
    return (
        f"{first.data}, {first.pixels} pixels, n = {first.n}. {made}. “Kept” is ‖T(x_adv) − T(x)‖ / ‖x_adv − x‖, its "
        "mean over images; “low-pass share” is how much of the change's energy lies in the part that T hands on as it "
        f"is; PSNR is to x. In brackets, the 95 % interval of the mean. Recipes: {keys}."
    )


def view(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of `table` as people read them: numbers with their intervals."""
    return pd.DataFrame({
        "change": rows.change,
        "λ": [f"{row['λ']:g}" for row in rows.to_dict("records")],
        "n": rows.n,
        "kept": [told(point) for point in _points(rows, "kept")],
        "kept, largest": rows.worst.map("{:.3f}".format),
        "low-pass share": rows.lowpass_share.map("{:.3f}".format),
        "PSNR of T(x)": [told(point, " dB") for point in _points(rows, "psnr")],
        "PSNR of T(x_adv)": [told(point, " dB") for point in _points(rows, "psnr_adv")],
    })  # fmt: skip


def reading(rows: pd.DataFrame) -> str:
    """What the rows of `table` say, in sentences made from them: Markdown."""
    by_change = {change: _points(mine, "kept") for change, mine in rows.groupby("change", sort=False)}
    lines = [f"**What T keeps of {change}** {course(points, 'λ')}." for change, points in by_change.items()]
    if len(by_change) == 2:
        (attack, noise), verdicts = by_change, {1: "more", -1: "less", 0: "not told apart"}
        words = [
            f"{verdicts[moved(b, a)]} at λ = {a.at:g} ({told(a)} against {told(b)})"
            for a, b in zip(*by_change.values(), strict=True)
        ]
        lines.append(f"**Of {attack} it keeps**, beside {noise}: {', '.join(words)}.")
    lines.append(f"**The PSNR of T(x)** {course(_points(rows.drop_duplicates('λ'), 'psnr'), 'λ', ' dB')}.")
    return "\n".join(f"- {line}" for line in lines)


def _points(rows: pd.DataFrame, name: str) -> list[Point]:
    return [Point(*row) for row in rows[["λ", name, f"{name}_low", f"{name}_high"]].itertuples(index=False)]

"""Looking at attacks: the spectrum of what they change, and how far and how long they try."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from labkit.core import metrics
from labkit.core.recipes import AttackRecipe, ClassifierRecipe
from labkit.evaluation import Case, Workbench, measurement
from labkit.evaluation.workbench import AnyTransform

import pandas as pd
import torch
from torch import Tensor


def spectrum(changes: Mapping[str, Tensor], bins: int = 16) -> pd.DataFrame:
    """Where in frequency the energy of some changes lies: columns what, frequency, energy.

    changes    images (n, C, H, W) by name, such as x_adv − x
    frequency  middle of a ring, in cycles a pixel; the last ring, at 0.5, also has what is finer along the diagonal
    energy     of the ring, as a share of the energy of the first of `changes`, mean over images that were changed
    """
    rows, whole = [], None
    middles = (0.5 * (torch.arange(bins, dtype=torch.float64) + 0.5) / bins).tolist()
    for what, change in changes.items():
        H, W = change.shape[-2:]
        power = torch.fft.fft2(change.double()).abs().square().sum(1).cpu()
        radius = (torch.fft.fftfreq(H)[:, None] ** 2 + torch.fft.fftfreq(W) ** 2).sqrt()
        ring = (radius / 0.5 * bins).long().clamp_max(bins - 1)
        energy = torch.zeros(len(change), bins, dtype=torch.float64)
        energy.index_add_(1, ring.flatten(), power.flatten(1))
        whole = energy.sum(1) if whole is None else whole
        share = (energy / whole[:, None].clamp_min(1e-30))[whole > 0].mean(0)
        rows.append(pd.DataFrame({"what": what, "frequency": middles, "energy": share}))
    return pd.concat(rows, ignore_index=True)


def rounding(
    classifier: ClassifierRecipe, attacks: Sequence[AttackRecipe], bench: Workbench, *, steps: int = 50
) -> pd.DataFrame:
    """`measurement.run` for attacks on the undefended network, as made and after rounding to 8 bits: what files keep.

    To `attacks` come two that look for the smallest change, DeepFool and DDN, and stop at the boundary.
    """
    minimal = [AttackRecipe(name, 0.0, steps, "none") for name in ("deepfool", "ddn")]
    tried = [replace(attack, stored=stored) for attack in (*attacks, *minimal) for stored in (False, True)]
    return measurement.run([Case(classifier, None, attack) for attack in tried], bench)


def curve(
    classifier: ClassifierRecipe, defenses: Sequence[tuple[AnyTransform | None, str]], attack: AttackRecipe,
    bench: Workbench, **values: Sequence[float],
) -> pd.DataFrame:  # fmt: skip
    """`measurement.run` for every defense (and what its attacker knows) and every value of one field of the attack.

    values  one field of AttackRecipe, `size` or `steps`, and what to try; the frame has a column `value` for it
    """
    ((name, tried),) = values.items()
    attacks = [replace(attack, **{name: value}) for value in tried]
    cases = [Case(classifier, defense, sized, knowledge) for defense, knowledge in defenses for sized in attacks]
    return measurement.run(cases, bench).assign(value=[*tried] * len(defenses))


def security(lengths: Tensor, reach: float) -> pd.DataFrame:
    """Robust accuracy against size, from the smallest success (n,) of each image (`reached`; 0 if wrong at first).

    Rows: size, accuracy, low, high, area, for the sizes 0, `reach`, and every length between. `area` lies under the
    curve from 0 to this size: it is the mean length, where a longer one counts as `size`.
    """
    sizes = torch.cat([lengths[lengths < reach], lengths.new_tensor([0, reach])]).unique()
    rows = [(float(s), *metrics.accuracy(lengths > s)[:3], float(lengths.clamp_max(s).mean())) for s in sizes]
    return pd.DataFrame(rows, columns=["size", "accuracy", "low", "high", "area"])


def securities(sizes: Mapping[str, Tensor]) -> dict[str, pd.DataFrame]:
    """`security` of several systems, by name, up to just beyond the largest change that succeeded against any."""
    every = torch.cat([*sizes.values()])
    reach = 1.05 * float(every[every.isfinite()].max()) if every.isfinite().any() else 0.0
    return {name: security(mine, reach) for name, mine in sizes.items()}

"""Experiments: cases as data, one tidy row each, every row kept in the store."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

from labkit import metrics, threat
from labkit.artifacts import Workbench
from labkit.attacks import ATTACKS
from labkit.budget import Budget
from labkit.classifiers import predict
from labkit.errors import InputError
from labkit.recipes import AttackRecipe, ClassifierRecipe, DataRecipe, Profile, StratifiedRecipe, TransformRecipe
from labkit.split import split
from labkit.stl import SparseTransform

_BATCH = 250
COLUMNS = [
    "data", "n", "classifier", "retrained", "defense", "attack", "budget", "knowledge", "seed",
    "accuracy", "low", "high", "dissimilarity", "psnr", "seconds", "recipe",
]  # fmt: skip


@dataclass(frozen=True)
class Attempt:
    """One set of adversarial images: against which network, seen how, by which attack.

    `defense` is what the attacker takes into account: None unless the knowledge includes it.
    """

    victim: ClassifierRecipe
    defense: TransformRecipe | StratifiedRecipe | None
    attack: AttackRecipe
    knowledge: str
    version: int = 1


@dataclass(frozen=True)
class Case:
    """One cell of a table: a network behind a defense, judged on one attack by an attacker of some knowledge."""

    classifier: ClassifierRecipe
    defense: TransformRecipe | StratifiedRecipe | None
    attack: AttackRecipe
    knowledge: str = "classifier"
    version: int = 1

    @property
    def data(self) -> DataRecipe:
        return self.classifier.data

    def attempt(self) -> Attempt:
        """What has to be attacked for this case; cases that differ only in what is judged share one."""
        victim, defense = self.classifier, self.defense
        if self.knowledge == "transfer":
            victim = _vanilla(victim)
        if self.knowledge in ("transfer", "classifier"):
            defense = None
        knowledge = "classifier" if defense is None else self.knowledge
        return Attempt(victim, defense, self.attack, knowledge)


def grid(profile: Profile) -> list[Case]:
    """The defense tables' cases: no defense and the profile's defenses, vanilla and retrained, every attack.

    A retrained network is judged against two attackers, because the paper does not say which it means: one who has an
    undefended copy ("transfer"), and one who has the retrained weights ("classifier"). The strongest iterative attack
    is repeated by attackers who know about T.
    """
    plain, cases = profile.classifier, []
    for attack in profile.attacks:
        cases.append(Case(plain, None, attack))
        for T in profile.defenses:
            retrained = profile.retrained(T)
            cases.append(Case(plain, T, attack))
            if attack.name == "clean":
                cases.append(Case(retrained, T, attack))
                continue
            cases += [Case(retrained, T, attack, knowledge) for knowledge in ("transfer", "classifier")]
            if attack.name == "bim":
                for knowledge in ("identity", "exact"):
                    cases += [Case(network, T, attack, knowledge) for network in (plain, retrained)]
    return cases


def run(cases: Iterable[Case], bench: Workbench) -> pd.DataFrame:
    """One row per case: settings | accuracy low high dissimilarity psnr seconds recipe.

    accuracy, low, high  share of right decisions and its 95 % Wilson interval, on the n test images
    dissimilarity        mean ‖x_adv − x‖₂ / ‖x‖₂ that was reached
    psnr                 mean over images of PSNR(T(x_adv), x) in dB; missing where an image is unchanged
    seconds              time to make and judge the images, when it was first done
    recipe               hash of everything above: the artifact's name in the store
    """
    cases = list(cases)
    rows = []
    for case in tqdm(cases, desc="measuring", unit="case", disable=not bench.progress, delay=2):
        train, test = bench.images(case.data, "train"), bench.images(case.data, "test")
        found = bench.store.fetch(
            "row", case, lambda _, case=case: ({}, _measure(case, bench)), digest=f"{train.digest}:{test.digest}"
        )
        rows.append({**_settings(case, bench), **found.facts, "recipe": found.key})
    return pd.DataFrame(rows, columns=COLUMNS)


def adversarial(attempt: Attempt, bench: Workbench) -> Tensor:
    """The attacked test images (n, C, H, W) of an attempt, from the store or made now."""
    train, test = bench.images(attempt.victim.data, "train"), bench.images(attempt.victim.data, "test")
    if attempt.attack.name == "clean":
        return test.x[:]
    if attempt.attack.name not in ATTACKS:
        raise InputError(f"unknown attack {attempt.attack.name!r}; the known ones are clean, {', '.join(ATTACKS)}")

    def build(_scratch):
        defense = bench.transform(attempt.defense) if attempt.defense else None
        model = threat.view(bench.classifier(attempt.victim), defense, attempt.knowledge)
        attack = ATTACKS[attempt.attack.name]
        budget = Budget.dissimilarity(attempt.attack.dissimilarity)
        options = {"steps": attempt.attack.steps} if attempt.attack.name == "bim" else {}
        parts, started = [], time.perf_counter()
        for start in range(0, len(test), _BATCH):
            x = test.x[start : start + _BATCH].to(bench.device)
            y = test.y[start : start + _BATCH].to(bench.device)
            parts.append(attack(model, x, y, budget=budget, **options).cpu())
        return {"x_adv": torch.cat(parts)}, {"seconds": time.perf_counter() - started}

    found = bench.store.fetch("attack", attempt, build, digest=f"{train.digest}:{test.digest}")
    return found.tensors["x_adv"]


def decisions(case: Case, bench: Workbench) -> tuple[Tensor, Tensor, Tensor]:
    """Images as attacked, as the classifier gets them, and the classes it gives them: x_adv, T(x_adv), labels."""
    x_adv = adversarial(case.attempt(), bench)
    seen = x_adv
    if case.defense:
        layer = bench.transform(case.defense)
        with torch.no_grad():
            seen = torch.cat([layer(part.to(bench.device)).cpu() for part in x_adv.split(_BATCH)])
    return x_adv, seen, predict(bench.classifier(case.classifier), seen).argmax(1).cpu()


def _measure(case: Case, bench: Workbench) -> dict:
    started = time.perf_counter()
    test = bench.images(case.data, "test")
    x_adv, seen, labels = decisions(case, bench)
    x = test.x[:]
    found = metrics.accuracy(labels == test.y)
    psnr = float(metrics.psnr(seen, x).mean())
    return {
        "accuracy": found.value,
        "low": found.low,
        "high": found.high,
        "dissimilarity": float(metrics.dissimilarity(x_adv, x).mean()),
        "psnr": psnr if math.isfinite(psnr) else None,
        "seconds": time.perf_counter() - started,
    }


def _settings(case: Case, bench: Workbench) -> dict:
    test = bench.images(case.data, "test")
    network = case.classifier
    return {
        "data": f"{case.data.name}, {test.x.shape[-1]}×{test.x.shape[-2]}",
        "n": len(test),
        "classifier": f"{network.network} ×{network.width:g}",
        "retrained": network.transform is not None,
        "defense": case.defense.label if case.defense else "No Defense",
        "attack": case.attack.label,
        "budget": case.attack.dissimilarity,
        "knowledge": "–" if case.attack.name == "clean" else case.knowledge,
        "seed": network.seed,
    }


def _vanilla(recipe: ClassifierRecipe) -> ClassifierRecipe:
    return replace(recipe, transform=None)


def shrinkage(layers: dict[float, SparseTransform], x: Tensor, x_adv: Tensor) -> pd.DataFrame:
    """How much of a perturbation each layer leaves, one row per λ (paper, Section 3.1, Condition 2).

    kept             mean over images of ‖T(x_adv) − T(x)‖ / ‖x_adv − x‖
    low-pass share   share of the perturbation's energy in the low-pass part, which T hands on as it is
    """
    rows = []
    for lam, layer in layers.items():
        with torch.no_grad():
            clean, attacked = layer(x), layer(x_adv)
            before, after = (x_adv - x).flatten(1), (attacked - clean).flatten(1)
            low = split(x_adv - x, layer.lowpass, layer.pad)[0].flatten(1)
        size = before.norm(dim=1).clamp_min(1e-12)
        rows.append(
            {
                "λ": lam,
                "n": len(x),
                "kept, mean": float((after.norm(dim=1) / size).mean()),
                "kept, worst": float((after.norm(dim=1) / size).max()),
                "low-pass share": float((low.norm(dim=1) / size).square().mean()),
                "PSNR of T(x), dB": float(metrics.psnr(clean, x).mean()),
                "PSNR of T(x_adv) to x, dB": float(metrics.psnr(attacked, x).mean()),
            }
        )
    return pd.DataFrame(rows)


def picture(case: Case, bench: Workbench, *, n: int = 4) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Columns and notes for `show.strips`: image, attacked image, ten times the difference, what the network gets.

    The first `n` test images that the network classifies correctly, so that the attack has something to change.
    """
    test, network, layer = (
        bench.images(case.data, "test"),
        bench.classifier(case.classifier),
        bench.transform(case.defense),
    )
    which = torch.nonzero(predict(network, test.x).argmax(1) == test.y)[:n, 0]
    x, x_adv = test.x[which], adversarial(case.attempt(), bench)[which]
    with torch.no_grad():
        seen = layer(x_adv.to(bench.device)).cpu()
    names = [[test.classes[int(c)] for c in predict(network, pixels).argmax(1)] for pixels in (x, x_adv, seen)]
    columns = {"image x": x, case.attack.label: x_adv, "10 × difference": 0.5 + 10 * (x_adv - x), "T(attacked)": seen}
    return columns, dict(zip(columns, [names[0], names[1], [""] * len(x), names[2]], strict=True))


def by_class(case: Case, bench: Workbench) -> pd.DataFrame:
    """Accuracy of a case for each true class, with its interval, the hardest hit first."""
    test = bench.images(case.data, "test")
    _, _, labels = decisions(case, bench)
    rows = []
    for c, name in enumerate(test.classes):
        mine = test.y == c
        if mine.any():
            found = metrics.accuracy(labels[mine] == c)
            rows.append({"class": name, "n": found.n, "accuracy": found.value, "low": found.low, "high": found.high})
    return pd.DataFrame(rows).sort_values("accuracy", kind="stable").round(3).reset_index(drop=True)

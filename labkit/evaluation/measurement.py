"""Measurement: cases as data, one tidy row each, every row kept in the store."""

import math
import time
import uuid
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from labkit.core import InputError, checkpoint, metrics, recipes
from labkit.core.recipes import LATER, AttackRecipe, ClassifierRecipe, DataRecipe, StratifiedRecipe, TransformRecipe
from labkit.core.store import Artifact, parsed
from labkit.defenses import unfitted
from labkit.evaluation import threat_models
from labkit.evaluation.adversarial_examples import Attempt, adversarial, timed
from labkit.evaluation.threat_models import ThreatModel
from labkit.evaluation.workbench import AnyDefense, Workbench
from labkit.models import predict

import pandas as pd
import torch
from torch import Tensor
from tqdm.auto import tqdm

_NUMBERS = ["accuracy", "low", "high"]
_MIXED = "rows of several trainings make no worst case: `labkit artifacts prune --kind row --yes`, and measure again"
COLUMNS = [
    "data", "n", "classifier", "retrained", "defense", "attack", "budget", "knowledge", "seed",
    "accuracy", "low", "high", "majority", "dissimilarity", "psnr", "seconds", "run", "judged", "recipe", "right",
]  # fmt: skip


@dataclass(frozen=True)
class Case:
    """One cell of a table: a network behind a defense, judged on one attack by an attacker of some knowledge.

    copy       what an attacker by "transfer" owns, where it is not `classifier.undefended`; several attack together
    surrogate  for "learned", as for `Attempt`
    """

    classifier: ClassifierRecipe
    defense: AnyDefense | None
    attack: AttackRecipe
    knowledge: str = "classifier"
    version: int = 4
    copy: ClassifierRecipe | tuple[ClassifierRecipe, ...] | None = field(default=None, metadata=LATER)
    surrogate: recipes.SurrogateRecipe | None = field(default=None, metadata=LATER)

    def __post_init__(self):
        # Who does not differentiate T has nothing to approximate, and rows that say the same have one name.
        coded = isinstance(self.defense, TransformRecipe | StratifiedRecipe)
        if self.attack.gap and not (coded and self.knowledge in ("identity", "exact", "fixed-stratum")):
            object.__setattr__(self, "attack", replace(self.attack, gap=0.0))
        object.__setattr__(self, "surrogate", self.attempt().surrogate)

    @property
    def data(self) -> DataRecipe:
        return self.classifier.data

    @property
    def label(self) -> str:
        """The defense as tables name it: what precedes the network, and what lies in it."""
        before = self.defense.label if self.defense else ""
        return " + ".join(filter(None, (before, self.classifier.label))) or "No Defense"

    def attempt(self) -> Attempt:
        """What has to be attacked for this case; cases that differ only in what is judged share one."""
        victim, defense = self.classifier, self.defense
        if self.knowledge == "transfer":
            victim = self.copy or victim.undefended
        if self.knowledge in ("transfer", "classifier"):
            defense = None
        knowledge = "classifier" if defense is None else self.knowledge
        return Attempt(victim, defense, self.attack, knowledge, surrogate=self.surrogate)


def worst_case(cases: Iterable[Case], bench: Workbench) -> pd.DataFrame:
    """For each network and defense, the share of images that stay correct under every one of its cases.

    An image that is wrong when clean counts as wrong, where the clean images are among the cases.

    Columns: defense, retrained, accuracy, low, high, n, attacks (how many; the clean images are none), hardest (the
    case that alone leaves least), right (as for `run`).
    """
    groups: dict[tuple, list[Case]] = {}
    for case in cases:
        groups.setdefault((case.classifier, case.defense), []).append(case)
    rows = []
    for (network, _), mine in groups.items():
        kept = [_row(case, bench) for case in mine]
        right = [row.tensors["right"].bool() for row in kept]
        left = torch.stack(right).all(0)
        hardest = mine[min(range(len(mine)), key=lambda i: int(right[i].sum()))]
        if len({row.facts.get("judged") for row in kept} - {None}) > 1:
            warnings.warn(f"{hardest.label}: {_MIXED}", stacklevel=2)
        attacks = sum(case.attack.name != "clean" for case in mine)
        told = f"{hardest.attack.label}, {ThreatModel.of(hardest.knowledge, hardest.label).label}"
        found = *metrics.accuracy(left), attacks, told, metrics.packed(left, bench.images(network.data, "test").digest)
        rows.append((hardest.label, network.transform is not None, *found))
    columns = ["defense", "retrained", "accuracy", "low", "high", "n", "attacks", "hardest", "right"]
    return pd.DataFrame(rows, columns=columns)  # also of no cases


def run(cases: Iterable[Case], bench: Workbench) -> pd.DataFrame:
    """One row per case: settings | accuracy low high majority dissimilarity psnr seconds run recipe right.

    accuracy, low, high  share of right decisions and its 95 % Wilson interval, on the n test images
    majority             of a random defense, the share that is right by the majority of several fresh answers
                         (`threat_models.majority`); missing for all others, and in old rows
    dissimilarity        mean ‖x_adv − x‖₂ / ‖x‖₂ that was reached
    psnr                 mean over images of PSNR(T(x_adv), x) in dB; missing where an image is unchanged
    seconds              time to make the adversarial examples and to judge them, without building networks and
                         defenses. Missing where it was interrupted, and in old rows, where it included training
    run                  id of this measurement: another of the same recipe has another. Old rows have none
    judged               hash of what network and defense have learned; another training has another. Old rows: none
    recipe               hash of the settings: the artifact's name in the store
    right                which of the n images are right (`metrics.packed`), so that two rows can be compared in pairs
    """
    rows, cases = [], list(cases)
    check(cases, bench)
    for case in tqdm(cases, desc="measuring", unit="case", disable=not bench.progress, delay=2):
        found = _row(case, bench)
        timing = {} if "run" in found.facts else {"seconds": None, "run": None}
        test = bench.images(case.data, "test")
        images = {"data": f"{case.data.label}, {test.x.shape[-1]}×{test.x.shape[-2]}", "n": len(test)}
        right = metrics.packed(found.tensors["right"], test.digest)
        rows.append({**images, **settings(case), **found.facts, **timing, "recipe": found.key, "right": right})
    return pd.DataFrame(rows, columns=COLUMNS).astype({"majority": float})


def check(cases: Iterable[Case], bench: Workbench) -> None:
    """Raises InputError where images do not allow what is asked: too few classes, or too few to fit a defense to."""
    asked = dict.fromkeys((c.data, c.classifier.foreign, T) for c in cases for T in (c.defense, c.classifier.transform))
    for data, foreign, defense in asked:
        there = len(bench.images(data, "train") if foreign else bench.sound(data))
        if defense and there < (least := unfitted(defense).least):
            need = f"{defense.label} is fitted to {least:,} training images or more, and {data.label} has {there:,}"
            raise InputError(f"{need}; give more, or choose other defenses (--only defense=…)")


def costs(cases: Iterable[Case], bench: Workbench) -> pd.DataFrame:
    """What each case took an image, where that is known: what, knowledge, seconds (as for `run`), forward, backward.

    The last two are the attack's passes through what it attacks; judging takes one more, forward.
    """
    rows = []
    for case in cases:
        facts, n = _row(case, bench).facts, len(bench.images(case.data, "test"))
        took = facts["seconds"] if "run" in facts else None
        knowledge, passes = settings(case)["knowledge"], facts.get("passes") or (None, None)
        rows.append((case.attack.label, knowledge, None if took is None else took / n, *passes))
    return pd.DataFrame(rows, columns=["what", "knowledge", "seconds", "forward", "backward"])


def smallest(cases: Iterable[Case], bench: Workbench) -> Tensor:
    """The smallest dissimilarity at which some case has an image wrong: (n,); infinite where none has."""
    found = []
    for case in cases:
        far = metrics.dissimilarity(adversarial(case.attempt(), bench), bench.images(case.data, "test").x[:])
        found.append(far.masked_fill(_row(case, bench).tensors["right"].bool(), torch.inf))
    return torch.stack(found).amin(0)


def recipes_of(rows: pd.DataFrame, bench: Workbench) -> dict[str, Any]:
    """The stored recipe behind each hash in the columns of `rows` that end in "recipe"; its `store.key` is the hash."""
    keys = dict.fromkeys(rows.filter(regex="recipe$").to_numpy().ravel())
    return {key: parsed(bench.store.root / "row" / key / "recipe.json") for key in keys}


def share(cases: Iterable[Case], bench: Workbench, *, rank: int, world: int) -> None:
    """Measures what is neither kept yet nor being measured by another of the `world` ranks that share a store.

    Each begins elsewhere in the list, mostly with other networks. What two ranks need is built by the first, while the
    second waits. When all have returned, or were killed and started again, every case is kept.
    """
    cases = list(dict.fromkeys(cases))
    begin = rank * len(cases) // world
    walk = cases[begin:] + cases[:begin]
    for case in tqdm(walk, desc=f"measuring, rank {rank} of {world}", unit="case", disable=not bench.progress, delay=2):
        if not kept(case, bench) and not bench.store.busy("row", case, digest=bench.digest(case.data)):
            _row(case, bench)


def _row(case: Case, bench: Workbench) -> Artifact:
    """What is kept of a case: the facts of its row, and which images are correct under attack."""
    return bench.store.fetch("row", case, lambda _: _measure(case, bench), digest=bench.digest(case.data))


def kept(case: Case, bench: Workbench) -> bool:
    """Whether the row of a case is in the store, so that `run` only has to read it."""
    return bench.store.has("row", case, digest=bench.digest(case.data))


def _measure(case: Case, bench: Workbench) -> tuple[dict[str, Tensor], dict]:
    x_adv, took = timed(case.attempt(), bench)
    network, defense = bench.classifier(case.classifier), bench.transform(case.defense)
    test = bench.images(case.data, "test")
    started = time.perf_counter()  # with the network and the defense built
    seen, logits = threat_models.decide(network, defense, x_adv)
    right = threat_models.correct(logits, test.y, defense, attacked=case.attack.name != "clean")
    judging = time.perf_counter() - started
    x, often = test.x[:], None
    if defense is not None and defense.stochastic:
        often = threat_models.majority(network, defense, x_adv) == test.y
    psnr = float(metrics.psnr(seen, x).mean())
    found = dict(zip(_NUMBERS, metrics.accuracy(right), strict=False))
    found |= {"majority": None if often is None else float(often.float().mean())}
    found |= {"dissimilarity": float(metrics.dissimilarity(x_adv, x).mean())}
    found |= {"psnr": psnr if math.isfinite(psnr) else None, "passes": took["passes"], "run": str(uuid.uuid4())}
    found |= {"seconds": None if took["seconds"] is None else took["seconds"] + judging}
    state = torch.nn.ModuleList([network] if defense is None else [network, defense]).state_dict().items()
    plain = {name: t.float() if t.is_floating_point() else t for name, t in state if isinstance(t, Tensor)}  # NumPy's
    found |= {"judged": checkpoint.contents({name: t for name, t in plain.items() if not t.is_quantized})[:12]}
    return {"right": right.byte()}, found


def settings(case: Case) -> dict[str, Any]:
    """What the row of a case says of everything but its images: COLUMNS from "classifier" to "seed"."""
    network = case.classifier
    named = f"{network.network} ×{network.width:g}{', mirrored' if network.mirrored else ''}"
    knowledge = "–" if case.attack.name in ("clean", "noise") else case.knowledge
    return {
        "classifier": network.network if network.foreign else named, "retrained": network.transform is not None,
        "defense": case.label, "attack": case.attack.label, "budget": case.attack.size, "knowledge": knowledge,
        "seed": network.seed,
    }  # fmt: skip


def picture(case: Case, bench: Workbench, *, n: int = 4) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Columns and notes for `pictures.strips`: image, attacked image, ten times the difference, what the network gets.

    The first `n` test images that the network classifies correctly, so that the attack has something to change, and
    others only where those are fewer.
    """
    test, network = bench.images(case.data, "test"), bench.classifier(case.classifier)
    which = (predict(network, test.x).argmax(1) != test.y).int().argsort(stable=True)[:n]
    x, x_adv = test.x[which], adversarial(case.attempt(), bench)[which]
    seen, logits = threat_models.decide(network, bench.transform(case.defense), x_adv)
    decided = (predict(network, x), predict(network, x_adv), logits)
    names = [[test.classes[c] for c in answers.argmax(1).tolist()] for answers in decided]
    columns = {"image x": x, case.attack.label: x_adv, "10 × difference": 0.5 + 10 * (x_adv - x), "T(attacked)": seen}
    return columns, dict(zip(columns, [names[0], names[1], [""] * len(x), names[2]], strict=True))


def telling(attacked: Case, bench: Workbench) -> int:
    """The first test image that a case's bare network has right clean and wrong attacked; 0 if there is none."""
    test, network = bench.images(attacked.data, "test"), bench.classifier(attacked.classifier)
    x_adv = adversarial(attacked.attempt(), bench)
    turned = (predict(network, test.x).argmax(1) == test.y) & (predict(network, x_adv).argmax(1) != test.y)
    return int(turned.int().argmax())


def by_class(case: Case, bench: Workbench) -> pd.DataFrame:
    """Accuracy of a case for each true class, with its interval, the hardest hit first."""
    test = bench.images(case.data, "test")
    right = _row(case, bench).tensors["right"].bool()
    rows = [(test.classes[c], *metrics.accuracy(right[test.y == c])) for c in test.y.unique().tolist()]
    frame = pd.DataFrame(rows, columns=["class", "accuracy", "low", "high", "n"]).round(3)
    return frame[["class", "n", "accuracy", "low", "high"]].sort_values("accuracy", kind="stable", ignore_index=True)


def repeated(files: Iterable[Path]) -> pd.DataFrame:
    """Each recipe that stands in files of rows with two measurements: the first one's row, and the last one's numbers.

    Rows of one recipe with one `run` are one measurement, shown in two places. Rows from before there was a `run` are
    one measurement when all that they measured is equal.

    Columns: those of a row, and accuracy, low and high again with "_again".
    """
    found = [pd.read_csv(file, dtype={"recipe": str, "run": str}) for file in files]
    if not found:
        return pd.DataFrame()
    rows = pd.concat(found, ignore_index=True)
    numbers = rows.filter(items=[*_NUMBERS, "dissimilarity", "psnr"]).map(repr).agg(" ".join, axis=1)
    rows["identity"] = rows.run.fillna(numbers) if "run" in rows else numbers
    made = rows.drop_duplicates(["recipe", "identity"])
    first, last = made.drop_duplicates("recipe"), made.drop_duplicates("recipe", keep="last")
    twice = first.merge(last[["recipe", "identity", *_NUMBERS]], on="recipe", suffixes=("", "_again"))
    return twice.query("identity != identity_again").drop(columns=["identity", "identity_again"]).reset_index(drop=True)

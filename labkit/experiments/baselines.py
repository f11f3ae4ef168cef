"""The baselines' rows: which defenses are measured beside STL, on how many images, under which threat models."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial

from labkit.core import metrics
from labkit.core.profiles import Profile
from labkit.core.recipes import (
    AdversarialTraining,
    AttackRecipe,
    ClassifierRecipe,
    DefenseRecipe,
    TransformRecipe,
    rebase,
)  # fmt: skip
from labkit.defenses import DEFENSES, pixelcnn, unfitted
from labkit.evaluation import Case, ThreatModel, Workbench, measurement, threat_models
from labkit.evaluation.adversarial_examples import adversarial
from labkit.experiments import attack_curves

import pandas as pd
import torch
from torch import Tensor

_KURAKIN, _MADRY = AdversarialTraining(), AdversarialTraining("pgd", 0.031, "linf", steps=7, share=1.0)
_HARDENED = {"adversarial": {"adversarial": _KURAKIN}, "thermometer": {"levels": 16},
             "thermometer-adversarial": {"levels": 16, "adversarial": _MADRY}}  # fmt: skip
ROBUSTBENCH = ("linf", 8 / 255), ("l2", 0.5)  # norms and sizes of its leaderboards for CIFAR-10
_COPIED = 8  # epochs of an attacker's network on T(x)
_OF_CURVE = ["defense", "knowledge", "n"]
_REACH = 0.1  # relative L2 up to which `curves` go: the paper's sizes but Table 8's largest
_OWN = {("pixeldefend", "fashion"): (("epsilon", 32 / 255),)}  # what was published for one data set alone


@dataclass(frozen=True)
class Baseline:
    """A network, what precedes or wraps it, and on how many test images the two are judged; None means all."""

    network: ClassifierRecipe
    defense: DefenseRecipe | TransformRecipe | None
    n: int | None

    @property
    def known(self) -> tuple[str, ...]:
        """What who knows the defense differentiates (`threat_models.sensible`)."""
        return threat_models.sensible(self.defense and unfitted(self.defense))

    @property
    def cost(self) -> str:
        """What an image costs: "fast", "slow" or "slowest" (`catalogue.DEFENSES`); STL and networks alone are fast."""
        return DEFENSES[self.defense.name].cost if isinstance(self.defense, DefenseRecipe) else "fast"

    @property
    def random(self) -> bool:
        """Whether the defense may answer one image in several ways."""
        return self.defense is not None and unfitted(self.defense).stochastic


def everyone(lab: Profile) -> list[Baseline]:
    """Every baseline of the paper, simple filters, and STL beyond the paper."""
    rows = [row for name in DEFENSES for row in before(lab, name)]
    dimmed = replace(lab.transform, dim=0.5)
    trained = {
        **{name: hardened(lab, name) for name in _HARDENED},
        "stl-adversarial": Baseline(replace(lab.retrained(), adversarial=_KURAKIN), lab.transform, lab.baselines.fast),
        "stl-dimmed": Baseline(lab.retrained(dimmed), dimmed, lab.baselines.fast),
    }
    return rows + [row for name, row in trained.items() if name in lab.baselines.trained]


def _ours(lab: Profile) -> list[Baseline]:
    return [Baseline(lab.classifier, T, lab.baselines.fast) for T in (None, *lab.defenses)]


def before(lab: Profile, name: str) -> list[Baseline]:
    """A baseline in front of the vanilla network; several where the profile has several settings of it."""
    how, n = lab.baselines, getattr(lab.baselines, DEFENSES[name].cost)
    given = {"": {}, "like": {"like": lab.transform}, "victim": {"victim": lab.classifier}}[DEFENSES[name].given]
    settings = [options for other, options in how.options if other == name] or [()]
    own = _OWN.get((name, lab.data.name), ())
    return [Baseline(lab.classifier, DefenseRecipe(name, lab.data, own + options, **given), n) for options in settings]


def hardened(lab: Profile, name: str) -> Baseline:
    """A network that is its own defense.

    name  "adversarial" (FGSM, the paper's Table 8), "thermometer" (its TE), or "thermometer-adversarial". Thermometer
          encoding was published alone and with the adversarial training of Madry et al.; the paper's Table 4 gives it
          0.00, which is what Athalye et al. (2018) found for it alone
    """
    return Baseline(lab.trained(**_HARDENED[name]), None, lab.baselines.fast)


def cases(lab: Profile) -> list[Case]:
    """What the baselines are asked: the profile's attacks in a grey box, and all of `against`.

    The undefended network and STL, on as many images as the fast ones, come first. Where there is the time, STL's
    strongest grey box is also made on two networks at once, one of them trained for a few epochs on T(x).
    """
    asked = []
    for baseline in [*_ours(lab), *everyone(lab)]:
        hard = against(lab, baseline)
        tried = [(attack, "classifier") for attack in lab.attacks] + hard
        mine = [Case(baseline.network, baseline.defense, *each) for each in tried]
        stl = (baseline.network, baseline.defense) == (lab.classifier, lab.transform)
        if stl and lab.adaptive.autoattack and not lab.classifier.foreign:
            copies = lab.classifier, replace(lab.retrained(), epochs=_COPIED)
            mine.append(replace(mine[0], attack=hard[0][0], knowledge="transfer", copy=copies))
        asked += [rebase(case, lab.data.at_most(baseline.n)) for case in mine]
    return asked


def against(lab: Profile, baseline: Baseline) -> list[tuple[AttackRecipe, str]]:
    """What is tried against a baseline by who knows it, at the size of the strongest grey box; with their knowledge.

    PGD on the margin with the last of `Baseline.known`. Where the profile has the time for AutoAttack: that with each,
    the strongest grey box, PGD that starts where this ends (of slow defenses, on random ones alone), `ladder` with the
    last (or, where none is exact and the baseline is fast, with each), and a learned surrogate where nothing else
    stands in. On the fast ones queries, too, and `ladder` at RobustBench's two sizes. Of a random defense each gradient
    is of one EOT sample, and there are more steps for it: the stronger use of as many passes.
    """
    how, known = lab.adaptive, baseline.known or ("classifier",)
    draws = {"draws": 1} if baseline.random else {}
    strongest, told = lab.strongest, {"gap": how.gap, **draws}
    pgd = AttackRecipe("pgd", strongest.size, how.steps, strongest.norm, loss="margin", stored=strongest.stored, **told)
    if not how.autoattack:
        return [(pgd, known[-1])]
    tried = [(pgd, knowledge) for knowledge in known]
    tried.insert(0, (replace(pgd, name="mi_di", loss="log-odds"), "classifier"))
    if baseline.known and (baseline.cost == "fast" or baseline.random):
        tried.append((replace(pgd, after="mi_di"), known[-1]))
    climbs = replace(pgd, name="ladder", loss="log-odds")
    if known == ("identity",) and baseline.cost == "fast":
        known = ("identity", "learned")
        tried.append((pgd, "learned"))
    several = baseline.cost == "fast" and "exact" not in known
    tried += [(climbs, knowledge) for knowledge in (known if several else known[-1:])]
    if baseline.cost == "fast":
        boxes = ("square", "queries"), ("hopskipjump", "decisions")
        asks = replace(pgd, steps=how.queries, loss="log-odds", gap=0.0)
        tried += [(replace(asks, name=name), box) for name, box in boxes if baseline.known]
        tried += [(replace(climbs, size=size, norm=norm), known[-1]) for norm, size in ROBUSTBENCH]
    return tried


def smallest(lab: Profile) -> list[Case]:
    """DDN, which looks for the smallest change, by who knows the defense: for `curves`.

    Not of slow defenses, nor of random ones, which answer a small enough change differently by chance.
    """
    if not lab.adaptive.autoattack:
        return []
    ddn, found = AttackRecipe("ddn", 0.0, lab.adaptive.steps, "none", gap=lab.adaptive.gap), []
    for each in (*_ours(lab), *everyone(lab)):
        if each.cost == "fast" and not each.random:
            case = Case(each.network, each.defense, ddn, (each.known or ("classifier",))[-1])
            found.append(rebase(case, lab.data.at_most(each.n)))
    return found


def curves(cases: Iterable[Case], bench: Workbench) -> pd.DataFrame:
    """`attack_curves.security` of each of the cases of `smallest`, with its defense, knowledge, n and row's hash."""
    parts = []
    for case in cases:
        row, lengths = measurement.run([case], bench).iloc[0], measurement.smallest([case], bench).double()
        parts.append(attack_curves.security(lengths, _REACH).assign(**row[_OF_CURVE], row=row.recipe))
    return pd.concat(parts or [pd.DataFrame()], ignore_index=True)


def halves(curves: pd.DataFrame) -> pd.DataFrame:
    """Of `curves`, a line each: where half of the images are wrong, and the area, as a share of the most."""
    lines = []
    for (defense, knowledge, n), part in curves.groupby(_OF_CURVE, sort=False) if len(curves) else ():
        half, last = part[part.accuracy <= 0.5], part.iloc[-1]
        line = {"defense": defense, "threat model": ThreatModel.of(knowledge, defense).label, "n": f"{n:,}"}
        line["half are wrong at"] = f"{half['size'].iloc[0]:.4f}" if len(half) else f"more than {last['size']:g}"
        lines.append(line | {"area, of the most": f"{last.area / last['size']:.3f}"})
    return pd.DataFrame(lines)


def alike(cases: Iterable[Case], attack: AttackRecipe) -> list[Case]:
    """The cases whose attacks have the size of this one, and the clean ones: what one worst case is made of."""
    return [case for case in cases if case.attack.name == "clean" or
            (case.attack.size, case.attack.norm) == (attack.size, attack.norm)]  # fmt: skip


def strip(lab: Profile, bench: Workbench) -> tuple[dict[str, Tensor], dict[str, list[str]]]:
    """Pairs and notes for `dashboards.moving`: one image, clean and under FGSM, as each defense outputs it.

    The first test image that the undefended network has right clean and wrong attacked (by someone who knows no
    defense), or the first of all. Notes give the class that the judged system decides for, and the PSNR to the clean
    image; a defense that wraps the network outputs no image of its own.
    """
    few = rebase(lab, lab.data.at_most(lab.baselines.fast))
    test, attacked = bench.images(few.data, "test"), Case(few.classifier, None, few.attack("FGSM-0.08"))
    one, x_adv = measurement.telling(attacked, bench), adversarial(attacked.attempt(), bench)
    x = torch.stack([test.x[one], x_adv[one]])
    pairs, notes = {}, {}
    for baseline in [*_ours(lab), *everyone(lab)]:
        seen, logits = threat_models.decide(bench.classifier(baseline.network), bench.transform(baseline.defense), x)
        name = Case(baseline.network, baseline.defense, attacked.attack).label
        near = metrics.psnr(seen, x[:1].expand_as(x)).tolist()
        fidelity = ["unchanged" if dB == math.inf else f"{dB:.1f} dB" for dB in near]
        classes = [[*test.classes, "rejected"][c] for c in logits.argmax(1).tolist()]
        pairs[name], notes[name] = seen, [f"{c}\n{words}" for c, words in zip(classes, fidelity, strict=True)]
    return pairs, notes


def likelihoods(lab: Profile, bench: Workbench) -> pd.DataFrame:
    """Bits per dimension that PixelDefend's PixelCNN gives to images: test images, attacked ones, and both after STL.

    PixelDefend rests on attacked images being the less likely ones (Song et al., ICLR 2018, Figure 2). Columns: images,
    n, bits per dimension (mean), low and high (± 1.96 standard errors). 8 bits are what knows nothing.
    """
    few = rebase(lab, lab.data.at_most(lab.baselines.slow))
    x, attack = bench.images(few.data, "test").x[:], few.attack("FGSM-0.08")
    attacked = adversarial(Case(few.classifier, None, attack).attempt(), bench)
    turned = partial(threat_models.turned, bench.classifier(few.classifier), bench.transform(few.transform))
    images = {"x": x, f"x_adv, {attack.label}": attacked, "T(x)": turned(x), "T(x_adv)": turned(attacked)}
    model = bench.defense(before(lab, "pixeldefend")[0].defense).network
    bits = {name: pixelcnn.bits_per_dimension(model, part) for name, part in images.items()}
    rows = [(name, len(found), *metrics.mean(found, z=1.96)) for name, found in bits.items()]
    return pd.DataFrame(rows, columns=["images", "n", "bits per dimension", "low", "high"])

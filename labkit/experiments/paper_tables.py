"""The paper's tables and its Figure 6, asked of our own networks: defenses, attacks, what their attackers know."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from labkit.core import InputError
from labkit.core.profiles import Profile
from labkit.core.recipes import DEFENSES, AttackRecipe, StratifiedRecipe, rebase
from labkit.defenses import unfitted
from labkit.evaluation import Case, ThreatModel, Workbench, measurement
from labkit.evaluation.threat_models import inside_network
from labkit.experiments import baselines, published_numbers
from labkit.experiments.baselines import Baseline

import pandas as pd

BASELINES = "baselines"  # the name of the table that is none of the paper's
CLEAN = AttackRecipe("clean", 0.0, 0)
_GREY = ("transfer", "classifier")  # both grey boxes: the paper does not say which one its retrained networks face
# Who stands in each table beside the undefended network and STL; "adversarial" and "thermometer" lie in the network.
_WHO = {
    **dict.fromkeys(("1", "5"), ("magnet", "pixeldefend")),
    **dict.fromkeys(("2a", "2b", "6a", "6b", "7"), ("tvm", "quilting", "crops", "deflection")),
    "3": ("quilting", "tvm-quilting", "crops", "d3", "deflection"),
    "4": ("sap", "thermometer", "lid", "pixeldefend", "magnet"),
    **dict.fromkeys(("8a", "8b"), ("adversarial",)),
}
_VANILLA = ("5", "6a", "6b", "7")
_PROJECTED = "its T(x) of every training image, to retrain on, takes longer than this profile affords"
_TRAINED = "training its network takes longer than this profile affords"
_THEIRS = "the network is given, and no other is trained like it"


@dataclass(frozen=True)
class Asked:
    """What one table asks.

    blind    the paper's attackers: those of its Table 4 use BPDA, all others do not know the defense
    aware    for the worst case, on the same or fewer images: attackers who know the defense, and those of `blind`
    missing  defenses of the paper's table that have no row here, and why
    """

    blind: tuple[Case, ...]
    aware: tuple[Case, ...]
    missing: tuple[tuple[str, str], ...] = ()


def grid(profile: Profile) -> list[Case]:
    """The defense tables' cases: no defense and the profile's defenses, vanilla and retrained, every attack.

    A retrained network faces both grey boxes. BIM is repeated in a white box.
    """
    plain, cases = profile.classifier, []
    for attack in profile.attacks:
        cases.append(Case(plain, None, attack))
        for T in profile.defenses:
            retrained = profile.retrained(T)
            grey = ("classifier",) if attack.name == "clean" else _GREY
            cases.append(Case(plain, T, attack))
            cases += [Case(retrained, T, attack, k, copy=profile.copy(k)) for k in grey]
            if attack.name == "bim":
                for knowledge in ("identity", "exact"):
                    cases += [Case(network, T, attack, knowledge) for network in (plain, retrained)]
    return cases


def adaptive(profile: Profile, *, size: float = 0.031, norm: str = "linf") -> list[Case]:
    """Retrained networks and the undefended one under every threat model, at Table 4's size, on `adaptive.n` images."""
    how = profile.adaptive
    small = rebase(profile, profile.data.at_most(how.n))
    noise, pgd = AttackRecipe("noise", size, 1, norm), AttackRecipe("pgd", size, how.steps, norm, gap=how.gap)
    cases = [Case(small.classifier, None, attack) for attack in (CLEAN, noise, pgd)]
    for T in small.defenses:
        network = small.retrained(T)
        cases += [Case(network, T, CLEAN), Case(network, T, noise)]
        cases += [Case(network, T, pgd, k, copy=small.copy(k)) for k in _GREY]
        cases.append(Case(network, T, AttackRecipe("square", size, how.queries, norm), "queries"))
        cases += [Case(network, T, pgd, knowledge) for knowledge in ("identity", "exact")]
        # Another loss and more starts, which cost little and leave AutoAttack nothing to add (measured).
        cases.append(Case(network, T, replace(pgd, loss="margin", restarts=3), "exact"))
        if isinstance(T, StratifiedRecipe):
            cases.append(Case(network, T, pgd, "fixed-stratum"))
        cases.append(Case(network, T, replace(pgd, name="lowfreq"), "exact"))
        if how.autoattack:
            cases.append(Case(network, T, replace(pgd, name="ladder"), "exact"))
            cases.append(Case(network, T, AttackRecipe("autoattack", size, norm=norm, gap=how.gap), "exact"))
    return cases


def table(lab: Profile, name: str) -> Asked:
    """The cases of one of the paper's tables, on the profile's images and with its networks.

    Retrained networks face both grey boxes. White boxes are PGD on the margin and, where the profile has the time,
    `ladder` (not of a slow defense) at each size that the table has, with each of `Baseline.known`; in Table 4,
    everything in `adaptive`. They, CW, and all of Table 4 get `lab.adaptive.n` images.

    name  "1_released" is Table 1 by the convention of what the authors released (`Profile.released`)

    Raises InputError when the paper has no such table.
    """
    name, released = published_numbers.convention(name)
    lab = lab.released if released else lab
    if name == BASELINES:
        cases = baselines.cases(lab)
        return Asked((*cases, *baselines.smallest(lab)), tuple(baselines.alike(cases, lab.strongest)))
    if name not in _WHO:
        has = ", ".join(published_numbers.names())
        raise InputError(f"the paper has no table {name!r}; it has {has}, and `{BASELINES}` is one of the lab's")
    (everyone, missing), attacks = _everyone(lab, name), attacks_of(lab, name)
    blind, aware = [], []
    for baseline in everyone:
        clean, most = Case(baseline.network, baseline.defense, CLEAN), lab.data.at_most(baseline.n)
        at, small = (rebase(clean, most.at_most(n)) for n in (None, lab.adaptive.n))
        for attack in attacks:
            # An image of CW takes ten times as long as one of any other attack of the tables.
            place = small if name == "4" or attack.name == "cw" else at
            for knowledge in _knowing(baseline, name, attack):
                for cases, where in ((blind, place), (aware, small)):
                    copy = rebase(lab.copy(knowledge), where.data)
                    cases.append(replace(where, attack=attack, knowledge=knowledge, copy=copy))
        for attack in _hard(lab, attacks, baseline):
            aware += [replace(small, attack=attack, knowledge=known) for known in baseline.known or ("classifier",)]
    if name == "4":
        strong = adaptive(lab)
        theirs = {(case.classifier, case.defense) for case in strong}
        aware = [*strong, *(case for case in aware if (case.classifier, case.defense) not in theirs)]
    return Asked(tuple(dict.fromkeys(blind)), tuple(dict.fromkeys(aware)), missing)


def worst(aware: Collection[Case], bench: Workbench) -> pd.DataFrame:
    """`measurement.worst_case` for every size of attack and the clean images; a column `size`, 0 for these alone."""
    places: dict[float, set[tuple]] = {}
    for case in aware:
        places.setdefault(case.attack.size, set()).add((case.classifier, case.defense))
    parts = []
    for at, there in sorted(places.items(), key=lambda place: place[0]):
        # Clean images belong to every size, but are none by themselves.
        mine = [c for c in aware if c.attack.size in (0, at) and (c.classifier, c.defense) in there]
        parts.append(measurement.worst_case(mine, bench).assign(size=at))
    return pd.concat(parts or [measurement.worst_case([], bench).assign(size=None)])


def finished(asked: Asked, bench: Workbench) -> Asked:
    """Only the cases that are measured; of the worst case, sizes of which all attacks on a defense are."""
    by_size: dict[tuple, list[Case]] = {}
    for case in asked.aware:
        by_size.setdefault((case.classifier, case.defense, case.attack.size), []).append(case)
    clean = {place[:2]: mine for place, mine in by_size.items() if not place[2]}
    whole = [mine for place, mine in by_size.items()
             if all(measurement.kept(case, bench) for case in (*mine, *clean.get(place[:2], ())))]  # fmt: skip
    blind = (case for case in asked.blind if measurement.kept(case, bench))
    return replace(asked, blind=tuple(blind), aware=tuple(case for mine in whole for case in mine))


def select(asked: Asked, wanted: Mapping[str, Iterable[str]]) -> Asked:
    """Only the cases that are wanted: {"defense": ["STL"], "attack": ["FGSM-0.08"]}, in capitals or not.

    Chosen by "defense", "attack", "knowledge", "network" ("vgg16 ×0.25"), "seed" and "retrained" ("yes" or "no"). The
    worst case stays that of all attacks of the chosen sizes; of chosen knowledge there is none. Raises InputError for
    other words, or when no case is left.
    """
    ways = {
        "defense": lambda case: case.label, "attack": lambda case: case.attack.label,
        "knowledge": lambda case: case.knowledge, "seed": lambda case: str(case.classifier.seed),
        "retrained": lambda case: "no" if case.classifier.transform is None else "yes",
        "network": lambda case: measurement.settings(case)["classifier"],
    }  # fmt: skip
    if unknown := sorted(set(wanted) - set(ways)):
        raise InputError(f"cases cannot be chosen by {', '.join(unknown)}; use {', '.join(ways)}")
    wanted = {what: {value.lower() for value in values} for what, values in wanted.items()}

    def chosen(cases: Iterable[Case], by: Iterable[str]) -> tuple[Case, ...]:
        return tuple(case for case in cases if all(ways[what](case).lower() in wanted[what] for what in by))

    blind = chosen(asked.blind, wanted)
    if not blind:
        there = (f"{what}: {', '.join(sorted({ways[what](case) for case in asked.blind}))}" for what in wanted)
        raise InputError(f"no case is left; there are {'; '.join(there)}")
    left = {case.label for case in blind}
    dropped = [label for label in dict.fromkeys(case.label for case in asked.blind) if label not in left]
    sizes = {0, *(case.attack.size for case in blind)}
    aware = () if "knowledge" in wanted else chosen(asked.aware, set(wanted) - {"attack"})
    aware = tuple(case for case in aware if case.attack.size in sizes)
    return Asked(blind, aware, (*asked.missing, *((label, "not asked for") for label in dropped)))


def figure_6(lab: Profile) -> list[Case]:
    """What `intervals` needs of `grid` and `baselines.cases`: vanilla network, clean and FGSM-0.08.

    Defenses that wrap the network are left out: they output no image whose PSNR could be taken.
    """
    asked, attacks = [*grid(lab), *baselines.cases(lab)], (lab.attack("Clean"), lab.attack("FGSM-0.08"))
    grey = [case for case in asked if case.attack in attacks and case.knowledge == "classifier"]
    vanilla = [case for case in grey if case.classifier == replace(lab.classifier, data=case.data)]
    return [case for case in vanilla if case.defense is None or unfitted(case.defense).maps]


def intervals(rows: pd.DataFrame, attack: str = "FGSM-0.08") -> pd.DataFrame:
    """Where each defense lies on the paper's Figure 6: PSNR of T(x_adv) to x, and the characteristic interval.

    It runs from the lower to the higher of clean and attacked accuracy (Section 5.5): short and high is good.

    rows  from `measurement.run(figure_6(lab))`; of others, only those of a vanilla network in a grey box are taken, and
          of a defense measured twice, those on more images

    Columns: defense, n, psnr, clean and attacked (accuracies, each with _low and _high), low and high (the interval),
    clean_recipe and attacked_recipe (the hashes of their rows).
    The undefended network has its place, too, to compare.
    """
    knows = rows.knowledge.map(lambda word: ThreatModel(word).knows_defense)
    plain = rows[~rows.retrained & ~knows].sort_values("n", ascending=False, kind="stable")
    found = {(row.defense, row.attack): row for row in plain[::-1].itertuples()}  # of several, the first stays
    lines = []
    for defense in dict.fromkeys(rows.defense):
        pair = {name: found.get((defense, of)) for name, of in (("clean", "Clean"), ("attacked", attack))}
        if None in pair.values():
            continue
        line = {"defense": defense, "n": pair["attacked"].n, "psnr": pair["attacked"].psnr}
        for name, row in pair.items():
            line |= {name: row.accuracy, f"{name}_low": row.low, f"{name}_high": row.high}
        line["low"], line["high"] = sorted((line["clean"], line["attacked"]))
        lines.append(line | {f"{name}_recipe": row.recipe for name, row in pair.items()})
    return pd.DataFrame(lines)


def _everyone(lab: Profile, name: str) -> tuple[list[Baseline], tuple[tuple[str, str], ...]]:
    """The table's defenses with their networks, no defense and STL first; and those that are left out."""
    retrained, printed = name not in _VANILLA and not lab.classifier.foreign, published_numbers.table(name).index
    found, missing = [Baseline(lab.classifier, None, lab.data.test)], []
    found += [Baseline(lab.retrained(T) if retrained else lab.classifier, T, lab.data.test) for T in lab.defenses]
    for who in _WHO[name]:
        if who in ("adversarial", "thermometer"):
            rows, affordable = [baselines.hardened(lab, who)], who in lab.baselines.trained
            why = _THEIRS if lab.classifier.foreign else _TRAINED
        else:
            rows, affordable, why = baselines.before(lab, who), True, _PROJECTED
            if DEFENSES[who].label in printed:  # in the paper's setting alone
                rows = [row for row in rows if row.defense.label in printed]
            if retrained and name != "4":
                rows = [replace(row, network=lab.retrained(row.defense)) for row in rows]
                affordable = who in lab.baselines.retrained
        if affordable:
            found += rows
        else:
            missing += [((row.defense or row.network).label, why) for row in rows]
    return found, tuple(missing)


def _knowing(baseline: Baseline, name: str, attack: AttackRecipe) -> tuple[str, ...]:
    """What the paper's attackers know."""
    if attack.name == "clean" or baseline.defense is None:
        return ("classifier",)
    if name == "4":
        return ("identity",)
    return _GREY if baseline.network.transform else ("classifier",)


def attacks_of(lab: Profile, name: str) -> tuple[AttackRecipe, ...]:
    """A table's columns in the paper's order, with the profile's numbers of steps, as `lab` counts them."""
    steps = lab.strongest.steps
    effort = {"fgsm": 1, "bim": steps, "deepfool": 50, "cw": 5 * steps, "universal": 1, "pgd": lab.adaptive.steps}

    def at(size: float, *names: str, norm: str = "dissimilarity") -> list[AttackRecipe]:
        stated = [AttackRecipe(name, size, effort[name], norm) for name in names]
        return [attack.released for attack in stated] if lab.strongest.norm == "levels" else stated

    if name == "3":
        return (CLEAN, *at(0.06, "fgsm", "bim", "deepfool", "cw", "universal", norm="average"))
    if name == "4":
        return (CLEAN, *at(0.031, "pgd", norm="linf"))
    if name in ("8a", "8b"):
        sizes = (0.04, 0.08, 0.12, 0.20)
        return (CLEAN, *(attack for size in sizes for attack in at(size, "fgsm")), *at(0.08, "universal"))
    return (CLEAN, *at(0.08, "fgsm"), *at(0.04, "fgsm"), *at(0.03, "bim", "deepfool", "cw"))


def _hard(lab: Profile, attacks: Iterable[AttackRecipe], baseline: Baseline) -> list[AttackRecipe]:
    """At each size of a table, what someone who knows the defense tries: a slow one's attackers climb once only."""
    # Without the number of draws where nothing is drawn, an attack is the same as that of the paper's attackers.
    draws = {"draws": 1} if baseline.random else {}
    climbs = ("pgd", "margin"), ("ladder", "log-odds")
    return [
        AttackRecipe(name, size, lab.strongest.steps, norm, loss=loss, stored=stored, gap=lab.adaptive.gap, **draws)
        for size, norm, stored in dict.fromkeys((a.size, a.norm, a.stored) for a in attacks if a.size)
        for name, loss in climbs[: 1 + (baseline.cost == "fast" and lab.adaptive.autoattack)]
    ]


def knowing(rows: pd.DataFrame) -> pd.DataFrame:
    """Rows of `baselines.cases` whose attacker knows the defense; one in the network, whoever has its weights knows."""
    return rows.loc[[ThreatModel.of(*pair).knows_defense for pair in zip(rows.knowledge, rows.defense, strict=True)]]


def strongest(rows: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Of `baselines.cases`: the last grey box that most defenses share, and all of its size by who knows the defense.

    No Defense is in both: nobody need know it, but the others are compared with it.
    """
    knows, bare = rows.index.isin(knowing(rows).index), rows.defense == "No Defense"
    norm = ~rows.attack.str.contains("-L2-|-L∞-")
    grey = rows[(rows.knowledge == ThreatModel.WEIGHTS.value) & ~rows.defense.map(inside_network)]
    sized = grey[grey.budget.isin(rows.budget[knows & norm & ~bare])]  # what was tried at that size is compared with it
    pool = next(part for part in (sized, grey, rows[~knows | bare], rows) if len(part))  # at worst, clean images
    shared = pool.groupby("attack", sort=False).defense.nunique()
    last = rows.attack == shared.index[shared == shared.max()][-1]
    return rows[last & (~knows | bare)], rows[knows & norm & (rows.budget == rows.budget[last].iloc[0])]

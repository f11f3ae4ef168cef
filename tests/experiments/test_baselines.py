"""The baselines' rows, small: every defense of `labkit.defenses` fitted, attacked and judged."""

import functools
from dataclasses import replace

from labkit import defenses
from labkit.attacks import fgsm, pgd
from labkit.attacks.budget import Budget
from labkit.core import metrics, profiles
from labkit.core.errors import InputError
from labkit.core.recipes import AttackRecipe, DefenseRecipe, rebase
from labkit.defenses import DEFENSES
from labkit.evaluation import adversarial_examples, measurement, threat_models, workbench
from labkit.evaluation.adversarial_examples import adversarial
from labkit.evaluation.threat_models import ThreatModel
from labkit.evaluation.workbench import Workbench
from labkit.experiments import baselines
from labkit.models.defense import Detector

import pytest
import torch
from conditionals import log_probabilities
from oracles import rejects
from pandas.testing import assert_series_equal
from torch import nn
from torch.testing import assert_close

AWARE = {model.value for model in ThreatModel if model.knows_defense}
TRAINED = ["Adv Training", "TE", "TE + Adv Training", "STL + Adv Training", "STL (low-pass ×0.5)"]


@pytest.fixture(scope="module")
def small(lab):
    """The lab with a shorter training, because six networks are trained."""
    return replace(lab, classifier=replace(lab.classifier, epochs=3))


@pytest.fixture(scope="module")
def cases(small):
    return baselines.cases(small)


@pytest.fixture(scope="module")
def rows(cases, bench):
    return measurement.run(cases, bench)


def asked(cases, name, attack="bim", aware=False):
    """The case of a defense, by its name, under one attack."""
    mine = [case for case in cases if isinstance(case.defense, DefenseRecipe) and case.defense.name == name]
    (found,) = [case for case in mine if case.attack.name == attack and (case.knowledge in AWARE) == aware][-1:]
    return found


def parts(case, bench):
    """What a case is about: images, classes, network, defense."""
    test = bench.images(case.data, "test")
    return test.x[:], test.y, bench.classifier(case.classifier), bench.transform(case.defense)


def test_every_defense_has_its_rows(rows, cases, small):
    built = {case.defense.name for case in cases if isinstance(case.defense, DefenseRecipe)}
    assert built == set(DEFENSES)
    names = {DefenseRecipe(name, options=dict(small.baselines.options).get(name, ())).label for name in DEFENSES}
    names |= {"No Defense", "STL", "STL (cluster)"}
    assert set(rows.defense) == {*names, *TRAINED}
    assert len(rows) == len(cases) and rows.recipe.is_unique and rows.accuracy.between(0, 1).all()
    for name, mine in rows.groupby("defense"):
        blind = mine[~mine.knowledge.isin(AWARE)]
        inside = name in ("No Defense", "Adv Training", "TE", "TE + Adv Training")  # known to whoever has the weights
        assert list(blind.attack) == [attack.label for attack in small.attacks] + ["PGD-0.03 margin"] * inside
    untrained = baselines.cases(replace(small, baselines=replace(small.baselines, trained=())))
    assert {case.label for case in untrained} == names


def test_each_is_judged_on_as_many_images_as_the_profile_says(rows, small):
    found = rows.groupby("defense").n.unique().map(list).to_dict()
    options, counts = dict(small.baselines.options), {"fast": [20], "slow": [4], "slowest": [2]}
    expected = {
        DefenseRecipe(name, options=options.get(name, ())).label: counts[named.cost] for name, named in DEFENSES.items()
    }
    assert found == expected | {key: [20] for key in ("No Defense", "STL", "STL (cluster)", *TRAINED)}
    assert (found["JPEG"], found["Quilting"], found["PixelDefend"]) == ([20], [4], [2])


def test_who_knows_a_defense_differentiates_it_in_the_way_that_says_most(rows, cases):
    """PGD on the margin; where the defense lies in the network, its weights are all there is to know."""
    hard = {}
    for case in cases:
        if case.attack.name == "pgd":
            hard.setdefault(case.label, []).append(case)
    assert set(hard) == set(rows.defense)
    for name, mine in hard.items():
        assert all(case.attack.loss == "margin" for case in mine)
        if name in ("No Defense", "Adv Training", "TE", "TE + Adv Training"):
            assert [case.knowledge for case in mine] == ["classifier"]
            continue
        defense = mine[0].defense and defenses.unfitted(mine[0].defense)
        if defense.stochastic:
            assert {case.attack.draws for case in mine} == {1}
        better = "exact" if defense.differentiable else "smooth" if defense.has_smooth else None
        assert [case.knowledge for case in mine] == [better or "identity"]


def test_the_worst_case_is_over_attacks_of_one_size_and_what_takes_long_is_asked_less():
    """At the size of the strongest grey box alone, whose norm is the relative L2."""
    large = baselines.cases(profiles.LAB)
    kinds = {}
    for case in large:
        kinds.setdefault(case.label, []).append((case.attack.name, case.attack.norm, case.knowledge))
    square, ladder = ("square", "dissimilarity", "queries"), ("ladder", "dissimilarity", "identity")
    assert square in kinds["JPEG"] and square not in kinds["Quilting"] and square not in kinds["No Defense"]
    assert ladder in kinds["JPEG"] and ladder in kinds["PixelDefend"]
    ways = {name: [k for attack, norm, k in told if attack == "pgd"] for name, told in kinds.items()}
    assert ways["JPEG"] == ["identity", "smooth", "smooth"] and ways["TVM"] == ["identity", "exact", "exact"]
    assert ways["Non-local means"] == ["identity", "identity", "learned"] and ways["PD-Ens"] == ["smooth"] * 2
    begun = {case.label: case.attack.after for case in large if case.attack.after}
    assert set(begun.values()) == {"mi_di"} and {"STL", "JPEG", "TVM", "PD-Ens"} <= set(begun)
    assert set(kinds) - set(begun) >= {"No Defense", "Adv Training", "TE", "Quilting", "PixelDefend"}
    tried = {(case.label, case.attack) for case in large}
    before = {"name": "mi_di", "loss": "log-odds", "after": ""}
    made = {(case.label, replace(case.attack, **before)) for case in large if case.attack.after}
    assert made <= tried
    assert {norm for name, norm, _ in kinds["TVM"] if name == "ladder"} == {"dissimilarity", "linf", "l2"}
    assert {norm for name, norm, _ in kinds["Quilting"]} == {"dissimilarity"}
    (two,) = [case for case in large if case.knowledge == "transfer"]
    assert two.label == "STL" and two.attack.name == "mi_di"
    assert two.copy[0] == two.classifier and two.copy[1].transform == two.defense
    alike = baselines.alike(large, AttackRecipe("pgd", 0.03))
    assert {(case.attack.size, case.attack.norm) for case in alike} == {(0.0, "dissimilarity"), (0.03, "dissimilarity")}
    assert {case.label for case in alike} == set(kinds)


def test_curves_are_of_the_smallest_changes_of_who_knows_the_defense(bench, small):
    fast = {case.label: case for case in baselines.smallest(replace(small, adaptive=profiles.LAB.adaptive))}
    assert {"No Defense", "STL", "JPEG", "Median"} <= set(fast) and not {"TVM", "Quilting", "PixelDefend"} & set(fast)
    assert baselines.smallest(small) == []
    asked = [rebase(fast[name], small.data.at_most(10)) for name in ("No Defense", "Median")]
    asked = [replace(case, attack=replace(case.attack, steps=10, gap=0.0)) for case in asked]
    found = baselines.curves(asked, bench)
    for case, (name, mine) in zip(asked, found.groupby("defense", sort=False), strict=True):
        assert (name, set(mine.knowledge), set(mine.n)) == (case.label, {case.knowledge}, {10})
        lengths = measurement.smallest([case], bench).double()
        clean = measurement.run([replace(case, attack=AttackRecipe("clean", 0.0, 0))], bench).accuracy.item()
        assert mine.accuracy.iloc[0] == clean and mine["size"].iloc[-1] == 0.1
        assert_close(mine.area.iloc[-1], float(lengths.clamp_max(0.1).mean()))
    table = baselines.halves(found)
    assert list(table.defense) == ["No Defense", "Median"] and table["threat model"][1] == "white box (exact gradient)"


def test_a_row_of_a_transform_agrees_with_a_recount(rows, cases, bench):
    case = asked(cases, "jpeg", "fgsm")
    x, y, network, jpeg = parts(case, bench)
    x_adv = fgsm(network, x, y, budget=Budget.dissimilarity(0.08))
    seen = jpeg(x_adv)
    row = rows[(rows.defense == "JPEG") & (rows.attack == "FGSM-0.08")].iloc[0]
    with torch.no_grad():
        right = int((network(seen).argmax(1) == y).sum())
    assert (row.accuracy, row.low, row.high) == metrics.accuracy(right, 20)[:3]
    assert_close(row.psnr, float(metrics.psnr(seen, x).mean()))


def test_a_row_of_an_ensemble_agrees_with_a_recount(rows, cases, bench):
    x, y, network, deflection = parts(asked(cases, "deflection", "fgsm"), bench)
    x_adv = fgsm(network, x, y, budget=Budget.dissimilarity(0.08))
    with torch.no_grad():
        right = deflection.seeded(1).around(network)(x_adv).argmax(1) == y
    row = rows[(rows.defense == "PD-Ens") & (rows.attack == "FGSM-0.08")].iloc[0]
    assert row.accuracy == float(right.double().mean())
    assert_close(row.psnr, float(metrics.psnr(x_adv, x).mean()))  # it hands on no image of its own


def test_a_row_of_a_detector_agrees_with_a_recount(rows, cases, bench):
    """An attacked image that is rejected counts as correct; a clean one is a mistake."""
    x, y, network, detector = parts(asked(cases, "magnet-detector", "fgsm"), bench)
    x_adv = fgsm(network, x, y, budget=Budget.dissimilarity(0.08))
    row = rows[rows.defense == "MagNet detector"].set_index("attack").accuracy
    with torch.no_grad():
        clean = (network(x).argmax(1) == y) & ~rejects(detector, x)
        right = (network(x_adv).argmax(1) == y) | rejects(detector, x_adv)
    assert row["Clean"] == float(clean.double().mean())
    assert row["FGSM-0.08"] == float(right.double().mean())


class Either(nn.Module):
    """For images of class `own`: the other classes against the better of `own` and "attacked"."""

    def __init__(self, system, own):
        super().__init__()
        self.system, self.own = system, own

    def forward(self, x):
        logits = self.system(x)
        best = torch.maximum(logits[:, self.own], logits[:, -1])
        keep = nn.functional.one_hot(torch.tensor(self.own), logits.shape[1] - 1).bool()
        return torch.where(keep, best[:, None], logits[:, :-1])


@pytest.mark.parametrize("name", ["lid", "magnet-detector"])
def test_who_knows_a_detector_fools_it_together_with_the_network(name, cases, bench):
    case = asked(cases, name, attack="pgd", aware=True)
    x, y, network, detector = parts(case, bench)
    assert isinstance(detector, Detector) and case.knowledge == "exact"
    system, expected = detector.around(network), x.clone()
    for c in y.unique().tolist():
        mine, budget = y == c, Budget.dissimilarity(0.03)
        how = {"steps": case.attack.steps, "loss": "margin"}
        expected[mine] = pgd(Either(system, c), x[mine], y[mine], budget=budget, **how)
    found = adversarial(case.attempt(), bench)
    assert_close(found, expected, atol=1e-5, rtol=0)
    blind = adversarial(asked(cases, name).attempt(), bench)
    assert (found - blind).abs().amax() > 0.01


@pytest.mark.parametrize("name", ["tvm", "deflection", "sap"])
def test_random_defenses_are_judged_on_draws_of_their_own_and_reproducibly(name, rows, cases, bench, tmp_path):
    """And the same number in a store without rows or attacks, whatever was drawn before."""
    case = asked(cases, name, attack="pgd", aware=True)
    defense = bench.transform(case.defense)
    assert defense.stochastic
    fresh = Workbench(tmp_path, progress=False)
    fresh.classifier, fresh.transform = bench.classifier, lambda recipe: defense.seeded(99)
    seeds, seeded = [], defense.seeded
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(defense, "seeded", lambda seed: (seeds.append(seed), seeded(seed))[1])
        again = measurement.run([case], fresh).iloc[0]
    # While attacked, from 0; when judged, from 1, and for the majority from those after. 99 came from outside.
    assert [seed for seed in dict.fromkeys(seeds) if seed != 99] == [0, *range(1, 1 + threat_models.ANSWERS)]
    mine = rows[rows.recipe == again.recipe].iloc[0]
    found, expected = (row[["accuracy", "psnr", "majority"]].astype(float) for row in (again, mine))
    assert_series_equal(found, expected, check_names=False, check_exact=True)
    assert torch.equal(adversarial(case.attempt(), fresh), adversarial(case.attempt(), bench))


def test_an_attack_on_a_random_defense_cut_in_the_middle_goes_on_as_if_it_had_not(cases, bench, tmp_path, monkeypatch):
    monkeypatch.setattr(adversarial_examples, "_BATCH", 8)
    case = asked(cases, "sap", attack="pgd", aware=True)
    calls = []

    @functools.wraps(pgd)
    def breaking(model, x, y, **options):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return pgd(model, x, y, **options)

    def lent(folder):
        other = Workbench(folder, progress=False)
        other.classifier, other.transform = bench.classifier, bench.transform
        return other

    whole = adversarial(case.attempt(), lent(tmp_path / "whole"))
    monkeypatch.setitem(adversarial_examples.ATTACKS, "pgd", breaking)
    with pytest.raises(KeyboardInterrupt):
        adversarial(case.attempt(), lent(tmp_path / "cut"))
    assert torch.equal(adversarial(case.attempt(), lent(tmp_path / "cut")), whole)
    assert calls == [8, 8, 4, 4]


def test_a_network_is_retrained_on_what_a_random_defense_samples(small, bench, tmp_path, monkeypatch):
    """The same images when it was killed between two chunks as in one go; and a row of its own."""
    monkeypatch.setattr(workbench, "_PROJECTED_AT_ONCE", 300)
    recipe = DefenseRecipe("deflection", small.data, (("draws", 2),))
    kind, calls = type(bench.defense(recipe)), []
    sample = kind.sample

    def breaking(self, x):
        calls.append(len(x))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return sample(self, x)

    whole = bench.projected(recipe)
    monkeypatch.setattr(kind, "sample", breaking)
    cut = Workbench(tmp_path, progress=False)
    with pytest.raises(KeyboardInterrupt):
        cut.projected(recipe)
    found = cut.projected(recipe)
    assert calls == [300, 300, 300, 300, 100]
    assert torch.equal(found.x, whole.x)
    train = bench.images(small.data, "train")
    assert torch.equal(found.y, train.y) and not torch.equal(found.x, train.x)
    last = bench.defense(recipe).seeded(900)  # each chunk draws from its own place
    assert_close(whole.x[900:], sample(last, train.x[900:]), atol=1e-3, rtol=0)  # half precision

    network = replace(small.classifier, epochs=1, transform=recipe)
    row = measurement.run([measurement.Case(network, recipe, AttackRecipe("clean", 0.0, 0))], bench).iloc[0]
    assert row.retrained and row.defense == "PD-Ens" and row.accuracy > 0.2


def test_the_blur_costs_as_much_of_the_image_as_stl(small, bench):
    blur = bench.defense(DefenseRecipe("lowpass", small.data, like=small.transform))
    T, x = bench.transform(small.transform), bench.images(small.data, "train").x[:200]
    ours, theirs = (float(metrics.psnr(cleaned(x), x).mean()) for cleaned in (T, blur))
    assert abs(ours - theirs) < 0.1
    unseen = bench.images(small.data, "test").x
    ours, theirs = (float(metrics.psnr(cleaned(unseen), unseen).mean()) for cleaned in (T, blur))
    assert abs(ours - theirs) < 0.5


@pytest.mark.parametrize(
    "name, options, said",
    [
        ("magic", {}, "unknown defense 'magic'; the known ones are jpeg, bits"),
        ("jpeg", {"colour": 1}, "unexpected keyword argument 'colour'.*see labkit.defenses.filters"),
        ("crops", {"colour": 1}, "unexpected keyword argument 'colour'"),
        ("bits", {"bits": 9}, "BitDepth needs bits in 1 to 8, got 9"),
        ("median", {"size": "wide"}, "Median needs size ≥ 1, got 'wide'"),
        ("lowpass", {}, "either sigma, in pixels, or psnr"),
    ],
)
def test_unknown_names_and_wrong_options_are_said_in_a_sentence(name, options, said, small, bench):
    with pytest.raises(InputError, match=said) as caught:
        bench.defense(DefenseRecipe(name, small.data, tuple(options.items())))
    assert "\n" not in str(caught.value)


def test_the_strip_has_a_pair_and_notes_for_everyone(rows, small, bench):
    """The image that the attack turns is turned in the pair of No Defense; notes are class and fidelity."""
    pairs, notes = baselines.strip(small, bench)
    assert set(pairs) == set(notes) == {*rows.defense, "STL", "STL (cluster)"}
    assert list(pairs)[:3] == ["No Defense", "STL", "STL (cluster)"]
    few = bench.images(replace(small.data, test=20), "test")
    clean, attacked = pairs["No Defense"]
    one = int((few.x == clean).flatten(1).all(1).nonzero())
    network = bench.classifier(small.classifier)
    with torch.no_grad():
        before, after = (few.classes[int(c)] for c in network(torch.stack([clean, attacked])).argmax(1))
    assert before == few.classes[few.y[one]] != after
    dB = float(metrics.psnr(attacked[None], clean[None]))
    assert notes["No Defense"] == [f"{before}\nunchanged", f"{after}\n{dB:.1f} dB"]
    for name, pair in pairs.items():
        assert pair.shape == (2, *few.x.shape[1:]) and pair.min() >= 0 and pair.max() <= 1
        words = [note.split("\n") for note in notes[name]]
        assert all(len(said) == 2 and said[0] in (*few.classes, "rejected") for said in words)
    for name in ("SAP", "LID", "Crop-Ens", "TE"):
        assert torch.equal(pairs[name], pairs["No Defense"])
    with torch.no_grad():
        assert_close(pairs["Median"], bench.defense(DefenseRecipe("median", small.data))(pairs["No Defense"]))


def test_a_likelihood_is_that_of_the_pixelcnn_that_defends(small, bench):
    rows = baselines.likelihoods(small, bench).set_index("images")
    assert list(rows.index) == ["x", "x_adv, FGSM-0.08", "T(x)", "T(x_adv)"] and set(rows.n) == {4}
    x = bench.images(replace(small.data, test=4), "test").x[:]
    (defense,) = (bench.defense(row.defense) for row in baselines.before(small, "pixeldefend"))
    logs = log_probabilities(defense.network, defenses.pixelcnn.to_8_bits(x))
    chosen = (255 * x).round().long()[..., None]
    expected = -logs.gather(-1, chosen).mean((1, 2, 3, 4)) / torch.log(torch.tensor(2.0))
    assert_close(rows.loc["x", "bits per dimension"], float(expected.mean()), rtol=1e-4, atol=0)
    assert (rows.low < rows["bits per dimension"]).all() and (rows["bits per dimension"] < rows.high).all()

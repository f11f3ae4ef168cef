"""Which numbers are compared for every claim, and what the verdicts are on made-up rows."""

from labkit.evaluation import measurement
from labkit.experiments import published_numbers
from labkit.reporting import questions, tables
from labkit.reporting.verdicts import HIGHER, LOWER, SAME

import pandas as pd
import pytest

COLUMNS = ["block", "defense", "knowledge", "n", "attack", "accuracy", "low", "high"]


def cells(stl=0.6, clean=0.8, worst=0.05, bare=0.3, paper=0.7099, defenses=("No Defense", "STL")):
    """Cells of a table of the paper, under one attack."""

    def around(block, defense, knowledge, attack, accuracy):
        return (block, defense, knowledge, 100, attack, accuracy, accuracy - 0.04, accuracy + 0.04)

    found = pd.DataFrame(
        [
            around("ours", "No Defense", "classifier", "Clean", 0.9),
            around("ours", "No Defense", "classifier", "FGSM-0.08", bare),
            around("ours", "STL", "classifier", "Clean", clean),
            around("ours", "STL", "classifier", "FGSM-0.08", stl),
            around("worst", "No Defense", "", "FGSM-0.08", 0.04),
            around("worst", "STL", "", "FGSM-0.08", worst),
            ("paper", "No Defense", "", None, "Clean", 0.9298, None, None),
            ("paper", "No Defense", "", None, "FGSM-0.08", 0.5816, None, None),
            ("paper", "STL", "", None, "Clean", 0.8285, None, None),
            ("paper", "STL", "", None, "FGSM-0.08", paper, None, None),
        ],
        columns=COLUMNS,
    )
    return found[found.defense.isin(defenses)]


def told(found, words):
    """Verdicts of the question with these words, by where and case."""
    mine = found[found.question.str.contains(words, regex=False)]
    return dict(zip(zip(mine["where"], mine.case, strict=True), mine.verdict, strict=True))


def test_a_table_is_read_by_threat_model():
    found = questions.of_table(cells())
    assert told(found, "How strong") == {("white box", "FGSM-0.08"): LOWER}
    assert told(found, "Does STL beat No Defense?") == {
        ("grey box (weights)", "FGSM-0.08"): HIGHER,
        ("worst case", "FGSM-0.08"): SAME,
    }
    (share,) = found[found.question.str.contains("relative robust")].itertuples()
    assert (share.number, share.other_number) == (pytest.approx(0.75), pytest.approx(0.7099 / 0.8285))
    assert share.verdict == "" and not told(found, "label leaking")
    assert told(questions.of_table(cells(stl=0.2)), "beat")["grey box (weights)", "FGSM-0.08"] == LOWER
    assert told(questions.of_table(cells(worst=0.3)), "beat")["worst case", "FGSM-0.08"] == HIGHER
    assert told(questions.of_table(cells(bare=0.7)), "How strong") == {("white box", "FGSM-0.08"): HIGHER}


def test_a_table_without_stl_or_with_both_is_read():
    assert questions.ranking(cells(defenses=("No Defense",))).empty
    both = pd.concat([cells(), cells(stl=0.7, defenses=("STL",)).replace("STL", "STL (cluster)")])
    assert told(questions.ranking(both), "stratification")["grey box (weights)", "FGSM-0.08"] == HIGHER


def test_who_is_better_attacked_than_clean_leaks_the_class():
    leaks = told(questions.of_table(cells(stl=0.9)), "label leaking")
    assert leaks["grey box (weights)", "FGSM-0.08"] == HIGHER and leaks["worst case", "FGSM-0.08"] == LOWER
    assert ("yes", "") in leaks
    for attacked in (0.82, 0.6):
        assert not told(questions.of_table(cells(stl=attacked)), "label leaking")


def test_what_has_no_defense_to_know_is_compared_under_every_threat_model():
    owner = cells(defenses=("STL",)).replace("classifier", "transfer")
    found = questions.ranking(pd.concat([cells(), owner[owner.block == "ours"]]))
    assert ("grey box (surrogate)", "FGSM-0.08") in told(found, "Does STL beat No Defense?")
    found = questions.ranking(cells())
    assert found.difference[0] == pytest.approx(-0.1) and found.verdict[0] == LOWER  # on clean images


def test_retraining_is_read_from_two_tables_by_threat_model():
    owner = cells(stl=0.75, clean=0.82, defenses=("STL",))
    owner = owner[owner.block == "ours"].replace("classifier", "transfer")
    found = questions.retraining(pd.concat([cells(stl=0.5, clean=0.82), owner]), cells())
    assert told(found, "Does retraining help STL?") == {
        ("clean images", "Clean"): SAME,
        ("grey box (surrogate)", "FGSM-0.08"): HIGHER,
        ("grey box (weights)", "FGSM-0.08"): LOWER,
        ("worst case", "FGSM-0.08"): SAME,
    }


@pytest.mark.parametrize("share, holds", [(0.9, "holds"), (0.45, "does not hold")])
def test_votes_are_read_beside_noise_of_the_same_size(share, holds):
    rows = [("FGSM-0.08", 0.08, share, share - 0.02, share + 0.02, 500)]
    rows.append(("noise as large as FGSM-0.08", 0.08, 0.97, 0.95, 0.99, 500))
    names = ["attack", "dissimilarity", "same cluster", "low", "high", "n"]
    found = questions.stability(pd.DataFrame(rows, columns=names))
    assert found.verdict.tolist() == [LOWER, holds] and found.case[0] == "FGSM-0.08"


def row(defense, attack, knowledge, accuracy, retrained=False, n=50):
    settings = {"defense": defense, "attack": attack, "knowledge": knowledge, "retrained": retrained, "n": n}
    return settings | {"accuracy": accuracy, "low": accuracy - 0.02, "high": accuracy + 0.02}


def test_the_grid_is_read_beside_no_defense_and_by_retraining_and_knowledge():
    found = questions.grid(pd.DataFrame([
        row("No Defense", "Clean", "–", 0.9), row("No Defense", "BIM", "classifier", 0.1),
        row("STL", "Clean", "–", 0.8), row("STL", "BIM", "classifier", 0.5),
        row("STL", "Clean", "–", 0.88, True), row("STL", "BIM", "transfer", 0.66, True),
        row("STL", "BIM", "classifier", 0.5, True), row("STL", "BIM", "exact", 0.11, True),
    ]))  # fmt: skip
    beaten = told(found, "Does STL beat No Defense?")
    assert beaten["vanilla network, grey box (weights)", "BIM"] == HIGHER
    assert beaten["retrained network, white box (exact gradient)", "BIM"] == SAME
    assert beaten["vanilla network, clean images", "Clean"] == LOWER
    assert told(found, "Does retraining help STL?") == {
        ("clean images", "Clean"): HIGHER,
        ("grey box (surrogate)", "BIM"): HIGHER,
        ("grey box (weights)", "BIM"): SAME,
    }
    (known,) = found[found.question.str.contains("knows the defense")].itertuples()
    assert (known.number, known.other_number, known.other, known.verdict) == (0.11, 0.66, "grey box (surrogate)", LOWER)


def test_baselines_are_compared_clean_unaware_and_in_the_worst_case():
    given = {"No Defense": (0.81, 0.1), "STL": (0.8, 0.5), "JPEG": (0.83, 0.3), "Adv Training": (0.7, 0.4)}
    rows = [row(name, "Clean", "–", shares[0]) for name, shares in given.items()]
    rows += [row(name, "BIM-0.03", "classifier", shares[1]) for name, shares in given.items()]
    rows += [row("STL", "PGD-0.03", "exact", 0.2), row("JPEG", "PGD-0.03", "identity", 0.3, n=20)]
    worst = pd.DataFrame(
        [row(name, "all", "–", share) for name, share in (("STL", 0.1), ("JPEG", 0.3), ("Adv Training", 0.0))]
    )
    found = questions.baselines(pd.DataFrame(rows).assign(budget=0.03), worst)
    mine = {where: dict(zip(part.other, part.verdict, strict=True)) for where, part in found.groupby("where")}
    assert mine["clean images"] == {"No Defense": SAME, "JPEG": LOWER, "Adv Training": HIGHER}
    # Of a network that is its own defense, the weights are all there is to know: it has no grey box.
    assert mine["BIM-0.03, defense unknown"] == {"No Defense": HIGHER, "JPEG": HIGHER}
    assert mine["worst case of size 0.03"] == {"JPEG": LOWER, "Adv Training": HIGHER}


def swept(what, clean, attacked, psnr, values=(1, 2, 4), half=0.02):
    """Rows of a sweep with these accuracies, all with intervals of ± `half`."""
    rows = []
    for at, value in enumerate(values):
        for asked, accuracy in (("clean", clean[at]), ("attacked", attacked[at])):
            rows.append(
                {
                    "what": what, "value": value, "own": at == 0, "asked": asked, "n": 100, "defense": "STL",
                    "attack": "Clean" if asked == "clean" else "FGSM-0.08",
                    "knowledge": "–" if asked == "clean" else "classifier",
                    "accuracy": accuracy, "low": accuracy - half, "high": accuracy + half,
                    "fidelity": psnr[at], "fidelity_low": psnr[at] - 1, "fidelity_high": psnr[at] + 1,
                }
            )  # fmt: skip
    return pd.DataFrame(rows)


def test_a_sweep_is_read_from_its_first_value_to_its_last():
    rows = swept("lam", (0.9, 0.8, 0.7), (0.3, 0.5, 0.6), (30, 25, 20))
    found = questions.sweep(rows.sample(frac=1, random_state=0), "lam")
    assert told(found, "What does λ change?") == {
        ("PSNR of T(x)", ""): LOWER,
        ("clean accuracy", ""): LOWER,
        ("accuracy under FGSM-0.08, grey box (weights)", ""): HIGHER,
        ("gap between clean and attacked accuracy", ""): LOWER,
    }
    assert set(found.ours[:4]) == {"λ = 4"} and set(found.other[:4]) == {"λ = 1"}
    hill = questions.sweep(swept("K", (0.3, 0.8, 0.32), (0.3, 0.3, 0.3), (30, 30, 30)), "K")
    part = hill[(hill["where"] == "clean accuracy")]
    pairs = list(zip(part.ours, part.other, part.verdict, strict=True))
    assert pairs == [("K = 4", "K = 1", SAME), ("K = 2", "K = 1", HIGHER)]


@pytest.mark.parametrize(
    ("what", "clean", "attacked", "half", "parts", "whole"),
    [
        ("lam", (0.9, 0.8, 0.7), (0.5, 0.4, 0.3), 0.02, ["holds", SAME], "holds in part"),
        ("lam", (0.7, 0.8, 0.9), (0.6, 0.5, 0.3), 0.02, ["does not hold"] * 2, "does not hold"),
        ("lam", (0.7, 0.7, 0.7), (0.5, 0.5, 0.5), 0.02, [SAME, SAME], "not decided"),
        ("K", (0.7, 0.8, 0.9), (0.6, 0.5, 0.3), 0.02, ["holds", "holds"], "holds"),
        ("S", (0.7, 0.71, 0.7), (0.3, 0.3, 0.3), 0.02, ["holds", "holds"], "holds"),
        ("S", (0.7, 0.9, 0.7), (0.3, 0.3, 0.3), 0.02, ["does not hold", "holds"], "holds in part"),
        ("S", (0.7, 0.78, 0.7), (0.3, 0.3, 0.3), 0.02, ["not decided", "holds"], "holds in part"),
        ("S", (0.7, 0.735, 0.56), (0.45, 0.3, 0.35), 0.02, ["does not hold", "does not hold"], "does not hold"),
        ("S", (0.7, 0.71, 0.7), (0.3, 0.3, 0.3), 0.08, ["not decided"] * 2, "not decided"),
    ],
)
def test_the_papers_statement_is_held_against_the_rows(what, clean, attacked, half, parts, whole):
    found = questions.sweep(swept(what, clean, attacked, (30, 25, 20), half=half), what)
    claims = found[found.question.str.contains("what the paper says")]
    assert claims.verdict.tolist() == [*parts, whole]


def test_of_m_the_paper_says_nothing():
    found = questions.sweep(swept("M", (0.7, 0.9, 0.7), (0.3, 0.3, 0.3), (30, 25, 20)), "M")
    assert found.verdict.iloc[-1] == "no curve for M"


def test_other_choices_are_held_against_the_labs_own():
    rows = swept("boundary", (0.7, 0.71), (0.3, 0.4), (30, 20), values=("circular", "reflect"))
    found = questions.sweep(rows, "boundary")
    assert set(found.question) == {"Boundary: reflect instead of circular?"}
    assert found.verdict.tolist() == [LOWER, SAME, HIGHER] and found.ours[0] == "reflect"


def test_the_papers_sentence_on_psnr_and_accuracy():
    def place(defense, psnr, clean, attacked):
        ends = {f"{of}{end}": number + by for of, number in (("clean", clean), ("attacked", attacked))
                for end, by in (("", 0), ("_low", -0.02), ("_high", 0.02))}  # fmt: skip
        return {"defense": defense, "n": 100, "psnr": psnr, "low": 0, "high": 1} | ends

    best = [place("STL", 29.0, 0.8, 0.5), place("TVM", 28.0, 0.9, 0.51), place("No Defense", 30.0, 0.8, 0.1)]
    found = questions.psnr_accuracy(pd.DataFrame(best))
    by = {(row["where"], row["other"]): row["verdict"] for row in found.to_dict("records")}
    assert by["the paper's statement", ""] == "holds" and by["PSNR of T(x_adv)", "TVM"] == "higher"
    assert by["attacked accuracy", "No Defense"] == HIGHER and by["clean accuracy", "TVM"] == LOWER
    for worse in (place("JPEG", 29.5, 0.7, 0.1), place("JPEG", 20.0, 0.7, 0.6)):
        assert questions.psnr_accuracy(pd.DataFrame([*best, worse])).verdict.iloc[-1] == "does not hold"


def test_what_T_leaves_is_read_along_lambda_and_beside_noise():
    rows = pd.DataFrame(
        [("FGSM-0.08", 0.1, 0.8, 35.0), ("FGSM-0.08", 0.8, 0.5, 25.0), ("noise-0.08", 0.1, 0.6, 35.0),
         ("noise-0.08", 0.8, 0.49, 25.0)], columns=["change", "λ", "kept", "psnr"],
    ).assign(n=100)  # fmt: skip
    for name, half in (("kept", 0.02), ("psnr", 0.5)):
        rows[f"{name}_low"], rows[f"{name}_high"] = rows[name] - half, rows[name] + half
    found = questions.attenuation(rows)
    assert told(found, "How much") == {(f"share of {name}", "λ = 0.8"): LOWER for name in ("FGSM-0.08", "noise-0.08")}
    assert list(told(found, "than of noise").values()) == [HIGHER, SAME]
    (near,) = found[found.question.str.startswith("How near")].itertuples()
    assert (near.number, near.other_number, near.unit, near.verdict) == (25.0, 35.0, " dB", LOWER)
    assert "than of noise" not in " ".join(questions.attenuation(rows[2:]).question)


def test_resolutions_are_compared_where_every_table_has_them():
    more = cells(stl=0.6, paper=0.6, bare=0.55)
    found = questions.resolutions({128: more, 64: cells(stl=0.4, paper=0.4)})
    place = "FGSM-0.08, grey box (weights)"
    course = found[(found.question == "Does STL hold at every resolution?") & (found["where"] == place)]
    assert (course.ours.item(), course.other.item(), course.verdict.item()) == ("pixels = 128", "pixels = 64", HIGHER)
    shares = found[found["where"] == f"relative robust accuracy, {place}"]
    assert shares.number.tolist() == pytest.approx([0.5, 0.75]) and shares.case.tolist() == ["64 pixels", "128 pixels"]
    beaten = told(found, "Does STL beat No Defense")
    assert beaten[place, "64 pixels"] == HIGHER and beaten["FGSM-0.08, worst case", "64 pixels"] == SAME
    shown = tables.resolutions({64: cells(0.4), 128: cells(0.6)}).set_index(["attack", "block", "defense"])
    assert shown.loc[("FGSM-0.08", "ours", "STL"), "128 pixels"] == "0.600 [0.560, 0.640] (relative 0.75)"
    assert shown.loc[("FGSM-0.08", "paper", "STL"), ["threat model", "n"]].tolist() == ["not said", "not said"]
    assert [place[:2] for place in dict.fromkeys(index[:2] for index in shown.index)] == [
        ("Clean", "ours"), ("Clean", "paper"), ("FGSM-0.08", "ours"), ("FGSM-0.08", "ours, worst case"),
        ("FGSM-0.08", "paper"),
    ]  # fmt: skip
    less = cells(0.6)[cells(0.6).block != "paper"]
    assert set(published_numbers.by_resolution({64: cells(0.4), 128: less}).block) == {"ours", "worst"}


def measured(recipe, accuracy, seconds, attack="FGSM-0.08"):
    return row("STL", attack, "exact", accuracy, True, 100) | {"recipe": recipe, "seconds": seconds}


def test_one_measurement_shown_twice_is_none_repeated(tmp_path):
    parts = {
        "first": [measured("00", 0.5, 1.25), measured("01", 0.6, 1.5), measured("02", 0.3, 2.0)],
        "shown again": [measured("00", 0.5, 1.25)],
        "second": [measured("01", 0.62, 1.75), measured("02", 0.45, 2.5, "BIM-0.03"), measured("03", 0.1, 3.0)],
    }
    for name, rows in parts.items():
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    files = [tmp_path / f"{name}.csv" for name in parts]
    twice = measurement.repeated(files)
    assert list(twice.recipe) == ["01", "02"]
    assert list(twice.accuracy) == [0.6, 0.3] and list(twice.accuracy_again) == [0.62, 0.45]
    assert measurement.repeated(files[:2]).empty and measurement.repeated([]).empty
    found = questions.repeats(twice)
    assert found.verdict.tolist() == [SAME, LOWER, "0.085 in the median, at most 0.150"]
    assert found.case[1] == "STL, retrained, FGSM-0.08, white box (exact gradient)"


def _run(recipe, accuracy, run):
    told = {"defense": "STL", "retrained": True, "attack": "FGSM-0.08", "knowledge": "exact", "n": 100}
    return told | {"recipe": recipe, "accuracy": accuracy, "low": accuracy - 0.05, "high": accuracy + 0.05, "run": run}


def test_a_measurement_is_known_by_its_run_and_not_by_its_time(tmp_path):
    """Two runs may well take equally long, and measure the same."""
    pair = [tmp_path / "one.csv", tmp_path / "two.csv"]
    for file, run in zip(pair, ("a", "b"), strict=True):
        pd.DataFrame([_run("00", 0.5, run) | {"seconds": 1.5}]).to_csv(file, index=False)
    assert list(measurement.repeated(pair).recipe) == ["00"]


def test_rows_from_before_there_was_a_run_are_known_by_what_they_measured(tmp_path):
    """Their seconds may be blank in one file, and stand in the other."""
    old = [_run("00", 0.5, None), _run("01", 0.5, None) | {"psnr": 30.0}, _run("02", 0.5, None)]
    parts = {"old": old, "blank": [old[0] | {"seconds": 1.5, "what": "K"}, old[1] | {"psnr": 31.0}],
             "new": [_run("02", 0.5, "a")]}  # fmt: skip
    for name, rows in parts.items():
        pd.DataFrame(rows).to_csv(tmp_path / f"{name}.csv", index=False)
    assert list(measurement.repeated(tmp_path / f"{name}.csv" for name in parts).recipe) == ["01", "02"]

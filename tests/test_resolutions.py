"""One defense at several resolutions: the table and the sentences."""

import json

import pandas as pd

from labkit import findings, resolutions


def cells(stl, tvm=0.3, clean=0.8, worst=0.05, paper=0.4):
    def around(block, defense, knowledge, attack, accuracy):
        return (block, defense, knowledge, 100, attack, accuracy, accuracy - 0.04, accuracy + 0.04)

    return pd.DataFrame(
        [
            around("ours", "No Defense", "classifier", "Clean", 0.9),
            around("ours", "No Defense", "classifier", "FGSM-0.08", 0.1),
            around("ours", "STL", "classifier", "Clean", clean),
            around("ours", "STL", "classifier", "FGSM-0.08", stl),
            around("ours", "TVM", "classifier", "FGSM-0.08", tvm),
            around("worst", "No Defense", "", "FGSM-0.08", 0.05),
            around("worst", "STL", "", "FGSM-0.08", worst),
            ("paper", "STL", "", None, "Clean", 0.8, None, None),
            ("paper", "STL", "", None, "FGSM-0.08", paper, None, None),
            ("paper", "PD-Ens", "", None, "FGSM-0.08", 0.3, None, None),
        ],
        columns=["block", "defense", "knowledge", "n", "attack", "accuracy", "low", "high"],
    )


def test_sentences_say_how_it_goes_with_resolution_and_who_is_behind():
    blind, worst = resolutions.reading({128: cells(0.6, tvm=0.55, paper=0.6), 64: cells(0.4)}).splitlines()
    assert blind == (
        "- **STL, FGSM-0.08, attacker has the weights, not T**: accuracy rises from 0.400 [0.360, 0.440] at pixels = "
        "64 to 0.600 [0.560, 0.640] at pixels = 128; of its clean accuracy it keeps 0.50, 0.75 (paper 0.50, 0.75). "
        "Surely ahead of No Defense at 64 and 128, TVM at 64."
    )
    assert "attacker has anything**: accuracy is not told apart" in worst
    assert "keeps 0.06, 0.06" in worst and worst.endswith("Surely ahead of No Defense at none of them.")


def test_only_what_all_tables_have_is_compared():
    less = cells(0.6)
    less = less[(less.defense != "TVM") & (less.block != "paper")]
    found = resolutions.compare({64: cells(0.4), 128: less})
    assert set(found.defense) == {"No Defense", "STL"} and set(found.block) == {"ours", "worst"}
    assert all([point.at for point in points] == [64, 128] for points in found.points)
    said = resolutions.reading({64: cells(0.4), 128: less})
    assert "TVM" not in said and "paper" not in said
    shown = resolutions.view({64: cells(0.4), 128: cells(0.6)}).set_index(["attack", "block", "defense"])
    assert shown.loc[("FGSM-0.08", "ours", "STL"), "128 pixels"] == "0.600 [0.560, 0.640] (keeps 0.75)"
    assert shown.loc[("FGSM-0.08", "paper", "STL"), "64 pixels"] == "0.4 (keeps 0.50)"
    assert shown.loc[("FGSM-0.08", "paper", "STL"), ["attacker has", "n"]].tolist() == ["not said", "not said"]
    assert set(shown.n) == {"100", "not said"} and "PD-Ens" not in shown.index.get_level_values("defense")
    assert list(dict.fromkeys(place[:2] for place in shown.index)) == [
        ("Clean", "ours"), ("Clean", "paper"), ("FGSM-0.08", "ours"), ("FGSM-0.08", "ours, worst case"),
        ("FGSM-0.08", "paper"),
    ]  # fmt: skip


def test_the_page_compares_tables_of_one_setting_at_different_resolutions(tmp_path):
    place = tmp_path / "photos"
    place.mkdir()

    def put(name, pixels, stl):
        cells(stl).to_csv(place / f"table_{name}.csv", index=False)
        row = {"data": f"photos, {pixels}×{pixels}", "recipe": name, "accuracy": stl, "low": 0, "high": 1, "seconds": 1}
        pd.DataFrame([row]).to_csv(place / f"table_{name}_rows.csv", index=False)
        (place / f"table_{name}.json").write_text(json.dumps({"command": f"python -m labkit table {name}"}))

    put("6a", 64, 0.4)
    put("2a", 64, 0.5)  # of another setting: retrained
    assert "every resolution" not in findings.page(tmp_path)
    put("6b", 128, 0.6)
    page = findings.page(tmp_path)
    assert page.count("### Does it hold at every resolution? (vanilla classifier") == 1
    assert "Of Table 6a at 64 pixels, Table 6b at 128 pixels;" in page and "rises from 0.400" in page
    put("6b", 64, 0.6)
    assert "every resolution" not in findings.page(tmp_path)

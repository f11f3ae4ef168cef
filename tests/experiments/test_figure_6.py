"""Which defenses lie where on the map of PSNR and accuracy, and what is said of it."""

from labkit.experiments import paper_tables

import pandas as pd


def test_the_map_takes_vanilla_networks_and_blind_attackers():
    def row(defense, attack, accuracy, psnr, knowledge="classifier", n=100, retrained=False):
        recipe = f"{defense} {attack} {n} {retrained} {knowledge}"
        return (defense, n, retrained, attack, knowledge, accuracy, accuracy - 0.1, accuracy + 0.1, psnr, recipe)

    rows = pd.DataFrame(
        [
            row("No Defense", "Clean", 0.9, None, "–"),
            row("No Defense", "FGSM-0.08", 0.1, 27.0),
            row("STL", "Clean", 0.5, 24.0, "–"),
            row("STL", "FGSM-0.08", 0.6, 23.0),
            row("STL", "FGSM-0.08", 0.7, 23.5, retrained=True),
            row("STL", "FGSM-0.08", 0.0, 22.5, "exact"),
            row("STL", "Clean", 0.51, 24.1, "–", n=20),
            row("STL", "FGSM-0.08", 0.61, 23.1, n=20),
            row("JPEG", "Clean", 0.8, None, "–"),
            row("JPEG", "FGSM-0.08", 0.2, 26.0),
            row("TVM", "Clean", 0.85, 30.0, "–"),
        ],
        columns=["defense", "n", "retrained", "attack", "knowledge", "accuracy", "low", "high", "psnr", "recipe"],
    )
    found = paper_tables.intervals(rows.iloc[::-1]).set_index("defense").sort_index()
    # JPEG leaves a clean image that has been through it before as it is, which has no PSNR; TVM was not attacked.
    assert list(found.index) == ["JPEG", "No Defense", "STL"]
    assert found.loc["STL", ["n", "psnr", "clean", "attacked", "low", "high"]].tolist() == [
        100,
        23.0,
        0.5,
        0.6,
        0.5,
        0.6,
    ]
    assert found.loc["No Defense", ["low", "high"]].tolist() == [0.1, 0.9]
    assert found.clean_recipe["STL"] == "STL Clean 100 False –"
    assert found.attacked_recipe["STL"] == "STL FGSM-0.08 100 False classifier"


def test_the_map_asks_for_vanilla_networks_clean_and_attacked_once(lab):
    cases = paper_tables.figure_6(lab)
    assert {case.attack.label for case in cases} == {"Clean", "FGSM-0.08"} and len(cases) % 2 == 0
    assert {case.knowledge for case in cases} == {"classifier"}
    assert not any(case.classifier.transform or case.classifier.adversarial for case in cases)
    labels = {case.label for case in cases}
    assert {"No Defense", "STL", "STL (cluster)", "JPEG", "TVM"} <= labels
    assert labels.isdisjoint({"SAP", "Crop-Ens", "PD-Ens", "TVM+quilt", "LID", "MagNet detector"})  # stand around it

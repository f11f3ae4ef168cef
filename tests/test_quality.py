"""Which defenses lie where on the map of PSNR and accuracy, and what is said of it."""

import pandas as pd

from labkit import quality


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
    found = quality.intervals(rows.iloc[::-1]).set_index("defense").sort_index()
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
    cases = quality.cases(lab)
    assert {case.attack.label for case in cases} == {"Clean", "FGSM-0.08"} and len(cases) % 2 == 0
    assert {case.knowledge for case in cases} == {"classifier"}
    assert not any(case.classifier.transform or case.classifier.adversarial for case in cases)
    labels = {case.label for case in cases}
    assert {"No Defense", "STL", "STL (cluster)", "JPEG", "TVM"} <= labels
    assert labels.isdisjoint({"SAP", "Crop-Ens", "PD-Ens", "TVM+quilt", "LID", "MagNet detector"})  # stand around it


def test_the_papers_sentence_is_held_against_the_map():
    def row(defense, psnr, clean, attacked):
        ends = {"clean_low": clean - 0.02, "clean_high": clean + 0.02}
        ends |= {"attacked_low": attacked - 0.02, "attacked_high": attacked + 0.02}
        return {"defense": defense, "n": 100, "psnr": psnr, "clean": clean, "attacked": attacked} | ends

    best = [row("STL", 29.0, 0.8, 0.5), row("TVM", 28.0, 0.9, 0.51), row("No Defense", 30.0, 0.8, 0.1)]
    assert quality.reading(pd.DataFrame(best)) == (
        "- **STL**: T(x_adv) is at 29.0 dB to x, nearer are: none; attacked, 0.500 [0.480, 0.520] are right, surely "
        "more with: none; clean, 0.800 [0.780, 0.820] are right, surely more with: TVM 0.900 [0.880, 0.920]. "
        "The paper's “both the highest PSNR and most preferable characteristic interval” holds here."
    )
    nearer, stronger = [*best, row("JPEG", 29.5, 0.7, 0.1)], [*best, row("JPEG", 20.0, 0.7, 0.6)]
    for rows, said in (
        (nearer, "nearer are: JPEG 29.5 dB;"),
        (stronger, "surely more with: JPEG 0.600 [0.580, 0.620];"),
    ):
        words = quality.reading(pd.DataFrame(rows))
        assert said in words and words.endswith("does not hold here.")

"""Sentences and the page that are made from measured tables."""

import json

from labkit.__main__ import main
from labkit.core.errors import InputError
from labkit.reporting import findings

import pandas as pd
import pytest
from readings import frame

COLUMNS = ["block", "defense", "knowledge", "n", "attack", "accuracy", "low", "high"]


def cells(stl=0.6, clean=0.8, worst=0.05):
    def around(block, defense, knowledge, attack, accuracy):
        return (block, defense, knowledge, 100, attack, accuracy, accuracy - 0.04, accuracy + 0.04)

    return pd.DataFrame(
        [
            around("ours", "No Defense", "classifier", "Clean", 0.9),
            around("ours", "No Defense", "classifier", "FGSM-0.08", 0.3),
            around("ours", "STL", "classifier", "Clean", clean),
            around("ours", "STL", "classifier", "FGSM-0.08", stl),
            around("worst", "No Defense", "", "FGSM-0.08", 0.04),
            around("worst", "STL", "", "FGSM-0.08", worst),
            ("paper", "No Defense", "", None, "Clean", 0.9298, None, None),
            ("paper", "No Defense", "", None, "FGSM-0.08", 0.5816, None, None),
            ("paper", "STL", "", None, "Clean", 0.8285, None, None),
            ("paper", "STL", "", None, "FGSM-0.08", 0.7099, None, None),
        ],
        columns=COLUMNS,
    )


def test_tables_of_one_setting_at_different_resolutions_are_compared(tmp_path):
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
    assert "Table 6a: 64 pixels, Table 6b: 128 pixels" in page
    put("6b", 64, 0.6)
    assert "every resolution" not in findings.page(tmp_path)


def test_a_page_keeps_the_words_above_its_mark(tmp_path, capsys):
    lab, out = tmp_path / "lab", tmp_path / "README.md"
    with pytest.raises(InputError, match="holds no measured table"):
        findings.page(tmp_path)
    for name in ("1", "5"):
        (lab / "cifar").mkdir(parents=True, exist_ok=True)
        cells().to_csv(lab / "cifar" / f"table_{name}.csv", index=False)
        (lab / "cifar" / f"table_{name}.json").write_text(json.dumps({"command": f"python -m labkit table {name}"}))
    out.write_text("# Mine\n\nwords\n\n")
    for _ in range(2):
        assert main(["findings", str(lab), "--out", str(out)]) == 0
    text = out.read_text()
    assert text.startswith("# Measured results\n\n1. The paper claims that STL keeps an accuracy of 0.71 under attack")
    assert (
        "we find 0.60; a network without a defense keeps 0.30." in text
        and "3. Under attackers who know it, 0.05" in text
    )
    assert text.count("# Measured results") == 1 and text.count("## cifar: the paper's Table 1") == 1
    assert " -->\n\n# Mine\n\nwords\n\n<!-- what follows" in text
    assert "](lab/cifar/table_1.png)" in text and "](lab/cifar/table_5.md)" in text
    assert "Made by `python -m labkit table 1`" in text and "| ours, worst case | STL" in text
    assert "### What retraining is worth" in text and "### What Table 5 says" in text
    assert "| Does STL beat No Defense?" in text and "| Does retraining help STL?" in text
    assert str(out) in capsys.readouterr().out


def test_tables_as_released_and_the_papers_own_numbers_explained(tmp_path):
    place = tmp_path / "cifar"
    place.mkdir(parents=True)
    for name in ("1_released", "5_released"):
        cells().replace("FGSM-0.08", "FGSM-8/255").to_csv(place / f"table_{name}.csv", index=False)
        (place / f"table_{name}.json").write_text(json.dumps({"command": "python -m labkit table 1"}))
    page = findings.page(tmp_path, "lab/")
    assert "## cifar: the paper's Table 1 (sizes and T as released), retrained on transformed data" in page
    assert "### What retraining is worth" in page and "](lab/cifar/table_1_released.png)" in page
    assert "attack, Table 1 (sizes and T as released)." in findings.opening(tmp_path) and "What made" not in page
    frame(faulty=1.0, other=0.5).to_csv(place / "causes_rows.csv", index=False)
    (place / "causes.json").write_text(json.dumps({"command": "python -m labkit table causes"}))
    page = findings.page(tmp_path, "lab/")
    assert "- Nearest to the paper: faulty" in page and "](lab/cifar/causes.md)" in page
    assert "Made by `python -m labkit table causes`." in page


def test_every_baseline_stands_below_the_tables_of_its_data(tmp_path):
    place = tmp_path / "cifar"
    place.mkdir(parents=True)
    cells().to_csv(place / "table_5.csv", index=False)
    (place / "table_5.json").write_text(json.dumps({"command": "python -m labkit table 5"}))
    before = findings.page(tmp_path, "lab/")
    asked = (("Clean", "–"), ("BIM-0.03", "classifier"), ("PGD-0.03", "exact"))
    shares = {"STL": (0.8, 0.5, 0.1), "JPEG": (0.9, 0.2, 0.1)}
    rows = [
        {"classifier": "vgg16", "defense": defense, "attack": attack, "knowledge": knowledge, "budget": 0.03}
        | {"n": 50, "accuracy": share, "low": share - 0.01, "high": share + 0.01}
        | {"retrained": False, "recipe": f"{defense} {attack} {knowledge}"}
        for defense, all_shares in shares.items()
        for (attack, knowledge), share in zip(asked, all_shares, strict=True)
    ]
    pd.DataFrame(rows).to_csv(place / "baselines_rows.csv", index=False)
    worst = [{"defense": name, "n": 50, "accuracy": 0.05, "low": 0.0, "high": 0.1} for name in shares]
    pd.DataFrame(worst).to_csv(place / "baselines_worst.csv", index=False)
    (place / "baselines.json").write_text(json.dumps({"command": "python -m labkit table baselines"}))
    pd.DataFrame([rows[0] | {"accuracy": 0.805}]).to_csv(place / "table_5_rows.csv", index=False)
    said = findings.page(tmp_path, "lab/").removeprefix(before.rstrip())
    assert "](lab/cifar/baselines.png)" in said and "](lab/cifar/baselines.md)" in said
    assert "| How does STL compare with the other defenses?" in said
    assert "Made by `python -m labkit table baselines`." in said
    assert "| Do two runs of one recipe agree?" in said


def test_the_trade_off_stands_below_the_tables_of_its_data(tmp_path):
    place = tmp_path / "cifar"
    place.mkdir()
    cells().to_csv(place / "table_5.csv", index=False)
    (place / "table_5.json").write_text(json.dumps({"command": "python -m labkit table 5"}))
    before = findings.page(tmp_path, "lab/")
    (place / "06_tradeoff").mkdir()
    rows = [
        {
            "what": "K", "value": K, "own": K == 64, "asked": asked, "data": "cifar, 32×32", "n": 1000,
            "classifier": "vgg16 ×0.25", "retrained": True, "attack": attack, "knowledge": knowledge,
            "accuracy": accuracy, "low": accuracy - 0.01, "high": accuracy + 0.01,
            "fidelity": 30.0, "fidelity_low": 29.0, "fidelity_high": 31.0,
            "defense": "STL", "recipe": f"{K} {attack}", "seconds": 1.0,
        }
        for K, clean, attacked in ((16, 0.7, 0.5), (64, 0.8, 0.4))
        for asked, attack, knowledge, accuracy in (
            ("clean", "Clean", "–", clean), ("attacked", "FGSM-0.08", "classifier", attacked),
        )
    ]  # fmt: skip
    pd.DataFrame(rows).to_csv(place / "06_tradeoff" / "K_rows.csv", index=False)
    named = {"defense": "STL", "n": 50, "psnr": 29.0}
    accuracies = {f"{asked}{end}": 0.5 for asked in ("clean", "attacked") for end in ("", "_low", "_high")}
    pd.DataFrame([named | accuracies]).to_csv(place / "06_tradeoff" / "map.csv", index=False)
    silent = [
        row | {"what": what, "value": value, "own": value == own}
        for what, own, other in (("lowpass", 5.0, float("inf")), ("boundary", "circular", "reflect"))
        for value in (own, other)
        for row in rows[:2]
    ]
    pd.DataFrame(silent).to_csv(place / "06_tradeoff" / "silent_rows.csv", index=False)
    told = {"profile": "lab", "dataset": "folder:cifar.zip", "resolution": 64}
    (place / "06_tradeoff" / "manifest.json").write_text(json.dumps(told))
    after = findings.page(tmp_path, "lab/")
    assert after.startswith(before.rstrip()) and "](lab/cifar/06_tradeoff/K.png)" in after
    said = after.removeprefix(before.rstrip())
    assert "n = 1,000 test images" in said and "retrained on T(x) for every value" in said
    assert "| What does K change?" in said and "lambda" not in said
    assert "](lab/cifar/06_tradeoff/map.png)" in said and "| Has STL “both the highest PSNR" in said
    assert "filter: ∞ instead of 5?" in said and "| Boundary: reflect instead of circular?" in said
    assert "labkit report --notebooks 06 --profile lab --dataset folder:cifar.zip --resolution 64 --out" in said


def test_what_T_leaves_has_a_section_of_its_own_without_a_table(tmp_path):
    for part in ("cifar", "samples/03_projection"):
        (tmp_path / part).mkdir(parents=True)
    cells().to_csv(tmp_path / "cifar" / "table_5.csv", index=False)
    (tmp_path / "cifar" / "table_5.json").write_text(json.dumps({"command": "python -m labkit table 5"}))
    before = findings.page(tmp_path)
    row = {"λ": 0.2, "n": 100, "worst": 0.9, "lowpass_share": 0.2}
    for name, number in (("kept", 0.5), ("psnr", 30.0), ("psnr_adv", 25.0)):
        row |= {name: number, f"{name}_low": number - 0.1, f"{name}_high": number + 0.1}
    row |= {"change": "noise-0.08", "recipe": "0012", "images": "ab"}
    row |= {"data": "samples, 224×224", "pixels": 224}
    place = tmp_path / "samples" / "03_projection"
    pd.DataFrame([row]).to_csv(place / "shrinkage.csv", index=False)
    told = {"profile": "quick", "dataset": "folder:samples.zip", "resolution": 0}
    (place / "manifest.json").write_text(json.dumps(told))
    after = findings.page(tmp_path)
    said = after.removeprefix(before.rstrip())
    assert after.startswith(before.rstrip()) and "## samples: what T leaves of images of 224 pixels" in said
    assert (
        "| 0.500 [0.400, 0.600] |" in said and "n = 100. noise-0.08: random noise" in said and "0012 (λ = 0.2)" in said
    )
    assert "--notebooks 03 --profile quick --dataset folder:samples.zip --out DIR" in said

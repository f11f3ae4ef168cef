"""The page of an evaluation, comparisons, and the leaderboard."""

import json
import re

from labkit.__main__ import main
from labkit.core import metrics
from labkit.evaluation import Evaluation
from labkit.reporting import evaluation_page

import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup

ATTACKS = (("Clean", "–", 0.0, 0.9), ("PGD-0.03 margin", "identity", 0.03, 0.4), ("Square-0.03", "queries", 0.03, 0.6))
COSTS = ("seconds", "forward", "backward")


def evaluation(name="net", defense="mine|cleaner", less=0.0, images="i1", failed=()):
    rows, n = [], 50
    for attack, knowledge, size, share in ATTACKS:
        right = torch.arange(n) < round(n * (share - less))
        found = dict(zip(("accuracy", "low", "high"), metrics.accuracy(right)[:3], strict=True))
        rows.append({"attack": attack, "knowledge": knowledge, "budget": size, "defense": defense, "n": n, **found,
                     "right": metrics.packed(right, images * 6)})  # fmt: skip
    worst = [{**rows[1], "norm": "dissimilarity", "size": 0.03, "attacks": 2, "hardest": "PGD-0.03 margin"}]
    names = ("the defense has a gradient", "size 0 changes nothing", "something else")
    checks = [{"check": c, "verdict": "failed" if c in failed else "passed", "said": "so | so"} for c in names]
    about = {"network": {"name": name, "digest": "a" * 16}, "effort": "fast", "seconds": 12.3,
             "defense": {"name": defense, "digest": "b" * 16} if defense else None,
             "images": {"name": "fashion", "digest": images * 8}}  # fmt: skip
    costs = pd.DataFrame([("PGD-0.03 margin", "identity", 0.02, 22.0, None)], columns=["what", "knowledge", *COSTS])
    far = torch.tensor([0.0, 0.01, 0.02, torch.inf])
    more = {"smallest": far, "costs": costs, "efforts": {"fast": 60.0, "full": 6000.0}}
    return Evaluation(*map(pd.DataFrame, (rows, worst, checks)), ["One note."], about, **more)


def test_the_page_says_what_was_judged_how_hard_and_whether_it_can_be_trusted(tmp_path):
    mine = evaluation(failed=("the defense has a gradient", "something else"))
    file = evaluation_page(mine, tmp_path / "page", evaluation(defense="", less=0.2))
    text = (tmp_path / "page" / "index.md").read_text()
    assert "# net behind mine\\|cleaner" in text and "so at most robust: 0.40 at relative L2 0.03" in text
    assert "Sanity checks: 2 of 3 failed." in text and "- One note." in text
    assert "+0.200 [" in text and "white box (BPDA)" in text
    assert "failed: the defense has a gradient** (so \\| so). To do: read the rows of BPDA" in text
    assert "failed: something else** (so \\| so). To do: read the numbers with care." in text
    assert "1 checks passed" in text
    assert "from relative L2 0.01 on, half of the images at most are right" in text and "(security.png)" in text
    assert re.search(r"PGD-0.03 margin *\| white box \(BPDA\) *\| 0.02 *\| 22 *\| – ", text)
    assert "2.0 minutes for `fast`, 200.0 minutes for `full`, the network without the defense among them." in text
    page = file.read_text()
    assert "<table>" in page and "data:image/png;base64," in page and "http" not in page.partition("</head>")[2]
    assert json.loads((tmp_path / "page" / "evaluation.json").read_text())["version"] == 1
    alone = evaluation_page(evaluation(defense=""), tmp_path / "alone").with_name("index.md").read_text()
    assert "difference" not in alone.lower() and "All checks passed." in alone


def test_two_are_compared_in_pairs_and_only_on_the_same_images(tmp_path, capsys):
    for name, made in (("a", evaluation()), ("b", evaluation("other", less=0.1)), ("c", evaluation(images="i2"))):
        evaluation_page(made, tmp_path / name)
    a, b, c = (str(tmp_path / name) for name in "abc")
    assert main(["compare", a, f"{b}/evaluation.json"]) == 0
    said = capsys.readouterr().out
    assert said.count("+0.100 [") == 3 and "p = 0.062" in said and "beside other behind" in said
    (tmp_path / "bad.json").write_text("[1]")
    for other, why in (
        (c, "different images"),
        (str(tmp_path / "bad.json"), "is no evaluation"),
        ("/none", "is no eval"),
    ):
        assert main(["compare", a, other]) == 2
        assert why in capsys.readouterr().err


def rows_of_a_table(folder):
    """Two lines of a table of the lab's, on the images of `evaluation` and on others: the files that matter here."""
    for name, digest, network in (("5", "i1" * 8, {"epochs": 60}), ("6a", "i9" * 8, {"spec": "of others"})):
        worst = [("STL", False, 0.2, 0.1, 0.3, 50, 3, "PGD-0.03 margin, white box (exact gradient)", size)
                 for size in (0.0, 0.03)]  # fmt: skip
        worst.append(("TVM", False, 0.2, 0.1, 0.3, 16, 1, "", 0.0))  # not attacked yet
        frame = pd.DataFrame(worst, columns=[*"defense retrained accuracy low high n attacks hardest size".split()])
        row = {"data": f"set {name}", "n": 50, "classifier": "vgg16", "retrained": False, "defense": "STL",
               "attack": "BIM-0.03", "knowledge": "classifier", "accuracy": 0.5, "seconds": 3.0,
               "recipe": "0123456789012345"}  # fmt: skip
        frame.to_csv(folder / f"table_{name}_worst.csv", index=False)
        pd.DataFrame([row]).to_csv(folder / f"table_{name}_rows.csv", index=False)
        recipe = {"attack": {"size": 0.03, "norm": "dissimilarity"}, "classifier": network}
        (folder / f"table_{name}_rows_recipes.json").write_text(json.dumps({row["recipe"]: recipe}))
        told = {"images": {"50": f"{'0' * 16}:{digest}"}, "checks": "Sanity checks. STL: failed, so read: slow (0.1)."}
        (folder / f"table_{name}.json").write_text(json.dumps(told))


def test_the_leaderboard_ranks_tables_beside_evaluations_of_the_same_images_alone(tmp_path, capsys):
    rows_of_a_table(tmp_path)
    evaluation_page(evaluation("weak", less=0.3), tmp_path / "weak")
    assert main(["leaderboard", str(tmp_path), "--out", str(tmp_path / "elsewhere" / "page")]) == 0
    (page,) = [BeautifulSoup(file.read_text(), "html.parser") for file in (tmp_path / "elsewhere").rglob("*.html")]
    first, second = page.find_all("table")
    assert [line.td.text for line in first.tbody.find_all("tr")] == ["vgg16, 60 epochs", "weak"]
    assert "set 6a" not in first.text and "TVM" not in page.text
    assert "grey box (weights); white box (exact gradient)" in first.text and "slow (0.1)" in first.text
    assert [line.td.text for line in second.tbody.find_all("tr")] == ["vgg16"]
    assert [head.text.rstrip(" #") for head in page.find_all("h2")][1] == f"set 6a, n = 50 ({'i9' * 6})"
    assert first.find("a", href="../../weak/index.html") and second.find("a", href="../../table_6a.md")


def test_the_leaderboard_has_the_best_worst_case_first(tmp_path, capsys):
    assert main(["leaderboard", str(tmp_path)]) == 2
    assert "holds no evaluation.json; make one with `labkit evaluate" in capsys.readouterr().err
    evaluation_page(evaluation("weak", less=0.3, failed=("something else",)), tmp_path / "x" / "weak")
    evaluation_page(evaluation("strong"), tmp_path / "strong")
    assert main(["leaderboard", str(tmp_path)]) == 0
    page = (tmp_path / "index.html").read_text()
    assert page.index("strong") < page.index("weak") and "something else" in page and "aria-sort" in page
    assert 'href="x/weak/index.html"' in page and "0.100" in page


@pytest.mark.slow
def test_somebodys_file_is_judged_from_the_shell(tmp_path, capsys, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        dark = x.flatten(1).mean(1, keepdim=True)\n"
        "        return torch.cat([-(dark - k / 10).square() for k in range(10)], 1)\n"
        "def network():\n    return Net()\n"
        "def cleaner(x):\n    return (x * 7).round() / 7\n"
    )
    spec, out = str(tmp_path / "mine.py"), tmp_path / "page"
    words = ["evaluate", "--model", f"{spec}:network", "--effort", "fast", "--store", str(tmp_path / "store")]
    how = ["--images", "40", "--without-pictures", "--note", "It means | nothing."]
    assert main([*words, *how, "--defense", f"{spec}:cleaner", "--out", str(out)]) == 0
    told = json.loads((out / "evaluation.json").read_text())
    text = (out / "index.md").read_text().split("\n\n")
    assert text[1] == "It means \\| nothing." and not any("pictures.png" in part for part in text)
    assert not (out / "pictures.png").exists() and told["rows"][0]["n"] == len(told["smallest"]) == 40
    assert told["network"]["name"] == "mine.py:network" and told["defense"]["name"] == "mine.py:cleaner"
    failed = {check["check"] for check in told["checks"] if check["verdict"] == "failed"}
    assert "the defense has a gradient" in failed
    capsys.readouterr()
    (tmp_path / "names.txt").write_text("cat\ndog\n")
    for more, why in (
        (["--model", "nothing"], "names nothing; write torchvision:NAME"),
        (["--model", "lab:stl"], "is a defense; write --model lab:vanilla --defense lab:stl"),
        (["--effort", "much"], "unknown effort 'much'"),
        (["--classes", str(tmp_path / "names.txt")], "does not name the class"),
        (["--classes", str(tmp_path / "none.txt")], "--classes names a text file"),
    ):
        assert main([*words, *more, "--out", str(out)]) == 2
        assert why in capsys.readouterr().err

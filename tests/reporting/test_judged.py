"""The page of an evaluation, comparisons, and the leaderboard."""

import json

from labkit.__main__ import main
from labkit.core import metrics
from labkit.evaluation import Evaluation
from labkit.reporting import evaluation_page

import pandas as pd
import pytest
import torch

ATTACKS = (("Clean", "–", 0.0, 0.9), ("PGD-0.03 margin", "identity", 0.03, 0.4), ("Square-0.03", "queries", 0.03, 0.6))


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
    return Evaluation(*map(pd.DataFrame, (rows, worst, checks)), ["One note."], about)


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
    assert main([*words, "--defense", f"{spec}:cleaner", "--out", str(out)]) == 0
    told = json.loads((out / "evaluation.json").read_text())
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

"""What data and networks must have before anything is attacked, and a sentence where they have it not."""

from dataclasses import replace

from labkit.__main__ import main
from labkit.core import profiles, recipes
from labkit.core.errors import InputError
from labkit.evaluation import Workbench, adversarial_examples, measurement, sanity_checks
from labkit.models import networks
from labkit.reporting import pictures, report, tables

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn


class Wrong(nn.Module):
    """Answers a class that no image has."""

    def forward(self, x):
        logits = x.flatten(1)[:, :11] * 0
        return logits + torch.arange(11.0)


class Hopeless(Workbench):
    def classifier(self, recipe):
        return Wrong()


def draw(folder, count, size=(32, 32)):
    folder.mkdir(parents=True)
    for i in range(count):
        seed = [i, *folder.name.encode(), *folder.parent.name.encode()]
        noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{i}.png")


def one_class(root):
    draw(root / "cat", 9)
    return f"folder:{root}"


def one_class_in_halves(root):
    draw(root / "train" / "cat", 6)
    draw(root / "test" / "cat", 3)
    return f"folder:{root}"


def unseen_classes(root):
    for k in range(15):
        draw(root / f"kind{k:02}", 1)
    return f"folder:{root}"


def few_images(root):
    for name in ("cat", "horse"):
        draw(root / name, 2)
    return f"folder:{root}"


@pytest.mark.filterwarnings("ignore:.*single image")
@pytest.mark.parametrize("command", [["plan", "5"], ["table", "8a"], ["table", "1", "4"]])
@pytest.mark.parametrize(
    ("made", "words"),
    [
        (one_class, "all training images of folder:set are of one class; a network needs two"),
        (one_class_in_halves, "all training images of folder:set are of one class; a network needs two"),
        (unseen_classes, "no test image of folder:set is of a class that it is trained on"),
        (few_images, "fitted to 3 training images or more, and folder:set has 2"),
    ],
)
def test_a_table_says_at_once_what_it_lacks(made, words, command, tmp_path, capsys):
    arguments = ["--profile", "smoke", "--dataset", made(tmp_path / "set"), "--store", str(tmp_path / "store")]
    assert main([*command, *arguments]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("labkit: ") and words in last
    assert not list((tmp_path / "store").rglob("*.safetensors"))


def test_a_report_and_other_doors_say_it_too(tmp_path, capsys):
    settings = report.Settings("smoke", one_class(tmp_path / "set"), store=str(tmp_path / "store"))
    with pytest.raises(InputError, match="needs two"):
        report.check(settings, tmp_path / "out")
    assert [path.stem[:2] for path in report.check(settings, tmp_path / "out", only=["02", "08"])] == ["02", "08"]
    lab, bench = profiles.profile("smoke", dataset=settings.dataset), Workbench(tmp_path / "store", progress=False)
    case = measurement.Case(lab.classifier, None, lab.strongest)
    for door in (lambda: measurement.run([case], bench), lambda: bench.classifier(lab.classifier),
                 lambda: measurement.by_class(case, bench), lambda: measurement.picture(case, bench)):  # fmt: skip
        with pytest.raises(InputError, match="needs two"):
            door()
    where = ["--profile", "smoke", "--dataset", settings.dataset, "--store", settings.store]
    for command in (["learn", "--what", "dictionary,retrained"], ["dashboards", "--prepare"]):
        assert main([*command, *where]) == 2 and "needs two" in capsys.readouterr().err
    assert not list((tmp_path / "store").rglob("*.safetensors"))
    one = replace(lab.data, name="fashion", train=1)
    with pytest.raises(InputError, match="all training images of fashion are of one class"):
        bench.sound(one)


@pytest.mark.parametrize(("name", "least"), [("lid", 200), ("magnet-detector", 9991)])
def test_a_defense_says_how_many_images_it_is_fitted_to(name, least, tmp_path):
    bench, data = Workbench(tmp_path, progress=False), recipes.DataRecipe("fashion", train=least - 1, test=5)
    classifier = recipes.ClassifierRecipe(data)
    defense = recipes.DefenseRecipe(name, data, victim=classifier if name == "lid" else None)
    case = measurement.Case(classifier, defense, recipes.AttackRecipe())
    with pytest.raises(
        InputError, match=f"is fitted to {least:,} training images or more, and fashion has {least - 1:,}"
    ):
        measurement.run([case], bench)
    measurement.check([recipes.rebase(case, replace(data, train=least))], bench)


def test_a_network_that_gets_nothing_right_is_not_attacked(lab, tmp_path):
    bench = Hopeless(tmp_path, progress=False)
    cases = [measurement.Case(lab.classifier, None, lab.attack(label)) for label in ("Clean", "FGSM-0.08")]
    with pytest.raises(InputError, match=r"none of 2,000 test images of fashion right.*more images a class"):
        measurement.run(cases, bench)
    assert measurement.kept(cases[0], bench) and not list((tmp_path / "attack").glob("*"))
    with pytest.raises(InputError, match="none of 2,000"):
        measurement.picture(cases[1], bench)
    attempt = adversarial_examples.Attempt(lab.classifier, None, lab.attack("FGSM-0.08"), "classifier")
    with pytest.raises(InputError, match="none of 2,000"):
        adversarial_examples.adversarial(attempt, bench)
    hardened = replace(lab.classifier, adversarial=recipes.AdversarialTraining())  # its clean row shows it
    assert adversarial_examples._attackable(replace(attempt, victim=hardened), Wrong(), bench) is None


def test_no_sanity_check_of_nothing_passes_as_a_whole():
    x, y = torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 3])
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
    with torch.no_grad():
        model[1].bias[:] = torch.tensor([0.0, 0, 0, 0, 100])
    found = sanity_checks.run(model, None, x, y, steps=1, queries=2)
    assert found.check[0] == "there is an image to attack" and found.verdict[0] == "failed"
    assert "gets none of 4 right" in sanity_checks.summary(found)


@pytest.mark.parametrize("size", [(20, 64), (64, 20), (31, 32)])
def test_the_shorter_side_counts(size, tmp_path, capsys):
    for name in ("cat", "horse"):
        draw(tmp_path / "set" / name, 4, size)
    arguments = ["--profile", "smoke", "--dataset", f"folder:{tmp_path / 'set'}", "--store", str(tmp_path / "store")]
    for command in (["plan", "8a"], ["table", "8a"], ["learn", "--what", "classifier"]):
        assert main([*command, *arguments]) == 2
        assert f"needs images of at least 32 pixels and got {min(size)}" in capsys.readouterr().err
    with pytest.raises(InputError, match=f"got {min(size)}"):
        bench = Workbench(tmp_path / "store", progress=False)
        lab = profiles.profile("smoke", dataset=f"folder:{tmp_path / 'set'}")
        networks.of(lab.classifier, bench.images(lab.data, "train"))


@pytest.mark.parametrize("nowhere", [None, ""])
def test_what_is_saved_nowhere_makes_no_folder(nowhere, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tables.save(pd.DataFrame({"a": [1]}), nowhere, "a")
    pictures.save(pictures.history({"a": [1.0]}, "loss"), nowhere, "a")
    assert list(tmp_path.iterdir()) == []
    tables.save(pd.DataFrame({"a": [1]}), 5, "a")
    assert (tmp_path / "5" / "a.csv").exists()

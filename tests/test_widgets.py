import io
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from labkit import metrics, profiles, recipes, widgets
from labkit.artifacts import Workbench
from labkit.errors import InputError


def test_the_latest_request_wins():
    started, release, done = threading.Event(), threading.Event(), []

    def work(n):
        started.set()
        release.wait(10)
        done.append(n)

    latest = widgets.Latest(work, done.append)
    latest(1)
    started.wait(10)
    for n in (2, 3, 4):
        latest(n)
    release.set()
    assert latest.settled(10) and done == [1, 4]


def test_a_failure_is_a_sentence_and_the_next_request_works(capsys):
    said, done = [], []

    def work(n):
        if n < 2:
            raise InputError("choose another λ") if n else ZeroDivisionError
        done.append(n)

    latest = widgets.Latest(work, said.append)
    for n in range(3):
        latest(n)
        assert latest.settled(10)
    assert said[1] == "choose another λ" and "Something went wrong" in said[0] and done == [2]
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_survive_as_png(channels):
    x = torch.rand(channels, 6, 5, generator=torch.Generator().manual_seed(0))
    shown = np.asarray(Image.open(io.BytesIO(widgets.png(x, side=60))))
    assert shown.shape[:2] == (60, 50)
    assert np.array_equal(shown[::10, ::10].reshape(6, 5, channels), (x * 255).round().byte().movedim(0, -1).numpy())


def test_moving_lambda_changes_what_is_shown(tmp_path):
    lab = recipes.rebase(profiles.SMOKE, recipes.DataRecipe("fashion", train=200, test=10))
    lab = replace(lab, classifier=replace(lab.classifier, epochs=1))
    explorer = widgets.ProjectionExplorer(lab, Workbench(tmp_path, progress=False))
    assert explorer.work.settled()
    before = [image.value for image in explorer.images]
    explorer.lam.value = 1.0
    assert explorer.work.settled()
    after = [image.value for image in explorer.images]
    assert before[:3] == after[:3] and before[3] != after[3] and before[4] != after[4]
    assert "λ = 1.000" in explorer.status.value
    x = explorer.test.x[:1]
    assert f"PSNR {float(metrics.psnr(explorer.layer(x), x)):.1f} dB" in explorer.notes[3].value

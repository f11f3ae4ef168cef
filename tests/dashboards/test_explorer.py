import io
import re
from dataclasses import replace

from labkit import dashboards
from labkit.core import metrics

import numpy as np
from PIL import Image
from shown import at, png, titles


def test_moving_lambda_changes_what_is_shown(tiny_lab, tiny_bench):
    explorer = dashboards.Explorer(tiny_lab, tiny_bench, ())
    assert explorer.settled()
    before = list(explorer.board.images)
    explorer.lam.value = 1.0
    assert explorer.settled()
    after, board = explorer.board.images, explorer.board
    same = [titles(board)[i] for i in range(10) if before[i] == after[i]]
    assert same == ["image x", "low-pass part", "the rest", "attacked x_adv", "10 × change"]
    assert "λ = 1.000" in explorer.status.value
    x = tiny_bench.images(tiny_lab.data, "test").x[:1]
    T = tiny_bench.transform(tiny_lab.transform)
    T.lam = 1.0
    assert board.pictures[at(board, "T(x)")]["note"] == f"{float(metrics.psnr(T(x), x)):.1f} dB to x"


def test_the_explorer_shows_what_the_attack_did(tiny_lab, tiny_bench):
    explorer = dashboards.Explorer(tiny_lab, tiny_bench, ())
    explorer.attack.value, explorer.knowledge.value = "BIM, 10 steps", "exact"
    assert explorer.settled()
    pictures = explorer.board.pictures
    assert pictures[at(explorer.board, "10 × change")]["note"].startswith("x_adv − x, size 0.0")
    first = explorer.board.images[at(explorer.board, "attacked x_adv")]
    explorer.lam.value = 0.4  # who differentiates T attacks another T
    assert explorer.settled()
    assert explorer.board.images[at(explorer.board, "attacked x_adv")] != first
    explorer.attack.value = "none"
    assert explorer.settled()
    images = explorer.board.images
    assert images[0] == images[at(explorer.board, "attacked x_adv")]


def test_a_stratified_look_says_which_cluster_was_voted_for(tiny_lab, tiny_bench):
    explorer = dashboards.Explorer(tiny_lab, tiny_bench, ())
    explorer.stratified.value = True
    assert explorer.settled()
    home = (
        int(tiny_bench.transform(tiny_lab.stratified).strata.vote(tiny_bench.images(tiny_lab.data, "test").x[:1])) + 1
    )
    assert re.search(rf"voted to cluster {home}\b", explorer.status.value)


def test_a_picture_of_ones_own_is_shown_and_a_broken_one_is_refused_in_a_sentence(tiny_lab, tiny_bench):
    explorer = dashboards.Explorer(tiny_lab, tiny_bench, ())
    explorer.take("me.png", png((90, 60)))
    assert explorer.settled()
    assert "your picture me.png" in explorer.status.value and explorer.upload.said == ""
    shown = np.asarray(Image.open(io.BytesIO(explorer.board.images[0])))
    assert shown.shape == (32, 32) and (shown == shown[0, 0]).all()
    explorer.take("/home/me/broken.png", png((90, 60))[:60])
    assert explorer.settled()
    assert "broken.png is no readable image" in explorer.upload.said and "/home" not in explorer.upload.said
    assert "test image" in explorer.status.value
    explorer.index.value = 3
    assert explorer.settled() and explorer.upload.said == ""
    assert "test image 3" in explorer.status.value


def test_what_is_missing_is_offered_and_made(tiny_lab, tiny_bench):
    explorer = dashboards.Explorer(tiny_lab, tiny_bench, ())
    explorer.K.value = 6
    assert explorer.settled()
    assert "Not there yet: dictionary" in explorer.status.value
    assert explorer.button.layout.display == "" and explorer.button.description.startswith("Make dictionary")
    explorer.button.click()
    assert explorer.settled()
    assert "K = 6" in explorer.status.value and explorer.button.layout.display == "none"


def test_without_a_classifier_pictures_are_shown_and_noise_replaces_the_attack(tiny_lab, tmp_path, tiny_bench):
    other = replace(tiny_lab, classifier=replace(tiny_lab.classifier, seed=5))
    explorer = dashboards.Explorer(other, tiny_bench, ())
    assert explorer.settled()
    assert "No classifier is trained" in explorer.status.value and not explorer.board.pictures[0]["bars"]
    assert "classifier" in explorer.button.description
    assert explorer.board.images[0] != (noise := explorer.board.images[5])
    tiny_bench.classifier(other.classifier)
    explorer.request()
    assert explorer.settled() and explorer.board.pictures[0]["bars"]
    assert explorer.board.images[5] not in (noise, explorer.board.images[0])  # by FGSM now


def test_another_picture_of_the_same_name_is_attacked_anew(tiny_lab, tiny_bench):
    explorer = dashboards.Explorer(tiny_lab, tiny_bench, ())
    seen = []
    for size in ((90, 60), (60, 90)):
        raw = io.BytesIO()
        Image.linear_gradient("L").rotate(size[0]).resize(size).save(raw, "PNG")
        explorer.take("me.png", raw.getvalue())
        assert explorer.settled() and "your picture me.png" in explorer.status.value
        seen.append((explorer.board.images[0], explorer.board.images[5]))
        change = explorer.board.pictures[at(explorer.board, "10 × change")]["note"]
        assert float(change.split()[-1]) < 0.09  # 0.08 of this picture, and not of the one before
    assert seen[0][0] != seen[1][0] and seen[0][1] != seen[1][1]

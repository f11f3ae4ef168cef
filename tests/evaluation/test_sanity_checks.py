from dataclasses import replace

from labkit.attacks import TrainingMode
from labkit.evaluation import sanity_checks
from labkit.experiments import paper_tables
from labkit.models.defense import Defense
from labkit.models.stl import SparseTransform

import pandas as pd
import pytest
import torch
from somebodys import Linear, images
from torch import nn


def verdicts(network, defense=None, **options):
    x, y = images(12)
    rows = sanity_checks.run(network.eval(), defense, x, y, steps=5, queries=20, **options)
    return rows.set_index("check")


def test_a_sound_evaluation_is_green():
    rows = verdicts(Linear())
    assert set(rows.verdict) == {"passed"}, rows[rows.verdict == "failed"]
    d = torch.randn(4, 1, 3, 3, generator=torch.Generator().manual_seed(1))
    T = SparseTransform(d / d.flatten(1).norm(dim=1)[:, None, None, None], lam=0.05)
    behind = verdicts(Linear(), T)
    assert {"knowing T beats not knowing it", "the exact gradient beats BPDA"} <= set(behind.index)
    assert behind.verdict["finite differences agree"] == "passed"


class Deaf(Defense):
    """A defense whose gradient says nothing: rounding to eight levels, differentiated as it is."""

    def forward(self, x):
        return (x * 8).round() / 8


class Lying(Linear):
    """Its gradient points the wrong way."""

    def forward(self, x):
        right = super().forward(x)
        return right.detach() - (right - right.detach())


def test_masked_gradients_turn_red():
    rows = verdicts(Linear(), Deaf())
    assert rows.verdict["no gradient is exactly zero"] == "failed"
    assert rows.verdict["no bound leaves no accuracy"] == "failed"
    assert verdicts(Linear(), Deaf(), size=0.6).verdict["the exact gradient beats BPDA"] == "failed"
    wrong = verdicts(Lying())
    assert wrong.verdict["finite differences agree"] == "failed"


class Kinked(Linear):
    """Right everywhere, with a bend a few billionths behind the first images that it sees."""

    def forward(self, x):
        mean = x.flatten(1).mean(1)
        if not hasattr(self, "seen"):
            self.seen = mean.detach()
        bend = 500 * (mean - self.seen + 3e-9).relu()
        return super().forward(x) + torch.stack([-bend, bend], 1)


def test_a_kink_within_a_step_is_no_wrong_gradient(monkeypatch):
    x, y = images(12)
    assert sanity_checks._slopes(Kinked(), x[:4], y[:4]) < 1e-3
    monkeypatch.setattr(sanity_checks, "_STEPS", (1e-6,))
    assert sanity_checks._slopes(Kinked(), x[:4], y[:4]) > 0.02


def test_probabilities_and_training_turn_red():
    class Odds(Linear):
        def forward(self, x):
            return super().forward(x).softmax(1)

    assert verdicts(Odds()).verdict["the attacker sees logits of a network at rest"] == "failed"


@pytest.mark.parametrize("how", [{"batch": 4}, {"dropout": True}])
def test_gradients_in_training_mode_are_called_by_name(how):
    rows = verdicts(TrainingMode(Linear(), **how))
    told = rows.loc["the attacker sees logits of a network at rest"]
    assert (told.verdict, told.said) == ("failed", "training mode (TrainingMode)")
    assert sanity_checks.restless(nn.Sequential(nn.Dropout(), nn.BatchNorm2d(3).eval()).train(False)) == []
    assert sanity_checks.restless(nn.Dropout().train()) == ["training mode (Dropout)"]


class Crowd(Linear):
    """Sees more light when an image comes alone."""

    def forward(self, x):
        return super().forward(x + 0.4 * (len(x) == 1))


def test_verdicts_that_depend_on_the_batch_turn_red():
    assert verdicts(Crowd()).verdict["an image's verdict does not depend on the batch"] == "failed"


def test_a_summary_names_what_is_red():
    rows = pd.DataFrame([("a", "passed", "1"), ("b", "failed", "2 of 3")], columns=["check", "verdict", "said"])
    assert sanity_checks.summary(rows) == "failed, so read with care: b (2 of 3)."
    assert sanity_checks.summary(rows[:1]) == "all 1 passed."


def test_what_is_audited_beside_the_tables(lab):
    """The undefended network, and each retrained one behind what it was trained on: as `paper_tables.adaptive` asks."""
    found = sanity_checks.audits(lab)
    assert list(found) == ["No Defense", "STL", "STL (cluster)"]
    assert [audit.defense and audit.defense.label for audit in found.values()] == [None, "STL", "STL (cluster)"]
    for audit in found.values():
        assert audit.classifier.transform == audit.defense and audit.classifier.data.test == 30
        assert (audit.n, audit.steps, audit.queries) == (30, lab.adaptive.steps, lab.adaptive.queries)
        assert audit.defense is None or audit.defense.data == audit.classifier.data
    network = found["STL"].classifier
    assert network in {case.classifier for case in paper_tables.adaptive(lab)}


@pytest.mark.parametrize("asked, test, images", [(None, None, None), (None, 40, 40), (1000, None, 1000), (50, 40, 40)])
def test_no_more_is_audited_than_there_is(lab, asked, test, images):
    profile = replace(lab, data=replace(lab.data, test=test), adaptive=replace(lab.adaptive, n=asked))
    for audit in sanity_checks.audits(profile).values():
        assert audit.classifier.data.test == images and audit.n == min(
            sanity_checks._CHECKED, images or sanity_checks._CHECKED
        )


def test_a_caption_has_a_verdict_for_each_audit(lab, monkeypatch):
    """Told from hand-made panels: one all green, one with a red row."""
    rows = pd.DataFrame([("a", "passed", "1"), ("b", "failed", "2 of 3")], columns=["check", "verdict", "said"])
    doubtful = sanity_checks.audits(lab)["STL"]
    monkeypatch.setattr(sanity_checks, "panel", lambda audit, bench: rows if audit == doubtful else rows[:1])
    assert sanity_checks.verdicts(lab, None) == (
        "Sanity checks of the attacks. No Defense: all 1 passed. "
        "STL: failed, so read with care: b (2 of 3). STL (cluster): all 1 passed."
    )


@pytest.mark.slow
def test_a_panel_is_measured_once_and_kept(lab, bench, monkeypatch):
    audit = sanity_checks.Audit(lab.classifier, lab.transform, n=12, steps=3, queries=10)
    rows = sanity_checks.panel(audit, bench)
    assert len(rows) >= 12 and set(rows.verdict) <= {"passed", "failed"}
    monkeypatch.setattr(sanity_checks, "run", lambda *a, **k: pytest.fail("measured again"))
    pd.testing.assert_frame_equal(sanity_checks.panel(audit, bench), rows)

from labkit.core import metrics
from labkit.evaluation import adversarial_examples
from labkit.experiments import cluster_stability

import pytest
import torch
from torch.testing import assert_close


def test_stability_counts_the_votes_that_stay(lab, bench):
    rows = cluster_stability.stability(lab, bench).set_index("attack")
    assert list(rows.index) == [
        n for a in ("FGSM-0.04", "FGSM-0.08", "BIM-0.03") for n in (a, f"noise as large as {a}")
    ]
    x = bench.images(lab.data, "test").x[:]
    x_adv = adversarial_examples.adversarial(
        adversarial_examples.Attempt(lab.classifier, None, lab.attack("FGSM-0.08"), "classifier"), bench
    )
    strata = bench.strata(lab.stratified.strata)
    same = int((strata.vote(x) == strata.vote(x_adv)).sum())
    row = rows.loc["FGSM-0.08"]
    assert row["same cluster"] == same / 100
    assert (row["low"], row["high"]) == metrics.accuracy(same, 100)[1:3]
    noise = rows.loc["noise as large as FGSM-0.08"]
    assert 0.5 * row["dissimilarity"] < noise["dissimilarity"] <= 1.01 * row["dissimilarity"]


def test_gain_is_measured_with_each_clusters_own_layer(lab, bench):
    rows = cluster_stability.gain(lab, bench, n=40).set_index("cluster")
    x = bench.images(lab.data, "test").x[:40]
    T, one = bench.transform(lab.stratified), bench.transform(lab.transform)
    home = T.strata.vote(x)
    assert rows.n.tolist() == [*torch.bincount(home, minlength=2).tolist(), 40]
    with torch.no_grad():
        assert_close(rows.loc["all", "PSNR own, dB"], float(metrics.psnr(T(x), x).mean()), rtol=1e-3, atol=0)
        assert_close(rows.loc["all", "PSNR one for all, dB"], float(metrics.psnr(one(x), x).mean()), rtol=1e-3, atol=0)
        first = x[home == 0]
        other = metrics.psnr(T.transforms[1](first), first).mean()
    assert_close(rows.loc["1", "PSNR others, dB"], float(other), rtol=1e-3, atol=0)
    weights = rows.n[:-1] / 40
    for name in ("objective own", "objective others"):
        assert rows.loc["all", name] == pytest.approx(float((weights * rows[name][:-1]).sum()), rel=1e-5)


def test_each_cluster_learns_from_its_own_training_images(lab, bench, monkeypatch, tmp_path):
    """A different dictionary for every cluster, and never a test image in the making of one."""
    first, second = (bench.cluster_dictionary(lab.stratified, m) for m in (0, 1))
    assert first.shape == second.shape and not torch.equal(first, second)
    from labkit.evaluation import workbench
    from labkit.evaluation.workbench import Workbench

    seen = []
    monkeypatch.setattr(workbench.cdl, "learn", lambda images, *a, **k: seen.append(images) or first)
    other = Workbench(tmp_path, progress=False)
    other.images = lambda recipe, split: (
        bench.images(recipe, split) if split == "train" else pytest.fail("a test image was asked for")
    )
    labels = other.strata(lab.stratified.strata).labels
    for m in (0, 1):
        other.cluster_dictionary(lab.stratified, m)
    train = bench.images(lab.data, "train").x
    for m, images in enumerate(seen):
        assert torch.equal(images.x[:], train[labels == m])

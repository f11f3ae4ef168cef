"""What T leaves of a perturbation."""

from dataclasses import replace

from labkit.core import metrics, recipes
from labkit.core.store import key
from labkit.evaluation import adversarial_examples
from labkit.evaluation.workbench import Workbench
from labkit.experiments import attenuation
from labkit.models.stl import SparseTransform
from labkit.reporting import captions, tables

import kept_recipes
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.testing import assert_close


def test_a_layer_that_codes_nothing_keeps_the_low_pass_share(lab, bench):
    """With λ huge only the low-pass part of a perturbation is left; with λ next to nothing, all of it."""
    x = bench.images(lab.data, "test").x[:60].clamp(0.3, 0.7)  # more than are taken at once
    x_adv = x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    d = bench.dictionary(lab.transform.dictionary)
    layers = {lam: SparseTransform(d, lam=lam) for lam in (1e-4, 1e3)}
    faithful, low_only = attenuation.measured(layers, x, x_adv).to_dict("records")
    assert low_only["n"] == 60
    assert_close(low_only["kept"] ** 2, low_only["lowpass_share"], rtol=0.2, atol=0)
    assert faithful["kept"] > 0.9 > low_only["kept"] and faithful["psnr"] > low_only["psnr_high"]
    for row in (faithful, low_only):
        assert row["kept_low"] < row["kept"] < row["kept_high"] and row["kept"] <= row["worst"]
        assert row["psnr_low"] < row["psnr"] < row["psnr_high"]


def test_the_means_are_of_single_images(lab, bench):
    """Against a loop over images; intervals against pandas' standard error of the mean."""
    x = bench.images(lab.data, "test").x[:5]
    x_adv = (x + 0.05).clamp(0, 1)
    T = bench.transform(lab.stratified)
    row = attenuation.measured({0.2: T}, x, x_adv).iloc[0]
    kept = []
    for a, b in zip(x, x_adv, strict=True):
        with torch.no_grad():
            kept.append(float((T(b[None]) - T(a[None])).norm() / (b - a).norm()))
    assert row["kept"] == pytest.approx(sum(kept) / 5, rel=0.02) and row["worst"] == pytest.approx(max(kept), rel=0.02)
    values = pd.Series(kept)
    half = 1.959964 * values.sem()
    expected = (values.mean(), values.mean() - half, values.mean() + half)
    assert metrics.mean(torch.tensor(kept)) == pytest.approx(expected, rel=1e-5)


def test_an_image_that_is_not_changed_has_a_psnr_all_the_same():
    assert metrics.mean(torch.tensor([1.0, 3.0]))[0] == 2
    d = torch.zeros(1, 1, 3, 3)
    d[0, 0, 1, 1] = 1
    x = torch.full((2, 1, 8, 8), 0.5)
    row = attenuation.measured({0.1: SparseTransform(d)}, x, x).iloc[0]
    assert row["psnr"] == metrics.MOST and row["kept"] == 0


def test_an_attack_stands_beside_noise_as_large(lab, bench):
    fgsm = next(a for a in lab.attacks if a.label == "FGSM-0.08")
    made = attenuation.perturbed(lab.retrained(), fgsm, bench)
    assert list(made) == ["FGSM-0.08", "noise-0.08"]
    x_adv = made["FGSM-0.08"]
    assert torch.equal(
        x_adv,
        adversarial_examples.adversarial(adversarial_examples.Attempt(lab.classifier, None, fgsm, "classifier"), bench),
    )
    rows = attenuation.table(lab, bench, (0.1, 0.4))
    assert list(rows.change) == ["FGSM-0.08"] * 2 + ["noise-0.08"] * 2 and list(rows["λ"]) == [0.1, 0.4] * 2
    alone = attenuation.measured(
        {0.4: bench.transform(replace(lab.transform, lam=0.4))}, bench.images(lab.data, "test").x[:200], x_adv[:200]
    )
    assert rows.kept[1] == pytest.approx(alone.kept[0], rel=1e-3)
    digest = bench.images(lab.data, "train").digest
    assert list(rows.recipe) == 2 * [key(replace(lab.transform, lam=lam), digest) for lam in (0.1, 0.4)]
    assert set(rows.images) == {digest}
    for words in (captions.attenuation(rows), tables.attenuation(rows).to_markdown()):
        assert "noise-0.08" in words and "FGSM-0.08" in words


def test_the_recipes_kept_beside_a_table_make_its_hashes(lab, bench):
    lams = (0.1, 0.4)
    rows, kept = attenuation.table(lab, bench, lams), attenuation.recipes_of(lab, bench, lams)
    assert list(kept) == list(rows.recipe[:2]) and kept_recipes.flaws(rows, kept) == []
    assert kept_recipes.flaws(rows.assign(λ=0.2), kept) != []


@pytest.mark.filterwarnings("ignore:classes with a single image")
def test_images_of_classes_nobody_knows_get_noise_of_the_same_size(lab, tmp_path):
    for k in range(10):
        (tmp_path / "images" / f"class {k}").mkdir(parents=True)
        noise = torch.randint(60, 190, (32, 32), generator=torch.Generator().manual_seed(k)).byte()
        Image.fromarray(noise.numpy()).save(tmp_path / "images" / f"class {k}" / "one.png")
    own = recipes.rebase(lab, replace(lab.data, name=f"folder:{tmp_path / 'images'}", train=None, test=None))
    bench = Workbench(tmp_path / "store", progress=False)
    fgsm = next(a for a in lab.attacks if a.label == "FGSM-0.08")
    x = bench.images(own.data, "test").x[:]
    made = attenuation.perturbed(own.classifier, fgsm, bench)
    assert list(made) == ["noise-0.08"]
    x_adv = made["noise-0.08"]
    assert len(x_adv) == len(x) == 2
    assert_close(metrics.dissimilarity(x_adv, x), torch.full((2,), 0.08), atol=1e-4, rtol=0)
    assert not (bench.store.root / "classifier").exists()

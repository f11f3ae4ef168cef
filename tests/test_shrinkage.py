"""What T leaves of a perturbation: measured, and said."""

from dataclasses import replace

import kept_recipes
import pandas as pd
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from labkit import attempts, metrics, recipes, shrinkage
from labkit.artifacts import Workbench
from labkit.stl import SparseTransform
from labkit.store import key


def test_a_layer_that_codes_nothing_keeps_the_low_pass_share(lab, bench):
    """With λ huge only the low-pass part of a perturbation is left; with λ next to nothing, all of it."""
    x = bench.images(lab.data, "test").x[:60].clamp(0.3, 0.7)  # more than are taken at once
    x_adv = x + 0.02 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    d = bench.dictionary(lab.transform.dictionary)
    layers = {lam: SparseTransform(d, lam=lam) for lam in (1e-4, 1e3)}
    faithful, low_only = shrinkage.measured(layers, x, x_adv).to_dict("records")
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
    row = shrinkage.measured({0.2: T}, x, x_adv).iloc[0]
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
    row = shrinkage.measured({0.1: SparseTransform(d)}, x, x).iloc[0]
    assert row["psnr"] == metrics.MOST and row["kept"] == 0


def test_an_attack_stands_beside_noise_as_large(lab, bench):
    fgsm = next(a for a in lab.attacks if a.label == "FGSM-0.08")
    made = shrinkage.perturbed(lab.retrained(), fgsm, bench)
    assert list(made) == ["FGSM-0.08", "noise-0.08"]
    maker, x_adv = made["FGSM-0.08"]
    assert maker == "made on the undefended network, attacker has the weights, not T"
    assert torch.equal(x_adv, attempts.adversarial(attempts.Attempt(lab.classifier, None, fgsm, "classifier"), bench))
    rows = shrinkage.table(lab, bench, (0.1, 0.4))
    assert list(rows.change) == ["FGSM-0.08"] * 2 + ["noise-0.08"] * 2 and list(rows["λ"]) == [0.1, 0.4] * 2
    alone = shrinkage.measured(
        {0.4: bench.transform(replace(lab.transform, lam=0.4))}, bench.images(lab.data, "test").x[:200], x_adv[:200]
    )
    assert rows.kept[1] == pytest.approx(alone.kept[0], rel=1e-3)
    digest = bench.images(lab.data, "train").digest
    assert list(rows.recipe) == 2 * [key(replace(lab.transform, lam=lam), digest) for lam in (0.1, 0.4)]
    assert set(rows.images) == {digest}
    for words in (shrinkage.caption(rows), shrinkage.view(rows).to_markdown()):
        assert "noise-0.08" in words and "FGSM-0.08" in words


def test_the_recipes_kept_beside_a_table_make_its_hashes(lab, bench):
    lams = (0.1, 0.4)
    rows, kept = shrinkage.table(lab, bench, lams), shrinkage.recipes_of(lab, bench, lams)
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
    made = shrinkage.perturbed(own.classifier, fgsm, bench)
    assert list(made) == ["noise-0.08"]
    maker, x_adv = made["noise-0.08"]
    assert len(x_adv) == len(x) == 2 and maker == "aimed by nobody"
    assert_close(metrics.dissimilarity(x_adv, x), torch.full((2,), 0.08), atol=1e-4, rtol=0)
    assert not (bench.store.root / "classifier").exists()


def rows(*lines):
    names = ["change", "λ", "n", "kept", "kept_low", "kept_high", "worst", "lowpass_share"]
    names += [f"{p}{end}" for p in ("psnr", "psnr_adv") for end in ("", "_low", "_high")]
    return pd.DataFrame([dict(zip(names, line, strict=True)) for line in lines])


def test_what_is_said_is_what_was_measured():
    found = rows(
        ("FGSM-0.08", 0.1, 100, 0.8, 0.78, 0.82, 0.9, 0.2, 35.0, 34.5, 35.5, 28.0, 27.5, 28.5),
        ("FGSM-0.08", 0.8, 100, 0.5, 0.48, 0.52, 0.6, 0.2, 25.0, 24.0, 26.0, 24.5, 23.5, 25.5),
        ("noise-0.08", 0.1, 100, 0.6, 0.58, 0.62, 0.9, 0.1, 35.0, 34.5, 35.5, 28.0, 27.5, 28.5),
        ("noise-0.08", 0.8, 100, 0.49, 0.47, 0.51, 0.6, 0.1, 25.0, 24.0, 26.0, 24.5, 23.5, 25.5),
    )
    words = shrinkage.reading(found)
    assert "**What T keeps of FGSM-0.08** falls from 0.800 [0.780, 0.820] at λ = 0.1 to 0.500" in words
    assert "**What T keeps of noise-0.08** falls from 0.600 [0.580, 0.620] at λ = 0.1 to 0.490" in words
    assert "**Of FGSM-0.08 it keeps**, beside noise-0.08: more at λ = 0.1 (0.800 [0.780, 0.820] against 0.600" in words
    assert "not told apart at λ = 0.8 (0.500" in words
    assert words.endswith(
        "**The PSNR of T(x)** falls from 35.0 [34.5, 35.5] dB at λ = 0.1 to 25.0 [24.0, 26.0] dB at λ = 0.8."
    )
    assert "beside" not in shrinkage.reading(found[found.change == "noise-0.08"])
    shown = shrinkage.view(found)
    assert shown["kept"][0] == "0.800 [0.780, 0.820]" and shown["PSNR of T(x_adv)"][1] == "24.5 [23.5, 25.5] dB"

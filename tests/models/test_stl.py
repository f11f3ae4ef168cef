from labkit.core.errors import InputError
from labkit.core.recipes import TransformRecipe
from labkit.csc import cbpdn, conv, load_dictionary
from labkit.csc.tikhonov import extend, split
from labkit.evaluation.workbench import Workbench
from labkit.models.stl import SparseTransform, _at_once, _project_dense, project

import numpy as np
import pytest
import torch
from torch.testing import assert_close


def images(B=2, C=3, H=12, W=10, seed=0):
    return torch.rand(B, C, H, W, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def dictionary(K=5, C=3, S=3, seed=1):
    d = torch.randn(K, C, S, S, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return d / d.flatten(1).norm(dim=1)[:, None, None, None]


def test_it_is_low_plus_code_of_high_clipped():
    x, d = images(), dictionary()
    low, high = split(x)
    z = cbpdn.solve(high, d, 0.2, gap_tol=1e-8).z
    assert_close(SparseTransform(d, gap_tol=1e-8)(x), (low + conv.synthesize(z, d)).clamp(0, 1))


def test_reflect_codes_the_mirrored_image_and_cuts_it_out_again():
    x, d = images(), dictionary(S=4)
    low, high = split(x)
    wide = conv.synthesize(cbpdn.solve(extend(high, 3), d, 0.1, gap_tol=1e-8).z, d)
    transformed = SparseTransform(d, lam=0.1, boundary="reflect", gap_tol=1e-8)(x)
    assert_close(transformed, (low + wide[..., 3:-3, 3:-3]).clamp(0, 1))


def test_dense_codes_of_a_chunk_fill_128_mib():
    assert _at_once(torch.zeros(2, 3, 32, 64), 64) == 128 * 2**20 // (32 * 64 * 64 * 4) == 256
    assert _at_once(torch.zeros(2, 3, 512, 1024, dtype=torch.float64), 64) == 1


def test_a_huge_lambda_leaves_the_low_pass_part():
    x = images()
    assert_close(SparseTransform(dictionary(), lam=1e3)(x), split(x)[0].clamp(0, 1))


def test_a_dimmed_low_pass_part_has_less_contrast_about_the_same_mean():
    x, d = images(), dictionary()
    low, high = split(x)
    code = conv.synthesize(cbpdn.solve(high, d, 0.2, gap_tol=1e-8).z, d)
    mean = torch.stack([channel.mean() for image in low for channel in image]).view(2, 3, 1, 1)
    assert_close(SparseTransform(d, gap_tol=1e-8, dim=0.25)(x), (0.75 * mean + 0.25 * low + code).clamp(0, 1))
    assert_close(SparseTransform(d, lam=1e3, dim=0.0)(x), mean.expand_as(x))


def test_rounding_leaves_so_many_levels_and_the_gradient_alone():
    x, d = images(), dictionary()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(4), dtype=x.dtype)
    for backward in ("exact", "identity"):
        rounded, smooth = (SparseTransform(d, bits=bits, backward=backward) for bits in (2, 0))
        assert_close(3 * rounded(x), (3 * smooth(x)).round())
        inputs = x.clone().requires_grad_()
        assert_close(3 * rounded(inputs), (3 * smooth(inputs)).round())
        slopes = [torch.autograd.grad((T(inputs) * weights).sum(), inputs)[0] for T in (rounded, smooth)]
        assert slopes[0].any() and torch.equal(*slopes)
    with pytest.raises(InputError, match="bits in 0 to 16"):
        SparseTransform(d, bits=-1)


def test_stretched_its_largest_pixel_is_white_and_the_gradient_is_exact():
    x, d = 0.6 * images(H=6, W=6), dictionary()
    plain, stretched = SparseTransform(d, gap_tol=1e-12), SparseTransform(d, gap_tol=1e-12, stretched=True)
    T = plain(x)
    assert_close(stretched(x), T / T.amax((1, 2, 3), keepdim=True))
    assert torch.autograd.gradcheck(stretched, x[:1].clone().requires_grad_(), eps=1e-7, atol=1e-3)
    assert not SparseTransform(d, lam=1e3, stretched=True)(torch.zeros_like(x)).any()


def test_dim_bits_and_stretching_are_part_of_the_recipe(tmp_path, monkeypatch):
    bench, x, d = Workbench(tmp_path), images().float(), dictionary().float()
    monkeypatch.setattr(bench, "dictionary", lambda recipe: d)
    for how in ({}, {"dim": 0.5}, {"bits": 3}, {"stretched": True, "bits": 8}):
        assert_close(bench.transform(TransformRecipe(**how))(x), SparseTransform(d, **how)(x))


def test_projection_never_pushes_images_apart():
    """Firm non-expansiveness of the sparse map: ⟨Tx − Ty, x − y⟩ ≥ ‖Tx − Ty‖² (one dictionary, no low-pass)."""
    T = SparseTransform(dictionary(), lam=0.1, lowpass=float("inf"), gap_tol=1e-8)
    for seed in range(3):
        x, y = images(1, seed=seed) * 0.4 + 0.3, images(1, seed=seed + 50) * 0.4 + 0.3
        moved = T(x) - T(y)
        assert (moved * (x - y)).sum() >= moved.square().sum() * (1 - 1e-4)


@pytest.mark.parametrize("dim", [1.0, 0.4])
def test_gradcheck(dim):
    T = SparseTransform(dictionary(K=3, C=2), lam=0.15, gap_tol=1e-13, dim=dim)
    x = (images(1, 2, 7, 6) * 0.3 + 0.35).requires_grad_()
    assert torch.autograd.gradcheck(T, x, eps=1e-6, atol=1e-4)


@pytest.mark.parametrize("boundary", ["circular", "reflect"])
def test_exact_gradient_is_the_finite_difference(boundary):
    T = SparseTransform(dictionary(), lam=0.1, boundary=boundary, gap_tol=1e-12)
    x = (images(1) * 0.4 + 0.3).requires_grad_()
    g = torch.Generator().manual_seed(9)
    weights, direction = (torch.randn(x.shape, generator=g, dtype=x.dtype) for _ in range(2))
    (slope,) = torch.autograd.grad((T(x) * weights).sum(), x)
    h = 1e-6
    with torch.no_grad():
        difference = ((T(x + h * direction) - T(x - h * direction)) * weights).sum() / (2 * h)
    assert_close((slope * direction).sum(), difference, rtol=1e-4, atol=1e-6)


def test_project_is_the_orthogonal_projector():
    d, g = dictionary(), images()
    support = torch.rand(2, 5, 12, 10, generator=torch.Generator().manual_seed(3)) < 0.05
    fast = project(g, support, d)
    assert_close(fast, _project_dense(g, support.double(), d, 1e-12))
    assert_close(project(fast, support, d), fast)
    assert_close((support * conv.analyze(g - fast, d)), torch.zeros(2, 5, 12, 10, dtype=torch.float64))


def test_project_on_nothing_and_on_dependent_atoms():
    d, g = dictionary(), images()
    assert not project(g, torch.zeros(2, 5, 12, 10, dtype=torch.bool), d).any()
    twice = torch.cat([d[:1], d[:1]])
    support = torch.zeros(2, 2, 12, 10, dtype=torch.bool)
    support[:, :, 4, 5] = True
    assert_close(project(g, support, twice), project(g, support[:, :1], d[:1]))


def test_backward_modes():
    x = images(1).requires_grad_()
    for dim in (1.0, 0.5):
        T = SparseTransform(dictionary(), backward="identity", dim=dim)
        (g,) = torch.autograd.grad(T(x).sum(), x)
        assert_close(g, torch.ones_like(x))
        assert_close(T(x), SparseTransform(dictionary(), dim=dim)(x))
    with pytest.raises(RuntimeError, match="none"):
        torch.autograd.grad(SparseTransform(dictionary(), backward="none")(x).sum(), x)


def test_one_image_and_many_agree():
    T, x = SparseTransform(dictionary(), gap_tol=1e-6), images(5)
    assert_close(T(x)[3:4], T(x[3:4]))


def test_reflect_does_not_wrap_around():
    x = torch.full((1, 3, 12, 10), 0.5, dtype=torch.float64)
    other = x.clone()
    other[..., -1] = 1.0  # with circular boundaries the left edge sees this column
    wrapped, mirrored = (SparseTransform(dictionary(S=3), lam=0.01, boundary=b) for b in ("circular", "reflect"))
    assert not torch.equal(wrapped(x)[..., 0], wrapped(other)[..., 0])
    low = split(other)[0][..., 0]
    assert_close(mirrored(other)[..., 0], low, atol=0.02, rtol=0)


def test_quality_is_what_T_does_image_by_image():
    x, d = images(), dictionary()
    told = SparseTransform(d, lam=0.1, gap_tol=1e-3).quality(x)
    _, high = split(x)
    codes = [cbpdn.solve(h[None], d, 0.1, gap_tol=1e-3) for h in high]
    gaps = [float(code.gap / (0.5 * (h**2).sum())) for code, h in zip(codes, high, strict=True)]
    active = sum(int((code.z != 0).sum()) for code in codes) / 2
    objective = sum(float(cbpdn.objective(c.z, h[None], d, 0.1)) for c, h in zip(codes, high, strict=True)) / 2
    assert told["largest relative gap"] == pytest.approx(max(gaps)) and 0 < max(gaps) <= 1e-3
    assert told["active coefficients"] == active
    assert told["of all, %"] == pytest.approx(100 * active / (5 * 12 * 10))
    assert told["objective per image"] == pytest.approx(objective)


@pytest.mark.parametrize("kind", ["colour", "grey", "grey, no channel axis"])
def test_stored_dictionaries_are_read(kind, tmp_path):
    d = dictionary(C=3 if kind == "colour" else 1).float()
    array = d.numpy().transpose(2, 3, 1, 0)
    np.save(tmp_path / "d.npy", array[:, :, 0] if "no channel" in kind else array)
    assert_close(load_dictionary(tmp_path / "d.npy"), d)


@pytest.mark.parametrize(
    "array, words",
    [
        (np.zeros((8, 7, 3, 4), np.float32), "must hold an array"),
        (np.zeros((8, 8, 3, 4), np.int64), "floating-point"),
        (np.full((8, 8, 3, 4), np.nan, np.float32), "NaN"),
        (np.array([{"a": 1}], dtype=object), "plain"),
    ],
)
def test_other_files_are_refused(array, words, tmp_path):
    np.save(tmp_path / "d.npy", array, allow_pickle=True)
    with pytest.raises(InputError, match=words):
        load_dictionary(tmp_path / "d.npy")


@pytest.mark.parametrize(
    ("shape", "K", "C"),
    [((5, 5, 3, 1, 7), 7, 3), ((5, 5, 1, 1, 7), 7, 1), ((5, 5, 3, 1, 1), 1, 3), ((5, 5, 3, 1), 1, 3), ((5, 5), 1, 1),
     ((5, 5, 1, 7), 7, 1), ((5, 5, 7), 7, 1), ((5, 5, 1, 1, 1), 1, 1)],
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_the_layouts_of_sporco_are_read_squeezed_or_not(shape, K, C, dtype, order, tmp_path):
    array = np.random.default_rng(0).normal(size=shape)
    np.save(tmp_path / "d.npy", np.asarray(array, dtype, order=order))
    d = load_dictionary(tmp_path / "d.npy")
    assert d.shape == (K, C, 5, 5)
    assert_close(d, torch.tensor(array.reshape(5, 5, C, K)).permute(3, 2, 0, 1).float())


@pytest.mark.peer
@pytest.mark.parametrize(("channels", "crop"), [(1, True), (3, True), (3, False)])
def test_what_sporco_learned_is_read(channels, crop, tmp_path):
    from sporco.dictlrn import cbpdndl

    draw = np.random.default_rng(0)
    options = cbpdndl.ConvBPDNDictLearn.Options({"MaxMainIter": 1}, dmethod="cns")
    start, x = draw.normal(size=(4, 4, channels, 6)), draw.normal(size=(12, 12, channels, 2))
    learner = cbpdndl.ConvBPDNDictLearn(start, x, 0.2, options, dmethod="cns")
    learner.solve()
    found = learner.getdict(crop=crop)
    np.save(tmp_path / "d.npy", found)
    d = load_dictionary(tmp_path / "d.npy")
    assert d.shape == (6, channels, found.shape[0], found.shape[0])
    assert_close(d[:, :, :4, :4], torch.tensor(found[:4, :4, :, 0]).permute(3, 2, 0, 1).float())


@pytest.mark.parametrize(
    ("shape", "read"),
    [
        ((7, 3, 5, 5), (7, 3, 5, 5)),
        ((7, 5, 5), (7, 1, 5, 5)),
        ((3, 5, 5, 7), (7, 3, 5, 5)),
        ((1, 5, 5, 3, 7), (7, 3, 5, 5)),
        ((5, 5, 3, 2, 7), (7, 3, 5, 5)),
        ((7, 3, 1, 5, 5), (7, 3, 5, 5)),
        ((1, 1, 5, 5, 1, 7), (7, 1, 5, 5)),
    ],
)
def test_other_layouts_are_refused_with_the_call_that_mends_them(shape, read, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    array = np.random.default_rng(0).normal(size=shape)
    np.save("d.npy", array)
    with pytest.raises(InputError, match="load it as d, and store it by") as said:
        load_dictionary("d.npy")
    call = str(said.value).partition("load it as d, and store it by numpy.save(path, ")[2].removesuffix(")")
    np.save("d.npy", eval(call, {"d": array}))
    assert load_dictionary("d.npy").shape == read


@pytest.mark.parametrize(
    "shape", [(5, 4, 3, 7), (5, 4), (5,), (), (5, 4, 3, 1, 7), (2, 3, 4, 5, 6, 7), (5, 5, 0, 3), (0, 0)]
)
def test_filters_that_are_not_square_are_refused_with_a_hint(shape, tmp_path):
    np.save(tmp_path / "d.npy", np.ones(shape))
    with pytest.raises(InputError, match=r"getdict\(crop=True\)"):
        load_dictionary(tmp_path / "d.npy")


def test_kinds_of_files_and_numbers_are_refused_with_the_call_that_mends_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("d.npz", filters=np.ones((5, 5, 7)))
    with pytest.raises(InputError, match=r"numpy.load\(path\)\[name\]"):
        load_dictionary("d.npz")
    for kind in (np.uint8, np.int64, np.complex64, bool):
        np.save("d.npy", d := np.ones((5, 5, 7), kind))
        with pytest.raises(InputError, match="floating-point") as said:
            load_dictionary("d.npy")
        np.save("d.npy", eval(str(said.value).partition("numpy.save(path, ")[2].removesuffix(")"), {"d": d}))
        assert load_dictionary("d.npy").shape == (7, 1, 5, 5)


def test_missing_and_truncated_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no dictionary at"):
        load_dictionary(tmp_path / "d.npy")
    (tmp_path / "d.npy").write_bytes(b"\x93NUMPY\x01\x00v\x00{'descr'")
    with pytest.raises(InputError, match="plain"):
        load_dictionary(tmp_path / "d.npy")


@pytest.mark.parametrize("change", [dict(backward="magic"), dict(boundary="magic")])
def test_unknown_choices_are_named(change):
    with pytest.raises(InputError, match="choose from"):
        SparseTransform(dictionary(), **change)


@pytest.mark.parametrize("dim", [-0.1, 1.5, float("nan")])
def test_dim_is_a_share(dim):
    with pytest.raises(InputError, match="dim in"):
        SparseTransform(dictionary(), dim=dim)


def test_wrong_images_are_refused():
    T = SparseTransform(dictionary())
    with pytest.raises(InputError, match="channel"):
        T(images(C=1))
    with pytest.raises(InputError, match="larger than the image"):
        T(images(H=2))
    with pytest.raises(InputError, match="by 255"):
        T(255 * images())
    with pytest.raises(InputError, match="NaN"):
        T(images() * torch.nan)


def test_for_attackers_a_code_begins_with_that_of_the_nearest_image_asked_about_last(monkeypatch):
    x, d = images(B=4), dictionary()
    T = SparseTransform(d, gap_tol=1e-3)
    quick, starts = T.approximate(0.05), []
    solve = SparseTransform._solve
    monkeypatch.setattr(
        SparseTransform, "_solve", lambda *given, **how: starts.append(given[2]) or solve(*given, **how)
    )
    first = quick(x)
    assert starts.pop() is None and quick.gap_tol == 0.05 and T.gap_tol == 1e-3
    moved = x[[2, 0]] + 1e-3 * images(B=2, seed=5)
    second, begun = quick(moved), starts.pop()
    known = quick._last[1].codes
    assert [len(code.v) for code in begun.codes] == [
        len(solve(T, split(x)[1], None, 0.05).code.codes[i].v) for i in (2, 0)
    ]
    assert len(known) == 2 and not torch.equal(second, first[[2, 0]])
    quick(images(B=1, seed=9) + 1 - images(B=1, seed=9))  # a flat image resembles none
    assert [len(code.v) for code in starts.pop().codes] == [0]
    T(x)
    assert starts.pop() is None and T._last is None


@pytest.mark.parametrize("mode", ["exact", "identity"])
def test_the_approximate_layer_and_its_gradient_are_near_the_layers_own(mode):
    x, d = images(), dictionary()
    T = SparseTransform(d, lam=0.1, gap_tol=1e-6, backward=mode)
    weights = images(seed=3)

    def answers(layer):
        at = x.clone().requires_grad_()
        seen = layer(at)
        return seen.detach(), torch.autograd.grad((weights * seen).sum(), at)[0]

    quick = T.approximate(1e-4)
    for _ in range(2):  # from nothing, and from its own code
        for mine, own in zip(answers(quick), answers(T), strict=True):
            assert (mine - own).norm() <= 0.05 * own.norm()


def test_contrast_and_brightness_leave_no_trace_where_they_are_not_asked_for():
    x, d = (images() > 0.5).double(), dictionary()
    T = SparseTransform(d, lam=0.02, gap_tol=1e-8)
    low, high, code = T.parts(x)
    seen = low + code.synthesis
    assert seen.max() > 1 and seen.min() < 0
    assert torch.equal(T(x), seen.clamp(0, 1)) and torch.equal(T(x), T.join(low, code))
    faint = 0.5 + 1e-3 * (x - 0.5)
    found = SparseTransform(d, lam=1e-5, gap_tol=0.3)
    _, high, code = found.parts(faint)
    largest = float((code.gap / (0.5 * high.square().flatten(1).sum(1))).max())
    assert found.quality(faint)["largest relative gap"] == pytest.approx(largest)


def test_dense_codes_have_the_same_gradient():
    x, d = images(), dictionary()
    weights = images(seed=3)
    grads = []
    for method in ("cd", "admm"):
        at = x.clone().requires_grad_()
        layer = SparseTransform(d, lam=0.1, gap_tol=1e-10, method=method)
        grads.append(torch.autograd.grad((weights * layer(at)).sum(), at)[0])
    assert_close(*grads, atol=1e-4, rtol=1e-3)


def test_dense_projection_leaves_alone_what_is_there_already_and_is_linear():
    g, d = images(B=2), dictionary()
    mask = torch.zeros(2, 5, 12, 10, dtype=torch.bool)
    mask[0, 2, 3, 4] = True  # found in one step, while the other image takes many
    mask[1, :, ::2, ::2] = True
    one = _project_dense(g, mask.double(), d, 1e-12)
    assert_close(one, project(g, mask, d))
    assert_close(1e-4 * one, _project_dense(1e-4 * g, mask.double(), d, 1e-12), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("how", [{"top": 9}, {"shaken": 0.8}, {"relative": True}], ids=lambda how: next(iter(how)))
def test_the_gradient_of_a_T_that_keeps_few_draws_or_chooses_is_exact(how):
    """Against finite differences, of the same draws; a T without any of it has another gradient."""
    d, x = dictionary(12, S=5), images(W=12)
    T = SparseTransform(d, lam=0.2, gap_tol=1e-12, **how)
    v, w = images(W=12, seed=2) - 0.5, images(W=12, seed=3) - 0.5
    asked = x.clone().requires_grad_(True)
    gradient = torch.autograd.grad((T.seeded(3)(asked) * w).sum(), asked)[0]
    ahead, behind = (T.seeded(3)(x + step * v) for step in (1e-6, -1e-6))
    assert_close(((ahead - behind) * w).sum() / 2e-6, (gradient * v).sum(), rtol=1e-4, atol=1e-6)
    plain = torch.autograd.grad((SparseTransform(d, lam=0.2, gap_tol=1e-12)(asked) * w).sum(), asked)[0]
    assert (gradient - plain).norm() > 0.01 * plain.norm()


def test_the_largest_coefficients_are_kept():
    d, x = dictionary(12, S=5).float(), images(W=12).float()
    whole, few = (SparseTransform(d, lam=0.05, top=top).parts(x)[2] for top in (0, 7))
    for all_of, kept in zip(whole.z, few.z, strict=True):
        size = all_of.abs().flatten().sort(descending=True).values
        assert torch.equal(kept, torch.where(all_of.abs() >= size[6], all_of, 0.0))
    assert_close(few.synthesis, conv.synthesize(few.z, d))
    mask = whole.z != 0
    dense = _project_dense(x, mask.float(), d, 1e-6, (few.z != 0).float())
    assert_close(project(x, few.code, d, tol=1e-6), dense, rtol=1e-3, atol=1e-4)


def test_a_T_with_a_lambda_for_each_image_scales_with_them():
    """What is left of an image does not depend on its contrast; `parts` and the layer say the same."""
    d, x = dictionary(12, S=5), images(W=12)
    T = SparseTransform(d, lam=0.2, gap_tol=1e-10, relative=True)
    _, high, code = T.parts(x)
    most = cbpdn.lambda_max(high, d)
    for one, lam in zip(range(len(x)), 0.2 * most, strict=True):
        alone = cbpdn.solve(high[one : one + 1], d, float(lam), gap_tol=1e-10)
        assert_close(code.synthesis[one], alone.synthesis[0], rtol=1e-3, atol=1e-4)
    assert_close(T.both(x)[1], code.synthesis, rtol=1e-3, atol=1e-4)
    assert_close(T.both(x / 2)[1], code.synthesis / 2, rtol=1e-3, atol=1e-4)
    assert torch.equal(T(torch.zeros_like(x)), torch.zeros_like(x))
    told = cbpdn.objective(code.z, high, d, 0.2 * most).mean()
    assert_close(T.quality(x)["objective per image"], float(told), rtol=1e-6, atol=1e-9)


def test_a_T_that_draws_is_random_and_repeats_its_seed():
    T, x = SparseTransform(dictionary(12, S=5).float(), lam=0.1, shaken=0.5), images(W=12).float()
    first, other, again = T.seeded(1)(x), T(x), T.seeded(1)(x)
    assert T.stochastic and torch.equal(first, again) and not torch.equal(first, other)
    seen = [T.drawn() for _ in range(50)]
    assert all(9 <= len(d) <= 12 and 0.1 / 2**0.5 <= lam <= 0.1 * 2**0.5 for d, lam in seen)
    assert len({len(d) for d, _ in seen}) > 1

"""Networks: torchvision's layer for layer where they should be, and weights from files."""

from dataclasses import replace

from labkit.core.errors import InputError
from labkit.core.recipes import ClassifierRecipe, canonical
from labkit.core.torchvision_shim import torchvision
from labkit.models import networks
from labkit.models.thermometer import Thermometer

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

VGG = ClassifierRecipe(width=1 / 16)
RESNET = ClassifierRecipe(network="resnet50", width=1 / 16)


@pytest.mark.parametrize("name", networks.VGGS)
def test_full_width_features_are_those_of_torchvision(name):
    ours = networks.build(replace(VGG, network=name, width=1.0), 10, 3, 32).network.features
    theirs = getattr(torchvision.models, f"{name}_bn")(weights=None).features
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    x = torch.rand(2, 3, 32, 40)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize(("width", "channels"), [(1 / 8, 1), (1 / 4, 3), (1 / 2, 3), (1.0, 1)])
def test_parameter_count(width, channels):
    plan = [int(n * width) for n in (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)]
    convolutions = sum(9 * a * b + b for a, b in zip([channels, *plan], plan, strict=False))
    expected = convolutions + 2 * sum(plan) + plan[-1] * 7 + 7
    model = networks.build(replace(VGG, width=width), 7, channels, 64)
    assert sum(p.numel() for p in model.parameters()) == expected


@pytest.mark.parametrize("size", [32, 64, 128, 224])
@pytest.mark.parametrize("recipe", [VGG, RESNET], ids=["vgg16", "resnet50"])
def test_every_resolution_gives_logits(recipe, size):
    model = networks.build(recipe, 5, 3, size).eval()
    assert model(torch.rand(2, 3, size, size)).shape == (2, 5)


def test_normalisation_is_inside():
    model = networks.build(VGG, 4, 3, 32).double().eval()
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    mean, std = torch.tensor([0.1, 0.2, 0.3])[:, None, None], torch.tensor([0.5, 0.25, 2.0])[:, None, None]
    plain = model((x - mean) / std)
    model.mean.copy_(mean), model.std.copy_(std)
    assert_close(model(x), plain)


@pytest.mark.parametrize("recipe", [VGG, RESNET], ids=["vgg16", "resnet50"])
def test_a_thermometer_takes_the_place_of_the_normalisation(recipe):
    model = networks.build(replace(recipe, levels=16), 4, 3, 32).eval()
    model.mean += 0.25
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(model(x), model.network(Thermometer(16)(x)))
    assert torch.equal(model(x), model((x * 16).floor() / 16 + 1 / 32))
    first = next(module for module in model.modules() if isinstance(module, torch.nn.Conv2d))
    assert first.in_channels == 48 and networks.classes_of(model) == 4
    (gradient,) = torch.autograd.grad(model(x.requires_grad_())[:, 0].sum(), x)
    assert gradient.any()


def test_a_mirrored_network_decides_by_both_views_once_it_is_trained():
    plain, mirrored = (networks.build(replace(VGG, mirrored=both), 4, 3, 32).eval() for both in (False, True))
    mirrored.load_state_dict(plain.state_dict())
    x = torch.rand(2, 3, 32, 32)
    assert_close(mirrored(x), (plain(x) + plain(x.flip(3))) / 2)
    assert_close(mirrored(x), mirrored(x.flip(3)))
    assert not torch.allclose(plain(x), plain(x.flip(3)))
    seen = []
    mirrored.network.features[0].register_forward_hook(lambda _module, given, _made: seen.append(given[0]))
    mirrored(x)
    assert_close(seen[-1], x)  # detectors look at what the image itself leaves behind
    mirrored.train()(x)
    assert len(seen) == 3  # in training each image is seen once, as it is


def test_dropout_follows_each_pooling_and_is_for_vggs_alone():
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    plain, dropping = (networks.build(replace(VGG, dropout=p), 4, 3, 32).eval() for p in (0.0, 0.3))
    assert torch.equal(plain(x), dropping(x)) and not torch.equal(dropping.train()(x), dropping(x))
    kinds = [type(part).__name__ for part in dropping.network.features]
    assert [kinds[i - 1] for i, kind in enumerate(kinds) if kind == "Dropout"] == ["MaxPool2d"] * 5
    with pytest.raises(InputError, match="dropout is for VGGs, and not for resnet50"):
        networks.build(replace(RESNET, dropout=0.3), 4, 3, 32)


@pytest.mark.parametrize("mirrored", [False, True])
def test_input_gradient_is_the_derivative(mirrored):
    model = networks.build(replace(VGG, mirrored=mirrored), 4, 1, 32).double().eval()
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 1, 32, 32, dtype=torch.float64, generator=generator).requires_grad_()
    direction = torch.randn(x.shape, dtype=torch.float64, generator=generator)
    (gradient,) = torch.autograd.grad(model(x)[0, 2], x)
    step = 1e-8  # so short that no ReLU and no maximum changes sides on the way
    with torch.no_grad():
        slope = (model(x + step * direction) - model(x - step * direction))[0, 2] / (2 * step)
    assert gradient.any()
    assert_close((gradient * direction).sum(), slope, rtol=1e-5, atol=1e-9)


def test_full_width_resnet_is_torchvisions():
    ours = networks.build(replace(RESNET, width=1.0), 1000, 3, 224).network
    theirs = torchvision.models.resnet50(weights=None)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}
    x = torch.rand(1, 3, 128, 160)
    theirs.load_state_dict(ours.state_dict())
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_small_images_keep_their_size_in_the_stem_of_a_resnet():
    x, (small, large) = torch.rand(1, 3, 32, 32), (networks.build(RESNET, 4, 3, n).network for n in (64, 128))
    assert small.maxpool(small.conv1(x)).shape[-1] == 32 and large.maxpool(large.conv1(x)).shape[-1] == 8
    assert sum(p.numel() for p in networks.build(replace(RESNET, width=0.25), 4, 3, 64).parameters()) < 1.6e6


def test_the_seed_decides_the_weights():
    for recipe in (VGG, RESNET):
        one, same, other = (networks.build(replace(recipe, seed=s), 4, 3, 32).state_dict() for s in (0, 0, 1))
        assert all(torch.equal(one[name], same[name]) for name in one)
        assert any(not torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("part", ["whole", "network"])
@pytest.mark.parametrize("kind", ["safetensors", "pt"])
def test_weights_come_back_from_a_file(kind, part, tmp_path):
    model = networks.build(VGG, 4, 3, 32)
    model.mean += 0.25
    state = (model if part == "whole" else model.network).state_dict()
    path = tmp_path / f"weights.{kind}"
    save_file(state, path) if kind == "safetensors" else torch.save(state, path)
    other = networks.load(networks.build(replace(VGG, seed=1), 4, 3, 32), networks.fingerprint(path))
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(other.network.eval()(x), model.network.eval()(x))
    assert torch.equal(other.mean, model.mean) == (part == "whole")


def test_a_recipe_knows_weights_by_their_content(tmp_path):
    one, copy, other = (tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors"))
    save_file({"x": torch.zeros(2)}, one)
    copy.write_bytes(one.read_bytes())
    save_file({"x": torch.ones(2)}, other)
    texts = [canonical(replace(VGG, weights=networks.fingerprint(p))) for p in (one, copy, other)]
    assert texts[0] == texts[1] != texts[2]


class Harmful:
    def __reduce__(self):
        return (print, ("never to be called",))


def test_bad_files_of_weights_are_explained(tmp_path, capsys):
    model = networks.build(VGG, 4, 3, 32)
    path = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match="cannot read weights"):
        networks.fingerprint(path)
    save_file(networks.build(VGG, 5, 3, 32).state_dict(), path)
    known = networks.fingerprint(path)
    with pytest.raises(InputError, match="another network"):
        networks.load(model, known)
    with pytest.raises(InputError, match="another network"):
        networks.load(networks.build(replace(VGG, levels=16), 5, 3, 32), known)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="has changed"):
        networks.load(model, known)
    with pytest.raises(InputError, match="cannot read weights"):
        networks.load(model, networks.fingerprint(path))
    torch.save({"network.x": Harmful()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="cannot read weights"):
        networks.load(model, networks.fingerprint(tmp_path / "w.pt"))
    assert "never" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: networks.build(replace(VGG, network="vgg17"), 2, 1, 32), "vgg11, vgg13, vgg16, vgg19, resnet50"),
        (lambda: networks.build(VGG, 2, 1, 28), "resolution=32"),
        (lambda: networks.build(replace(VGG, width=0), 2, 1, 32), "width"),
        (lambda: networks.build(replace(VGG, levels=1), 2, 1, 32), "levels ≥ 2"),
        (lambda: networks.build(replace(VGG, levels=-3), 2, 1, 32), "levels ≥ 2"),
    ],
)
def test_bad_input_says_what_to_do(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_a_frozen_network_answers_as_before_in_the_fast_layout():
    model, x = networks.build(VGG, 4, 3, 32).eval(), torch.rand(2, 3, 32, 32)
    before = model(x)
    found = networks.frozen(model.train(), "cpu")
    assert_close(found(x), before)
    assert not found.training and not any(p.requires_grad for p in found.parameters())
    weights = [p for p in found.parameters() if p.ndim == 4 and p.shape[1] > 1]
    assert all(p.is_contiguous(memory_format=torch.channels_last) and not p.is_contiguous() for p in weights)

"""What every attack takes at its door, refuses in a sentence, and leaves as it was."""

import copy
import random

from labkit import attacks
from labkit.attacks import ATTACKS, Budget
from labkit.core.errors import InputError
from labkit.datasets import Images

import numpy as np
import pytest
import torch
from linear_models import SHAPE, setting
from torch import nn
from torch.nn import functional

BUDGET = Budget.l2(0.4)
AIMED = [name for name in ATTACKS if name not in ("noise", "universal")]
QUICK = {
    "cw": dict(searches=2, steps=20),
    "autoattack": dict(steps=4, queries=10),
    "square": dict(queries=20),
    "hopskipjump": dict(queries=60),
    "universal": dict(pattern=torch.linspace(-1, 1, 3 * 8 * 7).reshape(SHAPE)),
}
KINDS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.uint16, torch.int64)


class Moody(nn.Module):
    """Answers otherwise in training: one part is at rest already, and `train` keeps it so."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.fold, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Dropout(0.5), nn.Linear(4 * 6 * 5, 5))
        for p in self.parameters():
            p.data = 0.3 * torch.randn(p.shape, generator=generator)

    def train(self, mode: bool = True):
        super().train(mode)
        self.norm.eval()
        return self

    def forward(self, x):
        return self.head(self.norm(self.fold(x)).relu().flatten(1))


class Drawn(nn.Module):
    """A linear model that blurs its answer by a draw from somebody's global random state."""

    def __init__(self, model, draw):
        super().__init__()
        self.model, self.draw = model, draw

    def forward(self, x):
        return self.model(x + 0.02 * self.draw())


def run(name, model, x, y, budget):
    return ATTACKS[name](model, x, y, budget=budget, **QUICK.get(name, {}))


def states():
    return [*map(str, (random.getstate(), np.random.get_state(), torch.get_rng_state().tolist()))]  # noqa: NPY002


def moody():
    """A network in training, a batch for it, and the classes it decides for at rest."""
    net = Moody()
    x = torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = net.eval()(x).argmax(1)
    return net, x, y


@pytest.mark.parametrize("name", ATTACKS)
def test_labels_of_every_kind_are_the_same_labels(name):
    model, x, y = setting(classes=5)
    expected = run(name, model, x, y, BUDGET)
    given = [y.to(kind) for kind in KINDS]
    given += [y.numpy().astype(np.int32), y.numpy().astype(np.uint8), y.tolist(), tuple(y.tolist())]
    for labels in given:
        assert torch.equal(run(name, model, x, labels, BUDGET), expected)


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_no_label_is_refused_in_a_sentence(name):
    model, x, y = setting(classes=5)
    wrong = [y - 1 - y.min(), y.float(), y.bool(), y.to(torch.complex64), y[:, None], y[:-1], functional.one_hot(y)]
    wrong += ["cat", ["cat"] * len(y), None, torch.full_like(y, -100), torch.full_like(y, 2**63 - 1)]
    for labels in wrong if name not in ("noise", "universal") else wrong[:-1]:  # which ask the model nothing
        with pytest.raises(InputError, match=f"^{name} needs .*(class index|counted from 0)") as said:
            run(name, model, x, labels, BUDGET)
        assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", AIMED)
def test_a_class_that_the_model_does_not_know_is_never_fooled(name):
    model, x, y = setting(classes=5)
    for most in (5, 6, 1000):
        labels = y.clone()
        labels[-1] = most
        with pytest.raises(InputError, match=f"tells 5 classes apart, 0 to 4, and a label is {most}"):
            run(name, model, x, labels, BUDGET)


def test_what_is_no_model_budget_or_count_is_refused():
    model, x, y = setting()
    with pytest.raises(InputError, match=r"got \(6,\) for 6 images; pass a model that answers \(6, classes\)"):
        attacks.pgd(lambda x: model(x)[:, 0], x, y, budget=BUDGET)
    with pytest.raises(InputError, match=r"got \(\)"):
        attacks.fgsm(lambda x: (model(x), None), x, y, budget=BUDGET)
    with pytest.raises(InputError, match="needs a budget"):
        attacks.pgd(model, x, y, budget=0.4)
    for options in ({"seed": -1}, {"seed": 2**64}, {"seed": 0.5}, {"steps": -1}, {"steps": 2.5}, {"restarts": "3"}):
        with pytest.raises(InputError, match=f"pgd needs {next(iter(options))} "):
            attacks.pgd(model, x, y, budget=BUDGET, **options)


@pytest.mark.filterwarnings("ignore:.*training mode")
@pytest.mark.parametrize("name", ATTACKS)
def test_the_mode_of_every_part_is_left_and_changes_nothing(name):
    net, x, y = moody()
    expected = run(name, net, x, y, BUDGET)
    net.head.train()
    net.fold.train()
    modes, before = [part.training for part in net.modules()], copy.deepcopy(net.state_dict())
    holders = (net, net.forward, lambda x: net(x))
    for model in holders:
        assert torch.equal(run(name, model, x, y, BUDGET), expected)
        assert [part.training for part in net.modules()] == modes
    assert all(torch.equal(tensor, before[key]) for key, tensor in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_network_in_training_is_warned_of_and_one_without_moods_is_not():
    net, x, y = moody()
    with pytest.warns(UserWarning, match="fgsm got a network in training mode"):
        attacks.fgsm(net.train(), x, y, budget=BUDGET)
    model, x, y = setting()
    attacks.fgsm(model.train(), x, y, budget=BUDGET)


@pytest.mark.filterwarnings("ignore:.*training mode")
def test_a_model_that_fails_is_left_as_it_was_too():
    net, x, y = moody()
    net.train()
    net.head[0].register_forward_hook(lambda *_: 1 / 0)
    before, modes = states(), [part.training for part in net.modules()]
    with torch.no_grad(), pytest.raises(ZeroDivisionError):
        attacks.pgd(net, x, y, budget=BUDGET)
    assert states() == before and [part.training for part in net.modules()] == modes and torch.is_grad_enabled()


@pytest.mark.parametrize("name", ATTACKS)
def test_no_grad_and_inference_mode_change_nothing(name):
    model, x, y = setting(classes=5)
    expected = run(name, model, x, y, BUDGET)
    with torch.inference_mode():
        born, labels, twin = x.clone(), y.clone(), copy.deepcopy(model)
        assert torch.equal(run(name, model, x, y, BUDGET), expected)
        inside = run(name, twin, born, labels, BUDGET)
        assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
    assert torch.equal(inside, expected) and not inside.is_inference()
    assert torch.equal(run(name, twin, born, labels, BUDGET), expected)
    with torch.no_grad():
        assert torch.equal(run(name, model, x, y, BUDGET), expected) and not torch.is_grad_enabled()
    tracked = x.clone().requires_grad_()
    found = run(name, model, tracked, y, BUDGET)
    assert torch.equal(found, expected) and not found.requires_grad and tracked.grad is None


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), lambda: np.random.rand(), random.random])  # noqa: NPY002
@pytest.mark.parametrize("name", ATTACKS)
def test_every_global_random_state_is_left_and_changes_nothing(name, draw):
    model, x, y = setting(classes=5)
    model, found = Drawn(model, draw), []
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        torch.manual_seed(seed)
        before = states()
        found.append(run(name, model, x, y, BUDGET))
        assert states() == before
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ATTACKS)
def test_the_images_given_are_not_those_that_come_back(name):
    model, x, y = setting()
    kept = x.clone()
    run(name, model, x, y, Budget.l2(0.0)).zero_()
    assert torch.equal(x, kept)


@pytest.mark.filterwarnings("ignore:.*training mode")
def test_a_pattern_is_fitted_behind_the_same_door():
    net, x, y = moody()
    images = Images(x, y, tuple("abcde"), "")
    expected = attacks.fit_universal(net, images, budget=BUDGET, epochs=2)
    net.train()
    modes, before = [part.training for part in net.modules()], states()
    with torch.inference_mode():
        assert torch.equal(attacks.fit_universal(net, images, budget=BUDGET, epochs=2), expected)
    assert [part.training for part in net.modules()] == modes and states() == before
    with pytest.raises(InputError, match="a label is 5"):
        attacks.fit_universal(net, Images(x, y.clone().fill_(5), tuple("abcdef"), ""), budget=BUDGET)
    with pytest.raises(InputError, match="epochs ≥ 1"):
        attacks.fit_universal(net, images, budget=BUDGET, epochs=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", ["deepfool", "ddn", "cw"])
def test_at_a_tie_or_next_to_one_a_step_that_is_hardly_one_is_found(name, level, dtype):
    """Of classes with equal logits, or logits that differ by their last digit, the first one is decided for."""
    generator = torch.Generator().manual_seed(0)
    normals = torch.randn(4, 3, 16, 16, generator=generator).to(dtype)
    x, y = torch.full((1, 3, 16, 16), level, dtype=dtype), torch.tensor([0])
    for ahead in (0, torch.finfo(dtype).eps):
        bias = torch.tensor([[1 + ahead, 1, 1, 0.5]], dtype=dtype)
        answer = lambda at, bias=bias: bias + ((at - level)[:, None] * normals).flatten(2).sum(2)  # noqa: E731
        found = ATTACKS[name](answer, x, y)
        assert int(answer(found).argmax(1)) != 0
        assert float((found - x).norm()) < 1e-4


@pytest.mark.parametrize("name", ["deepfool", "ddn", "cw"])
def test_a_tie_that_nothing_breaks_comes_back_unchanged(name):
    x, y = torch.full((1, *SHAPE), 0.5), torch.tensor([0])
    assert torch.equal(ATTACKS[name](lambda x: 0 * x.flatten(1)[:, :3], x, y), x)

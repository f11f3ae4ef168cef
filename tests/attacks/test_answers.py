"""What attacks find where the answer is known: on linear models, and of their losses, draws and patterns."""

import itertools

from labkit import attacks
from labkit.attacks import ATTACKS, MINIMAL
from labkit.attacks.budget import Budget
from labkit.attacks.common import LOSSES, normal
from labkit.attacks.gradient_based import passed
from labkit.core.errors import InputError
from labkit.csc.tikhonov import split
from labkit.datasets.loaders import Images

import pytest
import torch
from linear_models import BUDGETS, fall, norms, setting, worst
from torch import nn
from torch.testing import assert_close

# --- on linear models


@pytest.mark.parametrize("name", ["fgsm", "bim", "pgd"])
def test_linf_reaches_the_analytic_worst_case(name):
    """On a linear model the worst perturbation in the max norm is ε·sign(normal): score falls by ε‖normal‖₁."""
    model, x, y = setting()
    found = ATTACKS[name](model, x, y, budget=Budget.linf(0.03))
    assert_close(fall(model, x, found, y), torch.full((6,), 0.03 * worst(model, 1)), rtol=0.01, atol=0)


@pytest.mark.parametrize("steps", [20, 100])
def test_l2_reaches_the_analytic_worst_case(steps):
    """In L2 it is ε·normal/‖normal‖: score falls by ε‖normal‖₂."""
    model, x, y = setting()
    budget = Budget.dissimilarity(0.05)
    found = attacks.pgd(model, x, y, budget=budget, steps=steps)
    assert_close(fall(model, x, found, y), budget.radius(x) * worst(model, 2), rtol=0.01, atol=0)


def test_fgsm_is_the_scaled_sign_pattern():
    model, x, y = setting()
    found = attacks.fgsm(model, x, y, budget=Budget.dissimilarity(0.05))
    expected = -torch.where(y == 0, 1.0, -1.0)[:, None, None, None] * model.normals[0].sign()
    length = 0.05 * norms(x) / (3 * 8 * 7) ** 0.5
    assert_close(found - x, (expected * length[:, None, None, None]).detach(), atol=1e-6, rtol=1e-4)


def test_pixels_at_the_end_of_the_range_cost_no_step():
    """On black pixels only brightening is open: score falls by ε times the norm of what is left of the normal."""
    model, x, y = setting()
    x[:, :, :5] = 0
    y = model(x).argmax(1)
    toward = model.normals[1 - y] - model.normals[y]
    left = torch.where((x == 0) & (toward < 0), 0.0, toward / 2)
    found = attacks.pgd(model, x, y, budget=Budget.l2(0.3), steps=100)
    assert_close(fall(model, x, found, y), (0.3 * norms(left)).detach(), rtol=0.01, atol=0)


def test_a_network_too_sure_for_cross_entropy_is_attacked_all_the_same():
    """Logits 10⁴ apart: p_y rounds to 1, and the gradient of −log p_y to zero."""
    model, x, y = setting(sharpness=1e4)
    assert torch.equal(attacks.bim(model, x, y, budget=Budget.linf(0.03)), x)
    expected = torch.full((6,), 1e4 * 0.03 * worst(model, 1))
    found = attacks.pgd(model, x, y, budget=Budget.linf(0.03))
    assert_close(fall(model, x, found, y), expected, rtol=0.01, atol=0)
    assert (norms(attacks.ddn(model, x, y) - x) <= 1.05 * model.distance(x, y)).all()


def test_log_odds_climb_where_cross_entropy_climbs():
    g = torch.Generator().manual_seed(3)
    logits = torch.randn(7, 5, generator=g, dtype=torch.float64, requires_grad=True)
    y = torch.randint(5, (7,), generator=g)
    slopes = {name: torch.autograd.grad(loss(logits, y).sum(), logits)[0] for name, loss in LOSSES.items()}
    surprise = 1 - logits.softmax(1).gather(1, y[:, None])
    assert_close(slopes["cross-entropy"], surprise * slopes["log-odds"])
    with pytest.raises(InputError, match="log-odds"):
        attacks.pgd(*setting(), budget=BUDGETS[0], loss="hinge")


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("name", [name for name in MINIMAL if name != "hopskipjump"])
def test_the_nearest_hyperplane_is_found(name, classes):
    model, x, y = setting(classes)
    found = ATTACKS[name](model, x, y)
    length, distance = norms(found - x), model.distance(x, y)
    assert (model(found).argmax(1) != y).all()
    assert (length >= distance * 0.999).all() and (length <= distance * 1.05).all()


@pytest.mark.parametrize("name", MINIMAL)
def test_a_budget_shortens_the_smallest_change(name):
    """Longer ones end at the radius, on their way and not across; shorter ones stay as they are."""
    model, x, y = setting(classes=5)
    distance = model.distance(x, y)
    budget = Budget.l2(float(distance.median()))
    free, found = ATTACKS[name](model, x, y), ATTACKS[name](model, x, y, budget=budget)
    short = norms(free - x) <= budget.size
    assert 0 < short.sum() < len(x)
    assert torch.equal(found[short], free[short])
    share = (budget.size / norms(free - x))[~short, None, None, None]
    assert_close(found[~short], x[~short] + share * (free - x)[~short], atol=1e-6, rtol=0)


# --- by decisions alone


@pytest.mark.parametrize("classes, nearest", [(2, 1.0), (5, 0.9)])
def test_two_thousand_decisions_find_the_hyperplane_to_15_percent(classes, nearest):
    """Of several classes, now and then one that is not the nearest: along its boundary, the way is shortest, too."""
    model, x, y = setting(classes, B=40)
    found = attacks.hopskipjump(model, x, y, queries=2000)
    share = norms(found - x) / model.distance(x, y)
    assert (model(found).argmax(1) != y).all() and (share >= 0.999).all() and share.median() <= 1.12
    assert (share <= 1.15).float().mean() >= nearest


@pytest.mark.parametrize("queries", [0, 5, 31, 32, 60, 500])
def test_hopskipjump_asks_no_more_than_it_may(queries):
    model, x, y = setting(classes=5)
    asked = []
    found = attacks.hopskipjump(lambda x: (asked.append(len(x)), model(x))[1], x, y, queries=queries)
    assert sum(asked) <= queries * len(x)
    if queries < 32:
        assert torch.equal(found, x)
    assert (model(found).argmax(1) != y).all() == (queries >= 60)


def test_hopskipjump_sees_decisions_and_no_scores():
    """The same from one-hot answers, and from scores that say nothing but the class."""
    model, x, y = setting(classes=5)
    told = lambda images: torch.eye(5)[model(images).argmax(1)]  # noqa: E731
    bent = lambda images: (told(images) - 0.3) * images.sum((1, 2, 3))[:, None].exp()  # noqa: E731
    expected = attacks.hopskipjump(model, x, y, queries=400)
    assert all(torch.equal(attacks.hopskipjump(answer, x, y, queries=400), expected) for answer in (told, bent))


def test_more_decisions_come_nearer():
    model, x, y = setting(classes=5)
    distance = model.distance(x, y)
    far = [norms(attacks.hopskipjump(model, x, y, queries=n) - x) / distance for n in (60, 300, 1000, 4000)]
    assert all((more <= less).all() for less, more in itertools.pairwise(far)) and far[-1].median() < 1.05


# --- a loss that turns


@pytest.fixture
def curved():
    g = torch.Generator().manual_seed(1)
    x, y = torch.rand(16, 1, 6, 6, generator=g), torch.zeros(16, dtype=torch.long)
    network = nn.Sequential(nn.Flatten(), nn.Linear(36, 32), nn.Tanh(), nn.Linear(32, 2)).requires_grad_(False)
    for p in network.parameters():
        p.copy_(torch.randn(p.shape, generator=g))
    return network, x, y


def test_more_steps_do_more(curved):
    """One big step overshoots, small ones follow."""
    network, x, y = curved
    loss = lambda images: nn.functional.cross_entropy(network(images), y)  # noqa: E731
    budget = Budget.l2(1.5)
    one, many = (loss(attacks.bim(network, x, y, budget=budget, steps=s)) for s in (1, 40))
    assert loss(x) < one < many


def test_restarts_never_undo(curved):
    network, x, y = curved
    budget = Budget.l2(0.6)
    margin = lambda images: LOSSES["margin"](network(images), y)  # noqa: E731
    found = [margin(attacks.pgd(network, x, y, budget=budget, steps=5, restarts=r)) for r in (0, 1, 4)]
    assert torch.equal(found[0], margin(x))
    assert (found[0] <= found[1]).all() and (found[1] <= found[2]).all() and (found[1] < found[2]).any()


def test_stopping_fools_as_many_and_asks_less(curved):
    network, x, y = curved
    asked = []

    def counted(images):
        asked.append(len(images))
        return network(images)

    fooled, cost = [], []
    for stop in (False, True):
        asked.clear()
        found = attacks.pgd(counted, x, y, budget=Budget.l2(0.6), restarts=2, stop=stop)
        fooled.append((network(found).argmax(1) != y).sum())
        cost.append(sum(asked))
    assert fooled[0] == fooled[1] > 0 and cost[1] < cost[0] / 2


# --- noise


@pytest.mark.parametrize("budget", BUDGETS)
def test_noise_has_the_full_length_after_clipping(budget):
    model, x, y = setting()
    x[0, :, :5] = 0
    found = attacks.noise(model, x, y, budget=budget)
    assert_close(budget.length(found, x), budget.radius(x), rtol=1e-4, atol=0)


def test_noise_is_normal_and_differs_between_images():
    x = torch.rand(40, 3, 20, 20, generator=torch.Generator().manual_seed(0))
    drawn = normal(x, 0).flatten(1)
    assert abs(drawn.mean()) < 0.03 and abs(drawn.std() - 1) < 0.03
    between = (drawn @ drawn.T / drawn.shape[1]).fill_diagonal_(0)
    assert between.abs().max() < 0.15  # independent draws: standard deviation 0.03
    assert torch.equal(normal(x.flip(0), 0).flip(0).flatten(1), drawn)


def test_the_worst_of_many_draws_is_worse():
    model, x, y = setting()
    one, many = (fall(model, x, attacks.noise(model, x, y, budget=BUDGETS[1], draws=n), y) for n in (1, 30))
    assert (many > one).all()


# --- low frequencies


def test_passed_waves_are_those_the_split_keeps():
    """With a padding of half the image, cosine waves are the filter's eigenvectors; `passed` keeps the large gains."""
    n, weight = 32, 5.0
    t = torch.arange(n) + 0.5
    for i, j in [(0, 0), (1, 2), (4, 1), (3, 3), (4, 4), (9, 0)]:
        wave = torch.cos(torch.pi * i * t / n)[:, None] * torch.cos(torch.pi * j * t / n)[None, :]
        low, _ = split(wave[None, None].double(), weight, n // 2)
        gain = float((low * wave).sum() / wave.square().sum())
        assert_close(low[0, 0], gain * wave.double(), atol=1e-6, rtol=0)
        kept = passed(wave[None, None], weight, kept=0.5)[0, 0]
        assert_close(kept, wave if gain >= 0.5 else torch.zeros_like(wave), atol=1e-5, rtol=0)


def test_passed_is_an_orthogonal_projection():
    g = torch.Generator().manual_seed(0)
    a, b = (torch.randn(2, 3, 9, 11, generator=g, dtype=torch.float64) for _ in range(2))
    assert_close(passed(passed(a)), passed(a))
    assert_close((passed(a) * b).sum(), (a * passed(b)).sum())
    assert 0 < passed(a).norm() < a.norm()
    with pytest.raises(InputError, match="kept"):
        passed(a, kept=0.0)


@pytest.mark.parametrize("budget", BUDGETS)
def test_lowfreq_stays_low_and_reaches_the_worst_case(budget):
    """Among the passed waves, score falls by at most ε‖P normal‖₂ (L2); most of the change survives the filter."""
    model, x, y = setting()
    options = dict(weight=1.0, kept=0.4)
    found = attacks.lowfreq(model, x, y, budget=budget, **options)
    assert_close(passed(found - x, **options), found - x, atol=1e-5, rtol=0)
    low, _ = split(found - x, 1.0, 4)
    assert (norms(low) >= 0.38 * norms(found - x)).all()  # 0.4, but for the padding of a 7-pixel side
    if budget.norm == "l2":
        normal = passed(model.normals[:1], **options)
        assert_close(fall(model, x, found, y), (budget.radius(x) * normal.norm()).detach(), rtol=0.01, atol=0)
    else:
        assert_close(budget.length(found, x), budget.radius(x), rtol=0.01, atol=0)


# --- universal


@pytest.mark.parametrize("budget", BUDGETS)
def test_one_pattern_for_one_class_is_the_normal(budget):
    """All images in class 0 of a linear model: the worst common direction is away from its normal."""
    model, x, _ = setting(B=40, sharpness=0.01)
    images = Images(x, torch.zeros(40, dtype=torch.long), ("a", "b"), "")
    pattern = attacks.fit_universal(model, images, budget=budget, batch=15, epochs=8)
    normal = -model.normals[0].detach()
    best = normal.sign() if budget.norm == "linf" else normal / normal.norm()
    assert float((pattern * best).sum() / (pattern.norm() * best.norm())) > 0.99
    again = attacks.fit_universal(model, images, budget=budget, batch=15, epochs=8)
    assert torch.equal(pattern, again)
    found = attacks.universal(model, x, images.y, budget=budget, pattern=pattern)
    assert_close(budget.length(found, x), budget.radius(x), rtol=1e-4, atol=0)


def test_images_that_are_wrong_no_longer_pull():
    """Half the images are wrong by far and pull fifty times as hard at pixel 1; the pattern serves those at pixel 2."""

    def model(x):
        pixels = x.flatten(1)
        far = pixels[:, 0].detach()  # 1 in one half, 0 in the other
        score = far * (50 * pixels[:, 1] - 40) + (1 - far) * (pixels[:, 2] - 0.3)
        return torch.stack([score, 0 * score], 1)

    x = torch.full((20, 1, 4, 4), 0.5)
    x[:10, 0, 0, 0], x[10:, 0, 0, 0] = 1, 0
    images = Images(x, torch.zeros(20, dtype=torch.long), ("a", "b"), "")
    pattern = attacks.fit_universal(model, images, budget=Budget.l2(0.1), epochs=3)
    assert_close(pattern.flatten()[:3], torch.tensor([0.0, 0.0, -1.0]), atol=1e-3, rtol=0)


def test_universal_needs_its_pattern():
    model, x, y = setting()
    with pytest.raises(InputError, match="fit_universal"):
        attacks.universal(model, x, y, budget=BUDGETS[0])
    with pytest.raises(InputError, match="fit one for these images"):
        attacks.universal(model, x, y, budget=BUDGETS[0], pattern=torch.zeros(1, 8, 7))


# --- through pyautoattack


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_square_and_autoattack_fool_what_lies_within_reach(norm):
    """Beyond the analytic distance none can be fooled; AutoAttack fools all within it, Square most within thrice."""
    model, x, y = setting(classes=5, B=12)
    slope = (model.normals[y][:, None] - model.normals).flatten(2)
    gap = model(x).gather(1, y[:, None]) - model(x)
    ratio = gap / slope.norm(dim=2, p=2 if norm == "l2" else 1)
    ratio[torch.arange(12), y] = torch.inf
    distance = ratio.amin(1).detach()
    size = float(distance.median())
    budget = Budget(norm, size)
    within = distance < 0.97 * size
    found = attacks.autoattack(model, x, y, budget=budget, queries=100)
    wrong = model(found).argmax(1) != y
    assert wrong[within].all() and not wrong[distance > 1.001 * size].any() and within.any() and not within.all()
    assert torch.equal(found[~wrong], x[~wrong])
    triple = attacks.square(model, x, y, budget=Budget(norm, 3 * float(distance.max())), queries=400)
    assert (model(triple).argmax(1) != y).float().mean() > 0.9

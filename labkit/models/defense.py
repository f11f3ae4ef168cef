"""What every defense is: a module that cleans images, or one that wraps a classifier."""

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from labkit.core import InputError
from labkit.core.wording import check
from labkit.datasets import Images, check_pixels
from labkit.models.networks import Recomputed

import torch
from torch import Tensor, nn


class FittedBuffers(nn.Module):
    """A module that `load_state_dict` fills although not fitted yet; buffers in `sized_by_fit` take stored sizes."""

    sized_by_fit: tuple[str, ...] = ()

    def _prepare(self, stored: dict[str, Tensor]) -> None:
        """Builds what `stored`, this module's part of a state dict, is to fill; nothing by default."""

    def _check_fitted(self, fitted: bool) -> None:
        if not fitted:
            raise InputError(f"{type(self).__name__} is not fitted yet; call fit(images) with training images")

    def _load_from_state_dict(self, state_dict, prefix, *arguments) -> None:
        stored = {name.removeprefix(prefix): t for name, t in state_dict.items() if name.startswith(prefix)}
        for name in self.sized_by_fit:
            if name in stored:
                setattr(self, name, getattr(self, name).new_empty(stored[name].shape))
        self._prepare(stored)
        super()._load_from_state_dict(state_dict, prefix, *arguments)


class Defense(FittedBuffers):
    """Maps images (B, C, H, W) in [0, 1] to the same shape and range.

    maps            whether it is such a map; an `Around` is not, and exists by `around` alone
    stochastic      whether two calls on one image may answer differently; the draws come from `seeded`
    differentiable  whether its own gradient says anything; where not, an attacker who knows it uses BPDA
    resumable       whether `fit` takes minutes, and takes checkpoint=, a folder from which it goes on after a kill
    smallest        pixels a side below which it cannot work
    least           training images below which `fit` refuses
    limits          ranges of its settings, as for `wording.check`

    The constructor's settings are checked and become attributes. What is fitted is in buffers and parameters alone.
    """

    maps = True
    stochastic = False
    differentiable = True
    resumable = False
    smallest = 1
    least = 1
    limits = ""

    def __init__(self, **settings):
        super().__init__()
        check(type(self).__name__, settings, self.limits)
        self.generator = torch.Generator().manual_seed(0)
        self._shown = [*settings]
        for name, value in settings.items():
            setattr(self, name, value)

    def fit(self, images: Images, *, progress: bool = False) -> Self:
        """Learn from training images what the defense needs; most need nothing. Returns self."""
        return self

    @property
    def learns(self) -> bool:
        """Whether it learns anything from training images, so that there is something to keep."""
        return type(self).fit is not Defense.fit

    def seeded(self, seed: int) -> Self:
        """Start the draws of a random defense again from `seed`. Returns self."""
        self.generator.manual_seed(seed)
        return self

    def sample(self, x: Tensor) -> Tensor:
        """What a classifier is retrained on: x cleaned, once."""
        return self(x)

    def around(self, classifier: nn.Module) -> nn.Module:
        """The defended system, images -> logits: the classifier behind this map."""
        return nn.Sequential(self, classifier)

    def straight_through(self, stand_in: Callable[[Tensor], Tensor] | None = None) -> "Defense":
        """The same defense with the gradient of `stand_in`, images -> images, for BPDA; by default the identity's."""
        return _StraightThrough(self, stand_in)

    def smooth(self, x: Tensor) -> Tensor:
        """A smooth stand-in of this map, which an attacker may differentiate; x where nobody knows a better one."""
        return x

    @property
    def has_smooth(self) -> bool:
        """Whether its stand-in is more than the identity."""
        return type(self).smooth is not Defense.smooth

    def smoothed(self) -> "Defense":
        """The same defense with the gradient of `smooth`; itself where its own gradient says something."""
        return self if self.differentiable else self.straight_through(self.smooth)

    def approximate(self, gap: float) -> "Defense":
        """What an iterative attack may differentiate in its place: cheaper where that loses nothing; else the same."""
        return self

    def extra_repr(self) -> str:
        told = {name: getattr(self, name) for name in self._shown}
        return ", ".join(f"{k}={v:.4g}" if isinstance(v, float) else f"{k}={v!r}" for k, v in told.items())

    def _check(self, x: Tensor, channels: int | None = None) -> None:
        check_pixels(x)
        name = type(self).__name__
        if channels is not None and x.shape[1] != channels:
            raise InputError(f"{name} was fitted to {channels} channels and got {x.shape[1]}; fit it to such images")
        if min(x.shape[-2:]) < self.smallest:
            got = f"got {x.shape[-2]}×{x.shape[-1]}; enlarge them (--resolution)"
            raise InputError(f"{name} needs images of at least {self.smallest} pixels a side, {got}")


class _StraightThrough(Defense):
    def __init__(self, defense: Defense, stand_in: Callable[[Tensor], Tensor] | None):
        super().__init__()
        self.defense, self.stand_in = defense, stand_in

    def forward(self, x: Tensor) -> Tensor:
        near = self.stand_in(x) if self.stand_in else x
        with torch.no_grad():
            moved = self.defense(x) - near
        return near + moved


class Around(Defense):
    """A defense that must see the classifier: `around(classifier)` gives the defended system, images -> logits.

    Its answers are those of `logits`, which puts an approximation in where there is no gradient of its own.
    """

    maps = False

    def around(self, classifier: nn.Module) -> nn.Module:
        return _Wrapped(self, classifier)

    def logits(self, classifier: nn.Module, x: Tensor) -> Tensor:
        """What the defended system says of images x (B, C, H, W)."""
        raise NotImplementedError

    def straight_through(self, stand_in: Callable[[Tensor], Tensor] | None = None) -> Defense:
        return self

    def smoothed(self) -> Defense:
        return self

    def forward(self, x: Tensor) -> Tensor:
        how = "it wraps a classifier: around(classifier)(x) gives logits"
        raise InputError(f"{type(self).__name__} is no map from images to images; {how}")


class _Wrapped(nn.Module):
    def __init__(self, defense: Around, classifier: nn.Module):
        super().__init__()
        self.defense, self.classifier = defense, classifier

    def forward(self, x: Tensor) -> Tensor:
        return self.defense.logits(self.classifier, x)


class Ensemble(Around):
    """An `Around` that answers with the logarithm of a classifier's mean probabilities on several `views` of an image.

    Gradients hold the activations of one view at a time (`networks.Recomputed`).

    backward  how gradients pass what is not differentiable in its views: "identity", or "smooth", by smooth stand-ins
    """

    stochastic = True
    backward = "identity"

    def smoothed(self) -> Defense:
        twin = copy.copy(self)  # what is fitted, and the draws, are the same objects
        twin.backward = "smooth"
        return twin

    def views(self, classifier: nn.Module, x: Tensor) -> Iterable[Tensor]:
        """Batches like x, one after the other."""
        raise NotImplementedError

    def logits(self, classifier: nn.Module, x: Tensor) -> Tensor:
        self._check(x)
        ask = Recomputed(classifier)
        # Logarithms throughout: probabilities of confident networks round to 0.
        opinions = torch.stack([ask(view).log_softmax(1) for view in self.views(classifier, x)])
        return opinions.logsumexp(0) - math.log(len(opinions))


class Detector(Around):
    """A defense that rejects what looks attacked: `score` (B,), larger for stranger images, against `threshold`.

    `around(classifier)` answers with one logit more than there are classes. The last one wins exactly where the score
    is above the threshold, and grows with it, so that an attacker can differentiate it (Carlini & Wagner, "Adversarial
    examples are not easily detected", 2017, Section 7).

    rate  share of clean images, kept out of the fit, that may be rejected; the threshold follows from it
    """

    limits = "rate in (0, 1)"

    def __init__(self, rate: float, **settings):
        super().__init__(rate=rate, **settings)
        self.register_buffer("threshold", torch.tensor(float("nan")))
        self.register_buffer("spread", torch.tensor(float("nan")))

    def score(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def calibrate(self, scores: Tensor) -> None:
        """Set the threshold that the share `rate` of these scores of clean, held-out images exceeds."""
        self._check_held(len(scores))
        self.threshold.copy_(torch.quantile(scores.double(), 1 - self.rate))
        self.spread.copy_(scores.double().std().clamp_min(1e-12))

    def logits(self, classifier: nn.Module, x: Tensor) -> Tensor:
        found = classifier(x)
        self._check_fitted(bool(self.threshold.isfinite()))
        # In units of what clean images vary by: neither a cliff nor a plain between accepting and rejecting.
        excess = (self.score(x) - self.threshold) / self.spread
        return torch.cat([found, (found.amax(1) + excess)[:, None]], 1)

    def _check_held(self, n: int) -> None:
        if n * self.rate < 1:
            why = f"a false-positive rate of {self.rate:g} needs at least {math.ceil(1 / self.rate)} held-out images"
            raise InputError(f"{why}, got {n}; ask for a larger rate or give more images")


@contextmanager
def hooked(modules: Iterable[nn.Module], hook: Callable) -> Iterator[None]:
    """Within it, `hook(module, inputs, output)` follows each call of these modules; what it returns is their output."""
    handles = [module.register_forward_hook(hook) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

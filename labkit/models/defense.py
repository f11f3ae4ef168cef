"""What every defense is: a module that cleans images, or one that wraps a classifier."""

from typing import Self

import torch
from torch import Tensor, nn

from labkit.core import InputError
from labkit.datasets import Images, check_pixels
from labkit.models.fitted_buffers import FittedBuffers


class Defense(FittedBuffers):
    """Maps images (B, C, H, W) in [0, 1] to the same shape and range.

    maps            whether it is such a map; an `Around` is not, and exists by `around` alone
    stochastic      whether two calls on one image may answer differently; the draws come from `seeded`
    differentiable  whether its own gradient says anything; where not, an attacker who knows it uses BPDA
    resumable       whether `fit` takes minutes, and takes checkpoint=, a folder from which it goes on after a kill
    smallest        pixels a side below which it cannot work

    What is fitted is kept in buffers and parameters, so that `state_dict` is all of it.
    """

    maps = True
    stochastic = False
    differentiable = True
    resumable = False
    smallest = 1

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

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

    def straight_through(self) -> "Defense":
        """The same defense with the identity's gradient, for an attacker who uses BPDA."""
        return _StraightThrough(self)

    def _check(self, x: Tensor, channels: int | None = None) -> None:
        check_pixels(x)
        name = type(self).__name__
        if channels is not None and x.shape[1] != channels:
            raise InputError(f"{name} was fitted to {channels} channels and got {x.shape[1]}; fit it to such images")
        if min(x.shape[-2:]) < self.smallest:
            raise InputError(
                f"{name} needs images of at least {self.smallest} pixels a side, got {x.shape[-2]}×{x.shape[-1]}; "
                "enlarge them (--resolution)"
            )

    def _check_fitted(self, fitted: bool) -> None:
        if not fitted:
            raise InputError(f"{type(self).__name__} is not fitted yet; call fit(images) with training images")


class _StraightThrough(Defense):
    def __init__(self, defense: Defense):
        super().__init__()
        self.defense = defense

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            moved = self.defense(x) - x
        return x + moved


class Around(Defense):
    """A defense that must see the classifier: `around(classifier)` gives the defended system, images -> logits.

    Where it has no gradient of its own, it puts an approximation in itself.
    """

    maps = False

    def around(self, classifier: nn.Module) -> nn.Module:
        raise NotImplementedError

    def straight_through(self) -> Defense:
        return self

    def forward(self, x: Tensor) -> Tensor:
        raise InputError(
            f"{type(self).__name__} is no map from images to images; it wraps a classifier: "
            "around(classifier)(x) gives logits"
        )


class Detector(Around):
    """A defense that rejects what looks attacked: `score` (B,), larger for stranger images, against `threshold`.

    `around(classifier)` answers with one logit more than there are classes. The last one wins exactly where the score
    is above the threshold, and grows with it, so that an attacker can differentiate it (Carlini & Wagner, "Adversarial
    examples are not easily detected", 2017, Section 7).

    rate  share of clean images, kept out of the fit, that may be rejected; the threshold follows from it
    """

    threshold: Tensor
    spread: Tensor

    def __init__(self, rate: float):
        super().__init__()
        if not 0 < rate < 1:
            raise InputError(f"the rate of false positives is a share in (0, 1), got {rate:g}")
        self.rate = rate
        self.register_buffer("threshold", torch.tensor(float("nan")))
        self.register_buffer("spread", torch.tensor(float("nan")))

    def score(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def calibrate(self, scores: Tensor) -> None:
        """Set the threshold that the share `rate` of these scores of clean, held-out images exceeds."""
        if len(scores) * self.rate < 1:
            raise InputError(
                f"a false-positive rate of {self.rate:g} needs at least {round(1 / self.rate)} held-out images, "
                f"got {len(scores)}; ask for a larger rate or give more images"
            )
        self.threshold.copy_(torch.quantile(scores.double(), 1 - self.rate))
        self.spread.copy_(scores.double().std().clamp_min(1e-12))

    @torch.no_grad()
    def rejects(self, x: Tensor) -> Tensor:
        """Which images are rejected: (B,) bool."""
        return self.score(x) > self.threshold

    def around(self, classifier: nn.Module) -> nn.Module:
        return _Rejecting(self, classifier)


class _Rejecting(nn.Module):
    """Logits of the classifier, and one for "attacked": above all others exactly where the detector rejects."""

    def __init__(self, detector: Detector, classifier: nn.Module):
        super().__init__()
        self.detector, self.classifier = detector, classifier

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(x)
        self.detector._check_fitted(bool(self.detector.threshold.isfinite()))
        # In units of what clean images vary by, so that between accepting and rejecting is neither a cliff nor a plain.
        excess = (self.detector.score(x) - self.detector.threshold) / self.detector.spread
        return torch.cat([logits, (logits.amax(1) + excess)[:, None]], 1)

"""Local intrinsic dimensionality (LID) of an image's features, layer by layer, by which attacked images stand out."""

import math
import re
from collections.abc import Callable
from typing import Self

from labkit.core import InputError
from labkit.datasets import Images
from labkit.models.defense import Detector, hooked

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]

_AT_ONCE = 100
_EXACT, _FAST = "donot_use_mm_for_euclid_dist", "use_mm_for_euclid_dist"
_ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Tanh)
_STAGE = re.compile(r"(.+\.)?layer\d+")  # as torchvision's ResNets name them
# A layer that answers all images alike has no dimension; the estimate ends at 1,000 rather than at infinity.
_FLATTEST = 1e-3


class LID(Detector):
    """ "Characterizing adversarial subspaces using local intrinsic dimensionality" (Ma et al., ICLR 2018).

    In every layer, `dimension` is estimated from an image's distances to those of a minibatch. Logistic regression on
    these numbers tells clean and noisy images from attacked ones (Algorithm 1). The noise is Gaussian and, image by
    image, as long in L2 as the attack's change.

    neighbours  k, how many of the nearest count: 20 for CIFAR-10
    batch       images in the minibatch: 100
    rate        share of clean images that may be rejected; published are areas under the curve, and no threshold
    held        share of the training images that sets the threshold, and on which nothing is fitted

    Published detectors are fitted to one attack, FGSM for those that are to know others. Published are all layers; here
    these are the outputs of all activations, or of the residual stages where there are any, and the logits. The
    minibatch, published as a new one for every hundred images, is drawn once, so that no image's score depends on
    others. No image is its own neighbour. As in the authors' code, the regression sees images classified correctly.

    `score` needs the classifier that LID was fitted to, which is not part of the state: after loading,
    `around(classifier)` gives it back.

    reference       (batch, C, H, W)  the minibatch, and `answers` (batch, classes), what the classifier says of it
    weight, bias    (layers,) and (), of the regression
    """

    sized_by_fit = ("reference", "answers", "weight")
    limits = "neighbours in [2, inf); held in (0, 1); " + Detector.limits

    def __init__(self, neighbours: int = 20, batch: int = 100, rate: float = 0.05, *, held: float = 0.3):
        super().__init__(rate, neighbours=neighbours, batch=batch, held=held)
        if neighbours >= batch:
            raise InputError(f"LID got batch={batch} and neighbours={neighbours}; choose a batch of more images")
        self.least = 2 * batch
        for name in self.sized_by_fit:
            self.register_buffer(name, torch.empty(0))
        self.register_buffer("bias", torch.zeros(()))
        self._use()

    @torch.no_grad()
    def fit(self, images: Images, *, classifier: nn.Module, attack: Attack, progress: bool = False) -> Self:
        """Learns what attacked images look like to this classifier. Returns self.

        images      training images alone
        classifier  images (B, C, H, W) -> logits, in evaluation mode, where this detector is
        attack      attack(classifier, x, y) -> x_adv, what the detector learns to detect
        """
        order = torch.randperm(len(images), generator=self.generator)
        n = math.ceil(self.held * (len(images) - self.batch))
        if len(images) < self.least:
            raise InputError(f"LID needs at least {self.least} images, got {len(images)}; give more images")
        self._check_held(n)
        reference, held, kept = order.split([self.batch, n, len(images) - self.batch - n])
        self.reference = images.x[reference].to(self.bias)
        self._use(classifier)
        self.answers = classifier(self.reference)

        clean, noisy, attacked = [], [], []
        for at in tqdm(kept.split(_AT_ONCE), desc="attacking for LID", unit="batch", disable=not progress, delay=2):
            x, y = images.x[at].to(self.bias), images.y[at].to(self.bias.device)
            if not (right := classifier(x).argmax(1) == y).any():
                continue
            x, y = x[right], y[right]
            with torch.enable_grad():
                x_adv = attack(classifier, x, y).detach()
            noise = torch.randn(x.shape, generator=self.generator).to(x)
            length = (x_adv - x).flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
            x_noisy = (x + length[:, None, None, None] * noise).clamp(0, 1)
            for found, seen in ((clean, x), (noisy, x_noisy), (attacked, x_adv)):
                found.append(self.dimensions(seen).cpu())
        if not clean:
            raise InputError("LID learns from images that the classifier gets right, and it gets none right; train it")
        self._regress(torch.cat(clean + noisy).double().numpy(), torch.cat(attacked).double().numpy())
        held = tqdm(held.split(_AT_ONCE), desc="calibrating LID", unit="batch", disable=not progress, delay=2)
        self.calibrate(torch.cat([self.score(images.x[at].to(self.bias)) for at in held]))
        return self

    def score(self, x: Tensor) -> Tensor:
        """Log-odds (B,) of each image x (B, C, H, W) being attacked."""
        return self.dimensions(x) @ self.weight.to(x.dtype) + self.bias

    def dimensions(self, x: Tensor) -> Tensor:
        """LID (B, layers) of images x (B, C, H, W) in each layer, with the logits last; differentiable."""
        self._check_fitted(bool(len(self.reference)))
        self._check(x, self.reference.shape[1])
        reference = self.reference.to(x.dtype)
        if x.shape[1:] != reference.shape[1:]:
            wanted, got = tuple(reference.shape[2:]), tuple(x.shape[2:])
            raise InputError(f"LID was fitted to images of {wanted} pixels and got {got}; fit it to such images")
        if not self._classifier:
            raise InputError("LID has no classifier; call around(classifier) with the one that it was fitted to")
        with torch.no_grad():
            if not self._features or self._features[0].device != x.device or self._features[0].dtype != x.dtype:
                parts = [layers(self._classifier[0], part) for part in reference.split(_AT_ONCE)]
                self._features = [torch.cat(layer) for layer in zip(*parts, strict=True)]
            # By differences, so that 0 is 0. For features the much faster inner products do: other images are far away.
            own = torch.cdist(x.flatten(1), reference.flatten(1), compute_mode=_EXACT) == 0
        pairs = zip(layers(self._classifier[0], x), self._features, strict=True)
        found = [dimension(torch.cdist(a, b, compute_mode=_FAST), self.neighbours, own) for a, b in pairs]
        return torch.stack(found, 1)

    def around(self, classifier: nn.Module) -> nn.Module:
        self._check_fitted(bool(len(self.reference)))
        with torch.no_grad():
            answers = classifier(self.reference)
        if answers.shape != self.answers.shape or not torch.allclose(answers, self.answers, rtol=1e-2, atol=1e-2):
            raise InputError("LID was fitted to another classifier, or to this one before its training; fit it again")
        self._use(classifier)
        return super().around(classifier)

    def _use(self, *classifier: nn.Module) -> None:
        self._classifier = classifier  # a tuple, of one or none: a module would become part of the state
        self._features: list[Tensor] = []  # of the reference images, until they or the classifier move

    def _regress(self, normal: np.ndarray, attacked: np.ndarray) -> None:
        from sklearn.linear_model import LogisticRegression  # as in `Strata.fit`
        from sklearn.preprocessing import StandardScaler

        features, label = np.concatenate([normal, attacked]), np.repeat([0, 1], [len(normal), len(attacked)])
        scaler = StandardScaler().fit(features)
        regression = LogisticRegression(max_iter=1000).fit(scaler.transform(features), label)
        # Of the features themselves: the scaling is folded into weight and bias.
        weight = regression.coef_[0] / scaler.scale_
        self.weight = torch.as_tensor(weight).to(self.bias)
        self.bias.fill_(float(regression.intercept_[0] - weight @ scaler.mean_))

    def _prepare(self, stored: dict[str, Tensor]) -> None:
        self._use()


def layers(classifier: nn.Module, x: Tensor) -> list[Tensor]:
    """Outputs (B, features) of the residual stages of a network, or else of its activations, and its logits."""
    modules = [module for name, module in classifier.named_modules() if _STAGE.fullmatch(name)]
    modules = modules or [module for module in classifier.modules() if isinstance(module, _ACTIVATIONS)]
    outputs = []
    with hooked(modules, lambda _module, _inputs, output: outputs.append(output)):
        outputs.append(classifier(x))
    return [output.flatten(1) for output in outputs]


def dimension(r: Tensor, k: int, own: Tensor | None = None) -> Tensor:
    """The maximum-likelihood estimate of LID, −(1/k Σᵢ log rᵢ/rₖ)⁻¹, from the k smallest distances.

    Amsaleg et al., "Estimating local intrinsic dimensionality", KDD 2015.

    r    (B, N)  distances of B points to N others
    own  (B, N)  bool, where the two are the same point, which is no neighbour
    """
    r = r.clamp_min(torch.finfo(r.dtype).tiny)
    if own is not None:
        r = r.masked_fill(own, torch.inf)
    nearest = r.topk(k, largest=False, sorted=True).values
    return -1 / (nearest / nearest[:, -1:]).log().mean(1).clamp_max(-_FLATTEST)

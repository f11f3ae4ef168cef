"""Randomized smoothing: the class that a network answers most often under Gaussian noise, and how far it is certain.

Cohen, Rosenfeld & Kolter, "Certified adversarial robustness via randomized smoothing", ICML 2019.
"""

from labkit.core import InputError
from labkit.models.classifiers import device_of

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

ABSTAINED = -1
_AT_ONCE = 250


def certify(
    model: nn.Module, x: Tensor, *, sigma: float, first: int = 100, draws: int = 1000, alpha: float = 0.001,
    seed: int = 0, progress: bool = True,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The smoothed network's class of each image (n,), ABSTAINED where it is not sure, and its L2 radius (n,).

    Their CERTIFY: the most frequent answer of `first` draws is the candidate, and `draws` fresh ones bound its
    probability from below. With a probability of at least 1 − alpha for each image, no change shorter than the radius
    moves the smoothed network's class. That is of the smoothed network, not of `model`, and of changes of any kind,
    also out of [0, 1].

    model  noisy images (B, C, H, W), which leave [0, 1], to logits; what clips them, and a T, are part of it
    x      (n, C, H, W) in [0, 1]
    sigma  standard deviation of the noise; networks that were not trained with it (`ClassifierRecipe.noise`) fail

    Raises InputError unless sigma is above 0 and alpha within (0, 1).
    """
    if not (sigma > 0 and 0 < alpha < 1):
        raise InputError(
            f"smoothing needs sigma above 0 and alpha in (0, 1), got {sigma:g} and {alpha:g}; choose others"
        )
    classes, radii = [], []
    for number, image in enumerate(tqdm(x, desc="certifying", unit="image", disable=not progress, delay=2)):
        generator = torch.Generator().manual_seed(1_000_003 * seed + number)
        count = lambda n: answers(model, image, sigma, n, generator)  # noqa: E731, B023
        candidate = int(count(first).argmax())
        radius = radius_of(int(count(draws)[candidate]), draws, sigma, alpha)
        classes.append(candidate if radius > 0 else ABSTAINED)
        radii.append(radius)
    return torch.tensor(classes), torch.tensor(radii)


def answers(model: nn.Module, image: Tensor, sigma: float, draws: int, generator: torch.Generator) -> Tensor:
    """How often each class is the answer to image + noise, of so many draws: (classes,)."""
    counts: Tensor | int = 0
    with torch.no_grad():
        for start in range(0, draws, _AT_ONCE):
            noise = torch.randn(min(_AT_ONCE, draws - start), *image.shape, generator=generator)
            logits = model((image + sigma * noise).to(device_of(model)))
            counts = counts + torch.bincount(logits.argmax(1).cpu(), minlength=logits.shape[1])
    return counts


def radius_of(hits: int, draws: int, sigma: float, alpha: float) -> float:
    """σ Φ⁻¹(p) of the lower Clopper-Pearson bound p of the candidate's probability; 0 where p is not above ½."""
    from scipy.stats import binomtest, norm  # a tenth of a second, which others are spared

    least = binomtest(hits, draws, alternative="greater").proportion_ci(1 - alpha, method="exact").low
    return float(sigma * norm.ppf(least)) if least > 0.5 else 0.0

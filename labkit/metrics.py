"""Measures of images and of decisions, each with what is needed to judge it."""

from typing import NamedTuple

import torch
from torch import Tensor

MOST = 100.0  # dB with which an image that was not changed counts in a mean


class Accuracy(NamedTuple):
    """A share of correct decisions with its Wilson interval: value, low, high in [0, 1], and the count n."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}], n = {self.n:,}"


def accuracy(right: Tensor | int, n: int | None = None, *, z: float = 1.959964) -> Accuracy:
    """Accuracy and Wilson's score interval (1927), at 95 % by default.

    right  bool tensor of decisions, or the number of right ones out of `n`
    """
    if isinstance(right, Tensor):
        right, n = int(right.sum()), right.numel()
    if not n:
        raise ValueError("accuracy needs at least one decision")
    p = right / n
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * (p * (1 - p) / n + z * z / (4 * n * n)) ** 0.5
    low = 0.0 if right == 0 else max(0.0, middle - half)
    high = 1.0 if right == n else min(1.0, middle + half)
    return Accuracy(p, low, high, n)


def dissimilarity(x_adv: Tensor, x: Tensor) -> Tensor:
    """‖x_adv − x‖₂ / ‖x‖₂ per image (paper, Section 5.1): (B,). A black image has none: infinite if it was changed."""
    size = x.flatten(1).norm(dim=1)
    change = (x_adv - x).flatten(1).norm(dim=1)
    return torch.where(size > 0, change / size, torch.where(change > 0, torch.inf, 0.0))


def psnr(x: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB per image, for pixels in [0, 1]: (B,). Equal images give infinity."""
    return -10 * torch.log10((x - reference).square().flatten(1).mean(1))


def sparsity(z: Tensor) -> Tensor:
    """Number of non-zero coefficients per image: (B,)."""
    return (z != 0).flatten(1).sum(1)


def mean(values: Tensor, *, z: float = 1.959964) -> tuple[float, float, float]:
    """The mean of values (n,) and the ends of its interval, at 95 % by default, as if it were normally distributed."""
    middle, half = float(values.mean()), z * float(values.std(correction=0)) / max(len(values) - 1, 1) ** 0.5
    return middle, middle - half, middle + half


def characteristic_interval(clean: float, adversarial: float) -> tuple[float, float]:
    """[min, max] of the accuracies on T(x₀) and T(x_adv) (paper, Section 5.5): short and high is good."""
    return min(clean, adversarial), max(clean, adversarial)

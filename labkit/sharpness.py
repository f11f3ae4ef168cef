"""Sharpness-aware minimisation (SAM): the gradient that a step follows is taken at the worst weights near by.

P. Foret, A. Kleiner, H. Mobahi, B. Neyshabur, "Sharpness-Aware Minimization for Efficiently Improving Generalization",
ICLR 2021. That its last epochs do nearly as much as all of them: Z. Zhou, M. Wang, Y. Mao, B. Li, J. Yan,
"Sharpness-Aware Minimization Efficiently Selects Flatter Minima Late In Training", ICLR 2025.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

RADIUS = 0.1


@contextmanager
def ascended(model: nn.Module, radius: float = RADIUS) -> Iterator[None]:
    """Within it, the model's weights lie `radius` up the gradient that they hold; after it, where they were, exactly.

    The move is ρ g / ‖g‖₂ with g the gradient of all weights together (Foret et al., equation 2, p = 2). What batch
    normalisation keeps of the images it sees within is dropped: its averages are to be those of the weights themselves.
    """
    weights = [p for p in model.parameters() if p.grad is not None]
    before = [p.detach().clone() for p in weights]
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    momenta = [layer.momentum for layer in layers]
    gradients = [p.grad for p in weights]
    length = torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))
    with torch.no_grad():
        # Nothing to follow where the gradient is zero; 0 / 0 would be no place at all.
        torch._foreach_add_(weights, torch._foreach_mul(gradients, radius / length.clamp_min(1e-12)))
    for layer in layers:
        layer.momentum = 0.0
    try:
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
        with torch.no_grad():
            torch._foreach_copy_(weights, before)

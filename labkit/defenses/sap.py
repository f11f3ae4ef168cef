"""Stochastic activation pruning (SAP): activation maps keep a random part of themselves, large values likelier."""

from labkit.core import InputError
from labkit.models.defense import Around, hooked

import torch
from torch import Tensor, nn


class SAP(Around):
    """Dhillon et al., "Stochastic activation pruning for robust adversarial defense", ICLR 2018, Section 3.

    From each image's map h behind a ReLU, N units are drawn with replacement, unit i with probability pᵢ = |hᵢ| / Σ|h|.
    What was drawn at least once stays, divided by the probability that it was, so that its expectation is hᵢ; the rest
    becomes zero. The classifier is used as it was trained.

    draws  N / (w · h · c): the number of draws as a multiple of the map's units. The publication tries several; with
           2, Athalye, Carlini & Wagner (ICML 2018, Section 5.3.1) have evaluated it

    As they did, each unit is kept by a coin of its own, with probability 1 − e^(−N pᵢ), which is much cheaper and
    differs from 1 − (1 − pᵢ)^N by less than 0.3 / N. On gradients the publication is silent; here both the choice and
    the factor are constants to autograd. Averaged over draws, gradients are, layer by layer, those of the expectation.
    """

    stochastic = True
    limits = "draws in (0, inf)"

    def __init__(self, draws: float = 2.0):
        super().__init__(draws=draws)

    def prune(self, h: Tensor) -> Tensor:
        """Activations h (B, …), each image's map pruned by draws of its own."""
        size = h.detach().abs().float()
        total = size.flatten(1).sum(1).clamp_min(1e-30)
        rate = self.draws * h[0].numel() / total
        keep = -torch.expm1(-rate.view(-1, *[1] * (h.ndim - 1)) * size)
        # Uniform numbers come in steps of 2⁻²⁴, zero among them. In this direction, what is rarer than a step is never
        # kept; in the other, every zero would keep it, much too often for a factor as large as 1 / keep.
        kept = torch.rand(h.shape, generator=self.generator).to(h.device) >= 1 - keep
        return h * torch.where(kept, 1 / keep, 0.0).to(h.dtype)

    def around(self, classifier: nn.Module) -> nn.Module:
        """The classifier, the maps of its ReLU modules pruned when it is asked through this; InputError without any."""
        if not any(isinstance(module, nn.ReLU) for module in classifier.modules()):
            raise InputError("SAP prunes what torch.nn.ReLU modules answer, and this classifier has none; use another")
        return super().around(classifier)

    def logits(self, classifier: nn.Module, x: Tensor) -> Tensor:
        self._check(x)
        # Not a pruned copy: the classifier stays one, wherever it is moved and whatever mode it is put in.
        relus = [module for module in classifier.modules() if isinstance(module, nn.ReLU)]
        with hooked(relus, lambda _module, _inputs, h: self.prune(h)):
            return classifier(x)

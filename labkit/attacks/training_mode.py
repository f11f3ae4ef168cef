"""Networks as they are while they train: a fault of evaluations, here made on purpose."""

import math

import torch
from torch import Tensor, nn

_STATISTICS, _DROPOUT = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd


class TrainingMode(nn.Module):
    """A network that answers as in training mode, whatever mode it is put in; its own statistics stay as they are.

    Whoever forgets `eval()` takes gradients of another function than the one that is judged, and a network looks
    robust. For `experiments.causes` alone, which asks what made published numbers; the sanity checks call it by name.

    batch    images at most whose own mean and variance batch normalisation uses; 0 for those it has learned
    dropout  whether dropout is active, drawn from torch's global random state
    """

    def __init__(self, model: nn.Module, *, batch: int = 0, dropout: bool = False):
        super().__init__()
        self.model, self.batch, self.dropout = model, batch, dropout

    def forward(self, x: Tensor) -> Tensor:
        kinds = (_STATISTICS,) * bool(self.batch) + (_DROPOUT,) * self.dropout
        moody = [module for module in self.model.modules() if isinstance(module, kinds)]
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        modes = [module.training for module in moody]
        try:
            for module in moody:
                module.training = True
            parts = x.tensor_split(max(1, math.ceil(len(x) / self.batch))) if self.batch else [x]
            return torch.cat([torch.func.functional_call(self.model, kept, part) for part in parts])
        finally:
            for module, mode in zip(moody, modes, strict=True):
                module.training = mode

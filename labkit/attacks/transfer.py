"""An attack that is to fool other networks than the one it asks: PGD with momentum and input diversity."""

from labkit.attacks.budget import Budget
from labkit.attacks.common import Model, column, generators
from labkit.attacks.gradient_based import pgd

import torch
from torch import Tensor
from torch.nn import functional


def mi_di(model: Model, x: Tensor, y: Tensor, *, budget: Budget, steps: int = 20, seed: int = 0) -> Tensor:
    """Momentum (Dong et al., CVPR 2018) and diverse inputs (Xie et al., CVPR 2019), from x to the last iterate.

    At each step half of the images are shown to the model shrunk, to 0.9 of their sides or more, at a random place of
    a black ground. This is drawn for each image from the seed and its pixels, so that batches do not matter.
    """
    asked = budget.radius(x) > 0  # `pgd` leaves out the others, and draws must be those of the images it asks about
    drawn, x_adv = generators(x[asked], seed), x.clone()

    def diverse(at: Tensor) -> Tensor:
        chance, size, *places = torch.stack([torch.rand(4, generator=g) for g in drawn]).to(at).unbind(1)
        side = torch.where(chance < 0.5, 1 - size / 10, 1)
        # A pixel shows the point (pixel − middle) / side of the image; both run from −1 to 1.
        shift = torch.stack([(1 - side) * (1 - 2 * place) / side for place in places], 1)
        where = torch.cat([torch.eye(2).to(at) / column(side)[:, 0], shift[:, :, None]], 2)
        grid = functional.affine_grid(where, at.shape, align_corners=False)
        return model(functional.grid_sample(at, grid, align_corners=False))

    if asked.any():
        how = {"begin": x[asked], "momentum": 0.75, "last": True}
        x_adv[asked] = pgd(diverse, x[asked], y[asked], budget=budget, steps=steps, **how)
    return x_adv

"""Linear classifiers, on which the effect of every attack is known, and images for them."""

from labkit.attacks.budget import Budget

import torch
from torch import nn

BUDGETS = [Budget.dissimilarity(0.08), Budget.l2(0.4), Budget.linf(8 / 255)]
SHAPE = (3, 8, 7)


class Linear(nn.Module):
    """Classes whose logits are linear in the pixels around grey, with known normals (classes, C, H, W)."""

    def __init__(self, normals, sharpness=1.0):
        super().__init__()
        self.normals = nn.Parameter(normals)
        self.sharpness = sharpness

    def forward(self, x):
        return self.sharpness * (x - 0.5).flatten(1) @ self.normals.flatten(1).T

    def distance(self, x, y):
        """To the nearest boundary, of any class, in L2."""
        logits, rows = self(x), torch.arange(len(x))
        gap = logits[rows, y][:, None] - logits
        slope = self.sharpness * (self.normals[y][:, None] - self.normals).flatten(2).norm(dim=2)
        ratio = gap / slope
        ratio[rows, y] = torch.inf
        return ratio.amin(1).detach()


def setting(classes=2, B=6, sharpness=1.0):
    """Images far from the ends of the range, all decided as the model decides them."""
    g = torch.Generator().manual_seed(0)
    x = 0.5 + 0.2 * (torch.rand(B, *SHAPE, generator=g) - 0.5)
    normals = torch.randn(classes, *SHAPE, generator=g)
    if classes == 2:
        normals[1] = -normals[0]
    model = Linear(normals, sharpness)
    return model, x, model(x).argmax(1)


def fall(model, x, found, y):
    """By how much the margin of a two-class model fell, as half the difference of logits."""
    margin = lambda images: (model(images).gather(1, y[:, None]) - model(images).gather(1, 1 - y[:, None]))[:, 0] / 2  # noqa: E731
    return (margin(x) - margin(found)).detach()


def worst(model, p):
    """The most a two-class model's score can fall for a perturbation of dual norm one."""
    return float(model.normals[0].detach().norm(p))


def norms(a):
    return a.flatten(1).norm(dim=1)

"""Images of three classes that a line separates, and a network small enough to learn them in a test."""

from labkit.core.recipes import ClassifierRecipe
from labkit.datasets import Images
from labkit.models import classifiers, networks

import torch

TINY = ClassifierRecipe(width=1 / 16, epochs=3, batch=16, lr=0.05)


def stripes(n=96, size=32, seed=0) -> Images:
    """Three classes that a line separates: dark, grey and bright images with noise."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 3
    x = 0.2 + 0.3 * y[:, None, None, None] + 0.1 * torch.rand(n, 1, size, size, generator=generator)
    return Images(x.clamp(0, 1), y, ("dark", "grey", "bright"), f"stripes-{n}-{size}-{seed}")


def trained(images, recipe, **options):
    model = networks.build(recipe, len(images.classes), images.x.shape[1], images.x.shape[-1])
    return classifiers.train(model, images, recipe, progress=False, **options)


def assert_same(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    assert [name for name in mine if not torch.equal(mine[name], theirs[name])] == []

"""Defenses: every competitor of the Sparse Transformation Layer, each built from its own publication.

Knows     the defenses by the names that recipes use (`DEFENSES`), how one is made (`build`; `unfitted` from a recipe),
          and what `pixelcnn` thinks of an image
Comes in  a name and the keywords of its class; then training images for `fit`
Goes out  a `labkit.models.Defense`: a map from images to images, or a system around a classifier
"""

from labkit.core import InputError
from labkit.core.recipes import DEFENSES, DefenseRecipe, StratifiedRecipe, TransformRecipe
from labkit.core.wording import reason
from labkit.defenses import pixelcnn
from labkit.models import Defense
from labkit.models.foreign import Cleaner


def build(name: str, **options) -> Defense:
    """A defense by its name, not yet fitted; `options` are the keywords of its class."""
    if "source" in options:  # somebody else's, described
        return Cleaner(**options)
    if name not in DEFENSES:
        raise InputError(f"unknown defense {name!r}; the known ones are {', '.join(DEFENSES)}")
    try:
        return DEFENSES[name].load()(**options)
    except TypeError as error:
        raise InputError(f"{name} cannot be set so ({reason(error)}); see {DEFENSES[name].where}") from None


def unfitted(recipe: TransformRecipe | StratifiedRecipe | DefenseRecipe) -> Defense:
    """A defense as it is before it is fitted, which says of what kind it is; of T, any map that is not fitted.

    One that blurs as much as another (`recipe.like`) blurs by something.
    """
    if not isinstance(recipe, DefenseRecipe):
        T = Defense()
        T.stochastic = bool(getattr(recipe, "shaken", 0))
        T.least = max(3, recipe.strata.clusters) if isinstance(recipe, StratifiedRecipe) else 1
        return T
    return build(recipe.name, **dict(recipe.options), **({"psnr": 30.0} if recipe.like else {}))


__all__ = ["DEFENSES", "build", "pixelcnn", "unfitted"]

"""The defenses that the Sparse Transformation Layer is compared with, each built from its own publication."""

from labkit.catalogue import DEFENSES
from labkit.defense import Around, Defense, Detector
from labkit.errors import InputError
from labkit.recipes import DefenseRecipe, StratifiedRecipe, TransformRecipe


def build(name: str, **options) -> Defense:
    """A defense by its name, not yet fitted; `options` are the keywords of its class."""
    if name not in DEFENSES:
        raise InputError(f"unknown defense {name!r}; the known ones are {', '.join(DEFENSES)}")
    try:
        return DEFENSES[name].load()(**options)
    except TypeError as error:
        raise InputError(f"{name} cannot be set so ({error}); see {DEFENSES[name].where}") from None


def unfitted(recipe: TransformRecipe | StratifiedRecipe | DefenseRecipe) -> Defense:
    """A defense as it is before it is fitted, which says of what kind it is; of T, any map that is not fitted.

    One that blurs as much as another (`recipe.like`) blurs by something.
    """
    if not isinstance(recipe, DefenseRecipe):
        return Defense()
    return build(recipe.name, **dict(recipe.options), **({"psnr": 30.0} if recipe.like else {}))


__all__ = ["DEFENSES", "Around", "Defense", "Detector", "build", "unfitted"]

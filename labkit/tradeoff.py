"""The trade-off: what λ, K, S, M and each choice on which the paper is silent cost and buy."""

from dataclasses import replace

from labkit.errors import InputError
from labkit.recipes import TransformRecipe

# What can be varied: where the field lies, and what a reader calls it.
LEARNED = ("K", "S", "norm")  # these ask for a dictionary of their own
CHOICES = {
    "lam": "λ",
    "K": "K, filters",
    "S": "S, pixels a side",
    "M": "M, clusters",
    "lowpass": "weight of the low-pass filter",
    "pad": "padding of the low-pass filter",
    "boundary": "boundary",
    "gap_tol": "gap at which the solver stops",
    "dim": "share of the low-pass part handed on",
}


def varied(recipe: TransformRecipe, what: str, value) -> TransformRecipe:
    """T with one choice changed; K and S are of its dictionary, λ of both, as in the paper's Figures 5 and 7.

    Raises InputError when there is no such choice.
    """
    if what == "lam":
        return replace(recipe, lam=value, dictionary=replace(recipe.dictionary, lam=value))
    if what in ("K", "S"):
        return replace(recipe, dictionary=replace(recipe.dictionary, **{what: value}))
    if what not in CHOICES or what == "M":
        raise InputError(f"there is no choice {what!r} of T; choose from {', '.join(CHOICES)}")
    return replace(recipe, **{what: value})

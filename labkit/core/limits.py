"""Limits of what recipes say: sizes, counts and seeds, the same at every door."""

from labkit.core.wording import check

_LIMITS = {
    "DataRecipe": "resolution, train, test in 1 to inf",
    "DictionaryRecipe": "K, S, images, passes, batch in 1 to inf; pad, held in 0 to inf; "
    "lam, lowpass, gap_tol in [0, inf]",
    "TransformRecipe": "pad in 0 to inf; lam, lowpass, gap_tol in [0, inf]; dim in [0, 1]; bits in 0 to 16; "
    "top in 0 to inf; shaken in [0, 1]",
    "DaeRecipe": "width, epochs in 1 to inf; batch in 2 to inf; lr in (0, inf); noise in [0, inf); held in (0, 1)",
    "StrataRecipe": "clusters, components, neighbours in 1 to inf",
    "AdversarialTraining": "share in (0, 1]; weight in (0, inf); steps in 1 to inf; beta in [0, inf); held in 0 to inf",
    "ClassifierRecipe": "width in (0, 4]; epochs in 1 to inf; batch in 2 to inf; lr in (0, inf); "
    "erase, dropout in [0, 1); weight_decay, noise in [0, inf)",
    "SurrogateRecipe": "images in 2 to inf; width, epochs, batch in 1 to inf; lr in (0, inf); noise in [0, inf); "
    "held in (0, 1)",
    "AttackRecipe": "size, gap in [0, inf); steps in 0 to inf; restarts, draws in 1 to inf",
}


class Limited:
    """A recipe that refuses numbers outside its limits when it is made; InputError names the first of them."""

    def __post_init__(self):
        check(f"a {type(self).__name__}", vars(self), f"seed in 0 to {2**32 - 1}; {_LIMITS[type(self).__name__]}")

"""A recipe's canonical form, which `store` hashes, and what is a digest in it: images, and files of weights."""

import dataclasses
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from labkit.core.catalogue import folder
from labkit.core.limits import Limited

# Marks a field that came later. `plain` leaves out its default, so that what was built before keeps its name.
LATER = {"later": True}


@dataclass(frozen=True)
class DataRecipe(Limited):
    """Which images. `name` as for `loaders.load`; sizes None mean all; `resolution` None means as stored."""

    name: str = "fashion"
    resolution: int | None = None
    train: int | None = None
    test: int | None = None
    seed: int = 0

    @property
    def label(self) -> str:
        """The name as tables give it: a folder without the path to it, but with what was allowed."""
        kind, _, path = self.name.partition(":")
        where = folder(self.name)
        return where.label if where else f"{kind}:{Path(path).name}" if path else kind

    def at_most(self, n: int | None) -> "DataRecipe":
        """These images, but no more than n test images; None for no limit."""
        return replace(self, test=min((k for k in (n, self.test) if k is not None), default=None))


@dataclass(frozen=True)
class Weights:
    """A file of weights, known by its content; made by `networks.fingerprint`."""

    path: str
    digest: str


def rebase(recipe: Any, data: DataRecipe) -> Any:
    """The same recipe with every DataRecipe inside it replaced by `data`."""
    return data if isinstance(recipe, DataRecipe) else _each(recipe, lambda part: rebase(part, data))


def reseed(recipe: Any, seed: int) -> Any:
    """The same recipe with every seed of something trained replaced; which images are drawn stays as it is."""
    if isinstance(recipe, DataRecipe):
        return recipe
    changed = _each(recipe, lambda part: reseed(part, seed))
    return replace(changed, seed=seed) if hasattr(changed, "seed") else changed


def _each(recipe: Any, change: Callable[[Any], Any]) -> Any:
    """The recipe, or tuple of recipes, with every part of it changed; anything else as it is."""
    if isinstance(recipe, tuple):
        return tuple(map(change, recipe))
    if not dataclasses.is_dataclass(recipe):
        return recipe
    return replace(recipe, **{f.name: change(getattr(recipe, f.name)) for f in dataclasses.fields(recipe)})


def plain(recipe: Any, digest: str = "") -> Any:
    """A recipe as nested dicts, lists and scalars, each dataclass tagged with its class in `"recipe"`.

    With `digest`, each DataRecipe becomes that digest: an artifact depends on the images, not on where they lie.
    Fields marked LATER are left out while they have their default.
    """
    if digest and isinstance(recipe, DataRecipe):
        return {"recipe": "Images", "digest": digest}
    if isinstance(recipe, Weights):
        return {"recipe": "Weights", "digest": recipe.digest}
    if dataclasses.is_dataclass(recipe):
        told = {"recipe": type(recipe).__name__}
        for f in dataclasses.fields(recipe):
            value = getattr(recipe, f.name)
            if not (f.metadata.get("later") and value == f.default):
                told[f.name] = plain(value, digest)
        return told
    if isinstance(recipe, (tuple, list)):
        return [plain(item, digest) for item in recipe]
    if isinstance(recipe, dict):
        return {key: plain(item, digest) for key, item in recipe.items()}
    if isinstance(recipe, float) and not math.isfinite(recipe):
        return str(recipe)  # JSON has no infinity, but no low-pass part at all is one (`split`)
    return recipe


def canonical(recipe: Any, digest: str = "") -> str:
    """`plain` as JSON with sorted keys and no spaces: equal recipes give equal text, which `store` hashes."""
    return json.dumps(plain(recipe, digest), sort_keys=True, separators=(",", ":"), allow_nan=False)


def listed(recipes: dict[str, Any]) -> str:
    """Recipes by their hashes as JSON, one a line: a hash is the start of the SHA-256 of the text after it."""
    lines = ",\n".join(f'"{key}": {canonical(recipe)}' for key, recipe in recipes.items())
    return f"{{\n{lines}\n}}\n"

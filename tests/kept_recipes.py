"""Rows of numbers against the recipes kept beside them: X_recipes.json of X.csv, one recipe for each hash."""

import json
import re
from pathlib import Path
from typing import Any

from labkit.core import recipes, store
from labkit.evaluation import measurement
from labkit.experiments import ablations

import pandas as pd

_ASKED = {"classifier": "attacked", "exact": "aware"}  # what a sweep calls an attacker who has this
# Attack, knowledge, and whether the network is retrained, of the two recipes of a line of the paper's Figure 6.
_FIGURE_6 = {"clean_recipe": ("Clean", "–", False), "attacked_recipe": ("FGSM-0.08", "classifier", False)}


def read(file: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The rows of a CSV, and the recipes beside it."""
    rows = pd.read_csv(file, dtype=dict.fromkeys(("recipe", *_FIGURE_6), str))
    return rows, json.loads(file.with_name(f"{file.stem}_recipes.json").read_text())


def flaws(rows: pd.DataFrame, kept: dict[str, Any]) -> list[str]:
    """What is wrong: a recipe that does not make its hash, a hash without one, a column that says something else."""
    wrong = [f"{key} is not the hash of its recipe" for key, recipe in kept.items() if store.key(recipe) != key]
    named = set(hashes(rows).hash)
    wrong += [f"no recipe makes {key}" for key in sorted(named - set(kept))]
    wrong += [f"no row has {key}" for key in sorted(set(kept) - named)]
    for row in rows.to_dict("records"):
        for column in (name for name in row if name.endswith("recipe") and row[name] in kept):
            said = _said(row, column, built(kept[row[column]]))
            if "norm" in row:  # of what holds: names say more than the recipe's label does
                row = {**row, "defense": re.sub(r" \(all coded\)|, few images", "", row["defense"])}
            wrong += [
                f"{row[column]}: {name} is {row[name]}, its recipe has {value}"
                for name, value in said.items()
                if name in row and row[name] != value
            ]
    return wrong


def hashes(rows: pd.DataFrame) -> pd.DataFrame:
    """Every hash in rows, in a column `hash`, beside its row's n."""
    columns = [name for name in rows if name.endswith("recipe")]
    return rows.melt("n", columns, value_name="hash").dropna()[["n", "hash"]]


def images(kept: dict[str, Any]) -> dict[str, str]:
    """The digest of the images that each recipe speaks of, by its hash."""
    found = {}
    for key, recipe in kept.items():
        (found[key],) = _digests(recipe)
    return found


def built(plain: Any) -> Any:
    """The recipe that `recipes.plain` has written down, its images named by their digest."""
    if isinstance(plain, list):
        return tuple(map(built, plain))
    if not isinstance(plain, dict):
        return float(plain) if plain == "inf" else plain  # JSON has no infinity
    kind, told = plain["recipe"], {name: built(value) for name, value in plain.items() if name != "recipe"}
    if kind == "Images":
        return recipes.DataRecipe(told["digest"])
    if kind == "Weights":
        return recipes.Weights("", **told)
    return (measurement.Case if kind == "Case" else getattr(recipes, kind))(**told)


def _said(row: dict[str, Any], column: str, recipe: Any) -> dict[str, Any]:
    """What the columns of a row must hold, by the recipe whose hash stands in one of them."""
    if isinstance(recipe, recipes.TransformRecipe):  # notebook 03 measures T alone
        return {"λ": recipe.lam, "images": recipe.data.name}
    told = measurement.settings(recipe)
    if column in _FIGURE_6:
        right = (told["attack"], told["knowledge"], told["retrained"]) == _FIGURE_6[column]
        return {"defense": told["defense"] if right else "under another attack"}
    if "what" in row:
        told["asked"] = "clean" if told["attack"] == "Clean" else _ASKED[told["knowledge"]]
        told["value"] = _varied(recipe.defense, row["what"], row["value"])
    return told


def _varied(T: Any, what: str, value: Any) -> Any:
    """The value of one of `ablations.CHOICES` that T has, in the type of a CSV's."""
    if what == "M":
        return T.strata.clusters if isinstance(T, recipes.StratifiedRecipe) else 1
    place = ablations.CHOICES[what][1]
    found = getattr(T.dictionary if place == "dictionary" else T, what)
    if place == "both":
        assert getattr(T.dictionary, what) == found
    return type(value)(found)


def _digests(plain: Any) -> set[str]:
    if isinstance(plain, dict) and plain.get("recipe") == "Images":
        return {plain["digest"]}
    parts = plain.values() if isinstance(plain, dict) else plain if isinstance(plain, list) else ()
    return set().union(*map(_digests, parts))

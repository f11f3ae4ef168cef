"""Recipes: what is in their canonical form, and that a field which came later leaves old names alone."""

import json
from dataclasses import dataclass, field, replace

from labkit.core.errors import InputError
from labkit.core.profiles import LAB, PROFILES, profile
from labkit.core.recipes import (
    LATER,
    AdversarialTraining,
    AttackRecipe,
    ClassifierRecipe,
    DaeRecipe,
    DataRecipe,
    DictionaryRecipe,
    StrataRecipe,
    StratifiedRecipe,
    SurrogateRecipe,
    TransformRecipe,
    canonical,
    plain,
    rebase,
    reseed,
)
from labkit.core.store import key

import pytest


def test_a_later_field_is_told_only_where_it_is_not_its_default():
    @dataclass(frozen=True)
    class Before:
        a: int = 1

    @dataclass(frozen=True)
    class After:
        a: int = 1
        b: float = field(default=2.0, metadata=LATER)
        c: ClassifierRecipe | None = field(default=None, metadata=LATER)

    After.__name__ = "Before"
    assert canonical(After()) == canonical(After(b=2)) == canonical(Before())
    assert plain(After(b=3.0)) == {"recipe": "Before", "a": 1, "b": 3.0}
    assert plain(After(c=ClassifierRecipe()))["c"]["recipe"] == "ClassifierRecipe"
    assert plain([After()]) == [{"recipe": "Before", "a": 1}]


@pytest.mark.parametrize(
    ("recipe", "name"),
    [
        (ClassifierRecipe(), "2ab3384aba8eda35"),
        (TransformRecipe(), "dc3254e665feab12"),
        (StratifiedRecipe(), "a7d0ff1861634f3a"),
        (LAB.retrained(), "6f53123c95eac63a"),
    ],
    ids=["classifier", "transform", "stratified", "retrained"],
)
def test_names_from_before_the_later_fields_still_hold(recipe, name):
    """As the store named them when these recipes had no `dim`, `bits`, `norm`, `levels` and `adversarial`."""
    assert key(recipe, "abc") == name


def test_autoattacks_that_differ_in_steps_are_one():
    """It does not use them; the name is the store's from when the profile `lab` gave it 50."""
    recipes = [AttackRecipe("autoattack", 0.031, steps, "linf") for steps in (1, 50, 100)]
    assert {key(recipe) for recipe in recipes} == {"98f5df94167a26c6"} and len(set(recipes)) == 1
    assert replace(recipes[0], steps=7) == recipes[0] != replace(recipes[0], size=0.05)
    assert key(AttackRecipe("pgd", steps=1)) != key(AttackRecipe("pgd", steps=2))


def test_each_later_field_changes_the_name():
    adversarial = AdversarialTraining()
    recipes = [
        ClassifierRecipe(),
        ClassifierRecipe(levels=16),
        ClassifierRecipe(adversarial=adversarial),
        ClassifierRecipe(adversarial=replace(adversarial, size=0.1)),
        ClassifierRecipe(transform=TransformRecipe()),
        ClassifierRecipe(transform=TransformRecipe(dim=0.5)),
        ClassifierRecipe(transform=TransformRecipe(bits=8)),
        ClassifierRecipe(transform=TransformRecipe(DictionaryRecipe(norm="channel"))),
    ]
    assert len({key(recipe, "abc") for recipe in recipes}) == len(recipes)
    assert json.loads(canonical(recipes[2]))["adversarial"]["recipe"] == "AdversarialTraining"


def test_what_stands_in_a_tuple_is_moved_to_other_images_and_seeds_too():
    two = (ClassifierRecipe(seed=1), (ClassifierRecipe(transform=TransformRecipe()), "name", 3))
    data = DataRecipe("photos")
    assert rebase(two, data)[1][0] == rebase(two[1][0], data) and rebase(two, data)[0].data == data
    assert reseed(two, 7) == (ClassifierRecipe(seed=7), (reseed(two[1][0], 7), "name", 3))
    assert reseed((data,), 7) == (data,)


def test_what_the_authors_released_is_in_grey_levels_of_8_bits():
    fgsm = AttackRecipe("fgsm", 0.08).released
    assert (fgsm.label, fgsm.norm, fgsm.size, fgsm.stored) == ("FGSM-8/255", "levels", 8, True)
    assert AttackRecipe("bim", 0.03, 20).released.label == "BIM-3/255"
    assert AttackRecipe("cw", 0.03, 100).released == AttackRecipe("cw", 3.0, 100, "levels")  # as made
    assert AttackRecipe("universal", 0.06, norm="average").released.label == "Uni-4/255"
    for same in (AttackRecipe("clean", 0.0, 0), AttackRecipe("pgd", 0.031, norm="linf"), fgsm):
        assert same.released is same
    released = LAB.released
    assert (released.transform.stretched, released.transform.bits, released.stratified.transform) == (
        True, 8, released.transform,
    )  # fmt: skip
    assert [attack.label for attack in released.attacks] == ["Clean", "FGSM-4/255", "FGSM-8/255", "BIM-3/255"]
    assert released.classifier == LAB.classifier and released.transform.label == "STL"


def test_a_shorter_profile_trains_no_network_longer():
    short = LAB.shorter(8)
    assert (short.classifier.epochs, short.retrained().epochs, short.causes.epochs) == (8, 8, 8)
    assert LAB.shorter(500) == LAB
    with pytest.raises(InputError, match="epochs"):
        LAB.shorter(-1)


def test_a_dimmed_low_pass_part_is_in_the_label():
    assert TransformRecipe().label == "STL" and StratifiedRecipe().label == "STL (cluster)"
    dimmed = TransformRecipe(dim=0.5)
    assert dimmed.label == "STL (low-pass ×0.5)"
    assert StratifiedRecipe(transform=dimmed).label == "STL (cluster, low-pass ×0.5)"


def test_a_folder_is_named_without_the_way_to_it():
    assert DataRecipe("folder:../some/where/cats.zip").label == "folder:cats.zip"
    assert DataRecipe("folder:/a/b/").label == "folder:b" and DataRecipe("fashion").label == "fashion"


@pytest.mark.parametrize(
    ("recipe", "wrong"),
    [
        (DataRecipe, {"train": 0, "test": -1, "resolution": 32.0, "seed": 2**32}),
        (DictionaryRecipe, {"K": 0, "S": 2.5, "lam": float("nan"), "passes": "4", "batch": 0, "held": -1, "seed": -1}),
        (TransformRecipe, {"dim": 1.1, "bits": 17, "pad": -1, "gap_tol": -0.1}),
        (DaeRecipe, {"epochs": 0, "held": 1, "lr": 0, "seed": 0.5}),
        (StrataRecipe, {"clusters": 0, "neighbours": True, "seed": -5}),
        (ClassifierRecipe, {"epochs": -3, "batch": 1, "width": 5, "lr": float("inf"), "erase": 1, "seed": 10**20}),
        (AdversarialTraining, {"share": 0, "weight": -1, "steps": 0}),
        (SurrogateRecipe, {"images": 1, "width": 0, "epochs": 0, "lr": 0, "noise": -1, "held": 0, "seed": 2**32}),
        (AttackRecipe, {"size": -0.1, "steps": 1.5, "restarts": 0, "draws": 0, "gap": float("nan")}),
    ],
)
def test_every_recipe_refuses_numbers_out_of_range_when_it_is_made(recipe, wrong):
    recipe()
    for name, value in wrong.items():
        with pytest.raises(InputError, match=f"^a {recipe.__name__} needs {name} "):
            recipe(**{name: value})
        with pytest.raises(InputError, match=name):
            replace(recipe(), **{name: value})


def test_every_profile_is_within_the_limits_with_the_last_seed_too():
    for each in PROFILES.values():
        assert reseed(each, 2**32 - 1) != each
        with pytest.raises(InputError, match="needs seed in 0 to 4294967295, got 4294967296"):
            reseed(each, 2**32)


def test_a_profile_takes_what_a_notebook_may_be_told(monkeypatch):
    monkeypatch.delenv("LABKIT_RESOLUTION", raising=False)
    expected = profile("smoke", dataset="photos", resolution=32)
    for resolution in ("32", 32.0, "32.0"):
        assert profile("smoke", dataset="photos", resolution=resolution) == expected
    assert profile("smoke", dataset=None, resolution=None) == profile("smoke") == profile("smoke", resolution="")
    for name, told in (("profile '5'", {"name": 5}), ("resolution is", {"name": "smoke", "resolution": "large"})):
        with pytest.raises(InputError, match=name):
            profile(**told)
    monkeypatch.setenv("LABKIT_RESOLUTION", "64.0")
    assert profile("smoke").data.resolution == 64 and profile("smoke", resolution=32).data.resolution == 32

"""What recipes call by name exists, and its label costs nothing."""

import inspect
import subprocess
import sys

from labkit.core import catalogue, profiles
from labkit.core.errors import InputError
from labkit.core.recipes import AttackRecipe, DefenseRecipe
from labkit.models.defense import Defense

import pytest


@pytest.mark.parametrize("name", catalogue.ATTACKS)
def test_every_attack_is_where_it_is_said_to_be(name):
    attack = catalogue.ATTACKS[name].load()
    assert list(inspect.signature(attack).parameters)[:3] == ["model", "x", "y"]
    assert AttackRecipe(name, norm="none").label == catalogue.ATTACKS[name].label


@pytest.mark.parametrize("name", catalogue.DEFENSES)
def test_every_defense_is_where_it_is_said_to_be(name):
    named = catalogue.DEFENSES[name]
    options = {"psnr": 30.0} if named.given == "like" else {}
    assert isinstance(named.load()(**options), Defense)
    assert DefenseRecipe(name).label == named.label
    assert named.cost in vars(profiles.QUICK.baselines) and named.given in ("", "like", "victim")


def test_labels_are_unique():
    for table in (catalogue.ATTACKS, catalogue.DEFENSES):
        assert len({named.label for named in table.values()}) == len(table)


def test_a_label_loads_no_torch():
    label = "from labkit.core.recipes import DefenseRecipe; DefenseRecipe('d3').label"
    code = f"import sys; {label}; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_attacks_of_a_profile_have_names():
    for lab in profiles.PROFILES.values():
        assert (lab.attack("Clean"), lab.attack("FGSM-0.08")) == (lab.attacks[0], AttackRecipe("fgsm", 0.08))
        assert lab.strongest.label == "BIM-0.03"
    with pytest.raises(InputError, match="no attack 'FGSM'; it has Clean"):
        profiles.SMOKE.attack("FGSM")

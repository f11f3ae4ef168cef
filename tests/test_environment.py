"""One source of truth: pyproject.toml names the packages, constraints.txt their versions, environment.yml neither."""

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def pins() -> dict[str, Version]:
    lines = [line.partition("#")[0].strip() for line in (ROOT / "constraints.txt").read_text().splitlines()]
    requirements = [Requirement(line) for line in lines if line]
    loose = [str(r) for r in requirements if [s.operator for s in r.specifier] != ["=="] or r.marker or r.url]
    assert loose == []
    found = {canonicalize_name(r.name): Version(next(iter(r.specifier)).version) for r in requirements}
    assert len(found) == len(requirements), "a package is pinned twice"
    return found


def named() -> list[Requirement]:
    """What pyproject.toml asks for, extras and all, less the package itself."""
    everything = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    return [r for r in map(Requirement, everything) if r.name != PROJECT["name"]]


def test_pyproject_names_packages_and_constraints_pins_each():
    assert [str(r) for r in named() if r.specifier or r.url] == []
    assert [r.name for r in named() if canonicalize_name(r.name) not in pins()] == []


def test_all_is_every_extra():
    (everything,) = map(Requirement, EXTRAS["all"])
    assert everything.name == PROJECT["name"] and everything.extras == EXTRAS.keys() - {"all"}


def test_environment_says_python_pip_and_nothing_else():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    python, *others = environment.pop("dependencies")
    assert others == ["pip", {"pip": ["-c constraints.txt", "-e .[all]"]}]
    assert environment == {"name": PROJECT["name"], "channels": ["conda-forge"]}
    name, _, version = python.partition("=")
    assert name == "python" and Version(version) in Requirement(f"python{PROJECT['requires-python']}").specifier


def test_makefile_installs_the_same():
    (command,) = re.findall(r"-m pip install (.*)", (ROOT / "Makefile").read_text())
    assert command.split()[-4:] == ["-c", "constraints.txt", "-e", "'.[all]'"]


def test_torchvision_is_the_one_for_this_torch():
    requires = [Requirement(line) for line in metadata.requires("torchvision") or []]
    (torch,) = [r for r in requires if r.name == "torch"]
    assert str(torch.specifier) == f"=={pins()['torch']}"
    assert pins()["torchvision"] == Version(Version(metadata.version("torchvision")).public)


def closure() -> dict[str, bool]:
    """Every package that labkit[all] brings to this machine; True when the package that asked for it says `==`."""
    found: dict[str, bool] = {}
    seen: set[tuple[str, str]] = set()
    todo = named()
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        exact = any(s.operator == "==" and "*" not in s.version for s in requirement.specifier)
        found[name] = found.get(name, False) or exact
        for wanted in ["", *requirement.extras]:
            if (name, wanted) in seen:
                continue
            seen.add((name, wanted))
            try:
                lines = metadata.requires(name) or []
            except metadata.PackageNotFoundError:
                pytest.fail(f"{name} is not installed; run `make test`, which installs what is missing")
            for inner in map(Requirement, lines):
                if inner.marker is None or inner.marker.evaluate({"extra": wanted}):
                    todo.append(inner)
    return found


def test_everything_installed_was_pinned_at_its_version():
    pinned, installed = pins(), closure()
    # Python's own build tool is never constrained; torch names the versions of its CUDA libraries itself.
    free = {"setuptools", "pip"}
    unpinned = [name for name, exact in installed.items() if name not in pinned and not exact and name not in free]
    assert unpinned == []
    versions = {name: Version(Version(metadata.version(name)).public) for name in installed if name in pinned}
    differ = [f"{name} {v}, pinned {pinned[name]}" for name, v in versions.items() if v != pinned[name]]
    assert differ == []

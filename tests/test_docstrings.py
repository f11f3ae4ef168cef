"""What docstrings, comments and documents name in `backticks`: that it is there."""

import importlib
import re
from pathlib import Path

import labkit

import pytest

ROOT = Path(labkit.__file__).parents[1]
MODULES: dict[str, list[str]] = {}  # by their last name; two rooms may each have one of that name
for file in [*ROOT.glob("labkit/**/*.py"), *ROOT.glob("benchmarks/*.py")]:
    words = file.relative_to(ROOT).with_suffix("").parts
    words = words[:-1] if words[-1] == "__init__" else words
    MODULES.setdefault(words[-1], []).append(".".join(words))
ROOMS = "|".join(path.parent.name for path in ROOT.glob("labkit/*/__init__.py"))
FILES = sorted(
    [
        *(file for kind in ("labkit/**/*.py", "benchmarks/*.py", "tests/**/*.py") for file in ROOT.glob(kind)),
        *(file for kind in ("*.md", "docs/*.md", "data/*.md", "notebooks/*.ipynb") for file in ROOT.glob(kind)),
    ]
)


def has(module: str, name: str) -> bool:
    """Whether one of the modules called so has the name; also where it needs a package that is not installed."""
    for path in MODULES[module]:
        try:
            if hasattr(importlib.import_module(path), name) or f"{path}.{name}" in MODULES.get(name, []):
                return True
        except ImportError:
            return True
    return False


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(ROOT).as_posix())
def test_what_is_named_is_there(file):
    text = file.read_text()
    named = set(re.findall(rf"`(?:labkit\.)?(?:(?:{ROOMS})\.)?([a-z_]+)\.(\w+)[^`\n]*`", text))
    wrong = {f"{module}.{name}" for module, name in named if module in MODULES and not has(module, name)}
    assert wrong == set()
    paths = re.findall(r"`([\w.-]+/[\w./-]+\.(?:py|html|css|js|md|ipynb))`", text)
    real = [path for path in paths if not re.search("ROOM|NAME|MODULE", path)]
    assert [p for p in real if not any((place / p).is_file() for place in (ROOT, ROOT / "labkit", file.parent))] == []

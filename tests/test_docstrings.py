"""What docstrings and comments name in `backticks`: that it is there."""

import importlib
import re
from pathlib import Path

import pytest

import labkit

HOME = Path(labkit.__file__).parent
FILES = sorted(HOME.rglob("*.py"))
MODULES: dict[str, list[str]] = {}
for file in FILES:
    words = ("labkit", *file.relative_to(HOME).with_suffix("").parts)
    words = words[:-1] if words[-1] == "__init__" else words
    MODULES.setdefault(words[-1], []).append(".".join(words))


def has(module: str, name: str) -> bool:
    """Whether one of the modules called so has the name; also where it needs a package that is not installed."""
    for path in MODULES[module]:
        try:
            if hasattr(importlib.import_module(path), name) or f"{path}.{name}" in MODULES.get(name, []):
                return True
        except ImportError:
            return True
    return False


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.relative_to(HOME).as_posix())
def test_what_is_named_is_there(file):
    text = file.read_text()
    named = {pair for pair in re.findall(r"`(?:labkit\.)?([a-z_]+)\.(\w+)[^`\n]*`", text) if pair[0] in MODULES}
    assert [f"{module}.{name}" for module, name in sorted(named) if not has(module, name)] == []
    paths = re.findall(r"`([\w.-]+/[\w./-]+\.(?:py|html|css|js|md|ipynb))`", text)
    assert [path for path in paths if not any((place / path).is_file() for place in (HOME, HOME.parent))] == []

"""The house: rooms with a face each, walls that hold, and modules that stay small."""

import ast
import importlib
import pkgutil
import re
import statistics
import subprocess
import sys
import tomllib
from pathlib import Path

import labkit

import pytest

ROOT = Path(labkit.__file__).parent
ROOMS = [
    "core", "csc", "datasets", "attacks", "models", "defenses", "evaluation", "experiments", "reporting",
    "dashboards", "cli",
]  # fmt: skip
SIZES = {path: len(path.read_text().splitlines()) for path in ROOT.rglob("*.py")}
CONTRACTS = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]


def test_labkit_holds_eleven_rooms_and_nothing_else():
    entries = {path.name for path in ROOT.iterdir()} - {"__pycache__"}
    assert entries == {"__init__.py", "__main__.py", *ROOMS}


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_says_what_it_knows_and_shows_three_to_ten_names(room):
    face = importlib.import_module(f"labkit.{room}")
    assert 3 <= len(face.__all__) <= 11 and face.__all__ == sorted(set(face.__all__), key=face.__all__.index)
    assert {"Knows", "Comes in", "Goes out"} <= set(re.findall(r"^(\w+(?: in| out)?)  ", face.__doc__, re.M))
    namespace = {}
    exec(f"from labkit.{room} import *", namespace)
    assert set(face.__all__) <= namespace.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_the_walls_let_through_what_the_face_names_and_no_other_module(room):
    (wall,) = (c for c in CONTRACTS if c.get("protected_modules") == [f"labkit.{room}.*"])
    assert wall["type"] == "protected" and wall["allowed_importers"] == [f"labkit.{room}"]
    # What labkit itself decides before anything is loaded is its own affair.
    lines = [line for line in wall.get("ignore_imports", ()) if not line.startswith("labkit -> ")]
    through = {line.removeprefix(f"** -> labkit.{room}.") for line in lines}
    modules = {m.name for m in pkgutil.iter_modules([str(ROOT / room)])}
    face = ast.literal_eval(
        re.search(r"^__all__ = (\[.*?\])", (ROOT / room / "__init__.py").read_text(), re.M | re.S)[1]
    )
    assert through == modules & set(face)


def test_rooms_stand_above_each_other_in_this_order():
    (layers,) = (c["layers"] for c in CONTRACTS if c["type"] == "layers")
    assert [name for layer in layers for name in layer.replace("labkit.", "").split(" | ")][1:] == ROOMS[::-1][:8] + [
        "csc", "datasets", "core",
    ]  # fmt: skip


def test_modules_are_small():
    assert {path: n for path, n in SIZES.items() if n > 350} == {}
    assert statistics.median(SIZES.values()) <= 180
    for room in ROOMS:
        assert sum(n for path, n in SIZES.items() if path.parent == ROOT / room) <= 3200, room
    assert sum(SIZES.values()) <= 20_130


@pytest.mark.parametrize("face", ["core", "cli", "dashboards"])
def test_these_faces_load_no_torch(face):
    code = f"import sys, labkit.{face}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT.parent, timeout=120).returncode == 0


def test_every_text_file_has_an_encoding():
    """What it is by default is the locale's: ASCII in a batch job."""
    bare = []
    for path in ROOT.rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)):
            name, named = ast.unparse(call.func).rpartition(".")[2], {word.arg for word in call.keywords}
            text = {"read_text": 0, "write_text": 1}.get(name)
            if name == "open" and not isinstance(call.func, ast.Attribute):
                mode = ast.unparse(call.args[1]) if len(call.args) > 1 else ""
                text = None if "b" in mode else 9
            text = 9 if name in ("run", "Popen", "check_output") and named & {"text", "universal_newlines"} else text
            if text is not None and len(call.args) <= text and "encoding" not in named:
                bare.append(f"{path.name}:{call.lineno}")
            if name == "to_csv" and call.args:
                bare.append(f"{path.name}:{call.lineno}")
    assert bare == []

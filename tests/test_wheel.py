"""What `pip install .` brings: commands work in an empty folder, without the clone."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """An environment with a wheel that was built here, and this environment's packages behind it; its empty folder."""
    place = tmp_path_factory.mktemp("installed")
    built = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(place), "."]
    copy = place / "source"
    copy.mkdir()
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    for name in filter(None, files.split("\0")):
        if name.split("/")[0] in ("labkit", "notebooks", "data", "pyproject.toml", "README.md", "LICENSE"):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run(built, cwd=copy, check=True)
    venv.create(place / "venv", with_pip=False)
    (site,) = (place / "venv").glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", str(place / "venv"), "install", "-q", "--no-deps", "--no-index"]
    subprocess.run([*pip, str(next(place.glob("*.whl")))], check=True)
    (site / "behind.pth").write_text(str(Path(pytest.__file__).parents[1]))
    (place / "empty").mkdir()
    return place / "venv" / "bin" / "python", place / "empty"


def run(installed, *words, **more):
    python, folder = installed
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LABKIT_", "PYTHON"))}
    # As if pip had installed the other packages here as well, with what they keep beside their code.
    beside = {"JUPYTER_PATH": f"{sys.prefix}/share/jupyter", "XDG_CACHE_HOME": f"{folder}/cache"}
    env = {**clean, **beside, "OMP_NUM_THREADS": "1", **more}
    return subprocess.run([python, *words], cwd=folder, env=env, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_the_wheel_has_notebooks_images_and_a_place_of_its_own_for_what_is_made(installed):
    said = (
        "import labkit; from labkit.core import hardware as h; print(labkit.__file__, h.shipped(), h.own('artifacts'))"
    )
    file, shipped, own = run(installed, "-c", said).stdout.split()
    assert str(ROOT) not in file + shipped and own == str(installed[1] / "cache" / "labkit" / "artifacts")
    kept = {p.relative_to(ROOT) for part in ("notebooks", "data/fashion") for p in (ROOT / part).rglob("*")
            if p.is_file() and "checkpoints" not in str(p)}  # fmt: skip
    assert [str(name) for name in kept if not (Path(shipped) / name).is_file()] == []


_MINE = """
import torch

class Net(torch.nn.Module):
    def forward(self, x):
        dark = x.flatten(1).mean(1, keepdim=True)
        return torch.cat([-(dark - k / 10).square() for k in range(10)], 1)

def network():
    return Net()
"""


@pytest.mark.slow
def test_somebodys_own_file_is_judged_in_an_empty_folder(installed):
    (installed[1] / "mine.py").write_text(_MINE)
    words = ["evaluate", "--model", "mine.py:network", "--effort", "fast", "--profile", "smoke", "--out", "judged"]
    judged = run(installed, "-m", "labkit", *words)
    assert judged.returncode == 0, judged.stderr
    assert "security.png" in (installed[1] / "judged" / "index.md").read_text()
    assert (installed[1] / "judged" / "index.html").is_file()
    assert json.loads((installed[1] / "judged" / "evaluation.json").read_text())["network"]["name"] == "mine.py:network"


@pytest.mark.slow
def test_commands_work_in_an_empty_folder(installed):
    table = run(installed, "-m", "labkit", "table", "5", "--profile", "smoke", "--epochs", "1", "--only",
                "defense=No Defense", "--only", "attack=Clean", "--out", "tables")  # fmt: skip
    assert table.returncode == 0, table.stderr
    assert (installed[1] / "tables" / "table_5.md").is_file()
    report = run(installed, "-m", "labkit", "report", "--profile", "smoke", "--notebooks", "02", "--out", "report")
    assert report.returncode == 0, report.stderr
    assert (installed[1] / "report" / "index.html").is_file()
    assert run(installed, "-m", "labkit", "notebooks", "mine").returncode == 0
    assert (installed[1] / "mine" / "dashboards" / "4_arena.ipynb").is_file()
    again = run(installed, "-m", "labkit", "notebooks", "mine")
    assert (again.returncode, "name a new folder" in again.stderr) == (2, True)
    pages = run(installed, "-c", "from labkit.dashboards import server; print(server.FOLDER / 'voila.json')")
    assert Path(pages.stdout.strip()).is_file()

"""The notebooks are ordinary ones: plain papermill, voila and jupyter lab open them from any folder."""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
ALONE = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def started(words: list[str], where: Path, **environment):
    """A server of Jupyter's in a folder, by its port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", *words, "--no-browser", f"--port={port}"]
    process = subprocess.Popen(
        command, cwd=where, env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(30)


def answer(address: str, patience: float = 240) -> str:
    begun = time.monotonic()
    while True:
        try:
            return ALONE.open(address, timeout=patience).read().decode()
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() - begun > patience:
                raise
            time.sleep(0.3)


def test_papermill_runs_a_notebook_from_anywhere(tmp_path):
    out = tmp_path / "out.ipynb"
    command = [sys.executable, "-m", "papermill", str(NOTEBOOKS / "02_filter_learning.ipynb"), str(out)]
    subprocess.run([*command, "-p", "profile", "smoke", "--no-progress-bar"], cwd=tmp_path, check=True, timeout=300)
    cells = [cell for cell in nbformat.read(out, as_version=4).cells if cell.cell_type == "code"]
    assert all(cell.execution_count for cell in cells) and "Profile **smoke**" in str(cells[2].outputs)
    assert [path.name for path in tmp_path.iterdir()] == ["out.ipynb"]  # nothing else is left where somebody stood


@pytest.mark.slow
def test_voila_shows_a_dashboard_from_anywhere(tmp_path):
    page = str(NOTEBOOKS / "dashboards" / "1_projection_explorer.ipynb")
    with started(["voila", page], tmp_path, LABKIT_PROFILE="smoke") as port:
        text = answer(f"http://127.0.0.1:{port}/")
    assert "application/vnd.jupyter.widget-view+json" in text and "Projection explorer" in text


def test_jupyter_lab_opens_from_anywhere(tmp_path):
    safe = ["--IdentityProvider.token=", "--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={NOTEBOOKS}"]
    root = ["--allow-root"] if hasattr(os, "getuid") and os.getuid() == 0 else []
    with started(["jupyterlab", *safe, *root], tmp_path) as port:
        assert "JupyterLab" in answer(f"http://127.0.0.1:{port}/lab")
        assert "06_tradeoff.ipynb" in answer(f"http://127.0.0.1:{port}/api/contents")

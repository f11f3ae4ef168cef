"""A healthy installation is told so; each thing that can be wrong is found, with what to do."""

import os
import shutil
import subprocess
import sys
from collections import namedtuple
from importlib import metadata
from pathlib import Path

import labkit
from labkit.__main__ import main
from labkit.cli import doctor

import pytest


def found(what: str, store="", **options) -> doctor.Finding:
    (finding,) = [finding for finding in doctor.examine(store, **options) if finding.what == what]
    return finding


def test_this_installation_can_be_used(tmp_path, capsys):
    assert main(["doctor", "--store", str(tmp_path / "store")]) == 0
    told = capsys.readouterr().out
    for words in ("Python", "packages", "torch ", "torchvision", "numba", "GPU", "browser", "store", "disk", "memory"):
        assert f" {words}" in told
    assert "!!" not in told and told.splitlines()[-1].startswith(("all is well", "labkit works"))
    assert list(tmp_path.iterdir()) == []  # a look, that leaves nothing


def test_other_versions_than_the_tested_are_named(tmp_path):
    pins = tmp_path / "constraints.txt"
    right = "".join(f"{name}=={metadata.version(name).partition('+')[0]}\n" for name in ("numpy", "torch"))
    pins.write_text("# tested together\n" + right)
    assert "tested together" in found("packages", pins=pins).found
    pins.write_text(right + "pillow==0.1\nnot-installed-here==1.0\n")
    finding = found("packages", pins=pins)
    assert f"pillow {metadata.version('pillow')} (tested: 0.1)" in finding.found and "numpy" not in finding.found
    assert "-c constraints.txt" in finding.advice and not finding.fatal
    assert "not compared" in found("packages", pins=tmp_path / "nowhere").found


def test_a_missing_package_is_named(monkeypatch):
    wanted = ["numpy", "no-such-package-1", 'no-such-package-2; extra == "lab"']
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    finding = found("packages")
    assert finding.fatal and "no-such-package-1" in finding.found and "no-such-package-2" not in finding.found
    monkeypatch.setattr(metadata, "requires", lambda name: [wanted[0], wanted[2]])
    finding = found("packages", pins=Path("nowhere"))
    assert not finding.fatal and "1 of the 2" in finding.found


def test_a_package_that_does_not_load_is_fatal_and_the_others_are_still_looked_at(tmp_path):
    (tmp_path / "torchvision.py").write_text("raise OSError('libcudart.so.13: cannot open\\nthe file')")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(labkit.__file__).parents[1]}"}
    line = [sys.executable, "-m", "labkit", "doctor", "--store", tmp_path]
    done = subprocess.run(line, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, "")
    assert "!! torchvision  does not work (OSError: libcudart.so.13: cannot open)\n" in done.stdout
    assert "memory" in done.stdout and done.stdout.endswith("labkit cannot work like this\n")


@pytest.mark.parametrize("store", ["file/below", "x" * 5000])
def test_a_store_that_cannot_be_written_is_fatal(tmp_path, capsys, store):
    (tmp_path / "file").write_text("")
    assert main(["doctor", "--store", str(tmp_path / store)]) == 1
    told = capsys.readouterr().out
    assert "!! store" in told and "LABKIT_STORE" in told


def test_little_room_and_a_gpu_that_torch_cannot_use(tmp_path, monkeypatch):
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: f"/bin/{name}" if name == "nvidia-smi" else real("no-such"))
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(2**30))
    for what, words in (("GPU", "pytorch.org"), ("browser", "Chromium"), ("disk", "prune")):
        finding = found(what, str(tmp_path))
        assert words in finding.advice and not finding.fatal
    assert found("disk", str(tmp_path)).found == "1.1 GB free for it"


def test_loops_that_cannot_be_kept(tmp_path, monkeypatch):
    from labkit.csc import atoms

    compiled = next(value for value in vars(atoms).values() if hasattr(value, "py_func"))
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(type(compiled._cache), "cache_path", str(tmp_path / "file" / "x"))
    finding = found("numba")
    assert "anew in every run" in finding.found and "NUMBA_CACHE_DIR" in finding.advice and not finding.fatal

"""Children end with their parent, however it ends, and take their folder along."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import labkit
from labkit.core import hardware

import pytest
from waiting import gone, waited

_ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(labkit.__file__).parent.parent)}
_PARENT = """
import subprocess, sys, time
from labkit.core import hardware
subprocess.Popen([*hardware.child("sleeper", sys.argv[1]), sys.argv[2]], start_new_session=True)
time.sleep(100)
"""
_SLEEPER = """
import os, pathlib, signal, sys, time
if sys.argv[1].endswith("stubborn"):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
path = pathlib.Path(sys.argv[1])
path.with_suffix(".part").write_text(f"{os.getpid()} {__name__} {sys.argv[0]} {sys.path[0]}")
path.with_suffix(".part").rename(path)
time.sleep(100)
"""


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes in /proc")
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL, signal.SIGINT])
@pytest.mark.parametrize("name", ["quiet", "stubborn"])
def test_a_child_ends_with_its_parent_and_so_does_its_folder(tmp_path, how, name):
    folder, said = tmp_path / "temporary", tmp_path / name
    folder.mkdir()
    (folder / "socket").touch()
    (tmp_path / "sleeper.py").write_text(_SLEEPER)
    told = _ENVIRONMENT | {"PYTHONPATH": f"{_ENVIRONMENT['PYTHONPATH']}:{tmp_path}"}
    parent = subprocess.Popen([sys.executable, "-c", _PARENT, folder, said], env=told, stderr=subprocess.DEVNULL)
    assert waited(said.exists)
    pid, module, program, first = said.read_text().split(maxsplit=3)
    assert module == "__main__" and program == str(tmp_path / "sleeper.py") and Path(first).name != "core"
    assert not gone(int(pid))
    parent.send_signal(how)
    parent.wait(20)
    assert waited(lambda: gone(int(pid)) and not folder.exists())


def test_a_child_is_told_what_paths_mean_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LABKIT_STORE", "kept/../kept here")
    monkeypatch.setenv("LABKIT_DATA", "~/data")
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    told = hardware.environment(3)
    assert told["OMP_NUM_THREADS"] == "3" and told["PYTHONUTF8"] == "1" and "NUMBA_CACHE_DIR" not in told
    assert Path(told["LABKIT_STORE"]) == tmp_path / "kept/../kept here"
    assert Path(told["LABKIT_DATA"]) == tmp_path / "home" / "data"


def test_the_command_of_a_child_begins_with_this_python():
    python, _, parent, folder, module = hardware.child("some.module", "/a/folder")
    assert (python, parent, folder, module) == (sys.executable, str(os.getpid()), "/a/folder", "some.module")

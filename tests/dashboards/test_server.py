import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import labkit
from labkit.__main__ import main
from labkit.core import profiles
from labkit.core.errors import InputError
from labkit.dashboards import server

import pytest
from browser_drive import served
from jupyter_server.services.kernels.connection.base import BaseKernelWebsocketConnection
from jupyter_server.services.kernels.websocket import KernelWebsocketHandler
from traitlets import import_item
from waiting import gone, waited


def test_on_this_machine_alone_no_token_is_needed():
    assert server.drawn("127.0.0.1") == server.drawn("localhost") == ""
    assert server.address("127.0.0.1", 8866) == "http://127.0.0.1:8866/"
    assert server.address("::1", 80) == "http://[::1]:80/"


@pytest.mark.parametrize("ip", ["0.0.0.0", "192.168.1.5", "::"])
def test_anything_else_has_a_token_that_nobody_can_guess(ip):
    first, second = (server.drawn(ip) for _ in range(2))
    assert first != second and len(first) >= 32


def test_a_given_token_is_taken():
    assert server.drawn("127.0.0.1", "secret") == "secret"
    assert server.address("0.0.0.0", 80, "/lab/", "secret") == "http://0.0.0.0:80/lab/?token=secret"


@pytest.mark.parametrize(("ip", "given"), [("0.0.0.0", ""), ("127.0.0.1", "given-by-hand")])
def test_the_token_stands_in_no_command_line(ip, given, monkeypatch, capsys):
    """Every account of a machine can read the arguments of a program, and only its owner its environment."""
    ran = []

    def run(command, env):
        ran.append((command, env))
        return 0

    monkeypatch.setenv("LABKIT_TOKEN", given)
    monkeypatch.setattr(server, "prepare", lambda *_, **__: None)
    monkeypatch.setattr(server, "run", run)
    assert main(["dashboards", "--profile", "smoke", "--ip", ip]) == 0
    ((command, env),) = ran
    token = capsys.readouterr().out.partition("?token=")[2].split()[0]
    assert token and env["JUPYTER_TOKEN"] == token and token == (given or token)
    assert not any(token in part for part in command)


def test_the_server_asks_for_the_token(tmp_path):
    lab = profiles.profile("smoke")
    with served(lab, tmp_path, token="a-long-secret") as where:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(where, timeout=20) as page:
            assert "login" not in page.url
        for wrong in ("", "?token=another", "?token="):
            with opener.open(where.partition("?")[0] + wrong, timeout=20) as page:
                assert "/login" in page.url


@pytest.mark.parametrize("ip, port, base, words", [
    ("everywhere", 80, "/", "--ip is an address"),
    ("127.0.0.1", 0, "/", "--port is a number"),
    ("127.0.0.1", 80, "lab", "begins and ends with a slash"),
])  # fmt: skip
def test_what_cannot_be_served_is_a_sentence(ip, port, base, words):
    with pytest.raises(InputError, match=words):
        server.serve(ip, port, base, guarded=False)


def test_the_kernels_are_told_which_lab(tmp_path):
    lab = profiles.profile("smoke", dataset="photos", resolution=64)
    told = server.environment(lab, str(tmp_path))
    assert told["LABKIT_STORE"] == str(tmp_path) and told["OMP_NUM_THREADS"] == "1"
    before = dict(os.environ)
    try:
        os.environ.update(told)
        assert profiles.profile("") == lab
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_a_resolution_that_is_no_number_is_a_sentence(monkeypatch):
    monkeypatch.setenv("LABKIT_RESOLUTION", "large")
    with pytest.raises(InputError, match="LABKIT_RESOLUTION is a number"):
        profiles.profile("smoke")


_SERVER = """
import http.server, os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def end(*_):
    time.sleep(0.5)
    (folder / "temporary").unlink()
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
(folder / "temporary").touch()
(folder / "pid").write_text(str(os.getpid()))
time.sleep(100)
"""
_COMMAND = """
import pathlib, sys
from labkit.cli import common
from labkit.core import hardware
from labkit.dashboards import server
import argparse, os
server.FOLDER = pathlib.Path(sys.argv[1])
parser = argparse.ArgumentParser()
parser.set_defaults(run=lambda _: server.run([*hardware.child("my_server"), sys.argv[1]], dict(os.environ)))
sys.exit(common.run(parser, []))
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("group", [False, True])
def test_a_server_that_is_to_end_ends_by_itself_and_tidies_up(tmp_path, how, group):
    """`group`: as a closed terminal or Ctrl-C has it, the signal goes to whatever was started there."""
    (tmp_path / "my_server.py").write_text(_SERVER)
    told = {**os.environ, "PYTHONPATH": f"{Path(labkit.__file__).parent.parent}:{tmp_path}"}
    running = subprocess.Popen([sys.executable, "-c", _COMMAND, tmp_path], env=told, start_new_session=True)
    pid = tmp_path / "pid"
    assert waited(lambda: pid.exists() and pid.read_text(), 60)
    (os.killpg if group else os.kill)(running.pid, how)
    assert running.wait(30) == (-how if how == signal.SIGKILL else 128 + how)
    assert waited(lambda: gone(int(pid.read_text()))) and not (tmp_path / "temporary").exists()


@pytest.mark.parametrize("typed", ["images", "./images/", "../here/images", "~/images", "images.zip", "."])
def test_a_data_set_is_the_same_in_the_folder_where_the_kernels_work(tmp_path, monkeypatch, typed):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "here"))
    for given in ({"dataset": f"folder:{typed}"}, {}):
        monkeypatch.setenv("LABKIT_DATASET", f"folder:{typed}")
        lab = profiles.profile("smoke", **given)
        name = Path(typed).name or "here"
        assert server.environment(lab)["LABKIT_DATASET"] == f"folder:{tmp_path / 'here' / (Path(typed).name)}"
        assert lab.data.label == f"folder:{name}"


def test_messages_of_a_page_are_sent_at_once(monkeypatch):
    """The class that voila is told to use for a page's socket turns off what holds small messages back."""
    told = json.loads((server.FOLDER / "voila.json").read_text())["Voila"]["kernel_websocket_connection_class"]
    kind, said = import_item(told), []
    monkeypatch.setattr(kind.__mro__[1], "connect", lambda _: said.append("connected"))
    page = kind.__new__(kind)
    page.websocket_handler = KernelWebsocketHandler.__new__(KernelWebsocketHandler)  # a socket is not opened
    page.websocket_handler.set_nodelay = said.append
    page.connect()
    assert said == [True, "connected"] and issubclass(kind, BaseKernelWebsocketConnection)

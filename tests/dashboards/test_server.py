import os
import subprocess
import urllib.request

from labkit.__main__ import main
from labkit.core import profiles
from labkit.core.errors import InputError
from labkit.dashboards import server

import pytest
from browser_drive import served


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

    def run(command, *, cwd, env):
        ran.append((command, env))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setenv("LABKIT_TOKEN", given)
    monkeypatch.setattr(server, "prepare", lambda lab, store: None)
    monkeypatch.setattr(subprocess, "run", run)
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

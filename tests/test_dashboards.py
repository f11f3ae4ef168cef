import os

import pytest

from labkit import dashboards, profiles
from labkit.errors import InputError


def test_on_this_machine_alone_no_token_is_needed():
    command = dashboards.serve("127.0.0.1", 8866)
    assert not any(part.startswith("--token") for part in command)
    assert dashboards.address(command) == "http://127.0.0.1:8866/"


@pytest.mark.parametrize("ip", ["0.0.0.0", "192.168.1.5", "::"])
def test_anything_else_has_a_token_that_nobody_can_guess(ip):
    first, second = (dashboards.address(dashboards.serve(ip, 80)) for _ in range(2))
    assert first != second and len(first.partition("?token=")[2]) >= 32


def test_a_given_token_is_taken():
    command = dashboards.serve("0.0.0.0", 80, "/lab/", "secret")
    assert dashboards.address(command) == "http://0.0.0.0:80/lab/?token=secret"


@pytest.mark.parametrize("ip, port, base, words", [
    ("everywhere", 80, "/", "--ip is an address"),
    ("127.0.0.1", 0, "/", "--port is a number"),
    ("127.0.0.1", 80, "lab", "begins and ends with a slash"),
])  # fmt: skip
def test_what_cannot_be_served_is_a_sentence(ip, port, base, words):
    with pytest.raises(InputError, match=words):
        dashboards.serve(ip, port, base)


def test_the_kernels_are_told_which_lab(tmp_path):
    lab = profiles.profile("smoke", dataset="photos", resolution=64)
    told = dashboards.environment(lab, str(tmp_path))
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

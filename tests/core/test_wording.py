"""Paths as they are typed; durations and sizes, at both sides of where their unit changes."""

import re
from pathlib import Path

from labkit.core import wording
from labkit.core.errors import InputError
from labkit.core.wording import printable, reason, typed

import pytest


def test_a_path_need_not_be_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert typed("~/x") == tmp_path / "x" and typed(tmp_path) == tmp_path and typed("a/b") == Path("a/b")
    (tmp_path / "file").write_text("")
    assert typed(tmp_path / "file" / "below") == tmp_path / "file" / "below"


@pytest.mark.parametrize("text", ["x" * 5000, "~nobody-of-this-name/x", "a\0b", "\udcff", "a/" * 5000])
def test_no_path_is_refused_in_a_line(text):
    with pytest.raises(InputError, match="cannot be used") as caught:
        typed(text)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 300


def test_what_others_say_is_one_line_of_ours():
    assert printable("é ok") == "é ok" and printable("a\n\x1b[2J") == r"'a\n\x1b[2J'"
    assert reason(ValueError("first\nsecond")) == "first" and reason(MemoryError()) == "MemoryError"
    assert reason(FileNotFoundError(2, "whatever", "/a/path")) == "No such file or directory"


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (8.44, "8.4 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (192, "3 min 12 s"),
     (3599.6, "1 h 0 min"), (7500, "2 h 5 min"), (47.9 * 3600, "47 h 54 min"), (99 * 3600, "4 d 3 h")],
)  # fmt: skip
def test_duration(seconds, words):
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_949, "99.9 kB"), (99_951, "100 kB"), (1e6, "1.0 MB"),
     (3e12, "3.0 TB")],
)  # fmt: skip
def test_size(number, words):
    assert wording.size(number) == words


@pytest.mark.parametrize(
    ("limits", "taken", "refused"),
    [
        ("n in 1 to 9", (1, 9, None), (0, 10, 1.0, 1.5, True, "1", [1], float("nan"), 10**30)),
        ("n in 2 to inf", (2, 10**30), (1, -1, 2.0, False)),
        ("n in (0, 1]", (1e-9, 1, 1.0), (0, 1.1, float("nan"), "0.5", True)),
        ("n in [0, inf)", (0, 0.5, 1e308), (-1e-9, float("inf"))),
        ("n in [0, inf]", (0, float("inf")), (float("-inf"),)),
    ],
)
def test_limits_are_kept_by_numbers_of_every_kind(limits, taken, refused):
    for value in taken:
        wording.check("it", {"n": value}, f"m in 0 to 1; {limits}")
    for value in refused:
        with pytest.raises(InputError, match=r"^it needs n .*, got ") as said:
            wording.check("it", {"n": value}, f"m in 0 to 1; {limits}")
        assert "\n" not in str(said.value)


@pytest.mark.parametrize("name", ["resolution", "$LABKIT_RESOLUTION"])
def test_parameters_of_notebooks_come_in_many_types(name):
    for value, number in (
        ("32", 32),
        (32.0, 32),
        ("64.0", 64),
        (64, 64),
        (None, 0),
        ("", 0),
        (0, 0),
        ("0", 0),
        (False, 0),
    ):
        assert wording.whole(name, value) == number and type(wording.whole(name, value)) is int
    for value in ("big", "32.5", 32.5, -1, "-32", True, [32], float("nan"), "inf", 1e400):
        with pytest.raises(InputError, match=re.escape(f"{name} is a number of pixels, or 0 for as stored; got ")):
            wording.whole(name, value)
    assert str(wording.typed(5)) == "5"

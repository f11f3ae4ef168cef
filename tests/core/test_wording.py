"""Paths as they are typed; durations and sizes, at both sides of where their unit changes."""

import re
import sys
from html import unescape
from pathlib import Path

from labkit.core import wording
from labkit.core.errors import InputError
from labkit.core.wording import printable, reason, typed
from labkit.reporting import html

import pytest
from bs4 import BeautifulSoup


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


HOSTILE = [
    "$1 to $5", "$$", r"\frac{", "a|b", "<script>alert(1)</script>", "R&D", "*so*", "_so_", "my_images", "`code`",
    "[here](http://elsewhere)", "~~gone~~", "th\udce9", "\ud800", "two\nlines", "\x1b[31mred", "熊", "ȁ̈", "",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_words_of_others_stay_words_in_every_medium(text):
    plain = printable(text)
    assert plain.isprintable() and plain.encode() is not None
    shown = BeautifulSoup(html.markdown(f"| {wording.in_markdown(text)} | next |\n|---|---|\n| 1 | 2 |"), "html.parser")
    assert [cell.get_text() for cell in shown.find_all("th")] == [plain, "next"]
    assert not shown.find_all(["em", "strong", "code", "a", "del", "script", "math"])
    chart = wording.in_chart(text)
    assert unescape(chart) == plain and not set("<>$") & set(chart)


def test_words_of_ours_are_as_they_were():
    for words in ("STL (cluster)", "0.12 [0.10, 0.14]", "FGSM-0.08", "L∞ 0.031", "folder:my_images, 32×32", "95 %"):
        assert wording.in_markdown(words) == wording.in_chart(words) == words


def test_bytes_that_are_no_text_are_told_by_their_numbers():
    assert wording.writable("caf\udce9") == r"caf\xe9" and wording.writable("\ud800 é") == r"\ud800 é"


def test_what_to_type_depends_on_where_one_stands(monkeypatch):
    words = lambda: [wording.to_set("data_root", "DIR", "LABKIT_DATA"), wording.to_set("clusters", 3, "other images")]  # noqa: E731
    assert words() == ["data_root=DIR", "clusters=3"]
    monkeypatch.setitem(sys.modules, "ipykernel", wording)
    assert words() == ["data_root=DIR", "clusters=3"]  # somebody's own notebook, which calls labkit
    monkeypatch.setattr(sys.modules["__main__"], "data_root", "", raising=False)
    assert words() == ["`data_root = DIR` in the cell of parameters", "other images"]
    monkeypatch.setenv("LABKIT_FLAGS", "profile data_root")  # a report's kernel is mended at its command
    assert words() == ["--data-root DIR", "other images"]
    monkeypatch.setenv("LABKIT_FLAGS", "profile store")
    assert words() == ["LABKIT_DATA", "other images"]


def test_a_reason_does_not_say_where_packages_lie():
    inside = Path(sys.prefix) / "lib" / "package" / "file.py"
    assert (
        reason(ValueError(f"cannot read '{inside}' and /home/me/x.png")) == "cannot read '…/file.py' and /home/me/x.png"
    )

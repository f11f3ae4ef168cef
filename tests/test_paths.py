"""Paths that people type: those that can be none are refused by name."""

from pathlib import Path

import pytest

from labkit.errors import InputError, printable, reason
from labkit.paths import typed


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

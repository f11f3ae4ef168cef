"""Durations and sizes, at both sides of where their unit changes."""

import pytest

from labkit import units


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0.0 s"), (8.44, "8.4 s"), (59.94, "59.9 s"), (59.96, "1 min 0 s"), (192, "3 min 12 s"),
     (3599.6, "1 h 0 min"), (7500, "2 h 5 min"), (47.9 * 3600, "47 h 54 min"), (99 * 3600, "4 d 3 h")],
)  # fmt: skip
def test_duration(seconds, words):
    assert units.duration(seconds) == words


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (99_949, "99.9 kB"), (99_951, "100 kB"), (1e6, "1.0 MB"),
     (3e12, "3.0 TB")],
)  # fmt: skip
def test_size(number, words):
    assert units.size(number) == words

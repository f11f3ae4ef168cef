"""The benchmark of busy machines on little: children decide on their threads, and an attack is timed three ways."""

import os

from benchmarks import busy

import pytest


@pytest.fixture
def brief(monkeypatch):
    monkeypatch.setattr(busy, "_BATCH", 4)
    monkeypatch.setattr(busy, "_STEPS", 2)
    monkeypatch.setattr(busy, "_BEFORE", 0.1)


def test_a_child_decides_on_its_own_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert not {"OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "GOMP_SPINCOUNT"} & busy.silent().keys()
    assert busy.silent()["PATH"] == os.environ["PATH"]


def test_steps_are_timed_idle_and_beside_others(brief):
    rows = busy.training()
    assert [(row["threads"], row["beside"]) for row in rows] == [
        (threads, beside)
        for threads in ("as they are", "as they were")
        for beside in ("nothing", "a busy loop", "another training")
    ]
    assert all(row["ms"] > 0 for row in rows)


def test_an_attack_is_timed_alone_and_through_t():
    alone, exact, approximate = busy.attack("fashion", None, n=4, iterations=2)
    assert alone["ratio"] == 1 and exact["ratio"] > 1 and approximate["ratio"] > 1

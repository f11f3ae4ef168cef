import threading

from labkit.core.errors import InputError
from labkit.dashboards import work

import ipywidgets as w
import pytest


@pytest.fixture
def held():
    """A worker in the middle of request 1, what lets it go on, and what it has done so far."""
    done, release, begun = [], threading.Event(), threading.Event()

    def asked(check, n):
        begun.set()
        release.wait(10)
        check()
        done.append(n)

    latest = work.Latest(asked, print)
    latest(1)
    assert begun.wait(10)
    return latest, release, done


def test_the_newest_request_wins_and_stops_the_older_one(held):
    latest, release, done = held
    for n in (2, 3, 4):
        latest(n)
    release.set()
    assert latest.settled(10) and done == [4]


def test_a_cancelled_request_ends_at_its_next_check_and_another_one_works(held):
    latest, release, done = held
    latest.cancel()
    release.set()
    assert latest.settled(10) and done == []
    latest(2)
    assert latest.settled(10) and done == [2]


def test_what_is_cancelled_before_it_is_begun_is_not_waited_for():
    done = []
    latest = work.Latest(lambda check, n: done.append(n), print, wait=0.2)
    latest(1)
    latest.cancel()
    assert latest.settled(10) and done == []


def test_a_request_that_waits_is_forgotten_for_a_newer_one():
    done = []
    latest = work.Latest(lambda check, n: done.append(n), print, wait=0.1)
    for n in range(20):
        latest(n)
    assert latest.settled(10) and done == [19]


def test_a_failure_is_a_sentence_and_the_next_request_works(capfd):
    said, done = [], []

    def asked(check, n):
        if n < 2:
            raise InputError("choose another λ") if n else ZeroDivisionError
        done.append(n)

    latest = work.Latest(asked, said.append)
    for n in range(3):
        latest(n)
        assert latest.settled(10)
    assert said[1] == "choose another λ" and "Something went wrong" in said[0] and done == [2]


def test_a_bar_that_goes_by_the_clock_moves_and_stops_short_of_its_end():
    bar = w.IntProgress(0, 0, 100)
    with work.clock(bar, 0.01):
        threading.Event().wait(2.5 * work._TICK)
    assert bar.value == 97
    before = bar.value
    threading.Event().wait(1.5 * work._TICK)
    assert bar.value == before

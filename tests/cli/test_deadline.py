"""Measuring within a time: it ends, nothing is lost, and what comes out is the same."""

import random
import re
import signal
import time
from dataclasses import replace

from labkit.__main__ import main
from labkit.cli import deadline
from labkit.core.recipes import DataRecipe, rebase
from labkit.evaluation import measurement
from labkit.evaluation.workbench import Workbench
from labkit.experiments import cost_estimate, paper_tables

import pandas as pd
import pytest

WANTED = ["--only", "defense=No Defense,STL", "--only", "attack=Clean,FGSM-0.08,BIM-0.03"]


def test_what_takes_too_long_is_ended_and_what_is_done_in_time_is_not():
    begun, reached = time.monotonic(), []
    deadline.within(0.3, lambda: (time.sleep(20), reached.append("the end")))
    assert time.monotonic() - begun < 10 and not reached
    deadline.within(-1, lambda: (time.sleep(20), reached.append("the end")))
    assert time.monotonic() - begun < 10 and not reached
    deadline.within(20, lambda: reached.append("the end"))
    assert reached == ["the end"]
    time.sleep(0.1)  # no interrupt comes afterwards


def test_what_was_started_deaf_to_ctrl_c_ends_in_time_and_stays_deaf():
    """As `nohup labkit table … --for 90m &` is."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        begun, reached = time.monotonic(), []
        deadline.within(0.3, lambda: (time.sleep(20), reached.append("the end")))
        assert time.monotonic() - begun < 10 and not reached
        deadline.within(20, lambda: (signal.raise_signal(signal.SIGINT), reached.append("went on")))
        assert reached == ["went on"] and signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_somebodys_own_interrupt_is_theirs():
    with pytest.raises(KeyboardInterrupt):
        deadline.within(60, lambda: (signal.raise_signal(signal.SIGINT), time.sleep(20)))


@pytest.fixture(scope="module")
def cases(lab):
    small = rebase(lab, DataRecipe("fashion", train=200, test=10))
    small = replace(small, classifier=replace(small.classifier, epochs=1), adaptive=replace(small.adaptive, n=6))
    wanted = {"defense": ["No Defense", "STL", "MagNet"], "attack": ["Clean", "FGSM-0.08", "BIM-0.03"]}
    asked = paper_tables.select(paper_tables.table(small, "5"), wanted)
    return [*asked.blind, *asked.aware]


def test_the_cheapest_come_first(cases, tmp_path):
    bench = Workbench(tmp_path, progress=False)
    ordered = cost_estimate.ordered(cases, bench)
    assert sorted(map(repr, ordered)) == sorted(map(repr, dict.fromkeys(cases)))
    # One network stands behind them all; No Defense needs nothing else, and a clean image no attack.
    assert (ordered[0].defense, ordered[0].attack.name) == (None, "clean")
    labels = [case.label for case in ordered]
    assert labels.index("MagNet") > labels.index("STL")  # what must be fitted is for later
    measurement.run(ordered[-1:], bench)
    assert cost_estimate.ordered(cases, bench)[0] == ordered[-1]  # what is kept costs nothing


def test_it_writes_now_and_then_and_says_whether_all_is_measured(cases, tmp_path):
    bench, written = Workbench(tmp_path, progress=False), []
    few = [case for case in cases if case.defense is None]

    def write():
        written.append(sum(measurement.kept(case, bench) for case in few))

    assert deadline.measure(few, bench, -1, write) is False and written == [0]
    assert deadline.measure(few, bench, 600, write) is True and written[-1] == len(few)
    assert deadline.measure(few, bench, 600, write) is True  # nothing is left to do


def test_stopped_at_ten_moments_and_more_the_rows_come_out_the_same(cases, tmp_path):
    few = [case for case in cases if case.label != "MagNet"]
    whole = measurement.run(few, Workbench(tmp_path / "whole", progress=False))
    bench, draw, stops = Workbench(tmp_path / "parts", progress=False), random.Random(0), 0
    while not deadline.measure(few, bench, draw.uniform(0.1, 0.4 if stops < 10 else 60), lambda: None):
        stops += 1
    assert stops >= 10
    one, other = (frame.drop(columns=["seconds", "run"]) for frame in (whole, measurement.run(few, bench)))
    pd.testing.assert_frame_equal(one, other)


def test_the_command_ends_in_time_with_what_there_is_and_goes_on(tmp_path, capsys):
    words = ["table", "5", "--profile", "smoke", *WANTED, "--store", str(tmp_path / "store")]
    words += ["--out", str(tmp_path / "out")]
    page, told = tmp_path / "out" / "table_5.md", ""
    for seconds in (1, 8, 300):
        assert main([*words, "--for", f"{seconds}s"]) == 0
        told = capsys.readouterr().out
        count, every = map(int, re.search(r"(\d+) of (\d+) cells are measured", told).groups())
        assert ("the same command goes on" in told) == (count < every)
        assert not count or (f"{count} of {every} cells are measured so far" in page.read_text()) == (count < every)
    assert "adds the checks" in told


@pytest.mark.parametrize("wrong", ["90", "soon", "m", "0m", "0.0s", "1e3s", "nanm", "infh", "9 0m", "١m"])
def test_a_time_is_said_with_its_unit(wrong, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["table", "5", "--for", wrong])
    assert ended.value.code == 2 and "such as 90m" in capsys.readouterr().err


def test_without_a_folder_there_is_nowhere_to_write(capsys):
    assert main(["table", "5", "--profile", "smoke", "--for", "5s"]) == 2
    assert "--out" in capsys.readouterr().err

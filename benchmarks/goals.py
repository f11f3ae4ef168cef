"""What the lab's speed was, what it should be, and what was measured last: one line each, with where it comes from."""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
REPORTS, TESTS, PAGES = "reports/*/manifest.json", ".pytest_cache/tests.xml", "reports/dashboards/times.md"


class Goal(NamedTuple):
    """A quantity: in which unit, before this goal was set, the goal (at most; at least where `least`), and this run.

    found  None where nothing is recorded
    """

    what: str
    unit: str
    before: str
    goal: float
    found: float | None
    least: bool = False

    @property
    def reached(self) -> str:
        """Whether the goal is reached, in a word."""
        if self.found is None:
            return "not measured"
        return "reached" if (self.found >= self.goal if self.least else self.found <= self.goal) else "**missed**"


def goals(record: Mapping, root: Path = ROOT) -> Iterator[Goal]:
    """Every goal: ratios from a bench's record, times from what reports, tests and dashboards recorded themselves."""
    coding = [row for row in _rows(record, "coding") if row["size"] == 32]
    yield Goal("codes of 32×32 images, beside sporco's", "times as fast", "76 (163 with AMX)", 120,
               coding[0]["sporco_ms"] / coding[0]["ours_ms"] if coding else None, least=True)  # fmt: skip
    through = {row["through"]: row["ratio"] for row in _rows(record, "attacking")}
    yield Goal("a step of PGD through T, beside the network alone", "times", "6.4", 3, through.get("T approximated"))
    step = {(row["threads"], row["beside"]): row["ms"] for row in _rows(record, "training")}

    def ratio(one: tuple[str, str], other: tuple[str, str]) -> float | None:
        return step[one] / step[other] if {one, other} <= step.keys() else None

    idle = ("as they are", "nothing")
    yield Goal("a training step, idle", "times as it was", "1", 1.07, ratio(idle, ("as they were", "nothing")))
    for beside, before, goal in (("a busy loop", "3.6", 2.5), ("another training", "7.3 to 8.2", 2.3)):
        yield Goal(f"a training step beside {beside}", "times idle", before, goal, ratio(("as they are", beside), idle))
    first, again = (_told(root, built) for built in (True, False))
    yield Goal("a first report (quick, nothing kept)", "minutes", "16 to 35", 6, first and _seconds(first) / 60)
    yield Goal("a report of what is all kept", "seconds", "159", 45, again and _seconds(again))
    yield Goal("the tests", "minutes", "18 to 25", 9, _tests(root))
    pages = _pages(root)
    for what, words, unit, before, goal in (
        ("from a key on λ to pixels", "| key on λ to new pixels", "milliseconds", "74", 60),
        ("from λ to the exact picture at 224×224, in the kernel", "30 times: exact", "milliseconds", "378", 200),
        ("ten people at once: until the last page says what it shows", "until the last page", "seconds", "64", 40),
        ("ten people at once: memory of each page", "memory of each", "MiB", "490", 350),
    ):
        yield Goal(what, unit, before, goal, pages(words))


def table(found: Iterator[Goal]) -> list[dict[str, str]]:
    """The goals as lines of a table for people."""
    return [
        {
            "what": goal.what, "unit": goal.unit, "before": goal.before,
            "goal": f"{'at least' if goal.least else 'at most'} {goal.goal:g}",
            "last recorded": "–" if goal.found is None else f"{goal.found:.3g}", "": goal.reached,
        }
        for goal in found
    ]  # fmt: skip


def profile(root: Path = ROOT) -> Iterator[str]:
    """Where the time of the last quick report and of the last tests went: a sentence each, the longest parts first."""
    parts: dict[str, dict[str, float]] = {}
    if told := _told(root, built=True):
        parts["The first report"] = {part["name"]: part["seconds"] for part in told["notebooks"]}
    if (root / TESTS).is_file():
        took = parts.setdefault("The tests", {})
        for case in ElementTree.parse(root / TESTS).iter("testcase"):
            took[case.get("classname")] = took.get(case.get("classname"), 0) + float(case.get("time"))
    for what, took in parts.items():
        longest = sorted(took.items(), key=lambda item: -item[1])[:6]
        rest = sum(took.values()) - sum(seconds for _, seconds in longest)
        named = (f"{name.removeprefix('tests.')} {seconds:.0f}" for name, seconds in [*longest, ("all others", rest)])
        yield f"{what}, seconds: {', '.join(named)}."


def _rows(record: Mapping, part: str) -> list[dict]:
    return record[part]["rows"] if part in record else []


def _told(root: Path, built: bool) -> dict | None:
    """The manifest of a quick report that `built` all it needed, or nothing; the last of several."""
    found = [json.loads(file.read_text()) for file in root.glob(REPORTS)]
    found = [told for told in found if told["profile"] == "quick" and "artifacts" in told]
    whole = len([*(root / "notebooks").glob("[0-9]*.ipynb")])  # a report of one notebook alone is none
    found = [
        told
        for told in found
        if len(told["notebooks"]) >= whole and all(part["status"] == "finished" for part in told["notebooks"])
    ]
    mine = [told for told in found if told["artifacts"]["before"] == (0 if built else told["artifacts"]["after"])]
    return max(mine, key=lambda told: told["written"], default=None)


def _seconds(told: Mapping) -> float:
    return (datetime.fromisoformat(told["written"]) - datetime.fromisoformat(told["begun"])).total_seconds()


def _tests(root: Path) -> float | None:
    """Minutes that the last `make test` took."""
    if not (root / TESTS).is_file():
        return None
    return sum(float(suite.get("time")) for suite in ElementTree.parse(root / TESTS).iter("testsuite")) / 60


def _pages(root: Path) -> Callable[[str], float | None]:
    """From words in a line of the dashboards' times to its number, of several the median."""
    text = (root / PAGES).read_text() if (root / PAGES).is_file() else ""

    def number(words: str) -> float | None:
        line = next((line for line in text.splitlines() if words in line), "")
        found = re.search(r"\| (?:median )?(\d+) \w+[^|]*\|$", line)
        return float(found[1]) if found else None

    return number

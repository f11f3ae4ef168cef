import json
from datetime import UTC, datetime, timedelta

from benchmarks import goals

import pytest


def report(before, after, seconds, written=1, count=2):
    """A manifest, as far as it matters here."""
    begun = datetime(2026, 1, written, 10, tzinfo=UTC)
    parts = [{"name": "01_clusters", "seconds": 20.4}, {"name": "05_defense_tables", "seconds": 500}]
    told = {"profile": "quick", "artifacts": {"before": before, "after": after}, "begun": begun.isoformat()}
    told |= {"written": (begun + timedelta(seconds=seconds)).isoformat()}
    return json.dumps(told | {"notebooks": [{**part, "status": "finished"} for part in parts[:count]]})


def test_every_goal_is_read_from_where_it_was_recorded(tmp_path):
    step = {"nothing": 10.0, "a busy loop": 20.0, "another training": 30.0}
    record = {
        "coding": {"rows": [{"size": 32, "sporco_ms": 200.0, "ours_ms": 2.0}]},
        "attacking": {"rows": [{"through": "T approximated", "ratio": 2.5}]},
        "training": {"rows": [
            {"threads": threads, "beside": beside, "ms": ms * share}
            for threads, share in (("as they are", 1), ("as they were", 2)) for beside, ms in step.items()
        ]},
    }  # fmt: skip
    for name, text in {
        "reports/first/manifest.json": report(0, 300, 9 * 60),
        "reports/again/manifest.json": report(300, 300, 44),
        "reports/half/manifest.json": report(200, 300, 10),
        "reports/one/manifest.json": report(0, 300, 10, written=2, count=1),  # later, and of one notebook alone
        "notebooks/01_clusters.ipynb": "",
        "notebooks/05_defense_tables.ipynb": "",
        "reports/old/manifest.json": '{"profile": "quick", "begun": "2026-01-01T10:00:00+00:00"}',
        goals.TESTS: '<testsuites><testsuite time="480"><testcase classname="tests.core.test_store" time="2"/>'
        '<testcase classname="tests.core.test_store" time="1.5"/></testsuite></testsuites>',
        goals.PAGES: "| key on λ to new pixels, 60 times | median 55 ms, 95 % within 93 ms |\n"
        "| λ at 224×224 in colour, in the kernel, 30 times: exact | median 250 ms, 95 % within 429 ms |\n"
        "| ten people at once: until the last page says what it shows | 39 s |\n"
        "| ten people at once: key to pixels, 40 times | median 46 ms, 95 % within 64 ms |\n"
        "| ten people at once: memory of each of 11 kernels, what they share counted once | 360 MiB |",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = list(goals.goals(record, tmp_path))
    assert [goal.found for goal in found] == pytest.approx([100, 2.5, 0.5, 2, 3, 9, 44, 8, 55, 250, 39, 360])
    words = [
        "**missed**",
        "reached",
        "reached",
        "reached",
        "**missed**",
        "**missed**",
        "reached",
        "reached",
        "reached",
        "**missed**",
        "reached",
        "**missed**",
    ]
    assert [*goals.profile(tmp_path)] == [
        "The first report, seconds: 05_defense_tables 500, 01_clusters 20, all others 0.",
        "The tests, seconds: core.test_store 4, all others 0.",
    ]
    assert [goal.reached for goal in found] == words == [line[""] for line in goals.table(iter(found))]


def test_what_was_not_measured_is_said(tmp_path):
    assert {line[""] for line in goals.table(goals.goals({}, tmp_path))} == {"not measured"}

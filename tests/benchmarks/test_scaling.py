"""What scaling costs: that the tables are what was measured, and the forecast its arithmetic."""

import json
import os

from benchmarks import forecast, scaling, stamps
from labkit.core import distributed
from labkit.core.errors import InputError

import pytest
import torch


def on(**other):
    told = {"day": "2026-01-31", "data": "photos", "processor": "x86_64", "cores": 2, "threads": 1, "load": 0.1}
    return {**told, "versions": {"torch": "2"}, **other}


def record():
    """Round numbers: 100 ms an image of a core, two ranks at 90 % efficiency, 5 s to start, 10 + 40 ms a batch."""
    return {
        "resolution": {"on": on(), "rows": [
            {"size": 32, "n": 64, "ms": 2.0, "admm_passes": 100},
            {"size": 224, "n": 4, "ms": 100.0, "admm_passes": 100},
        ]},
        "message": {"on": on(), "rows": {"bytes": 7471120, "ms": 10.0, "update_ms": 40.0}},
        "ranks": {"on": on(data="folder:cifar10.zip"), "rows": [
            {"ranks": 1, "images": 10_000, "seconds": 36.0, "command": 41.0, "peak_gib": 0.5},
            {"ranks": 2, "images": 10_000, "seconds": 20.0, "command": 25.0, "peak_gib": 0.5},
        ]},
    }  # fmt: skip


def rows(text, title):
    """A table of the text by its first column: {first cell: the others}."""
    lines = text.partition(f"### {title}")[2].partition("\n\n")[2].partition("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: others for first, *others in cells[2:]}


def test_the_forecast_is_its_arithmetic():
    text = forecast.markdown(record())
    images, found = 1_281_167 + 50_000, rows(text, "ImageNet at 224")
    hours = (images * 0.1 + 5) / 3600
    assert found["1 core"][1] == f"{hours:.0f} h" and found["1 core"][3] == f"{hours * 0.04:.2f}"
    assert found["1,000 cores"][1] == f"{(images * 0.1 / 900 + 5) / 60:.0f} min"
    learn = 2000 * (50 * 0.1 + 0.05)
    assert found["1 core"][0] == found["1 GPU"][0] == f"{learn / 3600:.0f} h"
    assert found["1,000 cores"][0] == f"{2000 * 0.15 / 60:.0f} min"
    gpu = 100 * 30 * 4 * 64 * 224**2 / 1.5e12
    assert found["1 GPU"][1] == f"{(images * gpu + 5) / 3600:.0f} h"
    assert "**not measured**" in text and "**assumed**" in text


def test_tables_hold_what_was_measured():
    text = forecast.markdown(record())
    assert rows(text, "Projecting folder:cifar10.zip")["2"] == ["10,000", "20.0", "1.80×", "25.0", "1.64×"]
    assert rows(text, "An image against its resolution")["224×224×3"] == ["4", "100.00", f"{100 / 49:.2f}"]
    assert "provisional" not in text.lower() and text.count("Measured on 2026-01-31") == 3
    busy = record()
    busy["ranks"]["on"]["load"] = 5.0
    assert forecast.markdown(busy).lower().count("provisional") == 1
    assert "kinds of machines" not in forecast.markdown(busy)
    busy["ranks"]["on"]["cores"] = 64
    assert "measured on 2 kinds of machines" in forecast.markdown(busy)
    del busy["message"]
    assert "ImageNet" not in forecast.markdown(busy)


def test_a_measurement_takes_its_place_in_the_page(tmp_path):
    page = tmp_path / scaling.PAGE
    page.write_text(f"before\n{scaling._BEGIN}\nold\n{scaling._END}\nafter\n")
    done = scaling.run(tmp_path, "photos", parts=["filters"], filters=(4,))
    (row,) = done["filters"]["rows"]
    text = page.read_text()
    assert row["K"] == 4 and row["ms"] > 0
    assert rows(text, "An image against the number of filters")["4"][:2] == ["64", f"{row['ms']:.2f}"]
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert json.loads((tmp_path / scaling.RECORD).read_text()) == done
    page.write_text("no place")
    with pytest.raises(InputError, match="where the tables belong"):
        scaling.run(tmp_path, "photos", parts=["filters"], filters=(4,))


def test_each_part_keeps_the_machine_that_it_was_measured_on(tmp_path, monkeypatch):
    there = on(cores=64, processor="arm64", data="folder:others.zip")
    before = {"ranks": {"on": there, "rows": record()["ranks"]["rows"]}}
    (tmp_path / scaling.RECORD).write_text(json.dumps(before))
    monkeypatch.setattr(scaling, "_by_filters", lambda counts: [{"K": 4, "n": 64, "ms": 1.0}])
    done = scaling.run(tmp_path, "fashion", parts=["filters"])
    assert done["ranks"] == before["ranks"]
    here = done["filters"]["on"]
    assert here["data"] == "photos" and here["cores"] == os.cpu_count() and here["threads"] == 1
    text = (tmp_path / scaling.PAGE).read_text()
    assert "folder:others.zip: arm64, 64 cores, 1 thread" in text.partition("### Projecting")[2].partition("###")[0]
    assert stamps.told(here) in text.partition("### An image")[2].partition("###")[0]


def test_a_record_that_does_not_say_where_its_parts_were_measured_is_refused(tmp_path):
    old = {"filters": {"rows": [], "data": "photos", "load": 1.0}, "machine": {"cores": 2}}
    (tmp_path / scaling.RECORD).write_text(json.dumps(old))
    with pytest.raises(InputError, match="earlier version: it does not say where filters"):
        scaling.run(tmp_path, "photos", parts=["filters"])


def test_threads_are_as_before_after_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "_by_filters", lambda counts: 1 / 0)
    with distributed.threads(2):
        with pytest.raises(ZeroDivisionError):
            scaling.run(tmp_path, "photos", parts=["filters"])
        assert torch.get_num_threads() == 2


def test_unknown_parts_are_named(tmp_path):
    with pytest.raises(InputError, match="message"):
        scaling.run(tmp_path, "photos", parts=["speed"])


def test_the_command_says_bad_input_in_a_sentence(tmp_path, capsys):
    assert scaling.main(["--out", str(tmp_path), "--parts", "speed"]) == 2
    assert capsys.readouterr().err.startswith("labkit: there is no part speed")

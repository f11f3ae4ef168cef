import json
import re
from functools import partial

from benchmarks import bench, busy, stamps, throughput
from labkit.core.errors import InputError

import pytest
import torch


def test_a_small_bench_is_written_and_fair(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "_BATCHES", (2, 4))
    monkeypatch.setattr(busy, "attack", partial(busy.attack, n=4, iterations=2))
    step = {"threads": "as they are", "beside": "nothing", "ms": 12.0}  # measured in its own test, in six processes
    monkeypatch.setattr(busy, "training", lambda: [step, {**step, "beside": "a busy loop", "ms": 30.0}])
    record = bench.run(
        tmp_path, dataset="fashion", sizes=(16,), images=2, learned=8, iterations=3, many=(30, 20),
        defended=(32, 40), names=("bits", "sap"),
    )  # fmt: skip
    assert json.loads((tmp_path / "bench.json").read_text()) == record
    row = record["coding"]["rows"][0]
    assert min(row["ours_ms"], row["sporco_ms"], row["least_ms"], row["backward_ratio"]) > 0
    # A faster solver that stops earlier would be no faster solver.
    assert row["objective_ratio"] <= 1.001
    assert (row["size"], row["channels"], row["n"]) == (16, 1, 8)
    *theirs, mine = record["learning"]["rows"]["runs"]
    assert mine["held"] <= min(r["held"] for r in theirs)
    assert mine["ratio"] == min(theirs, key=lambda r: r["held"])["seconds"] / mine["seconds"]
    for what, n in (("projecting", 30), ("learning_many", 20)):
        assert record[what]["rows"]["n"] == n and 0.1 < record[what]["rows"]["peak_gib"] < 4
    text = (tmp_path / "bench.md").read_text()
    assert re.search(r"as they are *\| a busy loop *\| 30 *\| 2.50", text) and "T approximated" in text
    assert f"{row['sporco_ms'] / row['ours_ms']:.0f}×" in text and "16×16×1" in text
    assert f"{mine['held']:.3f}" in text
    defending = record["defending"]["rows"]
    assert [(r["defense"], r["size"]) for r in defending] == [
        (name, size) for size in (32, 40) for name in ("network alone", "STL", "bits", "sap")
    ]
    rate = {r["defense"]: r["per_second"] for r in defending if r["size"] == 32}
    assert rate["bits"] > rate["network alone"] > 0 and min(rate.values()) > 0
    section = text.split("## Defenses: images of fashion a second")[1]
    head, _, *lines = (re.split(r" *\| *", line)[1:-1] for line in section.splitlines() if line.startswith("|"))
    assert head == ["defense", "32×32", "40×40"] and [line[0] for line in lines] == [
        "network alone",
        "STL",
        "bits",
        "sap",
    ]
    assert all("(n = " in cell for line in lines for cell in line[1:])


def test_one_part_is_measured_again_and_the_others_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(throughput, "_BATCHES", (2,))
    there = {"day": None, "data": "photos", "processor": "arm64", "cores": 64, "threads": 8, "load": None}
    there |= {"versions": {"torch": "1.0"}, "note": "On another machine."}
    kept = {"rows": {"n": 30, "seconds": 1.5, "peak_gib": 0.5}, "on": there}
    (tmp_path / "bench.json").write_text(json.dumps({"projecting": kept}))
    how = {"dataset": "fashion", "defended": (32,), "names": ("bits",)}
    record = bench.run(tmp_path, parts=["defending"], **how)
    assert record["projecting"] == kept and {r["defense"] for r in record["defending"]["rows"]} >= {"STL", "bits"}
    here = record["defending"]["on"]
    assert here["data"] == "fashion" and here["threads"] == torch.get_num_threads() and here["versions"]["numba"]
    text = (tmp_path / "bench.md").read_text()
    projecting, defending = text.partition("## Defenses: images of fashion a second")[::2]
    assert "many images of photos" in projecting and "| 30 " in projecting and "## Coding" not in text
    assert "photos: arm64, 64 cores, 8 threads, torch 1.0. On another machine." in projecting
    assert "| bits " in defending and stamps.told(here) in defending and "arm64" not in defending
    (tmp_path / "bench.json").write_text(json.dumps({"projecting": kept["rows"], "machine": {}}))
    with pytest.raises(InputError, match="earlier version"):
        bench.run(tmp_path, parts=["defending"], **how)
    with pytest.raises(InputError, match="no part speed of the bench; it has coding, attacking"):
        bench.run(tmp_path, parts=["speed"])


def test_rates_are_printed_to_two_digits():
    rows = [
        {"defense": name, "size": 32, "images": 64, "per_second": rate}
        for name, rate in (("a", 123_456.0), ("b", 45.6), ("c", 7.89), ("d", 0.123))
    ]
    table = "\n".join(bench._defending(rows))
    assert re.findall(r"[\d.,]+ \(n = 64\)", table) == [f"{n} (n = 64)" for n in ("120,000", "46", "7.9", "0.12")]


def test_the_command_says_bad_input_in_a_sentence(tmp_path, capsys):
    assert bench.main(["--out", str(tmp_path / "out"), "--parts", "coding,speed"]) == 2
    assert capsys.readouterr().err.startswith("labkit: there is no part speed")
    assert not (tmp_path / "out").exists()

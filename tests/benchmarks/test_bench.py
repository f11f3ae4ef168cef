import json
import re
import time

import numpy as np
import pytest
import torch

from benchmarks import bench
from labkit import cbpdn, defense_speed, peers, provenance
from labkit.errors import InputError


def test_a_small_bench_is_written_and_fair(tmp_path, monkeypatch):
    monkeypatch.setattr(defense_speed, "_BATCHES", (2, 4))
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
    monkeypatch.setattr(defense_speed, "_BATCHES", (2,))
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
    assert "| bits " in defending and provenance.told(here) in defending and "arm64" not in defending
    (tmp_path / "bench.json").write_text(json.dumps({"projecting": kept["rows"], "machine": {}}))
    with pytest.raises(InputError, match="earlier version"):
        bench.run(tmp_path, parts=["defending"], **how)
    with pytest.raises(InputError, match="no part speed of the bench; it has coding, learning"):
        bench.run(tmp_path, parts=["speed"])


def test_rates_are_printed_to_two_digits():
    rows = [
        {"defense": name, "size": 32, "images": 64, "per_second": rate}
        for name, rate in (("a", 123_456.0), ("b", 45.6), ("c", 7.89), ("d", 0.123))
    ]
    table = "\n".join(bench._defending(rows))
    assert re.findall(r"[\d.,]+ \(n = 64\)", table) == [f"{n} (n = 64)" for n in ("120,000", "46", "7.9", "0.12")]


def test_a_defense_is_warm_and_given_the_batch_that_suits_it(monkeypatch):
    """One that takes a while for any batch is timed on many; one that takes long for an image, on few."""
    seen = []

    class Sleeper(torch.nn.Module):
        def __init__(self, batch, image):
            super().__init__()
            self.batch, self.image = batch, image

        def forward(self, x):
            seen.append(len(x))
            time.sleep(self.batch + self.image * len(x))

    x = torch.zeros(300, 1, 2, 2)
    monkeypatch.setattr(defense_speed, "_ENOUGH", 0.2)
    found = defense_speed._timed(Sleeper(0.25, 1e-5), x)
    assert found["images"] == 256 and seen[0] == 2 and 500 < found["per_second"] < 256 / 0.25
    seen.clear()
    assert defense_speed._timed(Sleeper(0, 0.02), x[:20])["images"] in (4, 16)
    assert max(seen) == 16  # which takes 0.32 seconds, and 0.2 are enough


@pytest.mark.peer
@pytest.mark.parametrize("channels", [1, 3])
def test_sporcos_objective_counts_as_ours(channels):
    """The codes read from sporco reproduce its own objective, so that the comparison is of the same thing."""
    from sporco.admm.cbpdn import ConvBPDN

    g = torch.Generator().manual_seed(0)
    x, d = torch.randn(1, channels, 12, 10, generator=g), torch.randn(4, channels, 3, 3, generator=g)
    d = d / d.flatten(1).norm(dim=1)[:, None, None, None]
    _, z = peers.code(x, d, bench.LAM)
    options = ConvBPDN.Options({"MaxMainIter": 200, "RelStopTol": 5e-3, "Verbose": False})
    filters, pixels = d.numpy().transpose(2, 3, 1, 0), x[0].numpy().transpose(1, 2, 0)
    if channels == 1:
        filters, pixels = filters[:, :, 0], pixels[:, :, 0]
    solver = ConvBPDN(filters, pixels, bench.LAM, options, dimK=0)
    code = solver.solve()
    residual = pixels - solver.reconstruct().squeeze()
    theirs = 0.5 * (residual**2).sum() + bench.LAM * np.abs(code).sum()
    assert abs(float(cbpdn.objective(z, x, d, bench.LAM)) - theirs) < 1e-3 * theirs


@pytest.mark.peer
@pytest.mark.parametrize("channels", [1, 3])
def test_sporco_learns_filters_that_we_read(channels):
    """Its default, proximal gradient with a fixed step, diverges when it goes on for longer (seen at 30 iterations)."""
    g = torch.Generator().manual_seed(0)
    x, d = torch.randn(3, channels, 12, 10, generator=g), torch.randn(4, channels, 3, 3, generator=g)
    d = d / d.flatten(1).norm(dim=1)[:, None, None, None]
    for consensus, iterations in ((True, 30), (False, 5)):
        _, found = peers.learn(x, d, 0.3, iterations=iterations, consensus=consensus)
        assert found.shape == d.shape
        codes = cbpdn.solve(x, d, 0.3, gap_tol=1e-4), cbpdn.solve(x, found, 0.3, gap_tol=1e-4)
        before, after = (float(code.objective(x, 0.3).sum()) for code in codes)
        assert after < before

"""Images a second through a defense: timed warm, on as many at once as suit it."""

import time

from benchmarks import throughput

import torch


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
    monkeypatch.setattr(throughput, "_ENOUGH", 0.2)
    found = throughput._timed(Sleeper(0.25, 1e-5), x)
    assert found["images"] == 256 and seen[0] == 2 and 500 < found["per_second"] < 256 / 0.25
    seen.clear()
    assert throughput._timed(Sleeper(0, 0.02), x[:20])["images"] in (4, 16)
    assert max(seen) == 16  # which takes 0.32 seconds, and 0.2 are enough

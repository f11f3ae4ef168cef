"""What one step of learning costs beside coding: started by torchrun at every rank, printed as JSON by rank 0."""

import json

import torch

from labkit import cbpdn, cdl, data, parallel
from labkit.solvers import seconds
from labkit.split import split

_K, _S, _LAM = 64, 8, 0.2


def main() -> None:
    """Times one all-reduce of the statistics of learning, and one update of the filters."""
    with parallel.session():
        x = split(data.load("photos", "train", n=20, resolution=32).x[:])[1]
        d = cdl.patches(x, _K, _S, torch.Generator().manual_seed(0))
        stats = cdl.statistics(cbpdn.solve(x, d, _LAM).code, x, _S)
        numbers = stats.ztz.numel() + stats.ztx.numel() + 2
        flat = torch.zeros(numbers, dtype=torch.float64)
        parallel.all_reduce(flat)  # warm
        reduce = seconds(lambda: parallel.all_reduce(flat), 10)
        update = seconds(lambda: cdl.update(d, stats, max_iter=20))
        if parallel.rank() == 0:
            print(json.dumps({"bytes": 8 * numbers, "ms": 1e3 * reduce, "update_ms": 1e3 * update}))


if __name__ == "__main__":
    main()

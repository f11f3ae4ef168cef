"""Cuts the embedded `fashion` set out of the full Fashion-MNIST: the first images of each class, in their order.

    python scripts/embed_fashion.py --source /usr/share/datasets/fashion-mnist

The source is the folder installed by Debian's package `dataset-fashion-mnist` (or the four original .gz files). Writes
`train.npz` (10,000 images), `test.npz` (2,000) and `SHA256SUMS` into data/fashion; the same source and the same
zlib give the same bytes.
"""

import argparse
import gzip
import hashlib
import os
import sys
import zlib
from pathlib import Path

import numpy as np

PER_CLASS = {"train": 1000, "test": 200}
CLASSES = 10
# SHA-256 of the uncompressed originals: the cut is only as good as what it was cut from.
SOURCES = {
    "train": (
        ("train-images-idx3-ubyte", "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888"),
        ("train-labels-idx1-ubyte", "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9"),
    ),
    "test": (
        ("t10k-images-idx3-ubyte", "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b"),
        ("t10k-labels-idx1-ubyte", "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34"),
    ),
}


def read_idx(path: Path, sha256: str) -> np.ndarray:
    """One of the original gzipped IDX files as a uint8 array. Raises ValueError when it is not the original."""
    raw = gzip.decompress(path.read_bytes())
    if hashlib.sha256(raw).hexdigest() != sha256:
        raise ValueError(f"{path} is not the original Fashion-MNIST file: its SHA-256 differs")
    rank = raw[3]  # two zero bytes, the type (8: uint8), the rank, then one big-endian length for each axis
    shape = np.frombuffer(raw, ">u4", count=rank, offset=4)
    return np.frombuffer(raw, np.uint8, offset=4 + 4 * rank).reshape(shape)


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Positions of the first `count` images of every class, in ascending order."""
    return np.sort(np.concatenate([np.flatnonzero(labels == k)[:count] for k in range(CLASSES)]))


def embed(source: Path, out: Path) -> dict[str, str]:
    """Write the set into folder `out`. Returns the SHA-256 of each file written, by its name."""
    out.mkdir(parents=True, exist_ok=True)
    sums = {}
    for split, files in SOURCES.items():
        x, y = (read_idx(source / f"{name}.gz", sha256) for name, sha256 in files)
        chosen = first_of_each_class(y, PER_CLASS[split])
        target = out / f"{split}.npz"
        fresh = out / f".{split}.new.npz"
        np.savez_compressed(fresh, x=x[chosen], y=y[chosen])  # stamps every member 1980-01-01: no clock in the bytes
        os.replace(fresh, target)
        sums[target.name] = hashlib.sha256(target.read_bytes()).hexdigest()
    lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items()))
    (out / "SHA256SUMS").write_text(lines, encoding="ascii")
    return sums


def main() -> int:
    """The command line. Returns the exit status: 2 when the source is missing or not the original."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "data" / "fashion")
    args = parser.parse_args()
    try:
        sums = embed(args.source, args.out)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        print(f"{error}; install Debian's dataset-fashion-mnist, or name its folder with --source", file=sys.stderr)
        return 2
    for name, digest in sorted(sums.items()):
        print(f"{digest}  {args.out / name}  {(args.out / name).stat().st_size / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

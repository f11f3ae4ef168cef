"""Data sets: labelled images by name, from folders, zips and tar shards, and T(x) of whole sets.

Knows     which images a name means (`load`, `loaders`), how files become pixels (`decoding`) and these pictures again
          (`encoding`), sets too large for memory (`open_stream`), and how a set is projected in chunks that survive a
          kill (`project`)
Comes in  a name (`fashion`, `photos`, `cifar10`, `imagenet10`, `imagenet`, `folder:PATH`, `tar:ADDRESS`) or files
Goes out  `Images`: x (N, C, H, W) in [0, 1], y (N,), class names and a digest; `Lazy` where x is too large
"""

from labkit.datasets import decoding, encoding, loaders
from labkit.datasets.images import Images, Lazy, check_pixels, settle
from labkit.datasets.loaders import load
from labkit.datasets.projections import project
from labkit.datasets.shards import open_stream

__all__ = [
    "Images", "Lazy", "check_pixels", "decoding", "encoding", "load", "loaders", "open_stream", "project", "settle",
]  # fmt: skip

"""Core: what every other room stands on, and what knows nothing of images or attacks.

Knows     settings (`recipes`, and `profiles`, which are four sizes of them), the content-addressed `store`, files that
          are whole or absent (`checkpoint`), processes that share work (`distributed`), measures with their intervals
          (`metrics`), the machine and the versions behind a number (`hardware`), torchvision beside any torch
          (`torchvision_shim`), and how input is refused and told in words (`InputError`, `wording`)
Comes in  recipes, tensors, files, what people type
Goes out  hashes, artifacts, measures, sentences that say what to do

The face loads no torch; a module of it does when it is asked for.
"""

from labkit.core.errors import InputError

__all__ = [
    "InputError", "checkpoint", "distributed", "hardware", "metrics", "profiles", "recipes", "store",
    "torchvision_shim", "wording",
]  # fmt: skip

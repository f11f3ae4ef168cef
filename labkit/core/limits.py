"""Limits of settings: the range in which a number must lie, written as in mathematics."""

import math
import re

from labkit.core.errors import InputError

SEEDS = f"0 to {2**32 - 1}"  # of every generator there is: numpy's and scikit-learn's take no more


def check(who: str, settings: dict[str, object], limits: str) -> None:
    """Raises InputError where one of the `settings` of `who` lies outside its range.

    limits  such as "share in (0, 1]; lr in (0, inf); bits in 0 to 8; steps in 1 to inf", the last two being whole

    A setting that is None may be so.
    """
    for part in limits.split("; "):
        names, _, interval = part.partition(" in ")
        for name in names.split(", "):
            value = settings.get(name)
            if value is not None and not _lies(value, interval):
                allowed = re.sub(r"^in (?:\[(.+), inf\)|(\d+) to inf)$", r"≥ \1\2", f"in {interval}")
                whole = " (a whole number)" if isinstance(value, float) and " to " in interval else ""
                got = f"{value:g}" if isinstance(value, float) else repr(value)
                raise InputError(f"{who} needs {name} {allowed}{whole}, got {got}")


def _lies(value: object, interval: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if " to " in interval else int | float):
        return False
    if " to " in interval:
        first, last = interval.split(" to ")
        return int(first) <= value <= (math.inf if last == "inf" else int(last))
    low, high = map(float, interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    below = value <= high if interval[-1] == "]" else value < high
    return above and below

"""Limits of settings: the range in which a number must lie, written as in mathematics."""

import re

from labkit.core import InputError


def check(who: str, settings: dict[str, object], limits: str) -> None:
    """Raises InputError where one of the `settings` of `who` lies outside its range.

    limits  such as "share in (0, 1]; steps, batch in [1, inf); bits in 0 to 8", the last being whole numbers

    A setting that is None may be so.
    """
    for part in limits.split("; "):
        names, _, interval = part.partition(" in ")
        for name in names.split(", "):
            value = settings.get(name)
            if value is not None and not _lies(value, interval):
                allowed = re.sub(r"^in \[(.+), inf\)$", r"≥ \1", f"in {interval}")
                raise InputError(f"{who} needs {name} {allowed}, got {value:g}; choose it so")


def _lies(value: float, interval: str) -> bool:
    if " to " in interval:
        first, last = map(int, interval.split(" to "))
        return value in range(first, last + 1)
    low, high = map(float, interval[1:-1].split(","))
    above = low <= value if interval[0] == "[" else low < value
    below = value <= high if interval[-1] == "]" else value < high
    return above and below

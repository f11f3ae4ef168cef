"""What people type, and what they read: numbers and their limits, reasons, paths, durations and sizes in words."""

import os
import re
from numbers import Integral, Real
from pathlib import Path

from labkit.core.errors import InputError


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
                whole = ", a whole number" if " to " in interval and not isinstance(value, Integral) else ""
                got = f"{value:g}" if isinstance(value, float) else repr(value)
                raise InputError(f"{who} needs {name} {allowed}{whole}, got {got}")


def _lies(value: object, interval: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, Integral if " to " in interval else Real):
        return False
    ends = re.split(r" to |, ", interval.strip("[]()"))
    low, high = (int(end) if end.isdigit() else float(end) for end in ends)
    return low <= value <= high and not (value == low and "(" in interval) and not (value == high and ")" in interval)


def printable(text: object) -> str:
    """Somebody else's text as a line of ours: a name in a file may hold line ends, or what terminals obey."""
    told = str(text)
    return told if told.isprintable() else ascii(told)


def reason(error: Exception) -> str:
    """What a library or the system says of an error, in a line."""
    code = getattr(error, "errno", None)
    lines = (os.strerror(code) if isinstance(code, int) else str(error)).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__


def whole(what: str, value: object) -> int:
    """A notebook's parameter, or a variable's text, as a number of pixels of at least 0; of nothing, 0."""
    try:
        if value is not True and (number := float(value or 0)) >= 0 and number.is_integer():
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{what} is a number of pixels, or 0 for as stored; got {value!r}")


def typed(text: str | Path) -> Path:
    """The path, `~` understood; nothing need be there.

    Raises InputError where the system takes it for no path at all (too long, of an unknown user), or lets no one look.
    """
    try:
        path = Path(str(text)).expanduser()
        str(path).encode()  # what is no text can be opened, but not printed
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError, ValueError) as error:
        name = printable(text)
        name = name if len(name) <= 80 else name[:77] + "..."
        raise InputError(f"the path {name} cannot be used ({reason(error)}); name another") from None
    return path


def duration(seconds: float) -> str:
    """`8.4 s`, `3 min 12 s`, `2 h 5 min` or `4 d 3 h`: two units at most."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours = minutes // 60
    if hours >= 48:
        return f"{hours // 24} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {rest} s"


def size(number: float) -> str:
    """A number of bytes in three digits or so: 812 B, 9.3 kB, 147 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if number < 999.5:
            return f"{number:.0f} {unit}" if unit == "B" or number >= 99.95 else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} TB"


def age(seconds: float) -> str:
    """A time in whole units, rounded down: 42 s, 5 min, 3 h, 12 d, 2 y."""
    for limit, size, unit in ((60, 1, "s"), (3600, 60, "min"), (2 * 86400, 3600, "h"), (730 * 86400, 86400, "d")):
        if seconds < limit:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // (365 * 86400))} y"

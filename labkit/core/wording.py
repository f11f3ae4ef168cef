"""What people type, and what they read: names, reasons, paths, durations and sizes in words."""

import os
import warnings
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from labkit.core.errors import InputError


def printable(text: object) -> str:
    """Somebody else's text as a line of ours: a name in a file may hold line ends, or what terminals obey."""
    told = str(text)
    return told if told.isprintable() else ascii(told)


def some(names: Iterable[str], most: int = 5) -> str:
    """The first of these names, and how many more there are."""
    names = sorted(set(names))
    return printable(", ".join(names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


@cache
def warn(text: str) -> None:
    """Warns of something once in a process, whoever finds it, and without the place in the code that does."""
    warnings.warn_explicit(printable(text), UserWarning, "labkit", 1)


def reason(error: Exception) -> str:
    """What a library or the system says of an error, in a line."""
    code = getattr(error, "errno", None)
    lines = (os.strerror(code) if isinstance(code, int) else str(error)).strip().splitlines()
    return printable(lines[0]) if lines else type(error).__name__


def typed(text: str | Path) -> Path:
    """The path, `~` understood; nothing need be there.

    Raises InputError where the system takes it for no path at all (too long, of an unknown user), or lets no one look.
    """
    try:
        path = Path(text).expanduser()
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

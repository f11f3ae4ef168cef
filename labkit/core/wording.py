"""What people type, and what they read: numbers and their limits, reasons, paths, durations and sizes in words."""

import errno
import html
import io
import os
import re
import sys
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from numbers import Integral, Real
from pathlib import Path

from labkit.core.errors import InputError

# The way to a file of Python's, or of labkit's.
_INSIDE = re.compile(rf"({re.escape(sys.prefix)}|{re.escape(str(Path(__file__).parents[1]))})[^\s'\"]*/")


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
                raise InputError(f"{who} needs {name} {allowed}{whole}, got {got}; choose it so")


def _lies(value: object, interval: str) -> bool:
    if isinstance(value, bool) or not isinstance(value, Integral if " to " in interval else Real):
        return False
    ends = re.split(r" to |, ", interval.strip("[]()"))
    low, high = (int(end) if end.isdigit() else float(end) for end in ends)
    return low <= value <= high and not (value == low and "(" in interval) and not (value == high and ")" in interval)


def printable(text: object) -> str:
    """Somebody else's text as a line of ours: a name in a file may hold line ends, or what terminals obey."""
    told = writable(str(text))
    return told if told.isprintable() else ascii(told)


def writable(text: str) -> str:
    """The text as any file can hold it: bytes of a name that are no UTF-8, which Python keeps aside, as \\xe9."""
    with suppress(UnicodeEncodeError):
        return text.encode(errors="surrogateescape").decode(errors="backslashreplace")
    return text.encode(errors="backslashreplace").decode()


def in_markdown(text: object) -> str:
    """Somebody else's text as a piece of Markdown, such as a cell: no emphasis, formula, tag, link or next cell."""
    return re.sub(r"[\\`*|<>&~$]|\](?=[(\[])|:(?=//)|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", printable(text))


def in_chart(text: object) -> str:
    """Somebody else's text in a plotly chart, which takes tags for tags and, where MathJax is, $ for formulas."""
    return html.escape(printable(text), quote=False).replace("$", "&#36;")


class _Steady(io.FileIO):
    """A standard stream whose reader may go: what follows is work for files, and not lost with it."""

    full = False

    def write(self, content) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO) and not self.full:
                self.full = True  # said once
                raise InputError(f"cannot print ({reason(error)}); free some space, or print elsewhere") from None
            return len(content)


def steady() -> None:
    """From now on, to print cannot fail: not for a letter the terminal lacks, nor because nobody reads any more."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        with suppress(AttributeError, OSError, ValueError):  # closed by whoever started us: Python prints nothing then
            raw, how = _Steady(stream.fileno(), "w", closefd=False), {"errors": "backslashreplace"}
            how |= {"line_buffering": stream.line_buffering, "write_through": stream.write_through}
            raw = raw if stream.write_through else io.BufferedWriter(raw)
            setattr(sys, name, io.TextIOWrapper(raw, encoding=stream.encoding, **how))


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
    return printable(_INSIDE.sub("…/", lines[0])) if lines else type(error).__name__


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


def to_set(name: str, value: object, instead: str = "") -> str:
    """What to type, where the person stands, to set something: a flag, a notebook's parameter, or a keyword.

    instead  what to do at a command or in a notebook of ours where there is no such thing to set
    """
    flags = os.environ.get("LABKIT_FLAGS", "").split()  # of the command that runs, or has started this process
    parameters = vars(sys.modules["__main__"]) if "ipykernel" in sys.modules and not flags else {}
    if name in flags:
        return f"--{name.replace('_', '-')} {value}"
    if name in parameters:
        return f"`{name} = {value}` in the cell of parameters"
    return instead if instead and (flags or "data_root" in parameters) else f"{name}={value}"


def variable(name: str, least: int) -> int:
    """A whole number from the environment, `least` where it is not set. Raises InputError for anything else."""
    value = os.environ.get(name) or str(least)
    if not value.isdecimal() or int(value) < least:
        got = f"${name} is a whole number, {least} or more; got {printable(value)}"
        raise InputError(f"{got}; unset it, or start with torchrun")
    return int(value)


def here(name: str) -> str:
    """A data set by its name, a folder or zip by its whole path: what it means here, it means in any other process."""
    kind, _, path = name.partition(":")
    return f"folder:{os.path.abspath(typed(path))}" if kind == "folder" and path else name


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

"""What people type, and what they read: names, reasons, paths, durations and sizes in words."""

import errno
import html
import io
import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from labkit.core.errors import InputError


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


def in_code(text: str) -> str:
    """Text as code in a line of Markdown, whatever backquotes it has."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return f"`{text}`" if not longest else f"{'`' * (longest + 1)} {text} {'`' * (longest + 1)}"


def in_chart(text: object) -> str:
    """Somebody else's text in a plotly chart, which takes tags for tags and, where MathJax is, $ for formulas."""
    return html.escape(printable(text), quote=False).replace("$", "&#36;")


class _Steady(io.FileIO):
    """A standard stream whose reader or disk may go: what follows is work for files, and not lost with it."""

    lost = False  # whether something could not be written that somebody may miss

    def write(self, content) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO) and not _Steady.lost:
                _Steady.lost = True
                os.write(2, f"labkit: cannot print ({reason(error)}); free some space, or print elsewhere\n".encode())
            return len(content)


def steady() -> None:
    """From now on, to print cannot fail: not for a letter the terminal lacks, nor because nobody reads any more."""
    for name in ("stdout", "stderr"):
        stream, how = getattr(sys, name), {"errors": "backslashreplace", "line_buffering": name == "stderr"}
        with suppress(AttributeError, OSError, ValueError):  # closed by whoever started us: Python prints nothing then
            stream.flush()
            raw = io.BufferedWriter(_Steady(stream.fileno(), "w", closefd=False))
            how["line_buffering"] |= stream.isatty()
            setattr(sys, name, io.TextIOWrapper(raw, encoding=stream.encoding, **how))


def ended(status: int) -> int:
    """The exit status, once all is printed: 1 in place of 0 where that could not be."""
    for stream in filter(None, (sys.stdout, sys.stderr)):
        stream.flush()
    return status or int(_Steady.lost)


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


def variable(name: str, least: int) -> int:
    """A whole number from the environment, `least` where it is not set. Raises InputError for anything else."""
    value = os.environ.get(name) or str(least)
    if not value.isdecimal() or int(value) < least:
        words = f"${name} is a whole number, {least} or more, and set by torchrun"
        raise InputError(f"{words}; got {printable(value)}: unset it, or start with torchrun")
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

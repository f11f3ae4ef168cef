"""Durations and sizes in words."""


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

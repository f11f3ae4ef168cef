"""Memory of this process: how much it has held, and that what is freed goes back."""

import ctypes
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path

_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of glibc's malloc.h


def peak() -> float:
    """The most that was in memory at once since the process began, in GiB."""
    try:
        # Not getrusage's, which a child takes over from its parent, however large that was.
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20
    except OSError:
        unit = 2**30 if sys.platform == "darwin" else 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def steady() -> None:
    """From now on, arrays of a megabyte and more go back to the system when freed, so that the peak stays where it is.

    By default glibc raises that limit to the largest array it has seen freed, and what lies below it is kept, in pieces
    that new arrays do not always fit: the peak creeps up by a quarter over some thousand images. Not glibc: no change.
    """
    with suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_MMAP_THRESHOLD, 2**20)
        mallopt(_ARENA_MAX, 1)

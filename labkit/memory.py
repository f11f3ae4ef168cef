"""How much memory this process has held."""

import re
import resource
import sys
from pathlib import Path


def peak() -> float:
    """The most that was in memory at once since the process began, in GiB."""
    try:
        # Not getrusage's, which a child takes over from its parent, however large that was.
        status = Path("/proc/self/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 2**20
    except OSError:
        unit = 2**30 if sys.platform == "darwin" else 2**20
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit

"""The command line: `python -m labkit COMMAND`."""

import os
import sys

from labkit.cli import main
from labkit.core import wording

if __name__ == "__main__":
    if not sys.flags.utf8_mode and sys.getfilesystemencoding() != "utf-8":  # LC_ALL=C, as in cron and batch jobs
        # Names, files and children are UTF-8 then; the terminal keeps its own encoding.
        os.environ.setdefault("PYTHONIOENCODING", sys.stdout.encoding if sys.stdout else "utf-8")
        os.environ["PYTHONUTF8"] = "1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    wording.steady()
    sys.exit(main())

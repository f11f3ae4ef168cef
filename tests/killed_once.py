"""`labkit` under torchrun, where one rank is killed once, for tests of what is left then.

    torchrun … killed_once.py LOG RANK MODULE.FUNCTION COUNT COMMAND …

When that function of labkit has been called COUNT times in rank RANK, the rank dies of SIGKILL; started again, it does
not. Every call that came to its end is a line in LOG: the rank, and the function's first argument.
"""

import importlib
import os
import signal
import sys
from pathlib import Path

from labkit.__main__ import main


def watch(log: Path, rank: str, where: str, count: int) -> None:
    name, _, function = where.rpartition(".")
    module, calls = importlib.import_module(f"labkit.{name}"), []
    whole = getattr(module, function)

    def watched(*arguments, **options):
        done = whole(*arguments, **options)
        with open(log, "a") as file:
            file.write(f"{os.environ['RANK']} {arguments[0] if isinstance(arguments[0], Path) else ''}\n")
        calls.append(1)
        if os.environ["RANK"] == rank and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and len(calls) == count:
            os.kill(os.getpid(), signal.SIGKILL)
        return done

    setattr(module, function, watched)


if __name__ == "__main__":
    watch(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4]))
    sys.exit(main(sys.argv[5:]))

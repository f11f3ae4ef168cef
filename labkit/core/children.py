"""A child that does not outlive its parent: `python children.py PARENT FOLDER MODULE ARGUMENTS…`, as by `python -m`.

When the process numbered PARENT is gone, however it ended, FOLDER is deleted (unless it is "") and the child ends.
"""

import os
import runpy
import shutil
import signal
import sys
import threading
import time

_EVERY, _PATIENCE = 0.3, 10  # seconds between two looks, and for a server to end its own children


def watch(parent: int, folder: str = "") -> None:
    """From now on, this process ends when `parent`, which has started it, does."""

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_EVERY)
        shutil.rmtree(folder, ignore_errors=True)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE)
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    del sys.path[0]  # this folder, whose modules have names like others
    os.environ.pop("JPY_PARENT_PID", None)  # ipykernel's own watch would leave the folder
    _, started, place, module = sys.argv[:4]
    del sys.argv[1:4]
    watch(int(started), place)
    runpy.run_module(module, run_name="__main__", alter_sys=True)

"""Measuring within a time: cases one after the other, until the time is up, and none of them in vain."""

import signal
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from itertools import zip_longest

from labkit.evaluation import Case, Workbench, measurement

_OFTEN = 10  # rows after which what there is should be written


def within(seconds: float, work: Callable[[], object]) -> None:
    """Does work that ends, when the time is up, as it does by Ctrl-C: what was built up to then is kept."""
    over, main = threading.Event(), threading.main_thread()

    def end() -> None:
        over.set()
        signal.pthread_kill(main.ident, signal.SIGINT)  # which wakes a thread that sleeps, too

    def heard(*_) -> None:
        if over.is_set():
            raise KeyboardInterrupt

    # What `nohup … &` starts does not hear Ctrl-C: it goes on not hearing it, but for the time that is up.
    deaf = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if deaf:
        signal.signal(signal.SIGINT, heard)
    timer = threading.Timer(min(max(seconds, 0), threading.TIMEOUT_MAX), end)
    timer.daemon = True
    try:
        try:
            timer.start()
            work()
        finally:
            timer.cancel()
            timer.join()  # no interrupt comes after this
    except KeyboardInterrupt:
        if not over.is_set():  # somebody's own Ctrl-C
            raise
    finally:
        if deaf:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def measure(cases: Sequence[Case], bench: Workbench, seconds: float, write: Callable[[], None]) -> bool:
    """Measures cases in their order for so many seconds, writing included; whether all are measured now.

    write  writes what is measured: called after every network that was built, after every ten rows, and at the end
    """
    begun, took, fresh = time.monotonic(), 0.0, 0
    left = [case for case in cases if not measurement.kept(case, bench)]
    for case, after in zip_longest(left, left[1:]):
        # As long as writing took the last time is left for the last time, and half as much again.
        within(seconds - (time.monotonic() - begun) - 1.5 * took, partial(measurement.run, [case], bench))
        if not measurement.kept(case, bench):
            break
        fresh += 1
        if after is None or fresh == _OFTEN or after.classifier != case.classifier:
            started, fresh = time.monotonic(), 0
            write()
            took = time.monotonic() - started
    else:
        if not left:
            write()
        return True
    write()
    return False

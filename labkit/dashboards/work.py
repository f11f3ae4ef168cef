"""Work for a dashboard, off the kernel's main thread: the newest request wins, and an older one is stopped."""

import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from labkit.core import InputError

import ipywidgets as w

_TICK = 0.25  # seconds between two moves of a bar that goes by the clock


class Overtaken(Exception):
    """The request was cancelled, or there is a newer one."""


class Latest:
    """A worker thread that does the newest request and stops the one it overtakes.

    Widget callbacks run on the kernel's main thread, where work would hold up the slider's next message.

    work    called as work(check, *request); `check()` raises Overtaken as soon as the request is out of date, and work
            that takes long calls it often
    failed  called with a sentence when a request cannot be done
    wait    seconds for which a request lies before it is begun, for work that is too dear to be begun in vain
    """

    def __init__(self, work: Callable[..., None], failed: Callable[[str], None], *, wait: float = 0):
        self._work, self._failed, self._wait = work, failed, wait
        self._request, self._changed, self._idle, self._count = None, threading.Condition(), True, 0
        threading.Thread(target=self._loop, daemon=True).start()

    def __call__(self, *request) -> None:
        with self._changed:
            self._request, self._idle, self._count = request, False, self._count + 1
            self._changed.notify_all()

    def cancel(self) -> None:
        """Forget what was asked for, and stop what is being done at its next `check`."""
        with self._changed:
            self._request, self._count = None, self._count + 1

    def settled(self, timeout: float = 60) -> bool:
        """Wait until nothing is left to do; False when it took longer than `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: self._idle, timeout)

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._idle)
                if self._wait:  # begun again by every newer request
                    while self._changed.wait_for(lambda seen=self._count: self._count != seen, self._wait):
                        pass
                request, self._request, mine = self._request, None, self._count
            if request is not None:
                self._do(request, mine)
            with self._changed:
                self._idle = self._request is None
                self._changed.notify_all()

    def _do(self, request: tuple, mine: int) -> None:
        def check() -> None:
            if self._count != mine:
                raise Overtaken

        try:
            self._work(check, *request)
        except Overtaken:
            pass
        except InputError as error:
            self._failed(str(error))
        except Exception:  # whatever it is, the page must go on and the server's log must have it
            traceback.print_exc(file=sys.__stderr__)
            self._failed("Something went wrong here; the server's log has the details. Move a control to go on.")


@contextmanager
def clock(bar: w.IntProgress, seconds: float | None) -> Iterator[None]:
    """Moves a bar for as long as something should take that does not say how far it is; it waits near its end."""
    done, started = threading.Event(), time.monotonic()

    def move() -> None:
        while not done.wait(_TICK):
            bar.value = int(bar.max * min((time.monotonic() - started) / seconds, 0.97)) if seconds else bar.max // 2

    thread = threading.Thread(target=move, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()

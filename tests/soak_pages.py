"""The dashboards in use for a long time, by hand: `python tests/soak_pages.py 60` moves their controls for 60 minutes.

Two people, one at the explorer and one at the live accuracies, and a third who opens a page and leaves it every minute.
What the kernels hold must stay flat, and no kernel may be left over. Writes a line a minute.
"""

import itertools
import sys
import time

from labkit.core import profiles
from labkit.core.store import Store
from labkit.dashboards import server

from browser_drive import PAGES, Tab, chromium, kernels, memory, served

_WARM = 5  # minutes that count for nothing: caches fill
_GROWTH = 1.10


def main(minutes: float) -> int:
    lab = profiles.profile("")
    server.prepare(lab)
    held = []
    with chromium() as browser, served(lab, Store().root) as where:
        explorer, accuracy = Tab(browser, where, PAGES[0]), Tab(browser, where, PAGES[1])
        explorer.says("true class", 300)
        accuracy.says("100 of 100", 300)
        mine, end = kernels(where), time.monotonic() + 60 * minutes
        for minute in itertools.count(1):
            if time.monotonic() > end:
                break
            moves = _minute(explorer, accuracy)
            guest = Tab(browser, where, PAGES[2 + minute % 3]).ready(300)
            guest.page.close(run_before_unload=True)  # as a person closes it; its kernel ends
            explorer.page.wait_for_timeout(1000)
            guest.context.close()
            still = [process for process in mine if process in kernels(where)]
            held.append(memory(still) / 2**20)
            print(f"minute {minute}: {moves} moves, {held[-1]:.0f} MB in {len(kernels(where))} kernels", flush=True)
            if explorer.errors or accuracy.errors or "wrong here" in explorer.status() + accuracy.status():
                print(f"trouble: {explorer.errors} {accuracy.errors} {explorer.status()} {accuracy.status()}")
                return 1
        explorer.page.wait_for_timeout(5000)
        left = len(kernels(where))
    if len(held) <= _WARM + 1:
        print(f"too short to say anything; give more than {_WARM + 1} minutes")
        return 2
    late, early = max(held[-5:]), max(held[_WARM - 2 : _WARM + 1])
    flat = late <= _GROWTH * early and left <= len(mine) + 1
    print(
        f"{early:.0f} MB after {_WARM} minutes, {late:.0f} MB at the end, {left} kernels: {'flat' if flat else 'GROWS'}"
    )
    return 0 if flat else 1


def _minute(explorer: Tab, accuracy: Tab) -> int:
    begun, moves = time.monotonic(), 0
    attacks = itertools.cycle(("FGSM", "BIM, 10 steps", "none", "random noise"))
    while time.monotonic() < begun + 60:
        for name in ("λ", "size", "test image"):
            explorer.key_to_pixels(name, 10, lambda: explorer.page.wait_for_timeout(100))
            moves += 10
        accuracy.choose("attack", next(attacks))
        accuracy.page.wait_for_timeout(2000)
    return moves


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60))

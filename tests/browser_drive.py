"""A served set of dashboards and a headless Chromium to drive them, for the tests and for `screenshots.py`."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from labkit import dashboards

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PAGES = sorted(path.name for path in dashboards.FOLDER.glob("*.ipynb"))
_FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
_ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"


@contextmanager
def served(
    lab, store: Path, *, config: tuple[str, ...] = (), token: str = "", log: Path | None = None
) -> Iterator[str]:
    """The dashboards of a lab (a `profiles.Profile`), as the command serves them; yields their address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = dashboards.serve("127.0.0.1", port, token=token)
    where = dashboards.address(command)
    with open(log or os.devnull, "w") as out:
        process = subprocess.Popen(
            [*command[:-1], *config, command[-1]],
            cwd=dashboards.FOLDER,
            env=dashboards.environment(lab, str(store)),
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            _wait(where, process)
            yield where
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def _wait(where: str, process: subprocess.Popen, patience: float = 60) -> None:
    for _ in range(int(patience / 0.2)):
        try:
            urllib.request.urlopen(where, timeout=5).close()
            return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            if process.poll() is not None:
                raise RuntimeError(f"the server ended with status {process.returncode}") from None
            time.sleep(0.2)
    raise TimeoutError(f"no answer from {where} in {patience:.0f} s")


@contextmanager
def chromium() -> Iterator:
    """A browser that reaches this machine alone."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=[*_FLAGS, _ALONE])
        try:
            yield browser
        finally:
            browser.close()


class Tab:
    """A dashboard in a tab: what it shows, and whatever it complained of or asked of other machines."""

    def __init__(self, browser, where: str, name: str = "", **context):
        self.context = browser.new_context(viewport={"width": 1280, "height": 860}, **context)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", self._asked)
        root, _, query = where.partition("?")
        self.page.goto(f"{root}voila/render/{name}?{query}" if name else where, timeout=120_000)

    def _asked(self, request) -> None:
        if not request.url.startswith(("data:", "blob:", "http://127.0.0.1", "ws://127.0.0.1")):
            self.outside.append(request.url)

    def ready(self, timeout: float = 120) -> "Tab":
        """Wait until a page says something and shows a picture, a bar or a table."""
        self.page.wait_for_selector(".lk-status div", timeout=1000 * timeout)
        return self

    def status(self) -> str:
        return self.page.inner_text(".lk-status")

    def says(self, words: str, timeout: float = 60) -> None:
        """Wait until the status line holds these words."""
        self.page.wait_for_function(
            "words => (document.querySelector('.lk-status')?.innerText || '').includes(words)",
            arg=words,
            timeout=1000 * timeout,
        )

    def slider(self, name: str):
        """The handle of a slider, by the words beside it."""
        return self.page.locator(f".widget-inline-hbox:has(.widget-label:text-is('{name}')) .noUi-handle").first

    def choose(self, name: str, option: str) -> None:
        self.page.locator(f".widget-dropdown:has(.widget-label:text-is('{name}')) select").select_option(label=option)

    def shown(self, board: int = 0) -> int:
        """How often a board has been drawn anew."""
        return int(self.page.locator(".lk-board").nth(board).get_attribute("data-shown") or 0)

    def drawn(self, since: int, board: int = 0, timeout: float = 30) -> None:
        """Wait until a board has been drawn again."""
        self.page.wait_for_function(
            "([at, since]) => Number(document.querySelectorAll('.lk-board')[at]?.dataset.shown || 0) > since",
            arg=[board, since],
            timeout=1000 * timeout,
        )

    def picture(self, at: int, board: int = 0) -> bytes:
        """The pixels of one picture of a board, as a screenshot of it."""
        return self.page.locator(".lk-board").nth(board).locator("img").nth(at).screenshot()

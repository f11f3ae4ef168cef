"""A served set of dashboards and a headless Chromium to drive them, for the tests and for `measure_pages.py`."""

import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from labkit.dashboards import server

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
PAGES = sorted(path.name for path in server.FOLDER.glob("*.ipynb"))
LONG = 400  # seconds; a page takes twelve when idle, and machines that test are busy
_FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()
_ALONE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"

# `took`: milliseconds from the next key to the end of the frame that shows what the first board was told.
_STOPWATCH = """() => {
  window.took = new Promise(done => addEventListener("keydown", () => {
    const begun = performance.now(), seen = new MutationObserver(() => {
      seen.disconnect();
      requestAnimationFrame(() => setTimeout(() => done(performance.now() - begun)));
    });
    seen.observe(document.querySelector(".lk-board"), { attributeFilter: ["data-shown"] });
  }, { once: true, capture: true }));
}"""


@contextmanager
def served(
    lab,
    store: Path,
    *,
    config: tuple[str, ...] = (),
    token: str = "",
    base_url: str = "/",
    log: Path | None = None,
    folder: Path = server.FOLDER,
    **theirs: str,
) -> Iterator[str]:
    """The dashboards of a lab (a `profiles.Profile`), of SPECs if given, as the command serves them; yields where."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = server.serve("127.0.0.1", port, base_url, guarded=bool(token))
    where = server.address("127.0.0.1", port, base_url, token)
    with open(log or os.devnull, "w") as out:
        process = subprocess.Popen(
            [*command[:-1], *config, command[-1]],
            cwd=folder,
            env=server.environment(lab, str(store), token, **theirs),
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
    # An opener of our own: a proxy, and what urllib remembers of one, have no business on this machine.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(int(patience / 0.2)):
        try:
            opener.open(where, timeout=5).close()
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

    def __init__(self, browser, where: str = "", name: str = "", patience: float | None = None, **context):
        self.context = browser.new_context(viewport={"width": 1280, "height": 860}, **context)
        self.context.set_default_timeout(1000 * LONG)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.outside: list[str] = []
        self.loads = 0  # two where the page lost a part of itself on its way, and loaded itself again
        self.page.on("domcontentloaded", self._loaded)
        self.page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("request", self._asked)
        if patience is not None:
            self.page.add_init_script(f"window.labkitPatience = {patience}")
        if where:
            self.open(where, name)

    def open(self, where: str, name: str = "") -> None:
        root, _, query = where.partition("?")
        address = f"{root}voila/render/{name}?{query}" if name else where
        self.page.goto(address, timeout=1000 * LONG, wait_until="commit")

    def _loaded(self, _page) -> None:
        self.loads += 1

    def _asked(self, request) -> None:
        if not request.url.startswith(("data:", "blob:", "http://127.0.0.1", "ws://127.0.0.1")):
            self.outside.append(request.url)

    def ready(self, timeout: float = LONG) -> "Tab":
        """Wait until a page says something and shows a picture, a bar or a table."""
        from playwright.sync_api import TimeoutError as Late

        try:
            self.page.wait_for_selector(".lk-status div", timeout=1000 * timeout)
        except Late as err:
            raise AssertionError(f"{self.page.url} did not come up; the browser says {self.errors}") from err
        return self

    def status(self) -> str:
        return self.page.inner_text(".lk-status")

    def says(self, words: str, timeout: float = LONG) -> None:
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

    def drawn(self, since: int, board: int = 0, timeout: float = LONG) -> None:
        """Wait until a board has been drawn again."""
        self.page.wait_for_function(
            "([at, since]) => Number(document.querySelectorAll('.lk-board')[at]?.dataset.shown || 0) > since",
            arg=[board, since],
            timeout=1000 * timeout,
        )

    def key_to_pixels(self, name, count: int, each=lambda: None) -> list[float]:
        """Seconds from an arrow key on a slider to a board painted anew, `count` times; then `each` is called.

        The browser's own clock, from the key's event to the frame: what drives the browser has its own delays.
        """
        self.slider(name).focus()
        took = []
        for step in range(count):
            self.page.evaluate(_STOPWATCH)
            self.page.keyboard.press("ArrowRight" if step % 10 < 5 else "ArrowLeft")
            took.append(self.page.evaluate("window.took") / 1000)
            each()
        return took

    def picture(self, at: int, board: int = 0) -> bytes:
        """The pixels of one picture of a board, as a screenshot of it."""
        return self.page.locator(".lk-board").nth(board).locator("img").nth(at).screenshot()


def faults(page, *without: str) -> list[str]:
    """What axe-core finds wrong with a page by WCAG 2.1 A and AA, each with the places where."""
    from axe_playwright_python.sync_playwright import Axe

    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
    found = Axe().run(page, context={"exclude": [[place] for place in without]} if without else None, options=rules)
    return [
        f"{fault['id']}: {fault['help']}: {', '.join(str(node['target'][0]) for node in fault['nodes'][:4])}"
        for fault in found.response["violations"]
    ]


def kernels(address: str) -> list[int]:
    """The process numbers of the kernels of the server that listens at an address."""
    port = address.rpartition(":")[2].partition("/")[0]
    servers, found = set(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has just ended
            words = (folder / "cmdline").read_text().replace("\0", " ")
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if "voila" in words and f"--port={port} " in words:
                servers.add(int(folder.name))
            if "ipykernel" in words:
                found[int(folder.name)] = parent
    return [kernel for kernel, parent in found.items() if parent in servers]


def memory(processes: list[int]) -> int:
    """Bytes that these processes hold, what they share counted once (their proportional set sizes)."""
    total = 0
    for process in processes:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total += 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def crowd(browser, where: str, people: int = 10) -> tuple[list[Tab], float]:
    """So many people who come at once; their tabs, and the seconds until the last one is served.

    A third of them want the explorer, the others every dashboard in turn.
    """
    names = [PAGES[0] if k % 3 == 0 else PAGES[1 + k % 4] for k in range(people)]
    begun = time.perf_counter()
    tabs = [Tab(browser, where, name) for name in names]
    for tab in tabs:
        tab.ready(600)  # a page that lost a part of itself on its way loads itself again
    for tab in tabs:
        tab.page.wait_for_function("!document.querySelector('.lk-status').innerText.includes('Look')", timeout=300_000)
    return tabs, time.perf_counter() - begun

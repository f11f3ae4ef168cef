"""Pictures, one of them moving, and response times of the dashboards, by hand: `make screenshots`."""

import io
import os
import platform
import re
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from labkit.core import profiles, recipes
from labkit.core.store import Store
from labkit.dashboards import Explorer, server
from labkit.evaluation import measurement
from labkit.evaluation.workbench import Workbench

import torch
from browser_drive import PAGES, Tab, chromium, crowd, kernels, memory, served
from PIL import Image

_SETTLED = {1: "true class", 2: "100 of 100", 3: "measured", 4: "cases are measured", 5: "filters of"}


def main(out: Path) -> None:
    lab, store = profiles.profile(""), Store().root
    server.prepare(lab)
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    with chromium() as browser, served(lab, store) as where:
        time.sleep(15)  # a kernel is being made ready for the first page
        rows += explorer(browser, where, out)
        for name in PAGES[1:]:
            shot(browser, where, name, out)
    with chromium() as browser, served(lab, store) as where:
        tabs, seconds = crowd(browser, where)
        first = [tab for tab in tabs if PAGES[0] in tab.page.url]
        took = [value for tab in first for value in tab.key_to_pixels("λ", 10)]
        rows.append(("ten people at once: until the last page says what it shows", f"{seconds:.0f} s"))
        rows.append((f"ten people at once: key to pixels, {len(took)} times", told(took)))
        there = kernels(where)  # one of them is kept ready for the next
        rows.append(
            (
                f"ten people at once: memory of each of {len(there)} kernels, what they share counted once",
                f"{memory(there) / len(there) / 2**20:.0f} MiB",
            )
        )
    rows += large()
    movie(out)
    machine = f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}"
    lines = "\n".join(f"| {what} | {value} |" for what, value in rows)
    setting = f"{machine}; profile {lab.name}, {lab.data.label}; headless Chromium on the same machine."
    text = f"# Dashboards: response times\n\n{setting}\n\n| what | time |\n|---|---|\n{lines}\n"
    (out / "times.md").write_text(text)
    print(text)


def explorer(browser, where: str, out: Path) -> list[tuple[str, str]]:
    begun = time.perf_counter()
    tab = Tab(browser, where, PAGES[0])
    tab.says(_SETTLED[1])
    tab.drawn(0)
    rows = [("first page, kernel kept ready: until pictures are shown", f"{time.perf_counter() - begun:.1f} s")]
    inside = []

    def look():
        inside.append(float(re.search(r"(\d+) ms", tab.status()).group(1)) / 1000)

    for name, count in (("λ", 60), ("size", 20), ("test image", 20)):
        took = tab.key_to_pixels(name, count, look)
        rows.append((f"key on {name} to new pixels, {count} times", told(took)))
    rows.append((f"of which in the kernel, {len(inside)} times", told(inside)))
    tab.page.wait_for_timeout(1000)  # pictures that are being replaced fade
    tab.page.screenshot(path=out / f"{PAGES[0].removesuffix('.ipynb')}.png", full_page=True)
    small(out / f"{PAGES[0].removesuffix('.ipynb')}.png")
    tab.context.close()
    return rows


def movie(out: Path, name: str = "explorer.webp", most: int = 1_500_000) -> None:
    """λ dragged to and fro in the explorer, on colour photographs, as an animated WebP of at most `most` bytes."""
    lab, store, frames = profiles.profile("", dataset="photos", resolution=64), Store().root, []
    server.prepare(lab)
    out.mkdir(parents=True, exist_ok=True)
    with chromium() as browser, served(lab, store) as where:
        tab = Tab(browser, where, PAGES[0])
        tab.says(_SETTLED[1])
        tab.drawn(0)
        show(
            tab, measurement.telling(measurement.Case(lab.classifier, None, lab.attack("FGSM-0.08")), Workbench(store))
        )
        tab.slider("λ").focus()
        for key, steps in (("ArrowLeft", 8), ("ArrowRight", 24), ("ArrowLeft", 16)):
            for _ in range(steps):
                before = tab.shown()
                tab.page.keyboard.press(key)
                tab.drawn(before)
                tab.page.wait_for_timeout(150)  # pictures that are being replaced fade
                seen = Image.open(io.BytesIO(tab.page.screenshot(clip={"x": 0, "y": 0, "width": 1260, "height": 660})))
                frames.append(seen.convert("RGB").resize((945, 495), Image.Resampling.LANCZOS))
        tab.context.close()
    for quality in (70, 50, 30):
        frames[0].save(
            out / name, save_all=True, append_images=frames[1:], duration=120, loop=0, quality=quality, method=6
        )
        if (out / name).stat().st_size <= most:
            return
    raise RuntimeError(f"{out / name} is larger than {most} bytes")


def show(tab: Tab, index: int) -> None:
    """Move to a test image, key by key."""
    tab.slider("test image").focus()
    tab.page.keyboard.press("Home")
    for at in range(index + 1):
        tab.says(f"test image {at},")
        tab.page.keyboard.press("ArrowRight" if at < index else "Shift")


def large() -> list[tuple[str, str]]:
    """The explorer's page at 224×224, without a browser: until the exact picture is there."""
    small = recipes.rebase(profiles.profile("quick"), recipes.DataRecipe("photos", resolution=224, train=60, test=4))
    dictionary = replace(small.transform.dictionary, images=40, passes=1, held=0)
    T, network = replace(small.transform, dictionary=dictionary), replace(small.classifier, epochs=1)
    lab = replace(small, classifier=network, transform=T)
    exact = []
    with tempfile.TemporaryDirectory() as store:
        bench = Workbench(store, progress=False)
        bench.classifier(lab.classifier)
        bench.transform(lab.transform)
        page = Explorer(lab, bench, ())
        page.settled(300)
        for step in range(30):
            begun = time.perf_counter()
            page.lam.value = 0.05 * 1.1**step
            page.settled()
            exact.append(time.perf_counter() - begun)
    return [(f"λ at 224×224 in colour, in the kernel, {len(exact)} times: exact", told(exact))]


def shot(browser, where: str, name: str, out: Path) -> None:
    tab = Tab(browser, where, name)
    tab.says(_SETTLED[int(name[0])], 300)
    if "tradeoff" in name:
        tab.page.locator(".js-plotly-plot .scatterlayer .trace").first.wait_for()
    tab.page.wait_for_timeout(3000)
    tab.page.screenshot(path=out / f"{name.removesuffix('.ipynb')}.png")
    small(out / f"{name.removesuffix('.ipynb')}.png")
    tab.context.close()


def small(picture: Path) -> None:
    """What the landing page shows of a dashboard."""
    seen = Image.open(picture).convert("RGB")
    seen.thumbnail((440, 440))
    seen.crop((0, 0, seen.width, min(seen.height, 280))).save(
        server.FOLDER / "pictures" / f"{picture.stem}.jpg", quality=82
    )


def told(seconds: list[float]) -> str:
    ordered = sorted(1000 * value for value in seconds)
    return f"median {statistics.median(ordered):.0f} ms, 95 % within {ordered[int(0.95 * (len(ordered) - 1))]:.0f} ms"


if __name__ == "__main__":
    torch.set_num_threads(1)  # as the pages' kernels have
    made = movie if sys.argv[2:] == ["movie"] else main  # only the moving one, or all
    made(Path(sys.argv[1] if len(sys.argv) > 1 else "reports/dashboards"))

"""A whole report of small notebooks: what is written, what is linked, what survives a failure and a kill."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import labkit
from labkit.core.errors import InputError
from labkit.reporting import report

import nbformat
import pytest
from small_notebooks import PARAMETERS, save

SETTINGS = report.Settings("smoke", "fashion", resolution=32)
FIRST = (
    "#md # Filters of $K$ pixels\n\nThe *first* one: $x^2$.",
    "import pathlib, matplotlib.pyplot as plt\nhere = pathlib.Path(out)\nprint(profile, dataset, resolution, out)",
    "figure, axes = plt.subplots(figsize=(2, 1))\naxes.plot([1, 2])\nfigure.savefig(here / 'a.png')\n"
    "figure.savefig(here / 'headline.png')\nplt.show()",
    "(here / 'rows.csv').write_text('defense,accuracy\\nSTL,0.75\\n')\n"
    "(here / 'table.csv').write_text('defense,x\\nfrom csv,1\\n')\n"
    "(here / 'table.md').write_text('| defense | x |\\n|---|---|\\n| from md | 1 |\\n')\n"
    "(here / 'long.csv').write_text('n\\n' + '\\n'.join(map(str, range(500))))",
    "import plotly.graph_objects as go\ngo.Figure(go.Scatter(y=[1, 2, 3]))",
)


class Links(HTMLParser):
    """What a page loads by itself, and what it links to."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loaded: list[str] = re.findall(r"url\(\s*['\"]?([^)'\"]+)", text) + re.findall(r"@import\s+(\S+)", text)
        self.linked: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ("src", "srcset", "poster", "data", "background") or (name == "href" and tag != "a"):
                self.loaded.append(value)
            elif name == "href":
                self.linked.append(value)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Path:
    """A folder with three notebooks, of which the second fails, and their report in `out`."""
    root = tmp_path_factory.mktemp("lab")
    save(root / "notebooks" / "01_first.ipynb", *FIRST)
    save(root / "notebooks" / "02_broken.ipynb", "#md # Broken", "print('so far')", "undefined_name", "1")
    save(root / "notebooks" / "03_after.ipynb", "print('still runs')")
    save(root / "notebooks" / "draft.ipynb", "1 / 0")
    return root


@pytest.fixture(scope="module")
def entries(lab) -> list[dict]:
    return run(lab)


def run(lab: Path, *only: str, settings: report.Settings = SETTINGS, out: str = "out", **options) -> list[dict]:
    plan = report.check(settings, lab / out, notebooks=lab / "notebooks", only=only, images=False)
    return report.run(settings, lab / out, plan, **options)


def pages(lab: Path) -> list[Path]:
    return sorted((lab / "out").glob("*.html"))


def test_a_failing_notebook_stops_neither_the_next_nor_its_own_page(lab, entries):
    assert [(entry["name"], entry["status"]) for entry in entries] == [
        ("01_first", "finished"),
        ("02_broken", "failed"),
        ("03_after", "finished"),
    ]
    assert entries[1]["error"]["sentence"].startswith(
        "cell 4 (undefined_name): NameError: name 'undefined_name' is not"
    )
    page = (lab / "out" / "02_broken.html").read_text()
    assert 'role="alert">Stopped in cell 4 (undefined_name): NameError' in page and "so far" in page
    assert "still runs" in (lab / "out" / "03_after.html").read_text()


def test_the_notebooks_get_the_settings_and_a_folder_of_their_own(lab, entries):
    notebook = nbformat.read(lab / "out" / "executed" / "01_first.ipynb", as_version=4)
    stream = next(output for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output)
    assert stream.text == "smoke fashion 32 out/01_first\n"  # relative: a report names no folder of this machine


def test_the_manifest_is_true(lab, entries):
    manifest = json.loads((lab / "out" / "manifest.json").read_text())
    assert manifest["notebooks"] == entries
    assert (manifest["profile"], manifest["dataset"], manifest["resolution"]) == ("smoke", "fashion", 32)
    assert manifest["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    for entry in entries:
        assert {entry["page"], entry["executed"]} <= {file["path"] for file in entry["files"]}
        for file in entry["files"]:
            content = (lab / "out" / file["path"]).read_bytes()
            assert (file["bytes"], file["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    own = {file["path"] for file in entries[0]["files"] if file["path"].startswith("01_first/")}
    assert own == {
        f"01_first/{name}" for name in ("a.png", "headline.png", "rows.csv", "table.csv", "table.md", "long.csv")
    }
    assert entries[0]["seconds"] > 0 and entries[0]["error"] is None


def test_the_index_shows_headlines_files_and_failures(lab, entries):
    index = (lab / "out" / "index.html").read_text()
    assert 'src="01_first/headline.png"' in index and "01_first/a.png" in index
    assert "01_first/rows.csv" in index and "01_first/long.csv" in index and ">499<" not in index
    assert "2 of 3 notebooks finished" in index and "NameError" in index
    assert "Filters of K pixels" in index and "<msup>" in index and "32 × 32 pixels" in index


def test_no_page_loads_anything_from_elsewhere_and_no_link_dangles(lab, entries):
    assert [path.name for path in pages(lab)] == ["01_first.html", "02_broken.html", "03_after.html", "index.html"]
    for path in pages(lab):
        links = Links(path.read_text())
        for address in links.loaded:
            local = not re.match(r"[a-z]+:|//", address, re.IGNORECASE) and (path.parent / unquote(address)).is_file()
            assert address.startswith("data:") or local, f"{path.name} loads {address[:80]}"
        for address in links.linked:
            if not address.startswith(("#", "https://")):
                file, _, anchor = unquote(address).partition("#")
                assert (path.parent / file).is_file(), f"{path.name} links to {address}"
                assert not anchor or f'id="{anchor}"' in (path.parent / file).read_text(), f"{path.name}: {address}"
    assert "assets/plotly.min.js" in Links((lab / "out" / "01_first.html").read_text()).loaded
    assert "assets/plotly.min.js" not in Links((lab / "out" / "03_after.html").read_text()).loaded


def test_a_page_is_small(lab, entries):
    assert max(path.stat().st_size for path in pages(lab)) < 100_000


def test_nothing_unfinished_is_left(lab, entries):
    assert not [path for path in (lab / "out").rglob("*") if "partial" in path.name]
    assert not [path for path in lab.iterdir() if path.name not in ("notebooks", "out")]


def test_running_one_again_keeps_the_others_and_drops_its_old_files(tmp_path):
    first = save(tmp_path / "notebooks" / "01_a.ipynb", "open(out + '/old.csv', 'w').write('a,b\\n1,2\\n')")
    save(tmp_path / "notebooks" / "02_b.ipynb", "print('kept')")
    run(tmp_path, "02", settings=report.Settings("quick"))
    (tmp_path / "out" / "01_a").mkdir()
    (tmp_path / "out" / "01_a" / "mine.txt").write_text("not from a notebook")
    run(tmp_path, "1")
    save(first, "open(out + '/new.csv', 'w').write('a,b\\n3,4\\n')")
    again = run(tmp_path, "01_a")
    assert [entry["name"] for entry in again] == ["01_a"]
    assert sorted(path.name for path in (tmp_path / "out" / "01_a").iterdir()) == ["mine.txt", "new.csv"]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [(entry["name"], entry["profile"]) for entry in manifest["notebooks"]] == [
        ("01_a", "smoke"),
        ("02_b", "quick"),
    ]
    assert "earlier run" in (tmp_path / "out" / "index.html").read_text()
    kept = (tmp_path / "out" / "02_b.html").read_text()
    assert "kept" in kept and 'href="01_a.html"' in kept


def test_the_longest_notebooks_begin_before_those_that_take_less(tmp_path):
    for name in ("01_a", "05_b", "06_c", "11_d"):
        save(tmp_path / "notebooks" / f"{name}.ipynb", "print('done')")
    said = []
    entries = run(tmp_path, jobs=1, say=said.append, settings=report.Settings("quick"))
    assert [words.partition(":")[0] for words in said if words.endswith("running")] == ["05_b", "01_a", "11_d", "06_c"]
    assert [entry["name"] for entry in entries] == ["01_a", "05_b", "06_c", "11_d"]  # as they are read


def test_a_killed_report_is_whole_and_the_next_one_completes_it(tmp_path):
    ready = tmp_path / "ready"
    save(tmp_path / "notebooks" / "01_a.ipynb", "print('done')")
    save(
        tmp_path / "notebooks" / "02_b.ipynb",
        f"import os, pathlib, time\np = pathlib.Path({str(ready)!r})\nnew = p.with_suffix('.new')\n"
        "if not p.exists():\n    new.write_text(str(os.getpid()))\n    new.rename(p)\n    time.sleep(600)",
    )
    program = (
        "import pathlib, sys; from labkit.reporting import report; root = pathlib.Path(sys.argv[1])\n"
        "s, out = report.Settings('smoke'), root / 'out'\n"
        "report.run(s, out, report.check(s, out, notebooks=root / 'notebooks', images=False), jobs=1)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(report.__file__).parents[2]), "TMPDIR": str(tmp_path)}
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], env=environment, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not ready.exists() and time.monotonic() < deadline:
        assert child.poll() is None, "the report ended before it could be killed"
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()

    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [entry["status"] for entry in manifest["notebooks"]] == ["finished", "waiting"]
    assert "done" in (tmp_path / "out" / "01_a.html").read_text()
    assert "has not run yet" in (tmp_path / "out" / "02_b.html").read_text()
    assert [entry["status"] for entry in run(tmp_path)] == ["finished", "finished"]
    assert not [path for path in (tmp_path / "out").rglob("*") if "partial" in path.name]
    kernel = int(ready.read_text())
    while time.monotonic() < deadline + 60:  # ends by itself once its parent is gone
        try:
            os.kill(kernel, 0)
        except ProcessLookupError:
            return
        time.sleep(0.2)
    pytest.fail("the killed report left its kernel behind")


def test_check_writes_nothing_and_says_what_to_do(tmp_path):
    save(tmp_path / "notebooks" / "01_a.ipynb")
    save(tmp_path / "typo" / "01_a.ipynb", parameters=PARAMETERS.replace("data_root", "dataroot"))
    (tmp_path / "file").touch()
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("somebody's")
    out, notebooks = tmp_path / "out", tmp_path / "notebooks"
    cases = [
        ("known ones are smoke, quick, lab, paper", {"settings": report.Settings("huge")}),
        ("resolution", {"settings": report.Settings(resolution=-1)}),
        ("is a file", {"out": tmp_path / "file"}),
        ("is a file", {"out": tmp_path / "file" / "below"}),
        ("no report wrote", {"out": tmp_path / "site"}),
        ("there are 01_a", {"only": ["07"]}),
        ("no numbered notebooks", {"notebooks": tmp_path / "empty"}),
        ("no parameter data_root", {"notebooks": tmp_path / "typo"}),
    ]
    before = sorted(tmp_path.rglob("*"))
    for words, change in cases:
        arguments = {"settings": SETTINGS, "out": out, "notebooks": notebooks, "only": [], **change}
        settings, folder = arguments.pop("settings"), arguments.pop("out")
        with pytest.raises(InputError, match=words) as caught:
            report.check(settings, folder, images=False, **arguments)
        assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_paths_typed_elsewhere_mean_the_same_to_the_kernel(tmp_path, monkeypatch):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    settings = report.Settings(dataset="folder:../photos", data_root="raw")
    monkeypatch.chdir(root)
    typed = report._parameters(settings, root / "out" / "01_a", root)
    assert (typed["dataset"], typed["data_root"], typed["store"]) == ("folder:../photos", "raw", "")
    assert typed["out"] == "out/01_a"
    monkeypatch.chdir(elsewhere)
    typed = report._parameters(settings, elsewhere / "01_a", root)
    assert Path(typed["dataset"].removeprefix("folder:")).resolve() == tmp_path / "photos"
    assert Path(typed["data_root"]) == elsewhere / "raw" and Path(typed["out"]) == elsewhere / "01_a"
    assert typed["store"] == ""


def test_two_notebooks_run_at_once_and_share_the_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(labkit, "THREADS", labkit.THREADS._replace(number=6))
    monkeypatch.chdir(tmp_path.parent)
    for name, other in (("01_a", "02_b"), ("02_b", "01_a")):  # each waits until the other has begun
        save(
            tmp_path / "notebooks" / f"{name}.ipynb",
            f"import os, pathlib, time\nroot = pathlib.Path({str(tmp_path)!r})\n(root / '{name}').touch()\n"
            f"while not (root / '{other}').exists():\n    time.sleep(0.01)\n"
            "print(os.environ['OMP_NUM_THREADS'], os.getcwd())",
        )
    here = []
    said = lambda words: here.append((Path.cwd(), words))  # noqa: E731
    assert [entry["status"] for entry in run(tmp_path, jobs=2, say=said, cell_timeout=90)] == ["finished", "finished"]
    assert Path.cwd() == tmp_path.parent and {place for place, _ in here} == {tmp_path.parent}
    assert all(f">3 {tmp_path}\n" in (tmp_path / "out" / f"{name}.html").read_text() for name in ("01_a", "02_b"))


def test_what_is_interrupted_ends_its_kernels_and_leaves_no_half_page(tmp_path):
    begun = tmp_path / "begun"
    wait = f"import os, pathlib, time\npathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\ntime.sleep(600)"
    save(tmp_path / "notebooks" / "01_a.ipynb", wait)
    save(tmp_path / "notebooks" / "02_b.ipynb", "print('done')")

    def interrupt(said: str) -> None:
        if said.startswith("02_b: finished"):
            while not begun.exists() or not begun.read_text():
                time.sleep(0.01)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, jobs=2, say=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [entry["status"] for entry in manifest["notebooks"]] == ["waiting", "finished"]
    assert not [path for path in (tmp_path / "out").rglob("*") if "partial" in path.name]

"""The command line: exit statuses, one-line errors, and nothing half-written."""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import labkit
from labkit.__main__ import main
from labkit.cli import common
from labkit.core import profiles, recipes
from labkit.csc import cbpdn
from labkit.reporting import report_folder

import pytest
from PIL import Image
from small_notebooks import save
from waiting import gone, waited


def report(lab: Path, *options: str) -> list[str]:
    folders = ["--out", str(lab / "out"), "--notebook-dir", str(lab / "notebooks")]
    return ["report", "--profile", "smoke", *folders, *options]


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """`python -m labkit` as a user calls it: by the interpreter's path, without activating anything."""
    lean = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": str(Path(labkit.__file__).parent.parent)}
    line = [sys.executable, "-m", "labkit", *arguments]
    how = {"capture_output": True, "text": True, "errors": "replace", "timeout": 300}
    return subprocess.run(line, cwd=cwd, env=lean | environment, **how)


def test_version_and_help(capsys):
    for option, words in (("--version", f"labkit {labkit.__version__}"), ("--help", "report")):
        with pytest.raises(SystemExit) as ended:
            main([option])
        assert ended.value.code == 0
        assert words in capsys.readouterr().out


def test_help_and_profiles_do_not_wait_for_torch(tmp_path):
    program = "import sys; from labkit.__main__ import main; main(['profiles']); sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(Path(labkit.__file__).parent.parent)}
    assert subprocess.run([sys.executable, "-c", program], env=environment, stdout=subprocess.DEVNULL).returncode == 0


def test_no_command_or_an_unknown_one_is_bad_input(capsys):
    for arguments in ([], ["reprot"], ["report"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2


@pytest.mark.parametrize(
    "typed, name",
    [
        (["folder:a b", "--layout", "train,val"], "folder:a b?layout=train,val"),
        (["folder:x", "--allow-duplicates", "--layout", "classes"], "folder:x?layout=classes&allow-duplicates"),
        (["folder:x?layout=a,b", "--allow-duplicates"], "folder:x?layout=a,b&allow-duplicates"),
        (["folder:what?", "--allow-duplicates"], "folder:what??allow-duplicates"),
        (["folder:x?layout=a&allow-duplicates"], "folder:x?layout=a&allow-duplicates"),
    ],
)
def test_flags_of_a_folder_are_part_of_its_name(typed, name):
    parser, found = common.add_options(argparse.ArgumentParser(), "dataset"), []
    parser.set_defaults(run=lambda options: found.append(options.dataset) or 0)
    assert common.run(parser, ["--dataset", *typed]) == 0 and found == [name]
    where = recipes.folder(name)
    assert where.duplicates == ("--allow-duplicates" in typed or "&" in typed[0])
    assert where.path == typed[0].removeprefix("folder:").partition("?l")[0]


def test_profiles_prints_the_recipes(capsys):
    assert main(["profiles"]) == 0
    head, *rows = (re.split(r"  +", line) for line in capsys.readouterr().out.splitlines())
    table = {row[0]: dict(zip(head, row, strict=True)) for row in rows}
    assert list(table) == list(profiles.PROFILES)
    for name, profile in profiles.PROFILES.items():
        assert table[name]["K"] == str(profile.transform.dictionary.K)
        assert table[name]["images"] == str(profile.transform.dictionary.images)
        assert table[name]["epochs"] == str(profile.classifier.epochs)
        assert table[name]["on T(x)"] == str(profile.retraining or profile.classifier.epochs)
        assert table[name]["test"] == str(profile.data.test or "all")
        assert table[name]["classifier"] == f"{profile.classifier.network} x {profile.classifier.width:g}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--profile", "huge"], "the known ones are smoke, quick, lab, paper"),
        (["--dataset", "fashoin"], "fashion"),
        (["--dataset", "folder:nowhere"], "nowhere"),
        (
            ["--dataset", "photos", "--layout", "classes"],
            "--layout and --allow-duplicates go with --dataset folder:PATH",
        ),
        (["--allow-duplicates"], "--layout and --allow-duplicates go with --dataset folder:PATH"),
        (["--notebooks", "02,9"], "no notebook '9'; there are 01_good, 02_bad"),
        (["--resolution", "-3"], "-3"),
        (["--resolution", "4"], "at least 32 pixels"),
        (["--cell-timeout", "0"], "--cell-timeout"),
        (["--store", "x" * 5000], "cannot be used"),
        (["--dataset", "folder:~nobody-of-this-name"], "cannot be used"),
    ],
)
def test_bad_input_is_one_sentence_status_2_and_nothing_written(tmp_path, capsys, options, words):
    save(tmp_path / "notebooks" / "01_good.ipynb")
    save(tmp_path / "notebooks" / "02_bad.ipynb")
    assert main(report(tmp_path, *options)) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(r"labkit: .*\n", printed.err) and words in printed.err
    assert printed.out == ""
    assert not (tmp_path / "out").exists()


def test_a_report_from_the_shell(tmp_path):
    save(tmp_path / "notebooks" / "01_good.ipynb", "#md # Good", "print(profile, dataset, resolution)")
    save(tmp_path / "notebooks" / "02_bad.ipynb", "1 / 0")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    cbpdn.prepare()  # or the first report on a machine says that it compiles

    done = command(*report(tmp_path, "--notebooks", "01", "--dataset", "fashion"), cwd=elsewhere)
    assert (done.returncode, done.stderr) == (0, "")
    assert "01_good: finished" in done.stdout and str(tmp_path / "out" / "index.html") in done.stdout
    assert "smoke fashion 0" in (tmp_path / "out" / "01_good.html").read_text()

    done = command(*report(tmp_path), cwd=elsewhere)
    assert done.returncode == 1
    assert done.stderr == "labkit: 02_bad failed in cell 3 (1 / 0): ZeroDivisionError: division by zero\n"
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert [entry["status"] for entry in manifest["notebooks"]] == ["finished", "failed"]


def test_a_cell_out_of_time_is_said_so(tmp_path, capsys):
    save(tmp_path / "notebooks" / "01_slow.ipynb", "import time\ntime.sleep(600)")
    assert main(report(tmp_path, "--cell-timeout", "3")) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error == "labkit: 01_slow failed in cell 3 (import time): the cell took longer than 3 s"


NARROW = [
    {"LC_ALL": "C", "PYTHONUTF8": "0"}, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"},
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "ascii:strict"},
]  # fmt: skip


@pytest.mark.parametrize("environment", NARROW)
def test_what_a_terminal_cannot_show_stops_no_command(tmp_path, environment):
    for arguments in (["artifacts", "list", "--store", "."], ["report", "--profile", "größe ∞ \x1b[2J", "--out", "x"]):
        done = command(*arguments, cwd=tmp_path, **environment)
        assert "Traceback" not in done.stderr and "\x1b" not in done.stderr
        assert done.returncode == (2 if "report" in arguments else 0), done.stderr
    made = tmp_path / "ü"
    made.mkdir()
    assert command("artifacts", "list", "--store", "ü", cwd=tmp_path, **environment).returncode == 0


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess:
    line = line.replace("labkit", f"{sys.executable} -m labkit")
    environment = {**os.environ, "PYTHONPATH": str(Path(labkit.__file__).parent.parent)}
    return subprocess.run(["bash", "-c", line], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_whoever_stops_reading_stops_no_command(tmp_path):
    for line in ("labkit profiles | true; exit ${PIPESTATUS[0]}", "labkit profiles >&-", "labkit --help 2>&- >&-",
                 "labkit profiles 2>&1 | head -c 1 >/dev/null; exit ${PIPESTATUS[0]}"):  # fmt: skip
        done = shell(line, tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), line


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device here")
def test_a_disk_that_is_full_is_said_and_fails(tmp_path):
    done = shell("labkit profiles >/dev/full", tmp_path)
    assert done.returncode == 2 and re.fullmatch("labkit: cannot print .*; free some space.*\n", done.stderr)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_report_that_is_ended_leaves_no_kernel_and_no_temporary_folder(tmp_path, how):
    temporary, begun = tmp_path / "t", tmp_path / "begun"
    temporary.mkdir()
    wait = f"import os, pathlib, time\npathlib.Path({str(begun)!r}).write_text(str(os.getpid()))\ntime.sleep(100)"
    save(tmp_path / "notebooks" / "01_waits.ipynb", wait)
    told = {**os.environ, "PYTHONPATH": str(Path(labkit.__file__).parent.parent), "TMPDIR": str(temporary)}
    line = [sys.executable, "-m", "labkit", *report(tmp_path, "--dataset", "photos")]
    running = subprocess.Popen(line, env=told, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert waited(lambda: begun.exists() and begun.read_text(), 100) and list(temporary.glob("labkit-*"))
    running.send_signal(how)
    said = running.communicate(timeout=60)[1]
    assert running.returncode == (-how if how == signal.SIGKILL else 128 + how) and "Traceback" not in said
    assert how == signal.SIGKILL or "labkit: stopped" in said
    assert waited(lambda: gone(int(begun.read_text())) and not list(temporary.glob("labkit-*")))


def test_two_reports_into_one_folder_come_one_after_the_other(tmp_path):
    go = f"pathlib.Path({str(tmp_path / 'go')!r})"
    save(tmp_path / "notebooks" / "01_a.ipynb", f"import pathlib, time\nwhile not {go}.exists(): time.sleep(0.1)")
    save(tmp_path / "notebooks" / "02_b.ipynb", "print('b')")
    told = {**os.environ, "PYTHONPATH": str(Path(labkit.__file__).parent.parent)}
    runs = []
    for number in ("01", "02"):
        line = [sys.executable, "-m", "labkit", *report(tmp_path, "--notebooks", number)]
        runs.append(subprocess.Popen(line, env=told, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True))
        assert waited((tmp_path / "out" / "executed").exists, 60)
    assert runs[1].stderr.readline() == f"labkit: another run writes into {tmp_path / 'out'}; waiting for it\n"
    (tmp_path / "go").touch()
    for run in runs:
        run.communicate(timeout=120)
    assert [run.returncode for run in runs] == [0, 0]
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert {one["name"]: one["status"] for one in manifest["notebooks"]} == {"01_a": "finished", "02_b": "finished"}
    assert not [path for path in (tmp_path / "out").rglob(".*") if path.name != ".jupyter"]


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK"])
@pytest.mark.parametrize("value", ["two", "-1", "1.5", "٣½", "1e3"])
def test_a_variable_of_ranks_that_is_no_number_is_a_sentence(tmp_path, name, value):
    done = command("profiles", cwd=tmp_path, **{name: value})
    assert done.returncode == 2 and re.fullmatch(
        rf"labkit: \${name} is a whole number, .*; got .*torchrun\n", done.stderr
    )


def test_paths_of_options_are_those_of_the_folder_they_are_typed_in(tmp_path, monkeypatch):
    seen = []
    parser = argparse.ArgumentParser()
    parser.set_defaults(run=lambda options: seen.append(options.out) or 0)
    parser.add_argument("--out", type=Path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for typed in ("a/b", "~/b", "/c"):
        assert common.run(parser, ["--out", typed]) == 0
    assert seen == [tmp_path / "a" / "b", tmp_path / "home" / "b", Path("/c")]


def test_advice_at_the_command_line_is_a_flag(tmp_path):
    for number, side in enumerate((40, 40, 40, 48, 40, 40)):
        path = tmp_path / "here" / "cd"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (side, side), (40 * number, 0, 0)).save(path)
    for arguments in (["plan", "1"], ["learn"], ["report", "--out", "../out"]):
        done = command(*arguments, "--profile", "smoke", "--dataset", "folder:.", cwd=tmp_path / "here")
        assert done.returncode == 2 and "--resolution 64" in done.stderr and "resolution=" not in done.stderr
    again = command("table", "1", "--profile", "smoke", "--dataset", "folder:x", "--store", "/proc/x", cwd=tmp_path)
    assert f"{tmp_path / 'x'} does not exist; name a folder or zip" in again.stderr
    assert "LABKIT_FLAGS" not in os.environ


def test_a_folder_without_a_name_has_one_in_the_report(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = report_folder.ReportFolder(tmp_path / "out", report_folder.Settings(dataset="folder:."), tmp_path)
    assert folder.settings.dataset == f"folder:{tmp_path.name}"

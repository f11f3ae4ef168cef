"""The command line: exit statuses, one-line errors, and nothing half-written."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import labkit
from labkit.__main__ import main
from labkit.cli import common
from labkit.core import profiles, recipes
from labkit.csc import cbpdn

import pytest
from small_notebooks import save


def report(lab: Path, *options: str) -> list[str]:
    folders = ["--out", str(lab / "out"), "--notebook-dir", str(lab / "notebooks")]
    return ["report", "--profile", "smoke", *folders, *options]


def command(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    """`python -m labkit` as a user calls it: by the interpreter's path, without activating anything."""
    lean = {"PATH": "/usr/bin:/bin", "HOME": str(cwd), "PYTHONPATH": str(Path(labkit.__file__).parent.parent)}
    line = [sys.executable, "-m", "labkit", *arguments]
    return subprocess.run(line, cwd=cwd, env=lean | environment, capture_output=True, text=True, timeout=300)


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


@pytest.mark.parametrize("name", ["bench", "scaling"])
def test_commands_that_left_the_package_say_where_they_went(capsys, name):
    assert main([name, "--out", "x"]) == 2
    printed = capsys.readouterr()
    assert re.fullmatch(rf"labkit: .*`make {name}`.*\n", printed.err) and printed.out == ""


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

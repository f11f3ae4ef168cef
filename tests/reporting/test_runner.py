"""A notebook in a kernel: every way of not reaching the end is told apart, with its cell."""

import contextlib
import os
import sys
import time
from pathlib import Path

from labkit.core.errors import InputError
from labkit.reporting import runner

import nbformat
import pytest
from small_notebooks import PARAMETERS, save


def execute(tmp_path: Path, *cells: str, cell_timeout: int | None = None, **parameters) -> runner.Outcome:
    path = save(tmp_path / "notebooks" / "01_it.ipynb", *cells)
    partial = tmp_path / ".partial.ipynb"
    return runner.execute(path, partial, {"profile": "smoke", **parameters}, cwd=tmp_path, cell_timeout=cell_timeout)


def printed(outcome: runner.Outcome) -> list[str]:
    return [
        "".join(output.get("text", "") for output in cell.outputs)
        for cell in outcome.notebook.cells
        if cell.cell_type == "code"
    ]


def statuses(outcome: runner.Outcome) -> list[str]:
    return [cell.metadata.papermill.status for cell in outcome.notebook.cells if cell.cell_type == "code"]


def test_the_kernel_is_this_python_in_the_given_folder_with_the_given_parameters(tmp_path, monkeypatch, capfd):
    # A stranger's kernel of the same name comes first on the search path, as a conda user's may.
    stranger = tmp_path / "jupyter" / "kernels" / "python3"
    stranger.mkdir(parents=True)
    (stranger / "kernel.json").write_text('{"argv": ["/bin/false"], "display_name": "x", "language": "python"}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    folder = tmp_path / "a {braced} folder"
    folder.mkdir()
    outcome = execute(
        folder, "#md words", "import os, sys\nprint(sys.executable, os.getcwd(), profile, dataset, sep='|')"
    )
    assert outcome.failure is None
    assert printed(outcome)[-1].strip() == f"{sys.executable}|{folder}|smoke|fashion"
    assert statuses(outcome) == ["completed"] * 3
    assert [cell.get("execution_count") for cell in outcome.notebook.cells] == [1, 2, None, 3]
    assert str(tmp_path) not in str(outcome.notebook.metadata)
    assert capfd.readouterr() == ("", "")
    assert not list(folder.glob("kernel*"))


def test_an_error_names_its_cell_and_line_and_the_rest_is_marked_as_not_run(tmp_path):
    outcome = execute(tmp_path, "print('before')", "#md between", "x = 0\n# here\ny = 1 / x", "print('never')")
    assert outcome.failure == runner.Failure(4, "y = 1 / x", "ZeroDivisionError", "division by zero")
    assert outcome.failure.sentence == "cell 4 (y = 1 / x): ZeroDivisionError: division by zero"
    assert printed(outcome) == ["", "", "before\n", "", ""]
    assert statuses(outcome) == ["completed", "completed", "completed", "failed", "pending"]
    assert not any("papermill-error-cell-tag" in cell.metadata.get("tags", []) for cell in outcome.notebook.cells)


def test_an_input_error_is_its_own_sentence(tmp_path):
    outcome = execute(tmp_path, "from labkit.core.errors import InputError\nraise InputError('a filter is too large')")
    assert outcome.failure.sentence == "cell 3 (raise InputError('a filter is too large')): a filter is too large"


@pytest.mark.parametrize("how", ["os._exit(0)", "os.kill(os.getpid(), 9)"])
def test_a_dead_kernel_is_a_failure_of_the_cell_that_killed_it(tmp_path, how):
    outcome = execute(tmp_path, "import os", f"print('last words', flush=True)\n{how}", "print('never')")
    assert (outcome.failure.cell, outcome.failure.name) == (4, "KernelDied")
    assert outcome.failure.line == "print('last words', flush=True)"
    assert statuses(outcome)[-2:] == ["failed", "pending"]


def test_a_cell_out_of_time_is_a_failure_and_its_kernel_is_gone(tmp_path):
    outcome = execute(
        tmp_path, "import os, time\nprint(os.getpid())", "# long\ntime.sleep(600)", "print('never')", cell_timeout=3
    )
    assert outcome.failure == runner.Failure(4, "time.sleep(600)", "CellTimeout", "the cell took longer than 3 s")
    assert statuses(outcome)[-2:] == ["failed", "pending"]
    pid = int(printed(outcome)[2])
    deadline = time.monotonic() + 20
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline:
            os.kill(pid, 0)
            time.sleep(0.1)
        pytest.fail("the kernel still runs")


def test_leaving_early_without_an_error_is_a_failure_too(tmp_path):
    outcome = execute(tmp_path, "import sys\nsys.exit(0)", "print('never')", "#md end")
    assert (outcome.failure.cell, outcome.failure.name) == (3, "StoppedEarly")
    assert outcome.failure.message == "sys.exit left 1 cells unexecuted"


def test_cells_told_to_be_skipped_are_not_missed(tmp_path):
    path = save(tmp_path / "01_it.ipynb", "1 / 0", "print('end')")
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[1].metadata["tags"] = ["skip-execution"]
    nbformat.write(notebook, path)
    outcome = runner.execute(path, tmp_path / "out.ipynb", {}, cwd=tmp_path)
    assert outcome.failure is None and printed(outcome)[-1] == "end\n"


def test_inspect_accepts_the_labs_parameters_and_rejects_the_rest(tmp_path):
    names = {"profile": "smoke", "resolution": 0}
    good = save(tmp_path / "good.ipynb", "#md # Title")
    assert [cell.cell_type for cell in runner.inspect(good, names).cells] == ["code", "markdown"]

    bad = {
        "no parameter resolution": save(
            tmp_path / "a.ipynb", parameters=PARAMETERS.replace("resolution", "resolutoin")
        ),
        "0 cells tagged": save(tmp_path / "b.ipynb", "x = 1", parameters=None),
        "cannot be read": tmp_path / "c.ipynb",
        "does not name its kernel": save(tmp_path / "d.ipynb"),
    }
    bad["cannot be read"].write_text("{ no json")
    bare = nbformat.read(bad["does not name its kernel"], as_version=4)
    del bare.metadata["kernelspec"]
    nbformat.write(bare, bad["does not name its kernel"])
    for words, path in bad.items():
        with pytest.raises(InputError, match=words) as caught:
            runner.inspect(path, names)
        assert path.name in str(caught.value) and "\n" not in str(caught.value)

"""Runs one notebook in a kernel of this Python and says how it ended."""

import contextlib
import contextvars
import logging
import re
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from labkit.core import InputError, hardware

import nbformat
import papermill
from jupyter_client import AsyncKernelManager
from jupyter_client.kernelspec import KernelSpec
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbconvert.filters.ansi import strip_ansi
from papermill.exceptions import PapermillExecutionError
from papermill.execute import remove_error_markers
from traitlets import Unicode

_OURS = ("InputError", "KernelDied", "CellTimeout", "StoppedEarly")
_KERNEL_ENV = {
    # Charts as JSON for `html` to draw; the default renderer pastes 5 MB of script into the notebook instead.
    "PLOTLY_RENDERER": "plotly_mimetype",
    # debugpy prints three lines about frozen modules at every kernel start of Python 3.11 otherwise.
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    # What `report.check` has said about the images; and that two notebooks need the same, which is as it should be.
    "PYTHONWARNINGS": "ignore:images converted,ignore:classes with a single image,ignore:another run is building",
}


@dataclass(frozen=True)
class Failure:
    """Why a notebook did not reach its end.

    cell     number in brackets that Jupyter shows, In [cell]; None when no cell had started
    line     the line of that cell where it failed; where that is unknown, the first that is not a comment
    name     class of the exception, or "KernelDied", "CellTimeout", "StoppedEarly"
    message  its first line
    """

    cell: int | None
    line: str
    name: str
    message: str

    @property
    def sentence(self) -> str:
        """`cell 4 (rows = run(cases)): ZeroDivisionError: division by zero`; a sentence of ours has no name."""
        where = f"cell {self.cell} ({self.line}): " if self.cell else ""
        return where + (self.message if self.name in _OURS else f"{self.name}: {self.message}".rstrip(": "))


@dataclass(frozen=True)
class Outcome:
    """An executed notebook (cells up to the failure have their outputs), the seconds it took, and any failure."""

    notebook: nbformat.NotebookNode
    seconds: float
    failure: Failure | None


def inspect(path: Path, names: Mapping[str, Any]) -> nbformat.NotebookNode:
    """The notebook at `path`, after checking that its one `parameters` cell knows every one of `names`.

    Raises InputError when the file is no notebook, has no or several such cells, or lacks a parameter.
    """
    try:
        notebook = nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat lets JSON, validation and decoding errors of many classes through
        raise InputError(f"{path.name} cannot be read as a notebook: {_first_line(error)}") from error
    tagged = sum("parameters" in cell.metadata.get("tags", []) for cell in notebook.cells)
    if tagged != 1:
        raise InputError(f"{path.name} has {tagged} cells tagged `parameters`; give it exactly one")
    try:
        known = list(papermill.inspect_notebook(_literal(path)))
    except ValueError as error:
        raise InputError(f"{path.name} does not name its kernel; open it in Jupyter, choose Python 3, save") from error
    if missing := ", ".join(name for name in names if name not in known):
        raise InputError(f"{path.name} has no parameter {missing}; add it to its parameters ({', '.join(known)})")
    return notebook


def execute(
    path: Path, partial: Path, parameters: Mapping[str, Any], *,
    cwd: Path, cell_timeout: int | None = None, progress_bar: bool | dict[str, Any] = False,
    environment: Mapping[str, str] | None = None, kernels: list[AsyncKernelManager] | None = None,
) -> Outcome:  # fmt: skip
    """Run the notebook at `path` with `parameters` in folder `cwd`, saving to `partial` after every cell.

    The kernel has this process's environment and what `environment` adds, and is put into `kernels`: another thread
    ends the notebook by killing it.

    `cell_timeout` is in seconds, None for no limit. An error in a cell, a cell out of time, a dead kernel and an
    early sys.exit are all returned as a Failure: papermill's metadata marks cells that never ran as completed, so
    we judge by what was raised and by the cell that was last begun.
    """
    clock = time.perf_counter()
    failure, trace, inside = None, "", True
    logging.getLogger("papermill").addHandler(logging.NullHandler())  # we say what failed, once, ourselves
    try:
        with _kernel_class(environment or {}, [] if kernels is None else kernels) as kernel_class:
            # In a context of its own, where Jupyter's event loop is this notebook's and can be closed after it.
            contextvars.Context().run(
                _papermill, _literal(path), _literal(partial), dict(parameters),
                progress_bar=progress_bar, execution_timeout=cell_timeout, kernel_manager_class=kernel_class,
                resources={"metadata": {"path": str(cwd)}},  # papermill's `cwd` would move this process
            )  # fmt: skip
    except PapermillExecutionError as error:
        failure, trace = (error.ename, error.evalue), "\n".join(error.traceback)
    except DeadKernelError:
        failure = ("KernelDied", "the kernel died; if memory ran out, choose a smaller profile")
    except CellTimeoutError:
        failure = ("CellTimeout", f"the cell took longer than {cell_timeout} s")
    except Exception as error:  # a kernel that does not start, a full disk: the next notebook may still work
        failure, inside = (type(error).__name__, str(error)), False
    seconds = time.perf_counter() - clock

    notebook = remove_error_markers(nbformat.read(partial if partial.exists() else path, as_version=4))
    for key in ("input_path", "output_path"):  # a report is shown to others; where it was made is nobody's business
        notebook.metadata.get("papermill", {}).pop(key, None)
    code = [cell for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()
            and "skip-execution" not in cell.metadata.get("tags", [])]  # fmt: skip
    begun = [cell for cell in code if cell.metadata.get("papermill", {}).get("start_time")]
    if failure is None and len(begun) < len(code):
        failure = ("StoppedEarly", f"sys.exit left {len(code) - len(begun)} cells unexecuted")
    for cell in code[len(begun) :]:
        cell.metadata.setdefault("papermill", {})["status"] = "pending"
    if failure is None:
        return Outcome(notebook, seconds, None)
    if begun:
        begun[-1].metadata.papermill.status = "failed"
    where = (len(begun), _code_line(begun[-1].source, trace)) if begun and inside else (None, "")
    return Outcome(notebook, seconds, Failure(*where, failure[0], _first_line(failure[1])))


def _papermill(*places, **options) -> None:
    try:
        papermill.execute_notebook(*places, kernel_name="python3", language="python", **options)
    finally:
        ensure_event_loop().close()


@contextlib.contextmanager
def _kernel_class(
    environment: Mapping[str, str], kernels: list[AsyncKernelManager]
) -> Iterator[type[AsyncKernelManager]]:
    """A kernel manager that starts *this* interpreter, whatever kernels are registered, over a private socket.

    Each one made is put into `kernels`, and has the `environment` besides ours. Sockets in a folder of our own rather
    than TCP ports: no other user can connect, and ipykernel does not warn. The folder sits directly under the temporary
    directory because a socket's path may have only 107 characters.
    """
    with tempfile.TemporaryDirectory(prefix="labkit-", ignore_cleanup_errors=True) as folder:

        class Kernel(AsyncKernelManager):
            transport = Unicode("tcp" if len(folder) > 80 else "ipc")
            connection_file = Unicode(str(Path(folder, "kernel.json")))

            def __init__(self, **options):
                super().__init__(**options)
                kernels.append(self)

            @property
            def kernel_spec(self) -> KernelSpec:
                # Its log goes to our terminal, and reports the signal that asks it to end as an error.
                argv = [*hardware.child("ipykernel_launcher", folder), "-f", "{connection_file}"]
                shown = {"language": "python", "display_name": "Python 3", "metadata": {"debugger": False}}
                env = {**_KERNEL_ENV, **environment}
                return KernelSpec(argv=[*argv, "--log-level=CRITICAL"], env=env, **shown)

        yield Kernel


def _literal(path: Path) -> str:
    """The path with its braces doubled: papermill takes {name} in a path for a parameter."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _first_line(message: object) -> str:
    lines = str(message).strip().splitlines() or [""]
    return lines[0] if len(lines[0]) <= 300 else lines[0][:297] + "..."


def _code_line(source: str, trace: str) -> str:
    """The line of a cell that its traceback (with terminal colours) names first, else its first line of code."""
    lines = source.splitlines()
    named = re.search(r"Cell In ?\[\d+\], line (\d+)", strip_ansi(trace))
    if named and 1 <= int(named[1]) <= len(lines):
        lines = lines[int(named[1]) - 1 :]
    line = next((line.strip() for line in lines if line.strip() and not line.strip().startswith("#")), "")
    return line if len(line) <= 60 else line[:57] + "..."

"""What the commands share: their options, how they end, and tables for a terminal."""

import argparse
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.core import InputError, profiles, recipes
from labkit.core.wording import printable, typed, variable

if TYPE_CHECKING:  # torch is imported where it is needed: `--help` does not wait for it
    from labkit.evaluation import Workbench

Commands = argparse._SubParsersAction

_DATASETS = f"{', '.join(recipes.DATASETS)} or folder:PATH"
_ONLY = "only these cells: defense=STL, attack=FGSM-0.08, knowledge=transfer, retrained=yes, network=…, seed=0"
_CONVENTION = "sizes and T as the paper's text has them, or as its authors released them (default: %(default)s)"
_EPOCHS = "train networks for no more (default: the profile's)"
_OPTIONS = {
    "profile": {"default": "quick", "help": f"{', '.join(profiles.PROFILES)} (default: %(default)s)"},
    "dataset": {"default": "fashion", "help": f"{_DATASETS} (default: %(default)s)"},
    "layout": {"default": "", "metavar": "L", "help": "of a folder: classes, TRAIN or TRAIN,TEST"},
    "allow-duplicates": {"action": "store_true", "help": "test images may be training images as well"},
    "resolution": {"type": int, "default": 0, "metavar": "N", "help": "side in pixels (default: as stored)"},
    "seed": {"type": int, "default": 0, "help": "of all that is learned (default: %(default)s)"},
    "only": {"action": "append", "default": [], "metavar": "WHAT=A,B", "help": _ONLY},
    "convention": {"default": "stated", "choices": ("stated", "released"), "help": _CONVENTION},
    "epochs": {"type": int, "default": 0, "metavar": "N", "help": _EPOCHS},
    "model": {"default": "", "metavar": "SPEC", "help": "judge this network, as of `labkit evaluate`, and train none"},
    "kind": {"default": "", "help": "only this kind"},
    "data-root": {"default": "", "metavar": "D", "help": "folder of downloaded data sets"},
    "store": {"default": "", "metavar": "D", "help": "folder of artifacts (default: the lab's own)"},
    "parts": {"default": "", "metavar": "A,B", "help": "only these, the others as measured before"},
}


def command(
    commands: Commands, name: str, run: Callable[[argparse.Namespace], int], brief: str, text: str, *options: str
) -> argparse.ArgumentParser:
    """Adds a command with shared `options`. `run` does the work, imports what is heavy, and returns the status."""
    parser = commands.add_parser(name, help=brief, description=text)
    parser.set_defaults(run=run)
    return add_options(parser, *options)


def add_options(parser: argparse.ArgumentParser, *names: str) -> argparse.ArgumentParser:
    """Adds options that several commands have, each with the same meaning everywhere."""
    for name in (*names, *(("layout", "allow-duplicates") if "dataset" in names else ())):
        parser.add_argument(f"--{name}", **_OPTIONS[name])
    return parser


def run(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for what a command found amiss, 2 for bad input, 128 + signal if ended."""
    options = parser.parse_args(arguments)
    os.environ["LABKIT_FLAGS"] = " ".join(vars(options))  # for `wording.to_set`, in children too
    ended = []  # by which signals we are ended as by Ctrl-C
    try:
        for name, value in vars(options).items():
            if isinstance(value, Path):  # as typed, here; what it is given to may work elsewhere
                setattr(options, name, typed(value).absolute())
        variable("RANK", 0), variable("LOCAL_RANK", 0)
        # A rank is ended by torchrun, and at once: it may be waiting for others, where no exception reaches it.
        alone = variable("WORLD_SIZE", 1) == 1 and threading.current_thread() is threading.main_thread()
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)) if alone else ():
            if signal.getsignal(number) == signal.SIG_DFL:  # and not ignored, as by nohup
                ended.append(number)
                signal.signal(number, _end)
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"labkit: {printable(message)}", file=sys.stderr)
            asked = [f"layout={options.layout}"] if getattr(options, "layout", "") else []
            if asked := asked + ["allow-duplicates"] * getattr(options, "allow_duplicates", False):
                if not (where := recipes.folder(options.dataset)):
                    raise InputError("--layout and --allow-duplicates go with --dataset folder:PATH")
                options.dataset += ("&" if where.layout or where.duplicates else "?") + "&".join(asked)
            status = options.run(options)
            print(end="", flush=True)  # here, where it may still be told that it cannot be
            return status
    except InputError as error:
        print(f"labkit: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print("labkit: stopped; run the same command to go on with what is already built", file=sys.stderr)
        return 128 + (stop.args or [signal.SIGINT])[0]
    finally:
        os.environ.pop("LABKIT_FLAGS", None)
        for number in ended:
            signal.signal(number, signal.SIG_DFL)


def _end(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(number)  # all is tidied up as after Ctrl-C


def lab(options: argparse.Namespace, dataset: str = "") -> profiles.Profile:
    """The profile that the options choose, on their data set or another one. Raises InputError on a bad seed."""
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed is a whole number from 0 to {2**32 - 1}; got {options.seed}")
    chosen = profiles.profile(options.profile, dataset=dataset or options.dataset, resolution=options.resolution)
    if epochs := getattr(options, "epochs", 0):
        chosen = chosen.shorter(epochs)
    return recipes.reseed(chosen, options.seed)


def workbench(options: argparse.Namespace) -> "Workbench":
    """The workbench over the options' store; only the first rank shows progress."""
    from labkit.core import distributed
    from labkit.evaluation import Workbench

    return Workbench(options.store, data_root=options.data_root, progress=distributed.rank() == 0)


def span(text: str) -> float:
    """Seconds of a time such as "90m", "1.5h" or "45s". Raises argparse's error on anything else."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smh])", text)
    if not found or not (seconds := {"s": 1, "m": 60, "h": 3600}[found[2]] * float(found[1])):
        raise argparse.ArgumentTypeError(f"a time is a number above 0 with s, m or h, such as 90m; got {text!r}")
    return seconds


def listed(text: str) -> list[str]:
    """The words of an option such as "A,B"."""
    return [part for part in text.split(",") if part]


def columns(rows: Iterable[Sequence[object]], align: Sequence[str] = ()) -> str:
    """Rows as lines for a terminal, whatever the cells hold; `align`: each column's "left" or "right", () for left."""
    from tabulate import tabulate

    cells = [[printable(cell) for cell in row] for row in rows]
    return tabulate(cells, tablefmt="plain", disable_numparse=True, colalign=align or None)

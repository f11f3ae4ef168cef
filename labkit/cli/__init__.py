"""The command line, `python -m labkit COMMAND`: each command parses, calls one function of another room, and prints.

Knows     one module a command; the parser's `run` default does the work and returns the exit status
Comes in  what was typed
Goes out  0; 1 for what a command found amiss; 2 for bad input, said in a sentence; 128 + the signal that ended it

The face loads no torch, and neither does `--help`.
"""

import argparse
from collections.abc import Sequence

import labkit
from labkit.cli import artifacts, common, dashboards, doctor, evaluate, learn, report, table

__all__ = ["COMMANDS", "main", "parser"]

# Modules, each with a function `add` that is given the parser's subcommands to add its own to.
COMMANDS = (report, dashboards, table, evaluate, learn, artifacts, doctor)
_EXAMPLES = """examples:
  labkit report --profile quick --dataset fashion --out DIR   all notebooks, as pages
  labkit dashboards --dataset photos --resolution 64          sliders in the browser
  labkit plan 1 --profile lab --dataset folder:PATH           what a table of the paper will take
  labkit table 1 --profile lab --dataset folder:PATH --out DIR --for 90m
  labkit evaluate --model FILE.py:FUNCTION --dataset folder:PATH --out DIR
"""


def parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    look = {"epilog": _EXAMPLES, "formatter_class": argparse.RawDescriptionHelpFormatter}
    made = argparse.ArgumentParser(prog="labkit", description=labkit.__doc__.replace("*", ""), **look)
    made.add_argument("--version", action="version", version=f"labkit {labkit.__version__}")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status, as `common.run` says."""
    return common.run(parser(), arguments)

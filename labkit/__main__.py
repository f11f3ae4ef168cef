"""The command line: `python -m labkit COMMAND`; each command parses, calls one function and prints."""

import argparse
import sys
from collections.abc import Sequence

import labkit
from labkit import artifacts_cli, cli_common, dashboards_cli, doctor, ranks_cli, report_cli, table_cli

# Modules, each with a function `add` that is given the parser's subcommands to add its own to.
COMMANDS = (report_cli, dashboards_cli, table_cli, ranks_cli, artifacts_cli, doctor)
_MOVED = ("bench", "scaling")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status, as `cli_common.run` says."""
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0] in _MOVED:
        print(
            f"labkit: {words[0]} is not a command of labkit; run `make {words[0]}` in the repository", file=sys.stderr
        )
        return 2
    parser = argparse.ArgumentParser(prog="labkit", description=labkit.__doc__.replace("*", ""))
    parser.add_argument("--version", action="version", version=f"labkit {labkit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in COMMANDS:
        module.add(commands)
    return cli_common.run(parser, words)


if __name__ == "__main__":
    sys.exit(main())

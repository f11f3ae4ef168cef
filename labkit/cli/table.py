"""The commands `labkit table`, `plan` and `findings`: the paper's tables, what they will take, and what they say."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.cli import common
from labkit.core import wording

if TYPE_CHECKING:
    from labkit.core.profiles import Profile
    from labkit.evaluation import Workbench

_NAMES = "1, 2a, 2b, 3, 4, 5, 6a, 6b, 7, 8a or 8b"


def add(commands: common.Commands) -> None:
    """Adds `table`, `plan` and `findings` to the command line."""
    text = """Measure tables of the paper, each in three blocks: ours as the paper's attackers, ours in the worst case,
    and the paper's. Goes on where a run that was stopped has left off. Under torchrun, the ranks share the cases."""
    options = ("profile", "dataset", "resolution", "only", "seed", "data-root", "store")
    parser = common.command(commands, "table", _table, "the paper's tables, measured", text, *options)
    parser.add_argument("names", nargs="+", metavar="NAME", help=_NAMES)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write them to (default: only printed)")

    text = "What the tables will take: what is kept already, what has to be built, and about how long that takes here."
    parser = common.command(commands, "plan", _plan, "what tables will take", text, *options)
    parser.add_argument("names", nargs="+", metavar="NAME", help=_NAMES)
    parser.add_argument("--list", action="store_true", help="every artifact by name, and not only how many")

    text = "Write the page over measured tables: figure, main table, and what the numbers say, each with its cell."
    parser = common.command(commands, "findings", _findings, "a page over measured tables", text)
    parser.add_argument("folder", type=Path, metavar="DIR", help="whose folders hold what `labkit table --out` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="page to write, beside that folder")


def _table(options: argparse.Namespace) -> int:
    from labkit.core import distributed
    from labkit.evaluation import measurement
    from labkit.reporting import table_page

    with distributed.session():
        rank, world = distributed.rank(), distributed.world()
        lab, bench = common.lab(options), common.workbench(options)
        # Each rank builds whole artifacts, on its own: they are what one rank builds, and none waits for a slower one.
        with distributed.apart():
            wanted = table_page.chosen(options.only)
            asked = table_page.ask(lab, options.names, wanted)
            if world > 1:
                cases = [case for name in options.names for case in (*asked[name].blind, *asked[name].aware)]
                measurement.share(cases, bench, rank=rank, world=world)
            return _write(options, lab, bench, asked, wanted) if rank == 0 else 0


def _write(options: argparse.Namespace, lab: "Profile", bench: "Workbench", asked: dict, wanted: dict) -> int:
    """Every table, printed and written; what others are still measuring is waited for."""
    from labkit.reporting import table_page

    for name in options.names:
        again = table_page.command(name, lab, options.only, options.seed)
        made = table_page.measure(name, asked[name], lab, bench, checked=set(wanted) <= {"defense"})
        print(f"\n{made.text(again)}")
        if options.out:
            made.save(options.out, again)
            print(f"table {name}: {options.out / f'table_{name}.md'}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from labkit.experiments import cost_estimate
    from labkit.reporting import table_page

    lab, bench = common.lab(options), common.workbench(options)
    asked = table_page.ask(lab, options.names, table_page.chosen(options.only))
    cases = [case for name in options.names for case in (*asked[name].blind, *asked[name].aware)]
    steps = cost_estimate.steps(cases, bench)
    if options.list:
        for step in steps:
            took = "kept" if step.kept else "not estimated" if step.seconds is None else wording.duration(step.seconds)
            print(f"{took:>14}  {step.kind}: {step.what}")
    print(cost_estimate.table(steps).to_string(index=False))
    for name in options.names:
        for defense, why in asked[name].missing:
            print(f"table {name}, left out: {defense}: {why}")
    print(f"all in all, on this machine with nothing else running: about {cost_estimate.hours(steps)}")
    return 0


def _findings(options: argparse.Namespace) -> int:
    from labkit.reporting import findings

    findings.write(options.folder, options.out)
    print(f"findings: {options.out}")
    return 0

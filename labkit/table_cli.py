"""The commands `labkit table`, `plan` and `findings`: the paper's tables, what they will take, and what they say."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from labkit import profiles, recipes, units
from labkit.errors import InputError

if TYPE_CHECKING:
    from labkit.artifacts import Workbench
    from labkit.profiles import Profile


def add(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Adds `table`, `plan` and `findings` to the command line."""
    text = """Measure tables of the paper, each in three blocks: ours as the paper's attackers, ours in the worst case,
    and the paper's. Goes on where a run that was stopped has left off. Under torchrun, the ranks share the cases."""
    parser = commands.add_parser("table", help="the paper's tables, measured", description=text)
    _arguments(parser)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write them to (default: only printed)")
    parser.set_defaults(run=_table)

    text = "What the tables will take: what is kept already, what has to be built, and about how long that takes here."
    parser = commands.add_parser("plan", help="what tables will take", description=text)
    _arguments(parser)
    parser.add_argument("--list", action="store_true", help="every artifact by name, and not only how many")
    parser.set_defaults(run=_plan)

    text = "Write the page over measured tables: figure, main table, and what the numbers say, each with its cell."
    parser = commands.add_parser("findings", help="a page over measured tables", description=text)
    parser.add_argument("folder", type=Path, metavar="DIR", help="whose folders hold what `labkit table --out` wrote")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="page to write, beside that folder")
    parser.set_defaults(run=_findings)


def _arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("names", nargs="+", metavar="NAME", help="1, 2a, 2b, 3, 4, 5, 6a, 6b, 7, 8a or 8b")
    parser.add_argument("--profile", default="quick", help=f"{', '.join(profiles.PROFILES)} (default: %(default)s)")
    parser.add_argument("--dataset", default="fashion", help="as for `labkit report` (default: %(default)s)")
    parser.add_argument("--resolution", type=int, default=0, metavar="N", help="side in pixels (default: as stored)")
    only = "only these cells: defense=STL, attack=FGSM-0.08, knowledge=transfer or retrained=yes"
    parser.add_argument("--only", action="append", default=[], metavar="WHAT=A,B", help=only)
    parser.add_argument("--seed", type=int, default=0, help="of all that is trained (default: %(default)s)")
    parser.add_argument("--data-root", default="", metavar="D", help="folder of downloaded data sets")
    parser.add_argument("--store", default="", metavar="D", help="folder of artifacts")


def _table(options: argparse.Namespace) -> int:
    from labkit import experiment, parallel, published

    with parallel.session():
        rank, world = parallel.rank(), parallel.world()
        # Each rank builds whole artifacts, on its own: they are what one rank builds, and none waits for a slower one.
        with parallel.apart():
            lab, bench = _lab(options, progress=rank == 0)
            wanted = published.chosen(options.only)
            asked = published.ask(lab, options.names, wanted)
            if world > 1:
                cases = [case for name in options.names for case in (*asked[name].blind, *asked[name].aware)]
                experiment.share(cases, bench, rank=rank, world=world)
            return _write(options, lab, bench, asked, wanted) if rank == 0 else 0


def _write(options: argparse.Namespace, lab: "Profile", bench: "Workbench", asked: dict, wanted: dict) -> int:
    """Every table, printed and written; what others are still measuring is waited for."""
    from labkit import published

    for name in options.names:
        again = published.command(name, lab, options.only, options.seed)
        made = published.measure(name, asked[name], lab, bench, checked=set(wanted) <= {"defense"})
        print(f"\n{made.text(again)}")
        if options.out:
            made.save(options.out, again)
            print(f"table {name}: {options.out / f'table_{name}.md'}")
    return 0


def _plan(options: argparse.Namespace) -> int:
    from labkit import plan, published

    lab, bench = _lab(options)
    asked = published.ask(lab, options.names, published.chosen(options.only))
    cases = [case for name in options.names for case in (*asked[name].blind, *asked[name].aware)]
    steps = plan.steps(cases, bench)
    if options.list:
        for step in steps:
            took = "kept" if step.kept else "not estimated" if step.seconds is None else units.duration(step.seconds)
            print(f"{took:>14}  {step.kind}: {step.what}")
    print(plan.table(steps).to_string(index=False))
    for name in options.names:
        for defense, why in asked[name].missing:
            print(f"table {name}, left out: {defense}: {why}")
    print(f"all in all, on this machine with nothing else running: about {plan.hours(steps)}")
    return 0


def _findings(options: argparse.Namespace) -> int:
    from labkit import findings

    findings.write(options.folder, options.out)
    print(f"findings: {options.out}")
    return 0


def _lab(options: argparse.Namespace, *, progress: bool = True) -> "tuple[Profile, Workbench]":
    lab = profiles.profile(options.profile, dataset=options.dataset, resolution=options.resolution)
    if not 0 <= options.seed < 2**32:
        raise InputError(f"--seed is a whole number from 0 to {2**32 - 1}; got {options.seed}")
    lab = recipes.reseed(lab, options.seed)
    from labkit.artifacts import Workbench  # brings torch, for which a misspelled profile need not wait

    return lab, Workbench(options.store, data_root=options.data_root, progress=progress)

"""The commands `labkit table`, `plan` and `findings`: the paper's tables, what they will take, and what they say."""

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from labkit.cli import common
from labkit.core import InputError, profiles, wording

if TYPE_CHECKING:
    from labkit.evaluation import Workbench

_NAMES = "1, 2a, 2b, 3, 4, 5, 6a, 6b, 7, 8a, 8b; baselines (side by side), holds (what does) or causes (of gaps)"


def add(commands: common.Commands) -> None:
    """Adds `table`, `plan` and `findings` to the command line."""
    text = """Measure tables of the paper, each in three blocks: ours as the paper's attackers, ours in the worst case,
    and the paper's. Goes on where a run that was stopped has left off. Under torchrun, the ranks share the cases."""
    options = (
        "profile", "dataset", "resolution", "convention", "epochs", "model", "only", "seed", "data-root", "store",
    )  # fmt: skip
    parser = common.command(commands, "table", _table, "the paper's tables, measured", text, *options)
    parser.add_argument("names", nargs="+", metavar="NAME", help=_NAMES)
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write them to (default: only printed)")
    parser.add_argument("--note", default="", metavar="TEXT", help="what the page says first of network and images")
    within = "end after so long, such as 90m, with what is measured by then; the same command goes on"
    parser.add_argument("--for", dest="seconds", type=common.span, metavar="TIME", help=within)

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

    # Each rank builds whole artifacts, on its own: they are what one rank builds, and none waits for a slower one.
    with distributed.session():
        rank, world = distributed.rank(), distributed.world()
        lab, bench = _judging(options)
        with distributed.apart():
            wanted, asked, cases = _asked(options, lab, bench)
            if options.seconds and world > 1:
                raise InputError("--for is for one process; start it without torchrun")
            if options.seconds:
                return _measured_for(options, lab, bench, asked, cases)
            if world > 1:
                measurement.share(cases, bench, rank=rank, world=world)
            for name in options.names if rank == 0 else ():  # what others are still measuring is waited for
                again = table_page.command(name, lab, options.only, options.seed)
                how = {"checked": set(wanted) <= {"defense"}, "note": options.note}
                made = table_page.measure(name, asked[name], lab, bench, **how)
                if options.out:  # before anything is printed, which may fail
                    made.save(options.out, again)
                print(f"\n{made.text(again)}")
                if options.out:
                    print(f"table {name}: {options.out / f'{made.stem}.md'}")
    return 0


def _measured_for(options: argparse.Namespace, lab: profiles.Profile, bench, asked: dict, cases: list) -> int:
    """Measures for as long as was asked, and writes what there is: again and again, and at the end."""
    from labkit.cli import deadline
    from labkit.evaluation import measurement
    from labkit.experiments import cost_estimate, paper_tables
    from labkit.reporting import table_page

    if not options.out:
        raise InputError("--for writes while it measures: name a folder with --out")
    begun = time.monotonic()

    def write() -> None:
        for name in options.names:
            there = paper_tables.finished(asked[name], bench)
            if there.blind:
                again = table_page.command(name, lab, options.only, options.seed)
                how = {"checked": False, "of": asked[name], "note": options.note}
                table_page.measure(name, there, lab, bench, **how).save(options.out, again)

    ordered = cost_estimate.ordered(cases, bench)
    whole = deadline.measure(ordered, bench, options.seconds - (time.monotonic() - begun), write)
    count = sum(measurement.kept(case, bench) for case in ordered)
    print(f"{count} of {len(ordered)} cells are measured: {options.out}")
    print("the same command without --for adds the checks" if whole else "the same command goes on from here")
    return 0


def _judging(options: argparse.Namespace) -> tuple[profiles.Profile, "Workbench"]:
    """The profile and the workbench that the options choose, with the network that they give."""
    lab, bench = common.lab(options), common.workbench(options)
    if not options.model:
        return lab, bench
    from labkit.evaluation import own

    if studies := {"causes", "holds"} & {*options.names}:
        raise InputError(f"{min(studies)} trains the networks that it compares; leave out --model")
    return lab.judging(own.theirs(options.model, None, lab.data, bench).network), bench


def _asked(options: argparse.Namespace, lab: profiles.Profile, bench) -> tuple[dict, dict, list]:
    """What is wanted of the tables, what each of them asks for, and all cases of that, for which the images suffice."""
    from labkit.evaluation import measurement
    from labkit.reporting import table_page

    wanted = table_page.chosen(options.only)
    if options.convention != "stated":
        options.names = [f"{name}_{options.convention}" for name in options.names]
    asked = table_page.ask(lab, options.names, wanted)
    cases = [case for name in options.names for case in (*asked[name].blind, *asked[name].aware)]
    measurement.check(cases, bench)
    return wanted, asked, cases


def _plan(options: argparse.Namespace) -> int:
    from labkit.experiments import cost_estimate

    lab, bench = _judging(options)
    _, asked, cases = _asked(options, lab, bench)
    steps = cost_estimate.steps(cases, bench, soonest=True)
    train, test = (bench.images(lab.data, split) for split in ("train", "test"))
    print(f"{lab.data.label}: {len(train):,} to train on, {len(test):,} to test on, of {wording.some(train.classes)}\n")
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

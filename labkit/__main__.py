"""The command line: `python -m labkit COMMAND`; each command parses, calls one function and prints."""

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import labkit
from labkit import artifacts_cli, dashboards, doctor, profiles, ranks_cli, table_cli
from labkit.errors import InputError, printable

# Functions, each given the parser's subcommands to add one to; the parser's `run` default does the work and
# returns the exit status. Heavy imports belong inside that function: `--help` should cost no torch.
Command = Callable[["argparse._SubParsersAction[argparse.ArgumentParser]"], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0, 1 for what a command found amiss, 2 for bad input, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="labkit", description=labkit.__doc__.replace("*", ""))
    parser.add_argument("--version", action="version", version=f"labkit {labkit.__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for add in COMMANDS:
        add(commands)
    options = parser.parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_: print(f"labkit: {message}", file=sys.stderr)
            return options.run(options)
    except InputError as error:
        print(f"labkit: {printable(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("labkit: stopped; the same command takes up again with what is already built", file=sys.stderr)
        return 130


def _add_report(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = "Run the numbered notebooks in order and write one page each, their tables, an index and a manifest."
    parser = commands.add_parser("report", help="notebooks to a browsable report", description=text)
    parser.add_argument("--profile", default="quick", help=f"{', '.join(profiles.PROFILES)} (default: %(default)s)")
    parser.add_argument(
        "--dataset",
        default="fashion",
        help="fashion, photos, cifar10, imagenet10, imagenet or folder:PATH (default: %(default)s)",
    )
    parser.add_argument("--resolution", type=int, default=0, metavar="N", help="side in pixels (default: as stored)")
    parser.add_argument("--data-root", default="", metavar="D", help="folder of downloaded data sets")
    parser.add_argument("--store", default="", metavar="D", help="folder of artifacts, shared between reports")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the report")
    parser.add_argument("--notebooks", default="", metavar="02,05", help="only these, by number or name")
    parser.add_argument("--notebook-dir", type=Path, metavar="D", help="where they lie (default: the lab's own)")
    parser.add_argument("--cell-timeout", type=int, metavar="S", help="seconds a cell may take (default: any)")
    parser.set_defaults(run=_report)


def _report(options: argparse.Namespace) -> int:
    from labkit import cbpdn, reports

    settings = reports.Settings(options.profile, options.dataset, options.resolution, options.data_root, options.store)
    if options.cell_timeout is not None and options.cell_timeout <= 0:
        raise InputError(f"--cell-timeout is a number of seconds above 0; got {options.cell_timeout}")
    source = options.notebook_dir or reports.NOTEBOOKS
    plan = reports.check(settings, options.out, notebooks=source, only=options.notebooks.split(","))
    cbpdn.prepare()  # here, where its announcement is no stray line on a page
    print(f"{len(plan)} notebooks, profile {settings.profile}, data set {settings.dataset} -> {options.out}")
    entries = reports.run(settings, options.out, plan, cell_timeout=options.cell_timeout)
    print(f"report: {options.out / 'index.html'}")
    failed = [entry for entry in entries if entry["error"]]
    for entry in failed:
        print(f"labkit: {entry['name']} failed in {entry['error']['sentence']}", file=sys.stderr)
    return 1 if failed else 0


def _add_profiles(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser("profiles", help="table of the profiles", description="The sizes the lab comes in.")
    parser.set_defaults(run=_profiles)


def _profiles(options: argparse.Namespace) -> int:
    sizes = "K", "S", "lambda", "images", "passes"
    rows = [("profile", "train", "test", *sizes, "classifier", "epochs", "on T(x)", "BIM steps")]
    for name, profile in profiles.PROFILES.items():
        d, c = profile.transform.dictionary, profile.classifier
        steps = profile.strongest.steps
        epochs = str(c.epochs), str(profile.retrained().epochs)
        counts = (profile.data.train or "all", profile.data.test or "all", d.K, d.S, d.lam, d.images, d.passes)
        rows.append((name, *map(str, counts), f"{c.network} x {c.width:g}", *epochs, str(steps)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _add_bench(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    text = """Time coding and learning beside sporco's and the least any solver must do, and every defense beside STL;
    write bench.json and bench.md. Takes about half an hour, most of it sporco's."""
    parser = commands.add_parser("bench", help="measure the speeds the lab claims", description=text)
    parser.add_argument("--dataset", default="photos", help="whose images to code (default: %(default)s)")
    parser.add_argument("--data-root", default="", metavar="D", help="folder of downloaded data sets")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the two files")
    parser.add_argument("--parts", default="", metavar="A,B", help="only these, the others as measured before")
    parser.set_defaults(run=_bench)


def _bench(options: argparse.Namespace) -> int:
    from labkit import bench

    parts = [part for part in options.parts.split(",") if part]
    record = bench.run(options.out, dataset=options.dataset, data_root=options.data_root or None, parts=parts)
    print(bench.markdown(record))
    print(f"bench: {options.out / 'bench.md'}")
    return 0


COMMANDS: tuple[Command, ...] = (
    _add_report,
    dashboards.add,
    _add_profiles,
    _add_bench,
    table_cli.add,
    ranks_cli.add,
    artifacts_cli.add,
    doctor.add,
)

if __name__ == "__main__":
    sys.exit(main())

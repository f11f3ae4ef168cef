"""The commands `labkit evaluate`, `compare` and `leaderboard`: any classifier and any defense, judged."""

import argparse
from dataclasses import replace
from pathlib import Path

from labkit.cli import common
from labkit.core import InputError

_MODEL = "torchvision:NAME, timm:NAME or file.py:FUNCTION, each with @WEIGHTS if wanted; exported.pt2; or lab:vanilla"
_DEFENSE = "file.py:FUNCTION, the name of a baseline (as jpeg), or lab:stl or lab:stl-cluster (default: none)"


def add(commands: common.Commands) -> None:
    """Adds the three to the command line."""
    text = "Attack any classifier, behind any defense, under every threat model that fits, and write one page."
    options = ("profile", "resolution", "seed", "data-root", "store")
    parser = common.command(commands, "evaluate", _evaluate, "judge your own classifier or defense", text, *options)
    common.add_options(parser, "dataset")
    parser.add_argument("--model", required=True, metavar="SPEC", help=_MODEL)
    parser.add_argument("--defense", default="", metavar="SPEC", help=_DEFENSE)
    parser.add_argument("--surrogate", default="", metavar="SPEC", help="a network from which attacks are transferred")
    parser.add_argument("--effort", default="standard", help="fast, standard or full (default: %(default)s)")
    parser.add_argument(
        "--attack", action="append", default=[], metavar="file.py:FUNCTION", help="an attack of your own"
    )
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="the classes that the model's outputs stand for, one a line"
    )
    parser.add_argument("--images", type=int, metavar="N", help="of no more test images (default: as the effort says)")
    parser.add_argument("--note", default="", metavar="TEXT", help="a sentence that the page begins with")
    parser.add_argument("--without-pictures", action="store_true", help="where the images may not be shown to others")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the page")

    text = "How two evaluations of the same images differ, attack by attack, in pairs."
    parser = common.command(commands, "compare", _compare, "two evaluations, in pairs", text)
    parser.add_argument("ours", type=Path, metavar="A.json")
    parser.add_argument("other", type=Path, metavar="B.json")

    text = "One sortable page over all evaluations and tables in a folder, the worst case first."
    parser = common.command(commands, "leaderboard", _leaderboard, "a page over evaluations", text)
    parser.add_argument("folder", type=Path, metavar="DIR", help="whose folders hold evaluations and tables")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the page (default: the same)")


def _evaluate(options: argparse.Namespace) -> int:
    from labkit.evaluation import evaluate
    from labkit.models import foreign
    from labkit.reporting import evaluation_page

    lab, bench = common.lab(options), common.workbench(options)
    data = lab.data.at_most(options.images)
    model, defense, surrogate = map(lab.named, (options.model, options.defense, options.surrogate))
    if options.model in ("lab:stl", "lab:stl-cluster"):
        raise InputError(f"{options.model} is a defense; write --model lab:vanilla --defense {options.model}")
    if isinstance(model, str):
        model = foreign.network(model)  # here, so that its file is run once
    how = {"effort": options.effort, "store": bench, "surrogate": surrogate, "attacks": options.attack}
    if options.classes:
        how["classes"] = _positions(options.classes, bench.images(lab.data, "test").classes)
    found = evaluate(model, data, defense=defense, **how)
    found = replace(found, about={"note": options.note} | found.about)
    if options.without_pictures:
        found = replace(found, pictures=())
    bare = evaluate(model, data, **how) if defense else None
    print(f"evaluation: {evaluation_page(found, options.out, bare)}")
    return 0


def _positions(file: Path, wanted: tuple[str, ...]) -> list[int]:
    """Where, among the classes that a file names, one a line, each of the data set's stands."""
    try:
        known = {name.strip(): at for at, name in enumerate(file.read_text("utf-8").splitlines())}
    except (OSError, ValueError):
        raise InputError(f"cannot read {file}; --classes names a text file with one class a line") from None
    if missing := [name for name in wanted if name not in known]:
        raise InputError(
            f"{file} does not name the class {missing[0]!r}; write the data set's names in the model's order"
        )
    return [known[name] for name in wanted]


def _compare(options: argparse.Namespace) -> int:
    from labkit.reporting import findings

    print(findings.compare(options.ours, options.other))
    return 0


def _leaderboard(options: argparse.Namespace) -> int:
    from labkit.reporting import findings

    print(f"leaderboard: {findings.leaderboard(options.folder, options.out)}")
    return 0

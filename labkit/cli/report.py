"""The commands `labkit report`, `notebooks` and `profiles`: notebooks as pages, as files, and their sizes."""

import argparse
import shutil
import sys
from pathlib import Path

from labkit.cli import common
from labkit.core import InputError, hardware, profiles
from labkit.core.wording import check, printable


def add(commands: common.Commands) -> None:
    """Adds `report`, `notebooks` and `profiles` to the command line."""
    text = "Run the numbered notebooks in order and write one page each, their tables, an index and a manifest."
    options = ("profile", "dataset", "resolution", "data-root", "store")
    parser = common.command(commands, "report", _report, "notebooks to a browsable report", text, *options)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the report")
    parser.add_argument("--notebooks", default="", metavar="02,05", help="only these, by number or name")
    parser.add_argument("--notebook-dir", type=Path, metavar="D", help="where they lie (default: the lab's own)")
    parser.add_argument("--jobs", type=int, metavar="N", help="notebooks at once (default: 2)")
    parser.add_argument("--cell-timeout", type=int, metavar="S", help="seconds a cell may take (default: any)")

    text = "Copy the notebooks and dashboards, for JupyterLab."
    copied = common.command(commands, "notebooks", _notebooks, "copy the notebooks, for JupyterLab", text)
    copied.add_argument("folder", type=Path, metavar="DIR", help="a new folder")

    common.command(commands, "profiles", _profiles, "table of the profiles", "The sizes the lab comes in.")


def _report(options: argparse.Namespace) -> int:
    from labkit.csc import cbpdn
    from labkit.reporting import report

    settings = report.Settings(options.profile, options.dataset, options.resolution, options.data_root, options.store)
    asked = {"--jobs": options.jobs, "--cell-timeout": options.cell_timeout}
    check("report", asked, "--jobs, --cell-timeout in 1 to inf")
    source = options.notebook_dir or report.NOTEBOOKS
    plan = report.check(settings, options.out, notebooks=source, only=options.notebooks.split(","))
    cbpdn.prepare()  # here, where its announcement is no stray line on a page
    told = f"{len(plan)} notebooks, profile {settings.profile}, data set {settings.dataset} -> {options.out}"
    print(printable(told))
    entries = report.run(settings, options.out, plan, jobs=options.jobs, cell_timeout=options.cell_timeout)
    print(f"report: {printable(options.out / 'index.html')}")
    failed = [entry for entry in entries if entry["error"]]
    for entry in failed:
        print(f"labkit: {entry['name']} failed in {printable(entry['error']['sentence'])}", file=sys.stderr)
    return 1 if failed else 0


def _notebooks(options: argparse.Namespace) -> int:
    try:
        shutil.copytree(hardware.shipped() / "notebooks", options.folder)
    except OSError as error:
        raise InputError(f"cannot copy into {options.folder} ({error.strerror}); name a new folder") from None
    print(f"notebooks: {printable(options.folder)}; open them with `jupyter lab {printable(options.folder)}`")
    return 0


def _profiles(options: argparse.Namespace) -> int:
    sizes = ("K", "S", "lambda", "images", "passes", "classifier", "epochs", "on T(x)", "BIM steps")
    rows = [("profile", "train", "test", *sizes)]
    for name, profile in profiles.PROFILES.items():
        d, c = profile.transform.dictionary, profile.classifier
        steps = next(attack.steps for attack in profile.attacks if attack.name == "bim")
        counts = (profile.data.train or "all", profile.data.test or "all", d.K, d.S, d.lam, d.images, d.passes)
        rows.append((name, *counts, f"{c.network} x {c.width:g}", c.epochs, profile.retrained().epochs, steps))
    print(common.columns(rows))
    return 0

"""The command `labkit dashboards`: prepares what the pages need, and serves them."""

import argparse
import os

from labkit.cli import common
from labkit.core import profiles
from labkit.dashboards import server


def add(commands: common.Commands) -> None:
    """Adds `dashboards` to the command line."""
    text = """Make what the dashboards need, if it is not there, and serve them. They are open to this machine alone; on
    another address than its own, whoever comes must bring the token that is printed, or is given as $LABKIT_TOKEN."""
    parser = common.command(commands, "dashboards", run, "sliders in the browser", text, "resolution", "store")
    common.add_options(parser, "layout", "allow-duplicates")
    parser.add_argument("--profile", default="", help=f"{', '.join(profiles.PROFILES)} (default: quick)")
    parser.add_argument("--dataset", default="", help="as for report (default: fashion)")
    text = "as for evaluate: pages 1, 2 and 4 are then of this network, which is run here (default: the lab's)"
    parser.add_argument("--model", default="", metavar="SPEC", help=text)
    parser.add_argument("--defense", default="", metavar="SPEC", help="as for evaluate, in place of the lab's T")
    parser.add_argument("--ip", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8866, help="(default: %(default)s)")
    parser.add_argument("--base-url", default="/", metavar="/PATH/", help="where a proxy puts the pages (default: /)")
    parser.add_argument("--prepare", action="store_true", help="only make what the dashboards need")


def run(options: argparse.Namespace) -> int:
    """Prepare, then serve until interrupted; returns voila's exit status."""
    lab = profiles.profile(options.profile, dataset=options.dataset, resolution=options.resolution)
    token = server.drawn(options.ip, os.environ.get("LABKIT_TOKEN", ""))
    command = server.serve(options.ip, options.port, options.base_url, guarded=bool(token))
    theirs = {"model": options.model, "defense": options.defense}
    server.prepare(lab, options.store, **theirs)
    if options.prepare:
        return 0
    where = server.address(options.ip, options.port, options.base_url, token)
    print(f"The dashboards are at {where} (stop with Ctrl-C)", flush=True)
    return server.run(command, server.environment(lab, options.store, token, **theirs))

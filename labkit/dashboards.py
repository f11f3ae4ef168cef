"""The command `labkit dashboards`: prepares what the pages need, and serves them with voila."""

import argparse
import ipaddress
import os
import secrets
import subprocess
import sys
from pathlib import Path

import labkit
from labkit import cli_common, profiles
from labkit.errors import InputError

FOLDER = Path(labkit.__file__).resolve().parent.parent / "notebooks" / "dashboards"


def add(commands: cli_common.Commands) -> None:
    """Adds `dashboards` to the command line."""
    text = """Make what the dashboards need, if it is not there, and serve them. They are open to this machine alone; on
    another address than its own, whoever comes must bring the token that is printed, or is given as $LABKIT_TOKEN."""
    parser = cli_common.command(commands, "dashboards", run, "sliders in the browser", text, "resolution", "store")
    parser.add_argument("--profile", default="", help=f"{', '.join(profiles.PROFILES)} (default: quick)")
    parser.add_argument("--dataset", default="", help="as for report (default: fashion)")
    parser.add_argument("--ip", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8866, help="(default: %(default)s)")
    parser.add_argument("--base-url", default="/", metavar="/PATH/", help="where a proxy puts the pages (default: /)")
    parser.add_argument("--prepare", action="store_true", help="only make what the dashboards need")


def run(options: argparse.Namespace) -> int:
    """Prepare, then serve until interrupted; returns voila's exit status."""
    lab = profiles.profile(options.profile, dataset=options.dataset, resolution=options.resolution)
    command = serve(options.ip, options.port, options.base_url, os.environ.get("LABKIT_TOKEN", ""))
    if not FOLDER.is_dir():
        raise InputError(f"the dashboards lie beside the package, in {FOLDER}; run this from a copy of the repository")
    prepare(lab, options.store)
    if options.prepare:
        return 0
    print(f"The dashboards are at {address(command)} (stop with Ctrl-C)", flush=True)
    try:
        return subprocess.run(command, cwd=FOLDER, env=environment(lab, options.store)).returncode
    except KeyboardInterrupt:
        return 0


def prepare(lab: profiles.Profile, store: str = "") -> None:
    """The classifier and both kinds of T, with progress bars: what every page begins with."""
    from labkit import cbpdn, plan
    from labkit.artifacts import Workbench

    cbpdn.prepare()
    bench = Workbench(store)
    todo = [step for step in plan.parts([lab.classifier, *lab.defenses], bench) if not step.kept]
    if todo:
        print(f"Making {'; '.join(f'{step.kind} ({step.what})' for step in todo)}: about {plan.hours(todo)}, once")
    bench.classifier(lab.classifier)
    for T in lab.defenses:
        bench.transform(T)


def serve(ip: str, port: int, base_url: str = "/", token: str = "") -> list[str]:
    """The command that serves the pages. Raises InputError on what is no address or port.

    Where `ip` is not of this machine alone, there is a token: the one given, or one drawn now.
    """
    try:
        alone = ip == "localhost" or ipaddress.ip_address(ip).is_loopback
    except ValueError:
        raise InputError(f"--ip is an address such as 127.0.0.1 or 0.0.0.0; got {ip!r}") from None
    if not 0 < port < 65536:
        raise InputError(f"--port is a number from 1 to 65535; got {port}")
    if not (base_url.startswith("/") and base_url.endswith("/")):
        raise InputError(f"--base-url begins and ends with a slash, such as /lab/; got {base_url!r}")
    command = [sys.executable, "-m", "voila", f"--Voila.ip={ip}", f"--port={port}", "--no-browser"]
    if base_url != "/":
        command.append(f"--base_url={base_url}")
    if token or not alone:
        command.append(f"--token={token or secrets.token_urlsafe(24)}")
    return [*command, "."]


def address(command: list[str]) -> str:
    """Where a browser finds what `serve` serves, token and all."""
    said = dict(part.lstrip("-").split("=", 1) for part in command if part.startswith("--") and "=" in part)
    host = f"[{said['Voila.ip']}]" if ":" in said["Voila.ip"] else said["Voila.ip"]
    token = f"?token={said['token']}" if "token" in said else ""
    return f"http://{host}:{said['port']}{said.get('base_url', '/')}{token}"


def environment(lab: profiles.Profile, store: str = "") -> dict[str, str]:
    """What the pages' kernels are told: the lab, and one thread each, for many may share the cores."""
    told = {
        "LABKIT_PROFILE": lab.name,
        "LABKIT_DATASET": lab.data.name,
        "LABKIT_RESOLUTION": str(lab.data.resolution or 0),
        "OMP_NUM_THREADS": "1",
        "JUPYTER_PATH": os.pathsep.join(filter(None, (str(FOLDER / ".jupyter"), os.environ.get("JUPYTER_PATH")))),
    }
    if store:
        told["LABKIT_STORE"] = str(Path(store).resolve())
    return {**os.environ, **told}

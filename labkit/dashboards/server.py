"""The server of the dashboards: what its pages need, and the command that serves them with voila."""

import ipaddress
import os
import secrets
import subprocess
from contextlib import suppress

from labkit.core import InputError, hardware, profiles, wording

FOLDER = hardware.shipped() / "notebooks" / "dashboards"


def prepare(lab: profiles.Profile, store: str = "", model: str = "", defense: str = "") -> None:
    """The classifier and both kinds of T, with progress bars: what every page begins with. Of SPECs, that they work."""
    from labkit.csc import cbpdn
    from labkit.evaluation import Workbench, own
    from labkit.experiments import cost_estimate

    cbpdn.prepare()
    bench = Workbench(store)
    if model or defense:
        given, before = map(lab.named, (model, defense))
        theirs = own.theirs(given or lab.classifier, before, lab.data, bench)
        print(f"Pages 1, 2 and 4 are of {theirs.network.network}{f' behind {theirs.defense.label}' * bool(defense)}")
        return
    if todo := [step for step in cost_estimate.parts([lab.classifier, *lab.defenses], bench) if not step.kept]:
        what = "; ".join(f"{step.kind} ({step.what})" for step in todo)
        print(f"Making {what}: about {cost_estimate.hours(todo)}, once")
    bench.classifier(lab.classifier)
    for T in lab.defenses:
        bench.transform(T)


def run(command: list[str], env: dict[str, str]) -> int:
    """Serve until interrupted; returns the server's exit status. By then, it and its kernels have ended."""
    # In a session of its own, it hears of Ctrl-C and of a closed terminal from us alone, and can tidy up.
    process = subprocess.Popen(command, cwd=FOLDER, env=env, start_new_session=True)
    try:
        return process.wait()
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(15)  # seconds, for its kernels to end
        process.kill()


def drawn(ip: str, given: str = "") -> str:
    """The visitors' token: the one given, else "" (none) where `ip` is of this machine alone, else a new one."""
    return given or ("" if _alone(ip) else secrets.token_urlsafe(24))


def serve(ip: str, port: int, base_url: str = "/", *, guarded: bool) -> list[str]:
    """The command that serves the pages. Raises InputError on what is no address or port.

    guarded  whether the server asks for a token. It reads the token from its environment (`environment`), because
             every account of the machine can read the command
    """
    _alone(ip)
    if not 0 < port < 65536:
        raise InputError(f"--port is a number from 1 to 65535; got {port}")
    if not (base_url.startswith("/") and base_url.endswith("/")):
        raise InputError(f"--base-url begins and ends with a slash, such as /lab/; got {base_url!r}")
    command = [*hardware.child("voila"), f"--Voila.ip={ip}", f"--port={port}", "--no-browser"]
    command += [f"--base_url={base_url}"] if base_url != "/" else []
    # $JUPYTER_TOKEN, or a token that nobody knows where that is missing.
    return [*command, *(["--Voila.auto_token=True"] if guarded else []), "."]


def _alone(ip: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ip == "localhost" or ipaddress.ip_address(ip).is_loopback
    except ValueError:
        raise InputError(f"--ip is an address such as 127.0.0.1 or 0.0.0.0; got {ip!r}") from None


def address(ip: str, port: int, base_url: str = "/", token: str = "") -> str:
    """Where a browser finds what `serve` serves, with the token."""
    return f"http://{f'[{ip}]' if ':' in ip else ip}:{port}{base_url}{f'?token={token}' if token else ''}"


def environment(
    lab: profiles.Profile, store: str = "", token: str = "", model: str = "", defense: str = ""
) -> dict[str, str]:
    """The server's environment: its token, and the lab and SPECs for its kernels, which have one thread each."""
    told = {"LABKIT_PROFILE": lab.name, "LABKIT_DATASET": lab.data.name, **hardware.environment(1)}
    told["LABKIT_RESOLUTION"] = str(lab.data.resolution or 0)
    told["JUPYTER_PATH"] = os.pathsep.join(filter(None, (str(FOLDER / ".jupyter"), os.environ.get("JUPYTER_PATH"))))
    from labkit.models import foreign

    told |= {"LABKIT_MODEL": foreign.placed(model), "LABKIT_DEFENSE": foreign.placed(defense)}
    if token:
        told["JUPYTER_TOKEN"] = token
    if store:
        told["LABKIT_STORE"] = str(wording.typed(store).absolute())
    return {**os.environ, **told}

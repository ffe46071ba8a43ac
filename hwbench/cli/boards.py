"""The verbs about boards: prepare one, or build an emulated one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwbench import boards, config, measurement
from hwbench.cli import screen
from hwbench.cli.options import Host, Target
from hwbench.connections import emulated
from hwbench.errors import Exit

app = typer.Typer(
    name="board", help="Prepare a board that is reached by ssh, or build an emulated one."
)


@app.command()
def setup(target: Target = "rpi4", host: Host = "") -> int:
    """Put the pinned runtimes on a board, load each of them there, and remember whose board it is.

    Needs ssh with a key (ssh-copy-id) and python3 (3.11 or newer, with venv) there; no network, no
    pip and no root. Wheels are fetched and unpacked here and sent over. Safe to repeat.

    Exit 0: everything starts. 3: the board cannot be reached, or something does not start there.
    """
    profile = config.load_target(target, host)
    boards.setup(profile, lambda line: screen.err.print(line, markup=False))
    screen.err.print("trying them", markup=False)
    found = measurement.runtimes(profile)
    for name, said in found.items():
        screen.out.print(f"{name}: {said}", markup=False, soft_wrap=True)
    lost = {name for name, said in found.items() if said.startswith(measurement.UNAVAILABLE)}
    if any(map(boards.provided, lost)):
        return Exit.TARGET
    if host:
        kept = config.remember_host(profile.name, host)
        screen.out.print(f"{profile.name} now means {host} ({kept})", soft_wrap=True)
    screen.out.print(f"next: hwbench doctor {target}", soft_wrap=True)
    return Exit.FINE


@app.command()
def emulate(
    folder: Annotated[
        Path | None, typer.Option(envvar=emulated.FOLDER, help="where it is built")
    ] = None,
) -> None:
    """Build the emulated Raspberry Pi 4 of the target rpi4-emulated, by apt and pip, without root.

    400 MB, half a minute; done again only when what goes in has changed.
    """
    place = folder or emulated.folder()
    runs = [spec.kind for spec in config.load_target(boards.EMULATED).backends]
    done = "built" if boards.emulate(place.absolute(), runs) else "up to date"
    screen.out.print(f"{done}: {place}", soft_wrap=True)

"""Put the pinned runtimes on a board that is reached by ssh."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hwbench.boards import wheels
from hwbench.errors import TargetError
from hwbench.protocols import Connection
from hwbench.records import TargetProfile
from hwbench.registry import CONNECTIONS

Show = Callable[[str], None]
_PYTHON = (3, 11)
_REPLY_TIMEOUT = 600.0

_LOOK = """
import json, platform, sys
print(json.dumps({
    "machine": platform.machine(), "python": list(sys.version_info[:2]),
    "bits": 64 if sys.maxsize > 2**32 else 32, "glibc": platform.libc_ver()[1],
    "system": platform.system(),
}))
"""
_INSTALL = """
import json, pathlib, shutil, sys, venv, zipfile
sent, home = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]).expanduser()
new, old, place = home / "venv.new", home / "venv.old", home / "venv"
for left in (new, old):
    shutil.rmtree(left, ignore_errors=True)
try:
    venv.create(new, symlinks=True)
    site = next(new.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(sent) as archive:
        archive.extractall(site)
    if place.exists():
        place.rename(old)
    new.rename(place)
    shutil.rmtree(old, ignore_errors=True)
    print(json.dumps({"venv": str(place)}))
except (OSError, StopIteration, zipfile.BadZipFile) as error:
    shutil.rmtree(new, ignore_errors=True)
    print(json.dumps({"error": str(error)}))
"""


def setup(target: TargetProfile, show: Show = lambda _line: None) -> str:
    """Make a virtual environment with the target's runtimes on its board; return its path there.

    Wheels are fetched and unpacked here, for what the board says it is; the environment there is
    replaced as a whole, at the end. Whether they start, `hwbench.measurement.runtimes` says.
    Raises `TargetError` when the board cannot be reached, is of
    another kind or too old, `UserError` when there are no wheels for it.
    """
    if target.connection is None:
        raise TargetError("no board is named", where=target.name, mend=target.how_to_reach)
    if not CONNECTIONS.traits(target.connection.kind).provisionable:
        raise TargetError("it is no board that is set up over ssh", where=target.name)
    options = {**target.connection.options}
    # Even from within the old environment, the new one is made of the Python underneath.
    options["python"] = options["python"] or "python3"
    connection = CONNECTIONS.create(target.connection.kind, options)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            return _set_up(target, connection, Path(scratch), show)
    finally:
        connection.close()


def _set_up(target: TargetProfile, board: Connection, scratch: Path, show: Show) -> str:
    assert target.connection is not None
    what = _ask(board, _LOOK, scratch)
    _check(target, what)
    version = ".".join(map(str, what["python"]))
    pins = wheels.pins(b.kind for b in target.backends)
    show(f"fetching {', '.join(pins)} for {what['machine']}, Python {version}")
    wheels.unpack(pins, scratch / "site", what["machine"], version, what["glibc"] or "2.28")
    show("sending them over")
    # As one file: thousands of small ones would each cost the line's delay.
    packed = Path(shutil.make_archive(str(scratch / "site"), "zip", scratch / "site"))
    sent = board.put(packed, "site.zip")
    done = _ask(board, _INSTALL, scratch, sent, str(target.connection.options["folder"]))
    if "error" in done:
        raise TargetError(
            f"no environment could be made: {done['error']}",
            where=target.name,
            mend="sudo apt install python3-venv; 300 MB must be free (df -h)",
        )
    return str(done["venv"])


def _check(target: TargetProfile, what: Mapping[str, Any]) -> None:
    machine, expected = what["machine"], target.isa
    if what["bits"] != 64 or machine != expected:
        raise TargetError(
            f"it is {machine} with a {what['bits']}-bit Python",
            where=target.name,
            expected=f"{expected}, 64-bit",
            mend="install the 64-bit system (Raspberry Pi OS 64-bit), or choose another target",
        )
    if tuple(what["python"]) < _PYTHON:
        raise TargetError(
            f"its Python is {'.'.join(map(str, what['python']))}",
            where=target.name,
            expected=f"{_PYTHON[0]}.{_PYTHON[1]} or newer",
            mend="sudo apt install python3.11 python3.11-venv there, and name it in hosts.yaml: "
            f"{target.name}: {{host: ..., python: python3.11}}",
        )


def _ask(board: Connection, script: str, scratch: Path, *arguments: str) -> dict[str, Any]:
    """Run a script there and return the one line of JSON that it prints."""
    (scratch / "ask.py").write_text(script)
    place = board.put(scratch / "ask.py", "ask.py")
    with (scratch / "log").open("w+b") as log:
        channel = board.start([place, *arguments], log)
        try:
            answer: dict[str, Any] = json.loads(channel.receive(_REPLY_TIMEOUT))
        except TargetError as error:
            log.seek(0)
            last_line = (log.read().decode(errors="replace").strip().splitlines() or [""])[-1]
            raise TargetError(f"{error.what}: {last_line[:300]}", where=error.where) from error
        finally:
            channel.close()
    return answer

"""Which board a target means here: said on the command line, in the environment or once for all.

The files in ``targets/`` describe kinds of boards and are shared; whose board it is stays out of
them. The first of these that names one wins: ``--host``, ``HWBENCH_<TARGET>_HOST`` (as in
``HWBENCH_RPI4_HOST``), your own ``~/.config/hwbench/hosts.yaml``, the target's file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from hwbench import files
from hwbench.config import door, plugins
from hwbench.errors import UserError
from hwbench.records import PluginSpec
from hwbench.registry import CONNECTIONS, is_remote


def own_file() -> Path:
    """Return the path of the user's own file of hosts: targets, each with a host or options."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "hwbench" / "hosts.yaml"


def variable(target: str) -> str:
    """Return the name of the environment variable that names a target's host."""
    return f"HWBENCH_{re.sub(r'[^A-Z0-9]', '_', target.upper())}_HOST"


def how(target: str) -> str:
    """Return in one sentence how to say which board a target means."""
    return (
        "name your board: --host user@name (make: HOST=user@name), or once for all: "
        f"hwbench board setup {target} --host user@name"
    )


def located(target: str, connection: PluginSpec | None, host: str) -> PluginSpec | None:
    """Return a connection with its host filled in; None when it needs one and nobody names it.

    Raises `UserError` when a host is given for a target that is not reached by one.
    """
    if connection is None or not is_remote(connection):
        if host:
            raise UserError(
                f"the target {target!r} is not reached by a host",
                where="--host",
                mend="give the target's file a connection: {kind: ssh}",
            )
        return connection
    name = variable(target)
    if host:
        said: Mapping[str, Any] = {**_own(target, connection.kind), "host": host}
    elif os.environ.get(name):
        said = {**_own(target, connection.kind), "host": os.environ[name]}
    else:
        said = _own(target, connection.kind)
    options = {**connection.options, **said}
    return PluginSpec(connection.kind, options) if options["host"] else None


def remember(target: str, host: str) -> Path:
    """Write a target's host into the user's own file; return its path."""
    path = own_file()
    kept = door.read(path) if path.exists() else {}
    entry = kept.get(target)
    kept[target] = {**entry, "host": host} if isinstance(entry, dict) else host
    files.write(path, yaml.safe_dump(kept, sort_keys=True))
    return path


def _own(target: str, kind: str) -> Mapping[str, Any]:
    path = own_file()
    entry = door.read(path).get(target) if path.exists() else None
    if entry is None:
        return {}
    if isinstance(entry, str):
        entry = {"host": entry}
    where = f"{path}: {target}"
    if not isinstance(entry, dict):
        raise UserError(
            f"{entry!r} is no host", where=where, expected="user@name, or options of the connection"
        )
    plugins.checked(CONNECTIONS, kind, entry, where)
    return entry

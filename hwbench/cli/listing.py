"""The verb ``list``: finished runs, recipes, and what every plug-in is and takes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from hwbench import config, store, studies
from hwbench.cli import screen
from hwbench.cli.options import AsJson, Reports
from hwbench.errors import UserError, did_you_mean

app = typer.Typer()

_REPORTS = studies.Workspace().reports

_FOR_MACHINES = frozenset(
    (
        "requires",
        "host_distributions",
        "device_distributions",
        "board_distributions",
        "resident_bytes",
        "input_dtypes",
    )
)
"""Traits that only `--json` shows."""

What = Annotated[
    str,
    typer.Argument(help="nothing for all names, or one of: " + ", ".join(config.kinds())),
]


@app.command(name="list")
def list_(what: What = "", reports: Reports = _REPORTS, as_json: AsJson = False) -> None:
    """List the finished runs, the recipes and the plug-ins; or what plug-ins of a kind are.

    `hwbench list backends` shows what each backend is, and its options with their defaults; so do
    pruners, criteria, schedules, workloads, connections, meters and samplers.
    """
    if not what:
        _all(reports, as_json)
        return
    if what not in config.kinds():
        mend = did_you_mean(what, config.kinds())
        raise UserError(
            f"there is nothing called {what!r} to list", where="hwbench list", mend=mend
        )
    found = config.described(what)
    if as_json:
        print(json.dumps({what: found}, indent=2))
        return
    screen.table(f"{what}: {len(found)}", [_row(name, of) for name, of in found.items()])
    for name, of in found.items():
        if of.get("options"):
            screen.table(f"options of {name}", [_option(option) for option in of["options"]])


def _all(reports: Path, as_json: bool) -> None:
    runs = list(map(_run_row, store.runs(reports)))
    recipes = config.known("recipes")
    plugins = {
        group: {name: of["needs"] for name, of in config.described(group).items()}
        for group in config.plugin_kinds()
    }
    if as_json:
        print(json.dumps({"runs": runs, "recipes": recipes, "plugins": plugins}, indent=2))
        return
    screen.table(f"runs: {len(runs)}", runs)
    screen.out.print(f"recipes: {', '.join(recipes)}")
    for group, members in plugins.items():
        words = [f"{n} (needs {', '.join(lack)})" if lack else n for n, lack in members.items()]
        screen.out.print(f"{group}: {', '.join(words)}")
    screen.out.print("what they are and take: hwbench list backends (or another of these words)")


def _run_row(folder: Path) -> dict[str, str]:
    try:
        study = store.read_study(folder)
    except UserError as error:
        # One folder from a newer hwbench must not hide the others.
        return {"run": str(folder), "started": "", "decision": f"cannot be read: {error.what}"}
    return {"run": str(folder), "started": study.started, "decision": study.decision.reason}


def _row(name: str, of: Mapping[str, Any]) -> dict[str, str]:
    lack = f" (needs {', '.join(of['needs'])})" if of.get("needs") else ""
    package = of.get("package", "hwbench")
    origin = "" if package == "hwbench" else f" (package {package})"
    return {
        "name": f"{name}{lack}{origin}",
        "what it is": _plain(of["doc"]),
        "traits": "; ".join(
            f"{k.replace('_', ' ')}: {_value(v)}"
            for k, v in of["traits"].items()
            if k not in _FOR_MACHINES and _says(v)
        ),
    }


def _option(option: Mapping[str, Any]) -> dict[str, str]:
    default = "(must be given)" if option["required"] else _value(option["default"])
    return {
        "option": option["name"],
        "type": option["type"],
        "default": default,
        "what it does": _plain(option["doc"]),
    }


def _says(value: object) -> bool:
    """Return whether a trait says anything: what is absent, empty or false need not be read."""
    return value is not None and value is not False and value not in ("", [], {})


def _value(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) and value else json.dumps(value)


def _plain(text: str) -> str:
    return text.replace("``", "")

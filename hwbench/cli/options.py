"""Options that several verbs have, each with its words said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeName = Annotated[
    str, typer.Option("--recipe", "-r", help="a file in recipes/, or a path to one")
]
TargetName = Annotated[
    str, typer.Option("--target", "-t", help="a file in targets/, or a path to one")
]
Target = Annotated[str, typer.Argument(help="a file in targets/, or a path to one")]
Host = Annotated[
    str, typer.Option("--host", help="the board that is meant: user@name, or a Host of ssh's")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", help="change a key: --set search.sparsities=[0.5,0.9]; repeatable"),
]
Reports = Annotated[Path, typer.Option("--reports", help="where runs and the history are kept")]
CacheRoot = Annotated[
    Path, typer.Option("--cache", envvar="HWBENCH_CACHE", help="where finished work is kept")
]
Jobs = Annotated[int, typer.Option("--jobs", "-j", min=1, help="models prepared at a time")]
Patience = Annotated[
    float, typer.Option(min=1, help="seconds of silence after which a training hangs")
]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for machines")]

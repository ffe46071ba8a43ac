"""The verb about boards that are not there: predict."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hwbench import config, studies, units
from hwbench.cli import screen
from hwbench.cli.options import AsJson
from hwbench.records import to_json

app = typer.Typer()


@app.command()
def predict(
    models: Annotated[list[Path], typer.Argument(help="ONNX files, runs' folders or their model/")],
    target: Annotated[
        str, typer.Option("--target", "-t", help="a file in targets/ with a Cortex-A53, A72 or A76")
    ] = "rpi4",
    count: Annotated[
        bool, typer.Option(help="run the artifacts in QEMU and count, where that can be done")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Predict the latency of models on a board that is not there. Measures nothing.

    fp32, batch 1, one thread; every figure has its band, and differences below 25 % are ties.
    Where the emulated board, qemu-user and gcc are here, each file is compiled for the board and
    what it does is counted; otherwise operators are priced by class.
    For a whole study without a board: hwbench bench --target rpi4. How good the predictions
    are: python -m hwbench.instruments.predict_validate.
    """
    found = studies.foretell(models, config.load_target(target), count=count)
    if as_json:
        print(json.dumps(to_json(found), indent=2))
        return
    rows = [
        {
            "model": one.file,
            "backend": one.backend,
            "latency (predicted)": units.describe(one.latency),
            "band": _band(one),
            "MACs (static)": "n/a" if one.macs is None else units.text(one.macs, "count"),
        }
        for one in found
    ]
    screen.table(f"predicted for {target} ({found[0].core}), not measured", rows)
    for note in dict.fromkeys(one.latency.note for one in found if one.latency.note):
        screen.out.print(f"note: {note}", style="dim", markup=False)
    screen.out.print("note: differences below 25 % are ties", style="dim", markup=False)


def _band(one: studies.Foretold) -> str:
    low, high = one.latency.low, one.latency.high
    if low is None or high is None:
        return ""
    return f"{units.text(low, 's')} to {units.text(high, 's')}"

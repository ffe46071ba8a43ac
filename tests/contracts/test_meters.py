"""Every meter keeps its promise: the contract that ships, and the traces in tests/data/meters."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from hwbench.conditions.nvml import NvmlError
from hwbench.errors import StageError
from hwbench.protocols import EnergyMeter
from hwbench.records import EnergyReading
from hwbench.registry import METERS
from hwbench.testing import MeterContract

TRACES = Path(__file__).parents[1] / "data" / "meters"
NAMES = METERS.kinds()


class RecordedNvml:
    """Opens a GPU of a trace."""

    def __init__(self) -> None:
        self.answer: Mapping[str, Any] = {}
        self.opened = 0

    @contextlib.contextmanager
    def __call__(self, which: str) -> Iterator[RecordedNvml]:
        self.opened += 1
        yield self
        self.opened -= 1

    def energy(self) -> float:
        if "error" in self.answer:
            raise NvmlError(self.answer["error"])
        return float(self.answer["energy"]) * 1e-3


class Play:
    """A meter on a trace: `to` moves clocks, files and library to a moment of it."""

    def __init__(self, name: str, folder: Path, change: Mapping[str, Any] | None = None) -> None:
        self.trace: dict[str, Any] = json.loads((TRACES / name / "trace.json").read_text())
        options = self.trace["options"] | (change or {}).get("options", {})
        self.trace |= {k: v for k, v in (change or {}).items() if k in ("before", "after")}
        self.tree = folder / "tree"
        source = TRACES / name / "tree"
        if source.exists():
            shutil.copytree(source, self.tree)
        for path in (change or {}).get("remove", ()):
            gone = self.tree / path
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
        self.shown = {k: 0.0 for k in self.trace["before"] if k.endswith("clock")}
        self.library = RecordedNvml()
        extras: dict[str, Any] = {k: self._clock(k) for k in self.shown}
        if "library" in self.trace["before"]:
            extras["library"] = self.library
        plugin = METERS.plugin(name)
        filled = {k: self._fill(v) for k, v in options.items()}
        make: Any = plugin.make
        self.meter: EnergyMeter = make(plugin.options(**filled), **extras)

    def to(self, moment: str) -> None:
        for key, value in self.trace[moment].items():
            if key == "files":
                for path, text in value.items():
                    (self.tree / path).write_text(text)
            elif key == "library":
                self.library.answer = value
            else:
                self.shown[key] = value

    def window(self, inferences: int = 40) -> EnergyReading:
        self.to("before")
        self.meter.start()
        self.to("after")
        return self.meter.stop(inferences)

    def _clock(self, name: str) -> Any:
        return lambda: self.shown[name]

    def _fill(self, value: Any) -> Any:
        return value.replace("{tree}", str(self.tree)) if isinstance(value, str) else value


def broken() -> list[Any]:
    cases = []
    for name in NAMES:
        trace = json.loads((TRACES / name / "trace.json").read_text())
        cases += [
            pytest.param(name, change, id=f"{name}-{i}") for i, change in enumerate(trace["broken"])
        ]
    return cases


@pytest.mark.parametrize("name", NAMES)
class TestEveryMeter:
    def test_counts_what_the_trace_holds(self, name: str, tmp_path: Path) -> None:
        play = Play(name, tmp_path)
        reading = play.window(inferences=40)
        seconds = play.trace["after"]["clock"] - play.trace["before"]["clock"]
        assert reading.joules == pytest.approx(play.trace["joules"])
        assert reading.seconds == pytest.approx(seconds)
        assert (reading.inferences, reading.meter) == (40, name)
        assert reading.idle_watts == play.trace["idle_watts"]
        assert reading.tier == play.trace.get("tier", METERS.traits(name).tier)
        assert reading.note
        assert play.library.opened == 0

    def test_counts_every_window_anew(self, name: str, tmp_path: Path) -> None:
        play = Play(name, tmp_path)
        first = play.window()
        if name == "replay":  # it plays on: three windows of 4 s are four rounds of its 3 s
            total = first.joules + play.window().joules + play.window().joules
            assert total == pytest.approx(4 * 11.0)
            return
        if play.tree.exists():
            source = TRACES / name / "tree"
            shutil.copytree(source, play.tree, dirs_exist_ok=True)
        assert play.window().joules == pytest.approx(first.joules)

    def test_cannot_stop_before_it_started(self, name: str, tmp_path: Path) -> None:
        play = Play(name, tmp_path)
        play.to("before")
        with pytest.raises(StageError, match="before it was started"):
            play.meter.stop(1)


@pytest.mark.parametrize(("name", "change"), broken())
def test_refuses_with_a_reason_and_never_reads_zero(
    name: str, change: Mapping[str, Any], tmp_path: Path
) -> None:
    play = Play(name, tmp_path, change)
    with pytest.raises(StageError) as refused:
        play.window()
    assert refused.value.stage == "measure"
    assert refused.value.what.startswith("not available: ")
    assert change["says"] in str(refused.value)
    assert refused.value.where == f"meter {name}"


for name in NAMES:
    needed = {"file": TRACES / "replay" / "tree" / "power.json"} if name == "replay" else {}
    globals()[f"Test_{name}"] = type(
        f"Test_{name}", (MeterContract,), {"kind": name, "options": needed}
    )

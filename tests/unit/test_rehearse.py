"""What emulation says of artifacts: agreement is a number, a wrong answer or a crash a failure."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from hwbench import config
from hwbench.connections import emulated
from hwbench.executor.jobs import Inputs
from hwbench.export import parity
from hwbench.pipeline.prepare import Ready
from hwbench.records import (
    Decision,
    Failure,
    Measurement,
    Source,
    Standing,
    Value,
)
from hwbench.studies import emulated_check
from tests import artifacts


@dataclasses.dataclass(frozen=True)
class Stage:
    ready: Ready
    data: Inputs
    right: np.ndarray
    folder: Path

    def judged(self, outputs: np.ndarray) -> tuple[Value, Failure | None]:
        np.save(self.folder / "outputs.npy", outputs)
        seen = Measurement("a", Source.EMULATED, outputs=self.folder / "outputs.npy")
        return emulated_check.judged(self.ready, seen, self.data)

    def lost(self, why: str) -> tuple[Value, Failure | None]:
        seen = Measurement("a", Source.EMULATED, failures={"outputs": Failure("measure", why)})
        return emulated_check.judged(self.ready, seen, self.data)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    model = artifacts.network(tmp_path / "net.onnx")
    x = artifacts.inputs(tmp_path / "x.npy")
    candidate = artifacts.candidate("onnxruntime")
    made = artifacts.compiled(model, candidate, tmp_path / "made")
    right = parity.answers(model, np.load(x))
    data = Inputs(x, x, len(right), "top1")
    return Stage(Ready(candidate, model, made), data, right, tmp_path)


def test_an_artifact_that_agrees_has_a_number_and_where_it_comes_from(stage: Stage) -> None:
    value, failure = stage.judged(stage.right[:2])
    assert failure is None
    assert value.value == 0.0
    assert value.source is Source.EMULATED
    assert "2 samples" in value.note


def test_an_artifact_that_answers_otherwise_is_broken(stage: Stage) -> None:
    value, failure = stage.judged(stage.right + 0.1)
    assert value.value is None
    assert failure is not None
    assert "emulated board" in failure.message
    assert stage.judged(np.full_like(stage.right, np.nan))[1] is not None


def test_a_crash_is_a_failure_and_slowness_is_none(stage: Stage) -> None:
    value, failure = stage.lost("its process was ended by SIGILL (load)")
    assert failure is not None
    assert "SIGILL" in failure.message
    assert "SIGILL" in value.reason
    value, failure = stage.lost("no answer within 120 s (outputs): it hangs and was killed")
    assert failure is None
    assert value.reason.startswith("not checked")


def test_what_cannot_be_emulated_says_why(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(emulated.FOLDER, str(tmp_path))
    assert "make emulated-board" in emulated_check.lacking(config.load_target("rpi4"))
    (tmp_path / "built").touch()
    assert emulated_check.lacking(config.load_target("rpi4")) == ""
    assert emulated_check.lacking(config.load_target("rpi3")) == ""
    assert "cortex-a76" in emulated_check.lacking(config.load_target("rpi5"))


def test_the_chosen_and_the_dense_model_come_first() -> None:
    states = {"f": "front", "c": "chosen", "d": "dominated", "m": "missing", "x": "failed"}
    standings = tuple(Standing(k, s, meets_goals=True) for k, s in states.items())  # type: ignore[arg-type]
    decision = Decision("rpi4", "smoke", "c", "d", "pruned", "", standings)
    assert emulated_check.wanted(decision) == ["c", "d", "f"]
    assert emulated_check.wanted(dataclasses.replace(decision, dense="x")) == ["c", "f"]

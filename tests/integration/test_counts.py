"""The model that counts: genuine aarch64 artifacts under QEMU, twice the same, never timed."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hwbench import config, prediction, studies
from hwbench.compile import compile_model
from hwbench.connections import emulated as board
from hwbench.errors import StageError
from hwbench.prediction import counts
from hwbench.prediction.cycles import Counts
from hwbench.records import Candidate, CompiledModel, Source
from tests import artifacts, emulated

pytestmark = [pytest.mark.contract, pytest.mark.slow]
CORE = "cortex-a72"


@pytest.fixture
def pair(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> tuple[CompiledModel, CompiledModel]:
    monkeypatch.setenv(board.FOLDER, str(emulated.built()))
    why = counts.lacking(CORE)
    if why:
        pytest.skip(f"the model that counts cannot be used: {why}")
    folder = tmp_path_factory.mktemp("counts")
    model = artifacts.network(folder / "net.onnx")
    target = config.load_target("rpi4")
    spec = next(s for s in target.backends if s.kind == "tvm")
    made = compile_model(Candidate(model.spec, spec, "rpi4"), model, target, folder / "a")
    # The same once more under another name, and one that is no library.
    return made, dataclasses.replace(made, digest="again")


def test_predict_counts_where_it_can(
    pair: tuple[CompiledModel, CompiledModel], tmp_path: Path
) -> None:
    model = artifacts.network(tmp_path / "net.onnx")
    target = config.load_target("rpi4")
    found = {one.backend: one.latency for one in studies.foretell([model.path], target)}
    assert set(found) == {spec.kind for spec in target.backends}
    for latency in found.values():
        assert latency.value is not None, latency.reason
        assert "this very artifact" in latency.note
    for one in studies.foretell([model.path], target, count=False):
        assert "operator classes" in one.latency.note
        assert "not asked for" in one.latency.note


def test_counts_repeat_and_a_broken_artifact_is_its_own_failure(
    pair: tuple[CompiledModel, CompiledModel], tmp_path: Path
) -> None:
    first, again = pair
    (tmp_path / "model.so").write_text("no library")
    broken = dataclasses.replace(first, digest="broken", folder=tmp_path)
    found = counts.count([first, broken, again], CORE)
    a, b = found[first.digest], found["again"]
    assert isinstance(a, Counts)
    assert isinstance(b, Counts)
    assert a.instructions > 10_000
    assert b.instructions == pytest.approx(a.instructions, rel=0.01)
    assert isinstance(found["broken"], StageError)
    value = prediction.counted(first.candidate, a, CORE)
    assert value.source is Source.PREDICTED
    assert value.value is not None
    assert value.low is not None
    assert value.high is not None
    assert value.low < value.value < value.high
    assert prediction.counted(first.candidate, found["broken"], CORE).value is None

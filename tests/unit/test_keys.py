"""What decides cached work: nothing that matters can be left out of a key."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from hwbench.backends import named
from hwbench.pipeline import keys
from hwbench.records import (
    CompressionSpec,
    PluginSpec,
    TargetProfile,
    TrainSpec,
    WorkloadSpec,
)
from hwbench.store import Entry
from tests import artifacts

WORKLOAD = WorkloadSpec("toy")
SPEC = CompressionSpec(WORKLOAD, TrainSpec())
HERE = keys.Device(artifacts.TARGET, "this machine")
BOARD = dataclasses.replace(
    artifacts.TARGET, name="board", isa="aarch64", connection=PluginSpec("ssh", {"host": "pi"})
)


def compiled(folder: Path) -> Any:
    model = artifacts.identity(folder / "m.onnx")
    return artifacts.compiled(model, artifacts.candidate("null"), folder / "a")


Asked = Callable[[keys.Device, Any], Entry[Any]]
ROOMS: Mapping[str, Callable[[Any], Asked]] = {
    "session": lambda m: lambda on, spec: keys.session(on, spec, [m], m, WORKLOAD),
    "duel": lambda m: lambda on, spec: keys.duel(on, spec, [m], WORKLOAD),
    "outputs": lambda m: (
        lambda on, spec: keys.outputs(on, spec, [m], keys.inputs(WORKLOAD, "test"))
    ),
    "table": lambda _: lambda on, spec: keys.latency_table(on, spec, SPEC, PluginSpec("x"), [0.5]),
}


@pytest.mark.parametrize("room", ROOMS)
def test_what_a_device_did_is_its_own_and_of_todays_measuring_code(
    room: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same artifact on another board, on the board after an upgrade, measured otherwise.
    ask = ROOMS[room](compiled(tmp_path))
    there = keys.Device(BOARD, "this machine")
    upgraded = keys.Device(artifacts.TARGET, "the same with another kernel")
    usual, longer = artifacts.QUICK, artifacts.spec(generations=3)
    found = {ask(HERE, usual), ask(there, usual), ask(upgraded, usual), ask(HERE, longer)}
    monkeypatch.setattr(keys, "measuring_code", lambda: "changed")
    found.add(ask(HERE, usual))
    assert len(found) == 5


def test_code_for_the_processor_that_compiles_is_of_that_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = artifacts.identity(tmp_path / "m.onnx")
    crossed = artifacts.candidate("tvm", {"mcpu": "cortex-a72"})
    native = artifacts.candidate("tvm")  # mcpu: host, unsaid
    anywhere = artifacts.candidate("null")

    def asked() -> list[Entry[Any]]:
        pairs: list[tuple[Any, TargetProfile]]
        pairs = [(native, HERE.target), (crossed, HERE.target), (crossed, BOARD)]
        pairs += [(anywhere, HERE.target)]
        return [keys.artifact(c, t, model) for c, t in pairs]

    before = asked()
    monkeypatch.setattr(keys, "_own_cpu", lambda: {"model": "another"})
    assert [a == b for a, b in zip(before, asked(), strict=True)] == [False, False, True, True]


def test_code_for_this_processor_is_not_that_of_one_of_the_same_kind_elsewhere(
    tmp_path: Path,
) -> None:
    model = artifacts.identity(tmp_path / "m.onnx")
    candidate = artifacts.candidate("ort_format")  # its layouts are this processor's, only here
    like = dataclasses.replace(HERE.target, connection=BOARD.connection)
    assert keys.artifact(candidate, like, model) != keys.artifact(candidate, HERE.target, model)


def test_a_backends_name_decides_nothing(tmp_path: Path) -> None:
    model = artifacts.identity(tmp_path / "m.onnx")
    plain = artifacts.candidate("tvm")
    told = dataclasses.replace(plain, backend=named(plain.backend))
    assert told.backend.naming is not None
    assert keys.artifact(told, BOARD, model) == keys.artifact(plain, BOARD, model)
    assert keys.empty(told.backend, BOARD) == keys.empty(plain.backend, BOARD)
    there = dataclasses.replace(BOARD, backends=(told.backend,))
    as_written = dataclasses.replace(BOARD, backends=(plain.backend,))
    tables = {
        keys.latency_table(keys.Device(t, ""), artifacts.QUICK, SPEC, b, [0.5])
        for t, b in ((there, told.backend), (as_written, plain.backend))
    }
    assert len(tables) == 1


def test_a_split_is_known_by_its_data_and_not_by_where_it_lies() -> None:
    assert keys.inputs(WORKLOAD, "test") == keys.inputs(WorkloadSpec("toy"), "test")
    assert keys.inputs(WORKLOAD, "test") != keys.inputs(WORKLOAD, "validation")
    changed = dataclasses.replace(WORKLOAD, digest="other files")
    assert keys.inputs(changed, "test") != keys.inputs(WORKLOAD, "test")

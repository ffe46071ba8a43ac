"""The measuring room's pure parts: groups, agreement of R and S, values."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench import measurement, stats
from hwbench.connections import local
from hwbench.errors import TargetError
from hwbench.measurement import generation, memory
from hwbench.measurement.device import Device, check_identity
from hwbench.measurement.generation import Generation
from hwbench.measurement.latency import Latencies, Room, agree, grouped, is_torn
from hwbench.measurement.shipment import Artifact, kind_of
from hwbench.records import (
    CompiledModel,
    Conditions,
    EnergyReading,
    Failure,
    Measurement,
    MeasureSpec,
    MemoryReading,
    Process,
    Sitting,
    Source,
    Visit,
)
from hwbench.worker.messages import Job, Settings
from tests import artifacts

PAIR = (Job("reference", "", {}, ""), Job("shadow", "", {}, ""))
NOWHERE = Conditions({}, {}, {})


@given(st.lists(st.integers(1, 100), min_size=1, max_size=30), st.integers(0, 600))
def test_groups_hold_everybody_once_and_fit(sizes: list[int], free: int) -> None:
    jobs = [Job(str(i), "", {}, "") for i in range(len(sizes))]
    need = {str(i): size for i, size in enumerate(sizes)} | {"reference": 20, "shadow": 20}
    groups = grouped(jobs, PAIR, [Room(free, need)])
    assert [job for group in groups for job in group] == jobs
    room = free * 0.6 - 40
    assert all(len(g) == 1 or sum(need[j.name] for j in g) <= room for g in groups)
    assert grouped(jobs, PAIR, []) == [jobs]
    # Who fits into the host's memory may not fit into the GPU's: both hold everybody.
    assert grouped(jobs, PAIR, [Room(10**6, need), Room(free, need)]) == groups


def test_without_candidates_there_is_one_empty_group() -> None:
    assert grouped([], PAIR, [Room(0, {"reference": 1, "shadow": 1})]) == [[]]


def _processes(
    artifact: str, role: str, *times: float, calls: int = 10, rounds: int = 12
) -> tuple[Process, ...]:
    """A process a time; calls jitter by less than a percent, deterministically."""
    found = []
    for number, seconds in enumerate(times):
        visits = []
        for r in range(rounds):
            wall = tuple(seconds * (1 + 0.002 * ((r * 7 + c * 3) % 5 - 2)) for c in range(calls))
            visits.append(Visit(r, 0, wall, wall, (0,) * calls))
        found.append(Process(artifact, role, number, 0.5 + number, 0.25, 10, tuple(visits)))
    return tuple(found)


def _generation(number: int, slow: float) -> Generation:
    """R `slow` times as slow as S and as a candidate that takes half their time."""
    made = [
        *_processes("a", "reference", slow * 1e-3),
        *_processes("a", "shadow", 1e-3),
        *_processes("b", "candidate", 5e-4),
    ]
    same = tuple(dataclasses.replace(p, generation=number) for p in made)
    return Generation(number, same, {}, {}, NOWHERE)


@pytest.mark.parametrize(("spare", "expected"), [(2, 0.5), (1, 0.5 / 1.3)])
def test_a_generation_whose_reference_was_slow_for_good_is_made_again(
    spare: int, expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = iter([1.0, 1.3, 1.0, 1.0, 1.0, 1.0])
    monkeypatch.setattr(
        generation, "run", lambda _d, _j, _a, number, *_: _generation(number, next(slow))
    )
    # A parcel has one attempt, and as many generations as it has.
    device = cast(Device, SimpleNamespace(attempts=spare, traits=local.TRAITS))
    spec = MeasureSpec(generations=4, half_width=1e-9)
    found = Latencies(
        device, tmp_path, spec, Settings(""), PAIR, [Job("b", "", {}, "")], "a", [],
        time.monotonic() + 60, lambda *_: None,
    ).run()  # fmt: skip
    ratios = stats.by_generation(found.candidates["b"], found.reference)
    assert len(ratios) == 4
    assert min(ratios.values()) == pytest.approx(expected, rel=0.01)
    assert any("made again" in note for note in found.notes) == (spare > 1)
    assert is_torn(_generation(0, 1.06))
    assert not is_torn(_generation(0, 1.04))


@pytest.mark.parametrize(("factor", "expected"), [(1.0, True), (1.01, True), (1.2, False)])
def test_r_and_s_must_agree(factor: float, expected: bool) -> None:
    reference = _processes("r", "reference", 1.0, 1.01, 0.99)
    shadow = _processes("r", "shadow", factor, 1.01 * factor, 0.99 * factor)
    assert agree(shadow, reference, [], 0.02) is expected


def test_without_a_round_in_common_nothing_is_valid() -> None:
    assert not agree((), _processes("r", "reference", 1.0), [], 0.02)


# --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> CompiledModel:
    folder = tmp_path_factory.mktemp("artifact")
    model = artifacts.identity(folder / "m.onnx")
    return artifacts.compiled(model, artifacts.candidate("null"), folder / "a")


def _sitting(*measurements: Measurement) -> Sitting:
    reference = Measurement("r", Source.MEASURED, _processes("r", "reference", 2.0, 2.02, 1.98))
    shadow = Measurement("r", Source.MEASURED, _processes("r", "shadow", 2.0, 2.01, 2.0))
    return Sitting(reference, shadow, (reference, *measurements), NOWHERE, NOWHERE, 1.0)


def test_latency_is_the_ratio_times_the_reference(compiled: CompiledModel) -> None:
    mine = Measurement("c", Source.MEASURED, _processes("c", "candidate", 1.0, 1.01, 0.99))
    sitting = _sitting(mine)
    found = measurement.values(mine, sitting, compiled, artifacts.TARGET)["latency_p50"]
    assert found.value == pytest.approx(1.0, rel=0.01)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1.0 < found.high
    assert found.high / found.low < 1.05
    own = measurement.values(sitting.reference, sitting, compiled, artifacts.TARGET)["latency_p50"]
    assert own.value == own.low == own.high == pytest.approx(2.0, rel=0.01)


def test_a_tail_needs_enough_calls(compiled: CompiledModel) -> None:
    few = Measurement("c", Source.MEASURED, _processes("c", "candidate", 1.0, calls=5, rounds=2))
    found = measurement.values(few, _sitting(few), compiled, artifacts.TARGET)
    assert found["latency_p90"].value is None
    assert "10 calls" in found["latency_p90"].reason
    many = Measurement("c", Source.MEASURED, _processes("c", "candidate", 1.0, 1.0))
    found = measurement.values(many, _sitting(many), compiled, artifacts.TARGET)
    assert found["latency_p90"].value == pytest.approx(1.0, rel=0.01)


def test_what_a_process_does_once(compiled: CompiledModel) -> None:
    mine = Measurement("c", Source.MEASURED, _processes("c", "candidate", 1.0, 1.0, 1.0))
    found = measurement.values(mine, _sitting(mine), compiled, artifacts.TARGET)
    assert found["load_time"].value == 1.5  # of 0.5, 1.5, 2.5
    assert found["first_inference"].value == 0.25
    assert found["artifact_bytes"].value == compiled.artifact_bytes
    assert found["artifact_bytes"].source is Source.STATIC


@pytest.mark.parametrize(
    ("empty", "value", "said"),
    [
        (600_000, 400_000.0, "less 600000 B"),
        (999_999, 32_768.0, "an upper bound"),
        (1_200_000, 32_768.0, "an upper bound"),
        (None, None, "empty model"),
    ],
)
def test_memory_is_the_models_share(
    compiled: CompiledModel, empty: int | None, value: float | None, said: str
) -> None:
    mine = Measurement("c", Source.MEASURED, memory=MemoryReading(50, 90, 95, 1_000_000, empty))
    found = measurement.values(mine, _sitting(mine), compiled, artifacts.TARGET)
    assert found["process_memory"].value == 1_000_000.0
    peak = found["peak_memory"]
    assert peak.value == value
    assert said in (peak.reason or peak.note)
    assert value is None or (peak.low is not None and peak.high is not None)


@pytest.mark.parametrize(
    ("tier", "source"),
    [
        ("meter", Source.MEASURED),
        ("counter", Source.MEASURED),
        ("model", Source.PREDICTED),
        ("proxy", Source.PROXY),
    ],
)
def test_joules_carry_their_source(compiled: CompiledModel, tier: str, source: Source) -> None:
    reading = EnergyReading(6.0, 3, 1.0, None, "some meter", tier)
    mine = Measurement("c", Source.MEASURED, energy=reading)
    found = measurement.values(mine, _sitting(mine), compiled, artifacts.TARGET)["energy"]
    assert (found.value, found.source) == (2.0, source)
    assert "some meter" in found.note
    assert tier in found.note


def test_what_is_missing_says_why(compiled: CompiledModel) -> None:
    failures = {"latency": Failure("measure", "it crashed")}
    mine = Measurement("c", Source.MEASURED, failures=failures)
    found = measurement.values(mine, _sitting(mine), compiled, artifacts.TARGET)
    for metric in ("latency_p50", "latency_p90", "load_time", "first_inference"):
        assert (found[metric].value, found[metric].reason) == (None, "it crashed")
    for metric in ("peak_memory", "process_memory", "energy"):
        assert found[metric].value is None
        assert "did not get to it" in found[metric].reason


def test_an_emulated_device_tells_no_times(compiled: CompiledModel) -> None:
    mine = Measurement("c", Source.EMULATED)
    found = measurement.values(mine, _sitting(mine), compiled, artifacts.TARGET)
    assert found.pop("artifact_bytes").value
    # Planned by the compiler, wherever the artifact then runs; here it planned nothing.
    assert found.pop("planned_memory").source is Source.STATIC
    assert all(v.value is None and "emulated" in v.reason for v in found.values())


# --------------------------------------------------------------------------------------------


def test_a_generation_comes_back_from_its_file(tmp_path: Path) -> None:
    made = generation.Generation(
        3,
        _processes("c", "candidate", 1.0) + _processes("r", "reference", 2.0),
        {"d": Failure("measure", "it crashed", "detail")},
        {"c": "precise"},
        Conditions({"cpu": {"model": "x"}}, {}, {"load": 1.5}),
        "flushed",
        ("hot",),
    )
    made.save(tmp_path / "g.jsonl")
    assert generation.saved(tmp_path / "g.jsonl") == made
    assert generation.saved(tmp_path / "none.jsonl") is None


@pytest.mark.parametrize(
    ("machine", "features", "refused"),
    [
        (artifacts.TARGET.isa, (), False),
        ("riscv64", (), True),
        (artifacts.TARGET.isa, ("avx2",), False),
        (artifacts.TARGET.isa, ("avx512f",), True),
        (artifacts.TARGET.isa, ("a flag nobody reads",), False),
    ],
)
def test_another_device_than_the_profile_says(
    machine: str, features: tuple[str, ...], refused: bool
) -> None:
    target = dataclasses.replace(artifacts.TARGET, features=features)
    found = Conditions({"machine": machine, "cpu": {"flags": ["avx2"]}}, {}, {})
    if refused:
        with pytest.raises(TargetError):
            check_identity(target, found)
    else:
        check_identity(target, found)


def test_gpu_memory_is_the_allocators_or_the_drivers_less_an_empty_model(
    compiled: CompiledModel,
) -> None:
    base = MemoryReading(50, 90, 95, 1000, 900, device={}, context=400)
    both = dataclasses.replace(base, device={"allocated": 70, "reserved": 128, "process": 560})
    none = dataclasses.replace(base, context=None)
    readings = (
        both,
        dataclasses.replace(base, device={"process": 560}),
        dataclasses.replace(none, device={"process": 5}),
    )
    assert [r.share for r in readings] == [70, 160, None]
    assert [r.share for r in (base, dataclasses.replace(base, device=None))] == [None, 100]
    words = []
    for reading in readings:
        mine = Measurement("c", Source.MEASURED, memory=reading)
        value = measurement.values(mine, _sitting(mine), compiled, artifacts.TARGET)["peak_memory"]
        assert value.value == reading.share
        words.append(value.note or value.reason or "")
    assert "by the runtime's allocator (128 B reserved, by NVML 560 B with the context" in words[0]
    assert "160 B above the 400 B of an empty model" in words[0]
    assert "of the GPU, by NVML (by NVML 560 B with the context, 160 B above" in words[1]
    assert "NVML does not count it" in words[2]


def test_the_context_is_that_of_the_same_runtime_with_an_empty_model(tmp_path: Path) -> None:
    class Still:
        """A device that has answered everything already."""

        def ship(self, source: Path, name: str) -> str:
            return name

    model = artifacts.identity(tmp_path / "m.onnx")
    made = artifacts.compiled(model, artifacts.candidate("null"), tmp_path / "a")
    live = {made.digest: Artifact(made, "x")}
    phases = {"after_import": 1, "after_load": 2, "after_first": 3, "after_runs": 4}
    answer = {"of": made.digest, "memory": {**phases, "device": {"process": 900}}}
    empty = {"of": f"empty-{kind_of(made)}", "memory": {**phases, "device": {"process": 640}}}
    (tmp_path / "memory.jsonl").write_text(json.dumps(empty) + "\n")
    found = memory.readings(
        cast(Any, Still()), live, {made.digest: answer}, artifacts.TARGET, artifacts.spec(),
        Settings(""), tmp_path, artifacts.empties([made], tmp_path / "e"),
    )  # fmt: skip
    assert (found[made.digest].context, found[made.digest].above_context) == (640, 260)
    assert found[made.digest].empty_runtime == 4

"""Reading a GPU through the worker's own binding, from traces played by a library in C."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwbench import conditions
from hwbench.conditions.nvml import slowed_by
from hwbench.errors import TargetError
from hwbench.measurement.device import check_identity
from hwbench.records import Conditions, Gpu
from tests import artifacts, recorded_gpu

READ = """
import json
from hwbench.conditions import nvml
which = %r
identity, software, state = nvml.read(which)
found = {"identity": identity, "software": software, "state": state}
try:
    with nvml.opened(which) as gpu:
        found["joules"] = [gpu.energy(), gpu.energy()]
        found["used"] = gpu.used_memory()
except nvml.NvmlError as error:
    found["refused"] = str(error)
found["mine"] = nvml.process_memory(101, which)
found["nobody"] = nvml.process_memory(7, which)
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_gpu.library(tmp_path_factory.mktemp("nvml"))


def read(library: Path, tmp_path: Path, which: str, *changes: str) -> dict[str, Any]:
    """Return what the binding reads in a process of its own; `changes` win over the trace."""
    trace = tmp_path / "trace"
    trace.write_text("".join(f"{line}\n" for line in changes) + recorded_gpu.TRACE)
    done = subprocess.run(
        [sys.executable, "-c", READ % which],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "LD_LIBRARY_PATH": str(library), "HWBENCH_TRACE": str(trace)},
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_gpu_says_what_it_is_and_how_it_feels(library: Path, tmp_path: Path) -> None:
    found = read(library, tmp_path, "any")
    assert found["identity"] == {
        "name": "NVIDIA H200",
        "uuid": "GPU-11111111-2222-3333-4444-555555555555",
        "memory": 150754820096,
        "clock_limit": 1.98e9,
        "capability": "9.0",
        "mig": False,
    }
    assert found["software"] == {"nvidia_driver": "580.159.03", "cuda_driver": "13.0"}
    assert found["state"] == {
        "gpu_clock": 3.45e8,
        "gpu_slowed": 0,
        "gpu_celsius": 34.0,
        "gpu_free_memory": 150000000000,
        "gpu_processes": 2,
    }
    assert found["joules"] == [1000.0, 1500.0]
    assert found["used"] == 754820096
    assert found["mine"] == 2 << 30
    assert found["nobody"] is None


@pytest.mark.parametrize(
    ("which", "change", "words"),
    [
        ("any", "count 2", "there are 2 GPUs and the target names none: GPU-1111"),
        ("3", "count 2", "no GPU 3: NVML says: Not Found"),
        ("GPU-other", "count 2", "no GPU GPU-other: NVML says: Not Found"),
        ("MIG-5", "count 1", "MIG-5 is a slice of a GPU"),
        ("first", "count 1", "no GPU 'first': expected any, a number, or GPU-"),
    ],
)
def test_the_wrong_gpu_is_said(
    which: str, change: str, words: str, library: Path, tmp_path: Path
) -> None:
    found = read(library, tmp_path, which, change)
    assert words in found["identity"]["error"]
    assert words in found["refused"]
    assert found["state"] == {}


def test_one_of_two_is_found_by_its_name(library: Path, tmp_path: Path) -> None:
    uuid = "GPU-11111111-2222-3333-4444-555555555555"
    assert read(library, tmp_path, uuid, "count 2")["identity"]["uuid"] == uuid
    other = read(library, tmp_path, "1", "count 2", "uuid2 GPU-2")
    assert other["identity"]["uuid"] == "GPU-2"


def test_mig_and_a_card_without_it(library: Path, tmp_path: Path) -> None:
    assert read(library, tmp_path, "any", "mig 1")["identity"]["mig"] is True
    assert read(library, tmp_path, "any", "mig 9")["identity"]["mig"] is False


def test_without_a_driver(library: Path, tmp_path: Path) -> None:
    code = READ % "any"
    empty = tmp_path / "none"
    for path, words in ((library, "Driver Not Loaded"), (empty, "no NVIDIA driver here")):
        env = {**os.environ, "LD_LIBRARY_PATH": str(path), "HWBENCH_TRACE": str(tmp_path / "no")}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env
        )
        if path == empty and shutil.which("nvidia-smi"):
            continue  # a machine with a GPU has a library of its own
        assert words in json.loads(done.stdout)["identity"]["error"]


def state(**changes: Any) -> dict[str, Any]:
    return {"gpu_clock": 1.98e9, "gpu_clock_best": 1.98e9, "gpu_slowed": 0, **changes}


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (state(gpu_slowed=0x4), "the GPU is slowed by the power cap"),
        (state(gpu_slowed=0x20 | 0x40), "slowed by heat (software)"),
        (state(gpu_clock=1.48e9), "the GPU's clock is 1480 MHz of 1980 MHz"),
    ],
)
def test_visits_of_a_gpu_that_is_slowed_down_are_tainted(after: dict[str, Any], words: str) -> None:
    assert any(words in reason for reason in conditions.taint(state(), after))


@pytest.mark.parametrize(
    "after", [state(), state(gpu_slowed=0x1 | 0x2 | 0x100), state(gpu_clock=1.5e9), {}]
)
def test_idling_and_clocks_that_somebody_set_are_no_taint(after: dict[str, Any]) -> None:
    assert conditions.taint(state(gpu_clock=3.45e8), after) == ()
    assert slowed_by(0x1) == ()


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        ({"error": "NVML says: Driver Not Loaded"}, "no GPU to measure: NVML says"),
        ({}, "no GPU to measure"),
        ({"name": "NVIDIA A100-SXM4-80GB", "mig": False}, "the GPU is NVIDIA A100"),
        ({"name": "NVIDIA H200", "mig": True}, "MIG slices"),
    ],
)
def test_the_gpu_must_be_the_one_described(gpu: dict[str, Any], words: str) -> None:
    target = dataclasses.replace(artifacts.TARGET, gpu=Gpu("any", "H200"))
    with pytest.raises(TargetError, match=words):
        check_identity(target, Conditions({"gpu": gpu}, {}, {}))
    fine = {"name": "NVIDIA H200", "mig": False}
    check_identity(target, Conditions({"gpu": fine}, {}, {}))


def test_a_session_drops_what_was_slowed_and_counts_joules(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole protocol with a GPU beside it: the double computes, the trace says how it feels."""
    from hwbench import measurement
    from hwbench.records import PluginSpec

    trace = tmp_path / "trace"
    # NVML is asked once before a round and once a visit; the fifth visit finds a low clock.
    clocks = "clock " + " ".join(["1980"] * 6 + ["900"] + ["1980"] * 40)
    trace.write_text(f"{clocks}\nmillijoules 0 200 1000 61000\n" + recorded_gpu.TRACE)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("HWBENCH_TRACE", str(trace))
    meter = PluginSpec("nvml", {"idle_seconds": 0.1})
    target = dataclasses.replace(artifacts.TARGET, gpu=Gpu(), meters=(meter,))
    model = artifacts.identity(tmp_path / "m.onnx")
    made = [
        artifacts.compiled(model, artifacts.candidate("null", {"spins": s}), tmp_path / f"a{s}")
        for s in (100, 200)
    ]
    inputs = artifacts.inputs(tmp_path / "x.npy")
    spec = artifacts.spec(generations=1, looks=(4,))
    sitting = measurement.measure(
        made, made[0], target, spec, inputs, tmp_path / "s", lambda _s, _l: None
    )
    assert any("dropped" in n and "900 MHz of 1980 MHz" in n for n in sitting.notes)
    assert any("2 other processes were on the GPU" in n for n in sitting.notes)
    energy = sitting.reference.energy
    assert energy is not None
    assert (energy.meter, energy.tier, energy.joules) == ("nvml", "counter", 60.0)
    assert energy.idle_watts is not None
    assert 0 < energy.idle_watts <= 2.0  # 0.2 J over at least 0.1 s
    assert sitting.before.identity["gpu"]["name"] == "NVIDIA H200"

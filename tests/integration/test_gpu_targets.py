"""What goes wrong with GPUs, through the commands, with recorded traces in the place of a GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import recorded_gpu
from tests.integration.house import House

pytestmark = pytest.mark.slow

# What torch 2.7 for CUDA 12.8 said beside a driver for CUDA 11.4.
OLD = "The NVIDIA driver on your system is too old (found version 11040). Please update it"
TORCH = f"""
class cuda:
    @staticmethod
    def init(): raise RuntimeError({OLD!r})
    @staticmethod
    def get_device_name(_): raise AssertionError
class version:
    cuda = "12.8"
__version__ = "2.7.0+cu128"
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return recorded_gpu.library(tmp_path_factory.mktemp("nvml"))


@pytest.fixture
def house(tmp_path: Path, library: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    """A checkout on a machine with the GPU of the trace; `play` changes it."""
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library))
    monkeypatch.setenv("HWBENCH_TRACE", str(tmp_path / "trace"))
    play(tmp_path)
    return House.build(tmp_path)


def play(folder: Path, *changes: str) -> None:
    trace = "".join(f"{line}\n" for line in changes) + recorded_gpu.TRACE
    (folder / "trace").write_text(trace)


def doctor(house: House, target: str = "cuda") -> dict[str, Any]:
    """Return the doctor's checks by name; here nothing can run on the GPU, so that it is 3."""
    said = json.loads(house.run("doctor", target, "--json", code=3).stdout)
    return {check["name"]: check for check in said["checks"]}


def test_a_gpu_is_described_and_its_guests_are_counted(house: House) -> None:
    play(house.folder, "processes 3", "slowed 4")
    found = doctor(house)
    assert found["the device described"]["grade"] == "ok"
    assert "NVIDIA H200, GPU-1111" in found["GPU"]["found"]
    assert "driver 580.159.03 for CUDA 13.0" in found["GPU"]["found"]
    alone = found["GPU alone"]
    assert (alone["grade"], alone["found"]) == ("warn", "3 other processes on it")
    assert "nvidia-smi" in alone["mend"]
    assert "slowed by the power cap" in found["GPU clock"]["found"]
    # Nothing here runs on a GPU: each runtime says why.
    assert found["runtime torch"]["found"].startswith("not available: ")
    assert "onnxruntime-gpu" in found["runtime onnxruntime"]["found"]


@pytest.mark.parametrize(
    ("target", "changes", "what", "mend"),
    [
        ("cuda", ("count 2", "uuid2 GPU-2"), "2 GPUs and the target names none: GPU-1", "name one"),
        ("cuda", ("mig 1",), "cut into MIG slices", "nvidia-smi -mig 0"),
        ("a100", (), "the GPU is NVIDIA H200", "choose another target"),
    ],
)
def test_the_wrong_gpu_is_refused(
    target: str, changes: tuple[str, ...], what: str, mend: str, house: House
) -> None:
    play(house.folder, *changes)
    check = doctor(house, target)["the device described"]
    assert check["grade"] == "fail"
    assert what in check["found"]
    assert mend in check["mend"]
    refused = house.run("bench", "--recipe", "gpu-mlp", "--target", target, code=3)
    assert what in refused.stderr
    assert mend in refused.stderr
    assert not (house.folder / "reports").exists()


def test_the_profile_names_one_of_two(house: House) -> None:
    play(house.folder, "count 2", "uuid2 GPU-2")
    text = (house.folder / "targets/cuda.yaml").read_text()
    (house.folder / "targets/second.yaml").write_text(text.replace("which: any", "which: GPU-2"))
    assert "no GPU GPU-2" in doctor(house, "second")["the device described"]["found"]
    (house.folder / "targets/second.yaml").write_text(text.replace("which: any", "which: '1'"))
    assert "NVIDIA H200, GPU-2" in doctor(house, "second")["GPU"]["found"]
    (house.folder / "targets/second.yaml").write_text(text.replace("which: any", "which: MIG-7"))
    refused = house.run("doctor", "second", code=2).stderr
    assert "gpu.which" in refused
    assert "GPU-" in refused


def test_without_a_driver(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HWBENCH_TRACE")
    check = doctor(house)["the device described"]
    assert "no GPU to measure" in check["found"]
    assert "Driver Not Loaded" in check["found"]
    assert "nvidia-smi" in check["mend"]


def test_a_driver_older_than_the_runtime(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    play(house.folder, "cuda 11040", "driver 470.57.02")
    package = house.folder / "site/torch"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(TORCH)
    import os

    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{os.environ.get('PYTHONPATH', '')}")
    found = doctor(house)
    assert "driver 470.57.02 for CUDA 11.4" in found["GPU"]["found"]
    said = found["runtime torch"]
    assert said["grade"] == "fail"
    assert "driver on your system is too old (found version 11040)" in said["found"]
    assert "update NVIDIA's driver, or install a torch made for an older CUDA" in said["found"]


def test_a_candidate_that_runs_out_of_memory_fails_and_the_run_goes_on(house: House) -> None:
    """The double says in its third call what a runtime says: an allocation failed."""
    profile = (house.folder / "targets/local-cpu.yaml").read_text()
    (house.folder / "targets/here.yaml").write_text(
        profile.replace("  onnxruntime: {}\n", "  onnxruntime: {}\n  'null': {}\n")
    )
    change = ["--set", "backends={onnxruntime: {}, 'null': {fault: memory, at: 3}}"]
    small = ["--set", "search.methods=[{pattern: unstructured}]", "--set", "train.epochs=1"]
    small += ["--set", "measure.generations=2", "--set", "measure.looks=[3]"]
    house.run("bench", "--recipe", "smoke", "--target", "here", *change, *small)
    results = house.results()
    lost = [r for r in results if r["candidate"]["backend"]["kind"] == "null"]
    fine = [r for r in results if r["candidate"]["backend"]["kind"] == "onnxruntime"]
    assert len(lost) == 2  # dense, which would have been the reference, and pruned
    assert len(fine) >= 2
    assert all("it ran out of memory" in json.dumps(r) for r in lost)
    assert all(r["values"]["latency_p50"]["value"] > 0 for r in fine)
    page = (house.folder / "reports/latest/report.html").read_text()
    assert "failed (it ran out of memory): all is measured beside dense · onnxruntime" in page

"""What only a real GPU can show. Without one everything here is skipped and says so.

On a machine with one: ``python -m pytest tests/integration/test_on_a_gpu.py -rs``. Nothing asserts
a time: how fast things are is what docs/tools/gpu measures.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from hwbench import registry
from hwbench.backends import _torch_layers
from hwbench.backends._torch_layers import Replaced
from hwbench.backends._torch_net import Conv2d, Linear
from hwbench.backends.torch import Options, TorchSession, tolerance
from hwbench.conditions import nvml
from hwbench.errors import StageError
from hwbench.records import OnnxModel
from tests import artifacts
from tests.integration.house import House

DEVICE = "cuda"
WHY = "" if torch.cuda.is_available() else "no GPU: this torch sees none (docs/gpu.md: still owed)"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(WHY), reason=WHY),
    # torch calls its 2:4 weights a prototype, and warns of much when it compiles.
    pytest.mark.filterwarnings("default"),
]


def capability() -> tuple[int, int]:
    return torch.cuda.get_device_capability() if not WHY else (0, 0)


AMPERE = pytest.mark.skipif(capability() < (8, 0), reason="2:4 needs an Ampere GPU or a later one")


def loaded(folder: Path, model: OnnxModel, kind: str = "torch", **options: Any) -> Any:
    """Return a session of a model on the GPU, batch 4."""
    options = {"device": DEVICE, **options} if kind != "onnxruntime" else options
    made = artifacts.compiled(model, artifacts.candidate(kind, options, batch=4), folder)
    return registry.create("backends", kind, options).load(made.folder / made.entry, 1)


def batch(seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return random.standard_normal((4, *artifacts.SHAPE)).astype(np.float32)


def answered(session: Any, x: np.ndarray) -> np.ndarray:
    session.set_inputs([x])
    session.invoke()
    found: np.ndarray = session.outputs()[0]
    return found


def expected(model: OnnxModel, x: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    session = ort.InferenceSession(str(model.path), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"x": x})[0]
    return found


def close(found: np.ndarray, wanted: np.ndarray, limit: float) -> bool:
    return float(np.abs(found - wanted).max()) <= limit * float(np.abs(wanted).max())


# --------------------------------------------------------------------------------------------
# backends


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16", "fp16", "int8"])
@pytest.mark.parametrize("mode", ["eager", "compile", "graph"])
def test_every_mode_and_precision_answers_as_the_cpu_does(
    mode: str, precision: str, tmp_path: Path
) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    session = loaded(tmp_path / "a", model, mode=mode, precision=precision)
    limit = tolerance({"precision": precision})
    # The second batch goes into the captured graph's own memory.
    for seed in (0, 1):
        found = answered(session, batch(seed))
        assert close(found, expected(model, batch(seed)), limit)
    assert session.clock == "CUDA events, L2 warm"
    assert session.time_call() > 0
    assert session.device_memory()["allocated"] > 0


def test_a_cold_l2_is_emptied_before_every_call(tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    session: TorchSession = loaded(tmp_path / "a", model, l2="cold")
    answered(session, batch())
    assert session.clock == "CUDA events, L2 cold"
    assert session.time_call() > 0
    assert session._scratch is not None
    assert session._scratch.nbytes >= torch.cuda.get_device_properties(0).L2_cache_size


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_onnxruntime_runs_on_the_gpu_or_says_why_not(provider: str, tmp_path: Path) -> None:
    needs_provider(provider)
    model = artifacts.network(tmp_path / "m.onnx")
    # It does not load when its own profile shows a node that computes on the CPU.
    session = loaded(tmp_path / "a", model, "onnxruntime", provider=provider)
    assert close(answered(session, batch()), expected(model, batch()), 1e-2)
    assert session.time_call() > 0


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc to translate TVM's kernels with")
def test_tvms_kernels_answer_as_the_cpu_does(tmp_path: Path) -> None:
    try:
        registry.create("backends", "tvm", {"device": DEVICE}).versions()
    except StageError as error:
        pytest.skip(error.what)
    arch = "sm_{}{}".format(*capability())
    model = artifacts.network(tmp_path / "m.onnx")
    session = loaded(tmp_path / "a", model, "tvm", arch=arch)
    assert close(answered(session, batch()), expected(model, batch()), 1e-3)
    assert session.time_call() > 0


# --------------------------------------------------------------------------------------------
# layers


def two_four(outputs: int, inputs: int) -> Tensor:
    weight = torch.randn(outputs, inputs, device=DEVICE)
    least = weight.abs().reshape(-1, 4).argsort(1)[:, :2]
    return weight.reshape(-1, 4).scatter(1, least, 0.0).reshape(outputs, inputs)


def blocks(outputs: int, inputs: int, size: int) -> Tensor:
    kept = torch.rand(outputs // size, inputs // size, device=DEVICE) >= 0.7
    mask = kept.repeat_interleave(size, 0).repeat_interleave(size, 1)
    return torch.randn(outputs, inputs, device=DEVICE) * mask


def alike(found: Tensor, wanted: Tensor, limit: float = 2e-2) -> bool:
    error = (found.float() - wanted.float()).abs().max()
    return bool(error <= limit * wanted.float().abs().max())


@AMPERE
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 33, 256])
def test_2_4_multiplies_as_the_dense_layer(dtype: torch.dtype, rows: int) -> None:
    layer = Linear(two_four(512, 1024).to(dtype), torch.randn(512, device=DEVICE).to(dtype))
    x = torch.randn(rows, 1024, device=DEVICE).to(dtype)
    with torch.inference_mode():
        packed = Replaced(layer, _torch_layers.pack_2_4(layer.weight.detach()))
        assert alike(packed(x), layer(x))


@AMPERE
def test_2_4_of_a_convolution_goes_by_im2col() -> None:
    weight = two_four(64, 9 * 64).reshape(64, 3, 3, 64).permute(0, 3, 1, 2).contiguous()
    layer = Conv2d(weight.half(), None, {"pads": [1] * 4})
    assert _torch_layers.is_2_4(_torch_layers.matrix(layer))
    x = torch.randn(4, 64, 14, 14, device=DEVICE).half()
    with torch.inference_mode():
        packed = Replaced(layer, _torch_layers.pack_2_4(_torch_layers.matrix(layer)))
        assert alike(packed(x), layer(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [16, 32, 64])
@pytest.mark.parametrize("rows", [1, 40, 512])
def test_the_block_kernel_multiplies_as_the_dense_layer(
    rows: int, size: int, dtype: torch.dtype
) -> None:
    from hwbench.backends._torch_block import pack

    weight = blocks(512, 768, size).to(dtype)
    x = torch.randn(rows, 768, device=DEVICE).to(dtype)
    assert alike(pack(weight, size)(x), x @ weight.t())


def test_what_is_taken_was_measured_to_be_faster() -> None:
    """Crossovers are for docs/tools/gpu/crossover.py; here: nothing is taken without winning."""
    net = nn.Sequential(
        Linear(blocks(4096, 4096, 64).half(), None), Linear(two_four(64, 4096).half(), None)
    )
    options = Options(device="cuda", precision="fp16")
    said = _torch_layers.choose(net, [torch.randn(256, 4096, device=DEVICE).half()], options)
    assert len(said) == 2
    for layer, words in zip(net, said, strict=True):
        ratios = [
            float(part.split("takes ")[1].split()[0])
            for part in words.split("; ")
            if "takes" in part
        ]
        assert ratios or "not possible" in words
        assert isinstance(layer, Replaced) == any(r <= _torch_layers.FASTER for r in ratios)


# --------------------------------------------------------------------------------------------
# memory, energy, conditions


@pytest.fixture
def little_memory() -> Iterator[None]:
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def test_out_of_memory_is_one_candidates_failure(little_memory: None, tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    options = {"device": DEVICE}
    many = 1 << 16
    made = artifacts.compiled(
        model, artifacts.candidate("torch", options, batch=many), tmp_path / "a"
    )
    x = np.zeros((many, *artifacts.SHAPE), np.float32)
    with pytest.raises(StageError, match="the GPU is out of memory"):
        answered(registry.create("backends", "torch", options).load(made.folder / made.entry, 1), x)
    torch.cuda.set_per_process_memory_fraction(1.0)
    # The next one runs.
    session = loaded(tmp_path / "b", model)
    assert close(answered(session, batch()), expected(model, batch()), 1e-3)


def test_nvml_reads_this_gpu() -> None:
    which = "GPU-" + str(torch.cuda.get_device_properties(0).uuid)
    identity, software, state = nvml.read(which)
    assert identity["name"] == torch.cuda.get_device_name(0)
    assert identity["capability"] == "{}.{}".format(*capability())
    assert software["nvidia_driver"]
    assert 0 < state["gpu_clock"] <= identity["clock_limit"]
    held = torch.empty(1 << 28, dtype=torch.int8, device=DEVICE)
    mine = nvml.process_memory(os.getpid(), which)
    # None in a container, in which the driver knows this process by another number.
    assert mine is None or mine >= held.nbytes


def test_the_counter_counts_joules_of_work() -> None:
    meter = registry.create("meters", "nvml", {"idle_seconds": 1.0})
    meter.settle()
    a = torch.randn(4096, 4096, device=DEVICE).half()
    meter.start()
    end, calls = time.monotonic() + 1.0, 0
    while time.monotonic() < end:
        a = (a @ a).clamp(-1, 1)
        torch.cuda.synchronize()
        calls += 1
    reading = meter.stop(calls)
    assert (reading.tier, reading.inferences) == ("counter", calls)
    assert reading.joules > 0
    assert reading.idle_watts
    assert "10 s are due" in reading.note


# --------------------------------------------------------------------------------------------
# commands


def test_the_doctor_knows_it(tmp_path: Path) -> None:
    house = House.build(tmp_path)
    said = json.loads(house.run("doctor", "cuda", "--json").stdout)
    checks = {check["name"]: check for check in said["checks"]}
    assert torch.cuda.get_device_name(0) in checks["GPU"]["found"]
    assert checks["runtime torch"]["grade"] == "ok"
    assert "nvml (counter)" in checks["energy"]["found"]


def test_a_small_study_whole(tmp_path: Path) -> None:
    house = House.build(tmp_path)
    small = ["workload.width=512", "batch=32", "measure.generations=2", "measure.looks=[3]"]
    change = [word for setting in small for word in ("--set", setting)]
    house.run("bench", "--recipe", "gpu-mlp", "--target", "cuda", *change)
    results = house.results()
    fine = [r for r in results if not r["failure"]]
    assert len(fine) == len(results)
    for result in fine:
        values = result["values"]
        assert "CUDA events" in values["latency_p50"]["note"]
        assert "of the GPU, by the runtime's allocator" in values["peak_memory"]["note"]
        assert values["energy"]["tier"] == "counter"
        assert values["top1"]["value"] is None


# --------------------------------------------------------------------------------------------
# ONNX Runtime: in a stream of ours, as a graph, in short formats


def needs_provider(provider: str) -> None:
    """Skip, in the words of the refusal, where ONNX Runtime has not the provider."""
    try:
        registry.create("backends", "onnxruntime", {"provider": provider}).versions()
    except StageError as error:
        pytest.skip(error.what)


def test_a_provider_that_lacks_its_libraries_is_not_available() -> None:
    """The wheel lists TensorRT where its libraries are not: that is said, and is no stack."""
    try:
        registry.create("backends", "onnxruntime", {"provider": "tensorrt"}).versions()
    except StageError as error:
        said = error.what
    else:
        pytest.skip("TensorRT is there")
    assert said.startswith("not available: ")
    assert "libnvinfer" in said or "this onnxruntime has no" in said


@pytest.mark.parametrize("precision", ["fp32", "tf32", "fp16"])
@pytest.mark.parametrize("graph", [False, True])
def test_onnxruntimes_graph_answers_as_the_cpu_does(
    precision: str, graph: bool, tmp_path: Path
) -> None:
    from hwbench.backends import onnxruntime as backend

    needs_provider("cuda")
    options = {"provider": "cuda", "precision": precision, "graph": graph}
    model = artifacts.network(tmp_path / "m.onnx")
    session = loaded(tmp_path / "a", model, "onnxruntime", **options)
    # The second batch goes to where the captured graph reads, the third has a graph of its own.
    limit = backend.tolerance(options)
    for x in (batch(0), batch(1), batch(2)[:2], batch(3)):
        assert close(answered(session, x), expected(model, x), limit)
    assert session.clock == "CUDA events, L2 warm"
    times = [session.time_call() for _ in range(5)]
    assert min(times) > 0
    # Timing leaves the answers as they are.
    assert close(session.outputs()[0], expected(model, batch(3)), limit)


def test_events_see_no_more_than_the_host_does(tmp_path: Path) -> None:
    """The events lie inside the call: a sum of theirs is less than the host's, and not nothing."""
    needs_provider("cuda")
    model = artifacts.network(tmp_path / "m.onnx")
    session = loaded(tmp_path / "a", model, "onnxruntime", provider="cuda", graph=True)
    answered(session, batch())
    begun = time.perf_counter_ns()
    found = sum(session.time_call() for _ in range(50))
    assert 0 < found < time.perf_counter_ns() - begun


def test_tensorrt_keeps_its_engines_beside_the_artifact(tmp_path: Path) -> None:
    needs_provider("tensorrt")
    model = artifacts.network(tmp_path / "m.onnx")
    options = {"provider": "tensorrt", "precision": "fp16"}
    session = loaded(tmp_path / "a", model, "onnxruntime", **options)
    assert close(answered(session, batch()), expected(model, batch()), 2e-2)
    assert list((tmp_path / "a").rglob("*.engine"))

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

from hwbench.backends import _torch_layers
from hwbench.backends._torch_layers import Replaced
from hwbench.backends._torch_net import Conv2d, Linear
from hwbench.backends._torch_time import How
from hwbench.backends.torch import TRAITS, Options, TorchSession
from hwbench.conditions import nvml
from hwbench.errors import StageError, UserError
from hwbench.protocols import Settling, Trainable
from hwbench.records import OnnxModel
from hwbench.registry import BACKENDS, METERS, WORKLOADS
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
    return BACKENDS.create(kind, options).load(made.folder / made.entry, 1)


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
@pytest.mark.parametrize("mode", ["eager", "compile", "graph", "compile+graph"])
def test_every_mode_and_precision_answers_as_the_cpu_does(
    mode: str, precision: str, tmp_path: Path
) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    session = loaded(tmp_path / "a", model, mode=mode, precision=precision)
    limit = TRAITS.tolerance({"precision": precision})
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
        BACKENDS.create("tvm", {"device": DEVICE}).versions()
    except (StageError, UserError) as error:  # without TVM it cannot even be asked
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
@pytest.mark.parametrize(
    "pack",
    [_torch_layers.pack_2_4,
     pytest.param(_torch_layers.pack_cutlass, marks=pytest.mark.skipif(
         capability()[0] != 8, reason="torch has CUTLASS's 2:4 kernels for GPUs of 8.x alone"))],
)  # fmt: skip
def test_2_4_multiplies_as_the_dense_layer(pack: Any, dtype: torch.dtype, rows: int) -> None:
    layer = Linear(two_four(512, 1024).to(dtype), torch.randn(512, device=DEVICE).to(dtype))
    x = torch.randn(rows, 1024, device=DEVICE).to(dtype)
    with torch.inference_mode():
        packed = Replaced(layer, pack(layer.weight.detach()))
        assert alike(packed(x), layer(x))
        packed.tune(x, How(graph=True))
        assert alike(packed(x), layer(x)), packed.kernel.chosen


@AMPERE
@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("rows", [1, 33, 256])
@pytest.mark.parametrize("pack", [_torch_layers.pack_int8, _torch_layers.pack_int8_2_4])
def test_8_bits_multiply_nearly_as_the_dense_layer(pack: Any, rows: int, graph: bool) -> None:
    weight = two_four(512, 1024).bfloat16()
    layer = Linear(weight, torch.randn(512, device=DEVICE).bfloat16())
    x = torch.randn(rows, 1024, device=DEVICE).bfloat16()
    with torch.inference_mode():
        packed = Replaced(layer, pack(layer.weight.detach()))
        packed.tune(x, How(graph=graph))
        assert _torch_layers.difference(packed(x), layer(x)) < 2e-2, packed.kernel.chosen


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
    bias = torch.randn(512, device=DEVICE).to(dtype)
    kernel = pack(weight, size)
    assert alike(kernel(x), x @ weight.t())
    kernel.tune(x, bias, How(graph=True, evict=1 << 26))
    assert alike(kernel(x, bias), x @ weight.t() + bias), kernel.chosen


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
        answered(BACKENDS.create("torch", options).load(made.folder / made.entry, 1), x)
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
    meter = METERS.create("nvml", {"idle_seconds": 1.0})
    assert isinstance(meter, Settling)
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
    profile = house.folder / "targets/cuda.yaml"
    quick = profile.read_text().replace("_seconds: 10.0", "_seconds: 1.0")
    profile.write_text(quick)
    small = ["workload.width=512", "workload.depth=2", "batch=32", "measure.generations=2",
             "measure.looks=[3]",
             "backends={torch: [{precision: bf16, mode: graph}]}"]  # fmt: skip
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
# training


def _train_spec(pattern: str = "dense", device: str = DEVICE, **more: Any) -> Any:
    from hwbench.records import CompressionSpec, TrainSpec, WorkloadSpec

    train: Any = TrainSpec(epochs=3, lr=0.1, device=device)  # type: ignore[arg-type]
    recovery = None if pattern == "dense" else TrainSpec(2, lr=0.03, device=device)  # type: ignore[arg-type]
    words = {"criterion": "l2", "scope": "local"} if pattern == "channel" else {}
    sparsity = 0.0 if pattern == "dense" else 0.5
    more = {**words, "recovery": recovery, "sparsity": sparsity, **more}
    return CompressionSpec(WorkloadSpec("toy"), train, pattern, **more)


def _trained(folder: Path, spec: Any, workload: Any = None, dense: Any = None) -> Any:
    """Return what the compress room makes of a spec in a new folder, its dense model included."""
    from hwbench.compress import compress

    workload = WORKLOADS.create("toy") if workload is None else workload
    folder.mkdir(parents=True)
    if dense is None and not spec.is_dense:
        dense = _trained(folder / "dense", spec.dense, workload)
    (folder / "made").mkdir()
    return compress(spec, workload, dense, folder / "made", lambda share: None)


def _weights(made: Any) -> bytes:
    found: bytes = (made.folder / "weights.safetensors").read_bytes()
    return found


class _Toy:
    """The toy with another model or another loss."""

    metric = "top1"

    def __init__(self, model: Any = None, loss: Any = None) -> None:
        toy = WORKLOADS.create("toy")
        assert isinstance(toy, Trainable)
        self.data, self.score = toy.data, toy.score
        self.model = model or toy.model
        self.train_step = loss or toy.train_step


TRAININGS: dict[str, dict[str, Any]] = {
    "dense": {},
    "taylor in steps": {
        "pattern": "unstructured",
        "criterion": "taylor",
        "schedule": "cubic",
        "steps": 3,
    },
    "hessian": {"pattern": "unstructured", "criterion": "hessian"},
    "movement": {"pattern": "channel", "criterion": "movement"},
    "wanda, taught": {
        "pattern": "2:4",
        "criterion": "wanda",
        "scope": "local",
        "healing": "distill",
    },
    "lottery": {"pattern": "channel", "schedule": "lottery", "steps": 2, "rewind": 1},
    "rewinding": {"pattern": "unstructured", "schedule": "lr_rewinding", "steps": 2},
    "scratch": {"pattern": "channel", "schedule": "scratch"},
    "sensitivity": {"pattern": "unstructured", "scope": "sensitivity"},
    "statistics": {"pattern": "unstructured", "healing": "bn", "recovery": None},
}


@pytest.mark.parametrize("words", TRAININGS.values(), ids=TRAININGS)
def test_a_training_repeats_itself_to_the_bit_and_is_as_good_as_the_cpus(
    words: dict[str, Any], tmp_path: Path
) -> None:
    from safetensors.torch import load_file

    spec, here = _train_spec(**words), _train_spec(**words, device="cpu")
    assert spec.key != here.key
    dense = None if spec.is_dense else _trained(tmp_path / "dense", spec.dense)
    one, two = (_trained(tmp_path / name, spec, dense=dense) for name in ("one", "two"))
    assert _weights(one) == _weights(two)
    assert one.scores == two.scores
    theirs, last = _trained(tmp_path / "cpu", here), list(one.scores)[-1]
    assert one.scores[last] == pytest.approx(theirs.scores[last], abs=0.06)
    assert not any("trained on" in note for note in theirs.notes)
    assert any(note.startswith("trained on NVIDIA") for note in one.notes)
    state = load_file(one.folder / "weights.safetensors")
    assert {tensor.device.type for tensor in state.values()} == {"cpu"}


def test_the_streams_of_random_numbers_go_on_as_if_nothing_had_been_trained(
    tmp_path: Path,
) -> None:
    torch.manual_seed(7)
    before = torch.cuda.get_rng_state(), torch.get_rng_state()
    _trained(tmp_path / "made", _train_spec())
    assert torch.equal(torch.cuda.get_rng_state(), before[0])
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_split_copied_batch_by_batch_gives_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hwbench.compress import device

    whole = _trained(tmp_path / "whole", _train_spec())
    monkeypatch.setattr(device, "WHOLE", 0.0)
    assert _weights(_trained(tmp_path / "copied", _train_spec())) == _weights(whole)


def test_an_operator_without_a_deterministic_form_is_named_in_every_training(
    tmp_path: Path,
) -> None:
    def model() -> nn.Module:
        # Nine overlapping windows: their gradients are added in any order.
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 4)
        )

    for folder in ("one", "two"):
        made = _trained(tmp_path / folder, _train_spec(), _Toy(model))
        assert any("adaptive_avg_pool2d" in note for note in made.notes), made.notes


def test_dropout_and_attention_repeat_themselves(tmp_path: Path) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(24, 4, 48, dropout=0.2, batch_first=True)
            self.body = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(24, 4)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.head(
                self.body(x.flatten(2).transpose(1, 2).repeat(1, 1, 8)).mean(1)
            )
            return found

    made = [_trained(tmp_path / name, _train_spec(), _Toy(Net)) for name in ("one", "two")]
    assert _weights(made[0]) == _weights(made[1])
    assert not any("attention" in note.lower() for note in made[0].notes)


def test_a_full_gpu_costs_one_candidate_and_its_memory_comes_back(tmp_path: Path) -> None:
    def loss(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        held = [torch.empty(1 << 30, dtype=torch.int8, device=inputs.device) for _ in range(1000)]
        return nn.functional.cross_entropy(model(inputs), labels) + len(held)

    before = torch.cuda.memory_reserved()
    with pytest.raises(StageError, match="the GPU's memory is full: CUDA") as caught:
        _trained(tmp_path / "full", _train_spec(), _Toy(loss=loss))
    assert "smaller train.batch" in caught.value.mend
    assert torch.cuda.memory_reserved() <= before + (1 << 28)
    assert _trained(tmp_path / "next", _train_spec()).scores["trained"] > 0.9


def test_a_tensor_of_the_cpu_in_a_train_step_is_told(tmp_path: Path) -> None:
    def mixing(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(inputs), torch.zeros(len(labels)).long())

    def scaling(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(model(inputs * torch.ones(8)), labels)

    def leaving(model: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
        return torch.tensor(labels.numpy().mean(), requires_grad=True)

    for index, loss in enumerate((mixing, scaling, leaving)):
        with pytest.raises(StageError, match="on the CPU and on the GPU meet") as caught:
            _trained(tmp_path / str(index), _train_spec(), _Toy(loss=loss))
        assert Path(caught.value.where.rpartition(":")[0]).name == Path(__file__).name
        assert "labels.device" in caught.value.mend


def test_the_gpu_is_named_alike_here_and_by_a_child() -> None:
    from hwbench import cuda

    name = cuda.here()
    assert cuda.asked("here") == name
    assert name.startswith(f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")


def test_a_study_trained_on_the_gpu_says_so(tmp_path: Path) -> None:
    house = House.build(tmp_path)
    small = ["train.device=cuda", "recover.device=cuda", "backends={onnxruntime: {}}"]
    small += ["measure.generations=2", "measure.looks=[3]"]
    change = [word for setting in small for word in ("--set", setting)]
    house.run("bench", "--recipe", "smoke", "--target", "local-cpu", "--jobs", "2", *change)
    notes = [note for result in house.results() for note in result["notes"]]
    assert any(note.startswith("trained on NVIDIA") for note in notes)
    # The hand sets the workspace before CUDA starts.
    assert not any("CuBLAS" in note for note in notes)
    text = (tmp_path / "reports/latest/decision.md").read_text()
    assert f"Models were trained on {torch.cuda.get_device_name()}" in text


# --------------------------------------------------------------------------------------------
# ONNX Runtime: in a stream of ours, as a graph, in short formats


def needs_provider(provider: str) -> None:
    """Skip, in the words of the refusal, where ONNX Runtime has not the provider."""
    try:
        BACKENDS.create("onnxruntime", {"provider": provider}).versions()
    except StageError as error:
        pytest.skip(error.what)


def test_a_provider_that_lacks_its_libraries_is_not_available() -> None:
    """The wheel lists TensorRT where its libraries are not: that is said, and is no stack."""
    try:
        BACKENDS.create("onnxruntime", {"provider": "tensorrt"}).versions()
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
    from hwbench.backends.onnxruntime import TRAITS as ORT_TRAITS

    needs_provider("cuda")
    options = {"provider": "cuda", "precision": precision, "graph": graph}
    model = artifacts.network(tmp_path / "m.onnx")
    session = loaded(tmp_path / "a", model, "onnxruntime", **options)
    # The second batch goes to where the captured graph reads, the third has a graph of its own.
    limit = ORT_TRAITS.tolerance(options)
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


# --------------------------------------------------------------------------------------------
# layers under the roofs


@pytest.mark.parametrize("mode", ["eager", "graph", "compile"])
@pytest.mark.parametrize("precision", ["tf32", "bf16", "int8"])
def test_layers_stay_under_the_roofs(precision: str, mode: str, tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    session = loaded(tmp_path / "a", model, precision=precision, mode=mode)
    before = answered(session, batch())
    begun = time.monotonic()
    found = session.roofline()
    print(f"{precision} {mode}: {time.monotonic() - begun:.2f} s, copy {found.bandwidth:.3g} B/s")
    assert len(found.layers) == 5
    assert found.bandwidth > 1e10
    assert found.seconds > 0
    assert set(found.rates) >= {layer.format for layer in found.layers}
    # A twentieth above is noise; twice is a wrong count, or a time that is not the layer's.
    assert all(0 < found.fraction(layer) < 1.05 for layer in found.layers)
    session.invoke()
    assert close(session.outputs()[0], before, 1e-6)


def test_large_layers_come_near_the_roof_and_hold_their_kernels() -> None:
    from hwbench.backends import _torch_roof

    net = nn.Sequential(
        Linear(torch.randn(4096, 4096, device=DEVICE).bfloat16(), None),
        Linear(blocks(4096, 4096, 64).bfloat16(), None),
        Linear(two_four(4096, 4096).bfloat16(), None),
    )
    x = torch.randn(4096, 4096, device=DEVICE).bfloat16() / 64
    options = Options(device="cuda", precision="bf16", mode="graph", sparse="force", l2="cold")
    said = _torch_layers.choose(net, [x], options)
    found = _torch_roof.measured(net, [x], options, said, lambda: 1.0)
    dense, skipping, pairs = found.layers
    print([(one.kernel, f"{found.fraction(one):.2f}") for one in found.layers])
    assert found.how == "CUDA events, L2 cold"
    assert dense.kernel == "dense"
    assert 0.3 < found.fraction(dense) < 1.05
    assert skipping.kernel.startswith("blocks")
    assert skipping.multiplied < 0.5 * skipping.operations
    assert "2:4" in pairs.kernel or "not possible" in pairs.why

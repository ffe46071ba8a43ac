"""The torch backend: operators, precisions, and what becomes of a layer's zeros."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn import functional as F

from hwbench.backends import _torch_graph, _torch_layers, _torch_net
from hwbench.backends._torch_layers import Kernel, Offer, Replaced
from hwbench.backends._torch_net import Conv2d, Linear
from hwbench.backends._torch_time import How, copies, fastest
from hwbench.backends.torch import TRAITS, Options, require, translated
from hwbench.errors import StageError
from hwbench.protocols import Accelerated
from hwbench.records import OnnxModel
from hwbench.registry import BACKENDS
from tests import artifacts

RNG = np.random.default_rng(0)
X = RNG.standard_normal((2, 4, 6, 6)).astype(np.float32)
F1 = np.float32


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def noise(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


# Operator, its constant inputs (None: absent), its attributes.
CASES: list[tuple[str, list[np.ndarray | None], dict[str, Any]]] = [
    ("Conv", [noise(5, 4, 3, 3), noise(5)], {"pads": [1, 0, 2, 1], "strides": [2, 1]}),
    ("Conv", [noise(8, 2, 3, 3)], {"group": 2, "dilations": [2, 2]}),
    ("MaxPool", [], {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ("AveragePool", [], {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("GlobalAveragePool", [], {}),
    ("BatchNormalization", [noise(4), noise(4), noise(4), np.abs(noise(4)) + F1(1)], {}),
    ("LayerNormalization", [noise(6), noise(6)], {"axis": -1}),
    ("Clip", [np.array(-0.5, F1), np.array(0.5, F1)], {}),
    ("Clip", [None, np.array(0.5, F1)], {}),
    ("Softmax", [], {"axis": 1}),
    ("Gelu", [], {"approximate": "tanh"}),
    ("HardSwish", [], {}),
    ("HardSigmoid", [], {"alpha": 0.3}),
    ("LeakyRelu", [], {"alpha": 0.2}),
    ("Flatten", [], {"axis": 2}),
    ("Reshape", [ints(0, -1, 12)], {}),
    ("Transpose", [], {"perm": [0, 2, 3, 1]}),
    ("Unsqueeze", [ints(0, -1)], {}),
    ("Slice", [ints(1, 0), ints(-1, 6), ints(1, 3), ints(1, 2)], {}),
    ("Gather", [ints(2, 0)], {"axis": 1}),
    ("Gather", [np.array(-1, np.int64)], {"axis": 3}),
    ("ReduceMean", [ints(2, 3)], {"keepdims": 0}),
    ("ReduceSum", [ints(1)], {}),
    ("Pad", [ints(0, 0, 1, 2, 0, 0, 0, 1), np.array(3.0, F1)], {}),
    ("Expand", [ints(3, 2, 4, 6, 6)], {}),
    ("Pow", [np.array(2.0, F1)], {}),
    ("MatMul", [noise(6, 5)], {}),
    ("QuantizeLinear", [np.array(0.05, F1), np.array(3, np.int8)], {}),
    ("QuantizeLinear", [np.abs(noise(4)) + F1(0.1), np.zeros(4, np.int8)], {"axis": 1}),
]


def _model(
    path: Path, kind: str, constants: list[np.ndarray | None], given: dict[str, Any]
) -> Path:
    names = [f"c{i}" if c is not None else "" for i, c in enumerate(constants)]
    held = [
        numpy_helper.from_array(c, n)
        for n, c in zip(names, constants, strict=True)
        if c is not None
    ]
    nodes = [helper.make_node(kind, ["x", *names], ["q"], **given)]
    last = "q"
    if kind == "QuantizeLinear":  # back to floats: what a device multiplies by
        nodes.append(helper.make_node("DequantizeLinear", ["q", *names], ["d"], **given))
        last = "d"
    nodes.append(helper.make_node("Neg", [last], ["y"]))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *X.shape[1:]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "one", [x], [y], held)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(made, str(path))
    return path


@pytest.mark.parametrize(("kind", "constants", "given"), CASES)
def test_an_operator_does_what_onnx_says(
    kind: str, constants: list[np.ndarray | None], given: dict[str, Any], tmp_path: Path
) -> None:
    import onnxruntime as ort

    path = _model(tmp_path / "m.onnx", kind, constants, given)
    (wanted,) = ort.InferenceSession(str(path)).run(None, {"x": X})
    _torch_graph.write(path, len(X), tmp_path, (_torch_net.GRAPH, _torch_net.WEIGHTS))
    net = _torch_net.load(tmp_path)
    with torch.inference_mode():
        found = net(torch.from_numpy(X))[0].numpy()
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_nothing_in_an_artifact_is_executed(tmp_path: Path) -> None:
    graph = {"format": 1, "inputs": ["x"], "outputs": ["y"]}
    node = {"op": "os.system", "in": ["x"], "out": ["y"], "with": {}}
    (tmp_path / _torch_net.GRAPH).write_text(json.dumps({**graph, "nodes": [node]}))
    (tmp_path / _torch_net.WEIGHTS).write_bytes(struct.pack("<Q", 2) + b"{}")
    with pytest.raises(ValueError, match=r"'os\.system' is not offered"):
        _torch_net.load(tmp_path)


def test_a_tensor_outside_its_file_is_refused(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    path = tmp_path / "w"
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"\0" * 8)
    with pytest.raises(ValueError, match="outside its file"):
        _torch_net.read_tensors(path)


@pytest.mark.parametrize("precision", ["bf16", "fp16", "int8"])
def test_short_formats_stay_within_their_tolerance(precision: str, tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    options = {"precision": precision}
    made = artifacts.compiled(model, artifacts.candidate("torch", options, batch=2), tmp_path / "a")
    session = BACKENDS.create("torch", options).load(made.folder / made.entry, 1)
    x = np.random.default_rng(3).standard_normal((2, *artifacts.SHAPE)).astype(np.float32)
    session.set_inputs([x])
    session.invoke()
    (found,) = session.outputs()
    wanted = _answers(model, x)
    error = float(np.abs(found - wanted).max() / np.abs(wanted).max())
    assert 0 < error <= TRAITS.tolerance(options)
    if precision == "int8":
        assert isinstance(session, Accelerated)
        assert any("int8 takes" in words for words in session.layers)


def _answers(model: OnnxModel, x: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    found: np.ndarray = ort.InferenceSession(str(model.path)).run(None, {"x": x})[0]
    return found


@pytest.mark.parametrize("wrong", [{"mode": "graph"}, {"precision": "tf32"}])
def test_what_needs_a_gpu_says_so(wrong: dict[str, Any]) -> None:
    with pytest.raises(StageError, match="needs a GPU"):
        BACKENDS.create("torch", wrong)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU: nothing is missing")
def test_without_a_gpu_it_is_not_available_and_says_why(tmp_path: Path) -> None:
    backend = BACKENDS.create("torch", {"device": "cuda"})
    entry = backend.compile_empty(artifacts.TARGET, tmp_path)
    for use in (backend.versions, lambda: backend.load(tmp_path / entry, 1)):
        with pytest.raises(StageError, match="not available: ") as refused:
            use()
        assert refused.value.mend


@pytest.mark.parametrize(
    ("said", "mend"),
    [
        ("The NVIDIA driver on your system is too old (found version 11040).", "update NVIDIA"),
        ("Found no NVIDIA driver on your system.", "nvidia-smi"),
        ("Torch not compiled with CUDA enabled", "install torch for CUDA"),
    ],
)
def test_every_reason_has_its_mend(said: str, mend: str, monkeypatch: Any) -> None:
    def broken() -> None:
        raise RuntimeError(said)

    monkeypatch.setattr(torch.cuda, "init", broken)
    with pytest.raises(StageError) as refused:
        require("cuda")
    assert said in refused.value.what
    assert mend in refused.value.mend


def test_out_of_memory_is_the_failure_of_one_candidate() -> None:
    with pytest.raises(StageError, match="the GPU is out of memory: CUDA out of"), translated("x"):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")


# --------------------------------------------------------------------------------------------
# layers


def _two_four(outputs: int, inputs: int) -> Tensor:
    weight = torch.randn(outputs, inputs, generator=torch.Generator().manual_seed(0))
    least = weight.abs().reshape(-1, 4).argsort(1)[:, :2]
    return weight.reshape(-1, 4).scatter(1, least, 0.0).reshape(outputs, inputs)


def test_2_4_is_seen_and_nothing_else_is_taken_for_it() -> None:
    weight = _two_four(16, 32)
    assert _torch_layers.is_2_4(weight)
    assert not _torch_layers.is_2_4(torch.randn(16, 32))
    assert not _torch_layers.is_2_4(torch.zeros(16, 32))
    assert not _torch_layers.is_2_4(_two_four(16, 32)[:, :30])
    spoilt = weight.clone()
    spoilt[3, 4:8] = 1.0
    assert not _torch_layers.is_2_4(spoilt)


def test_the_largest_block_that_leaves_half_empty_is_found() -> None:
    weight = torch.zeros(128, 128)
    weight[:32, :32] = 1.0
    assert _torch_layers.block_size(weight) == 64
    weight[64:96, 64:96] = weight[96:, :32] = weight[:32, 96:] = 1.0
    assert _torch_layers.empty_blocks(weight, 64) == 0.0
    assert _torch_layers.block_size(weight) == 32
    assert _torch_layers.block_size(torch.ones(128, 128)) == 0
    assert _torch_layers.block_size(torch.zeros(24, 24)) == 0


@pytest.mark.parametrize(
    ("size", "settings"),
    [(1, {}), (1, {"strides": [2, 2]}), (3, {"pads": [1] * 4}),
     (3, {"pads": [0, 1, 1, 0], "strides": [2, 1]})],
)  # fmt: skip
def test_im2col_with_the_weights_as_a_matrix_is_the_convolution(
    size: int, settings: dict[str, Any]
) -> None:
    layer = Conv2d(torch.randn(7, 5, size, size), torch.randn(7), settings)
    weight = _torch_layers.matrix(layer)
    replaced = Replaced(layer, Plain(weight))
    x = torch.randn(2, 5, 9, 8)
    torch.testing.assert_close(replaced(x), layer(x), rtol=1e-4, atol=1e-5)


class Plain:
    """A kernel that multiplies as the dense layer does, as often as it is told."""

    def __init__(self, weight: Tensor, times: int = 1, factor: float = 1.0) -> None:
        self._weight, self._times, self._factor = weight, times, factor
        self.nbytes, self.chosen = weight.nbytes, ""

    def tune(self, rows: Tensor, bias: Tensor | None, how: How) -> None:
        self.tuned_for = rows.shape

    def __call__(self, rows: Tensor, bias: Tensor | None = None, /) -> Tensor:
        for _ in range(self._times):
            found = F.linear(rows, self._weight, bias)
        return found * self._factor


class Narrow(Plain):
    """A kernel that knows that only the first columns of its weight hold anything."""

    def __call__(self, rows: Tensor, bias: Tensor | None = None, /) -> Tensor:
        return F.linear(rows[:, :16], self._weight[:, :16], bias)


def _slow(weight: Tensor) -> Kernel:
    return Plain(weight, 30)


def _quick(weight: Tensor) -> Kernel:
    return Narrow(weight)


def _wrong(weight: Tensor) -> Kernel:
    return Narrow(weight * 1.1)


def _refused(weight: Tensor) -> Kernel:
    raise RuntimeError("sizes of a multiple of 32 are needed\nand more words")


@pytest.mark.parametrize(("sparse", "slow_is_taken"), [("auto", False), ("force", True)])
def test_a_layer_is_replaced_where_that_is_faster_or_forced(
    sparse: Any, slow_is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    offers = {
        256: [Offer("slow", _slow)],
        2048: [Offer("refused", _refused), Offer("wrong", _wrong), Offer("quick", _quick)],
    }
    narrow = torch.zeros(2048, 256)
    narrow[:, :16] = torch.randn(2048, 16)
    monkeypatch.setattr(_torch_layers, "offers", lambda w, _o: offers.get(len(w), []))
    net = nn.Sequential(
        Linear(torch.randn(256, 64), None), Linear(narrow, torch.ones(2048)),
        Linear(torch.randn(8, 2048), None),
    )  # fmt: skip
    said = _torch_layers.choose(net, [torch.randn(512, 64)], Options(sparse=sparse))
    assert isinstance(net[0], Replaced) is slow_is_taken
    assert isinstance(net[1], Replaced)
    assert isinstance(net[2], Linear)
    assert len(said) == 2
    assert "slow takes" in said[0]
    assert "refused not possible (sizes of a multiple of 32 are needed)" in said[1]
    assert "wrong not possible (its answers are 1" in said[1]
    assert isinstance(net[1].kernel, Narrow)
    assert net[1].kernel.tuned_for == (512, 256)
    assert "quick takes" in said[1]
    assert said[1].endswith("taken")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own
def test_compiled_gives_the_same_answers(tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    options = {"mode": "compile"}
    made = artifacts.compiled(model, artifacts.candidate("torch", options), tmp_path / "a")
    session = BACKENDS.create("torch", options).load(made.folder / made.entry, 1)
    x = np.random.default_rng(3).standard_normal((1, *artifacts.SHAPE)).astype(np.float32)
    session.set_inputs([x])
    session.invoke()
    np.testing.assert_allclose(session.outputs()[0], _answers(model, x), rtol=1e-4, atol=1e-5)


BLOCKS = """
import torch
from hwbench.backends._torch_block import BlockKernel, launches
from hwbench.backends._torch_time import How

torch.manual_seed(0)
for size, dtype, m in [(16, "float32", 5), (16, "bfloat16", 40), (32, "float16", 16),
                       (64, "float32", 130)]:
    kind = getattr(torch, dtype)
    weight = torch.randn(2 * size, 3 * size)
    blocks = weight.reshape(2, size, 3, size)
    blocks[0, :, 1] = 0
    blocks[1] = 0
    blocks[1, :, 2] = torch.randn(size, size)
    kernel = BlockKernel(weight.to(kind), size)
    assert len(kernel._data) == 3
    x = torch.randn(m, 3 * size).to(kind)
    wanted = x.float() @ weight.to(kind).float().t()
    found = kernel(x)
    assert found.dtype == kind
    error = float((found.float() - wanted).abs().max() / wanted.abs().max())
    limit = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 1e-2}[dtype]
    assert error <= limit, (size, dtype, m, error)
    # Every launch that may be chosen computes the same, bias and all.
    bias = torch.randn(2 * size).to(kind)
    kinds = {(l.tile, l.group, l.cut): l for l in launches(m, size, 2 * size)}
    for launch in kinds.values():  # warps and stages are nothing to the interpreter
        found = kernel._multiply(x, bias, launch)
        error = float((found.float() - wanted - bias.float()).abs().max() / wanted.abs().max())
        assert error <= limit, (size, dtype, m, launch, error)
small = BlockKernel(torch.eye(16), 16)
small.tune(torch.ones(3, 16), None, How())
assert small._launch in launches(3, 16, 16)
nothing = BlockKernel(torch.zeros(32, 32), 16)
assert not nothing(torch.ones(3, 32)).any()
try:
    BlockKernel(torch.zeros(30, 32), 16)
except ValueError:
    print("right")
"""


def test_the_block_kernel_multiplies_rightly_in_tritons_interpreter() -> None:
    pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for CUDA)")
    done = subprocess.run(
        [sys.executable, "-c", BLOCKS],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.stdout.strip() == "right", done.stderr[-2000:]


INT8 = """
import torch
from hwbench.backends import _torch_int8, _torch_int8_kernels as kernels

torch.manual_seed(0)
for dtype in (torch.float32, torch.bfloat16):
    for m, k, n, least in [(5, 48, 24, 1), (40, 100, 1500, 1), (3, 64, 16, 32)]:
        x = torch.randn(m, k).to(dtype)
        x[1] = 0
        short, scale = kernels.rows(x, least)
        wanted, scales = _torch_int8._rows(x, least)
        assert short.shape == wanted.shape and short.dtype == torch.int8
        assert int((short.int() - wanted.int()).abs().max()) <= 1  # halves
        assert torch.allclose(scale[:m], scales)
        assert not short[m:].any()
        weights, bias = torch.rand(n), torch.randn(n).to(dtype)
        for products in (torch.randint(-9999, 9999, (len(short), n), dtype=torch.int32),
                         torch.randint(-9999, 9999, (n, len(short)), dtype=torch.int32).t()):
            for b in (None, bias):
                found = kernels.finish(products, scale, weights, b, x)
                wanted = _torch_int8._finish(products, scale[:m], weights, b, x)
                assert found.dtype == dtype and found.shape == (m, n)
                assert torch.allclose(found.float(), wanted.float(), rtol=1e-2, atol=1e-2)
print("right")
"""


def test_the_kernels_around_int8_do_what_torchs_operators_do() -> None:
    pytest.importorskip("triton", reason="Triton is not installed (it comes with torch for CUDA)")
    done = subprocess.run(
        [sys.executable, "-c", INT8],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.stdout.strip() == "right", done.stderr[-2000:]


@pytest.mark.parametrize(
    ("nbytes", "evict", "count"),
    [(1 << 20, 0, 1), (32 << 20, 75 << 20, 4), (1 << 20, 75 << 20, 32), (600 << 20, 75 << 20, 1)],
)
def test_so_many_copies_take_turns_that_none_stays_in_the_cache(
    nbytes: int, evict: int, count: int
) -> None:
    assert copies(nbytes, How(graph=True, evict=evict)) == count


def test_the_fastest_call_that_runs_is_found() -> None:
    def broken(_x: Tensor) -> Tensor:
        raise RuntimeError("no such algorithm\nand more")

    x = torch.randn(64, 64)
    calls = [broken, lambda x: _often(x, 200), lambda x: _often(x, 2), broken]
    assert fastest(calls, x, How()) == 2
    with pytest.raises(RuntimeError, match=r"^no such algorithm$"):
        fastest([broken], x, How())


def _often(x: Tensor, times: int) -> Tensor:
    for _ in range(times):
        found = x @ x
    return found

"""The export room: agreement with PyTorch, what is counted, and how failures read."""

import dataclasses
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from hwbench import compress
from hwbench.errors import StageError
from hwbench.export import _traced as traced
from hwbench.export import counting, disagreement, export, parity
from hwbench.protocols import Workload
from hwbench.records import (
    CompressedModel,
    CompressionSpec,
    Counts,
    ExportSpec,
    OnnxModel,
    TrainSpec,
    WorkloadSpec,
)
from hwbench.registry import WORKLOADS
from tests import nets

TOY = WorkloadSpec("toy")
TRAIN = TrainSpec(epochs=1)


@pytest.fixture(scope="module")
def toy() -> Workload:
    return WORKLOADS.create("toy")


@pytest.fixture(scope="module")
def models(toy: Workload, tmp_path_factory: pytest.TempPathFactory) -> dict[str, CompressedModel]:
    def make(spec: CompressionSpec, dense: CompressedModel | None) -> CompressedModel:
        folder = tmp_path_factory.mktemp("weights")
        return compress.compress(spec, toy, dense, folder, lambda share: None)

    made = {"dense": make(CompressionSpec(TOY, TRAIN), None)}
    for pattern, criterion, scope, sparsity in (
        ("unstructured", "magnitude", "global", 0.8),
        ("channel", "l2", "local", 0.5),
    ):
        spec = CompressionSpec(TOY, TRAIN, pattern, criterion, scope, sparsity)
        made[pattern] = make(spec, made["dense"])
    return made


def _exported(model: CompressedModel, toy: Workload, folder: Path) -> OnnxModel:
    return export(ExportSpec(model.spec), model, toy, folder)


def counts_of(model: OnnxModel) -> Counts:
    assert model.counts is not None
    return model.counts


def parity_of(model: OnnxModel) -> float:
    assert model.parity is not None
    return model.parity


@pytest.mark.parametrize("pattern", ["dense", "unstructured", "channel"])
def test_the_file_agrees_and_is_counted(
    models: dict[str, CompressedModel], toy: Workload, tmp_path: Path, pattern: str
) -> None:
    made = _exported(models[pattern], toy, tmp_path)
    assert parity_of(made) <= 1e-4
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    document = onnx.load(made.path)
    onnx.checker.check_model(document, full_check=True)

    # Nothing of masks is left, and batch norms are folded (605 against 335 KB when they are not).
    kinds = [node.op_type for node in document.graph.node]
    assert "Mul" not in kinds
    assert "BatchNormalization" not in kinds
    assert kinds.count("Conv") == 3

    # Batch is free, and the record says what the file says.
    assert (made.input_name, made.input_shape, made.input_dtype) == ("x", (3, 8, 8), "float32")
    assert document.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    assert made.file.output_names == ("y",)
    assert made.file.opset == 20

    # Counts against PyTorch's own.
    net = compress.load(models[pattern], toy)
    weights = [p for p in net.parameters() if p.dim() > 1]
    assert counts_of(made).parameters == sum(w.numel() for w in weights)
    assert counts_of(made).nonzero == sum(int((w != 0).sum()) for w in weights)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        net(torch.zeros(1, 3, 8, 8))
    assert (
        counts_of(made).macs
        == counter.get_total_flops() // 2
        == sum(layer.macs for layer in made.layers)
    )
    assert [layer.name for layer in made.layers] == ["stem", "conv", "down", "head"]
    if pattern == "unstructured":
        assert 1 - counts_of(made).nonzero / counts_of(made).parameters == pytest.approx(
            0.8, abs=1e-3
        )


def test_the_same_weights_give_the_same_bytes(
    models: dict[str, CompressedModel], toy: Workload, tmp_path: Path
) -> None:
    digests = set()
    for name in "ab":
        (tmp_path / name).mkdir()
        digests.add(_exported(models["dense"], toy, tmp_path / name).digest)
    assert len(digests) == 1


def test_the_exporter_is_silent(
    models: dict[str, CompressedModel],
    toy: Workload,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _exported(models["dense"], toy, tmp_path)
    assert not caught
    assert capfd.readouterr() == ("", "")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize("kind", ["dense", "unstructured"])
def test_int8_keeps_the_zeros_and_stays_near(
    models: dict[str, CompressedModel], toy: Workload, tmp_path: Path, kind: str
) -> None:
    spec = models[kind].spec
    (tmp_path / "fp32").mkdir()
    plain = export(ExportSpec(spec), models[kind], toy, tmp_path / "fp32")
    made = export(ExportSpec(spec, "int8"), models[kind], toy, tmp_path)
    document = onnx.load(made.path)
    ops = {node.op_type for node in document.graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= ops
    weights = [i for i in document.graph.initializer if i.name.endswith("weight_quantized")]
    assert weights
    assert {i.data_type for i in weights} == {TensorProto.INT8}
    # One scale for each output channel, about 0.
    scales = {i.name: i.dims for i in document.graph.initializer if "scale" in i.name}
    assert [1 for dims in scales.values() if len(dims) == 1]
    assert [(x.name, x.shape, x.macs) for x in made.layers] == [
        (x.name, x.shape, x.macs) for x in plain.layers
    ]
    # Zeros stay; small weights may join them.
    assert all(a.nonzero <= b.nonzero for a, b in zip(made.layers, plain.layers, strict=True))
    assert counts_of(made).nonzero > 0.8 * counts_of(plain).nonzero
    assert parity_of(plain) < parity_of(made) < 0.2
    assert (tmp_path / "model.onnx").stat().st_size < plain.path.stat().st_size
    inputs = toy.data("validation")[0].numpy()
    session = parity._session(made.path.read_bytes())
    answers = session.run(None, {"x": inputs})[0]
    labels = toy.data("validation")[1].numpy()
    model = compress.load(models[kind], toy)
    assert toy.score(answers, labels) > compress.score(model, toy) - 0.05


def test_an_empty_calibration_set_is_refused(
    models: dict[str, CompressedModel], toy: Workload, tmp_path: Path
) -> None:
    class Without(type(toy)):  # type: ignore[misc]
        def data(self, split: str) -> tuple[torch.Tensor, torch.Tensor]:
            inputs, labels = super().data(split)
            return (inputs[:0], labels[:0]) if split == "train" else (inputs, labels)

    own = Without(WORKLOADS.plugin("toy").options())
    with pytest.raises(StageError, match="calibration set is empty"):
        export(ExportSpec(models["dense"].spec, "int8"), models["dense"], own, tmp_path)


def test_other_precisions_are_not_offered(
    models: dict[str, CompressedModel], toy: Workload, tmp_path: Path
) -> None:
    spec = ExportSpec(models["dense"].spec, "int4")  # type: ignore[arg-type]
    with pytest.raises(StageError, match="int4") as caught:
        export(spec, models["dense"], toy, tmp_path)
    assert caught.value.stage == "export"


# ------------------------------------------------------------------------------ other models


@pytest.mark.parametrize(
    ("model", "inputs"),
    [
        (nets.Depthwise(), nets.images(3)),
        (nets.Grouped(), nets.images(3)),
        (nets.Attention(), torch.randn(3, 5, 12)),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 3, stride=2), nn.ReLU()), nets.images(3)),
    ],
    ids=["depthwise", "grouped", "attention", "transposed"],
)
def test_macs_agree_with_torchs_flop_counter(model: nn.Module, inputs: torch.Tensor) -> None:
    document = traced(model.eval(), inputs, 20)
    assert parity.worst_error(model, document.SerializeToString(), inputs) <= 1e-4
    found = counting.count(document)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        # A fused attention is one operator that the counter does not know.
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            with sdpa_kernel(SDPBackend.MATH):
                model(inputs[:1])
        finally:
            torch.backends.mha.set_fastpath_enabled(True)
    assert found.macs == counter.get_total_flops() // 2
    weights = [p for p in model.parameters() if p.dim() > 1]
    assert found.parameters == sum(w.numel() for w in weights)


def test_a_subclass_of_a_convolution_counts() -> None:
    """torch-pruning's own counter ignores subclasses of Conv2d; the graph knows no classes."""

    class Own(nn.Conv2d):
        pass

    found = counting.count(traced(nn.Sequential(Own(3, 4, 3)).eval(), nets.images(3), 20))
    assert found.macs == 4 * 6 * 6 * 3 * 9


def test_groups_are_noted() -> None:
    found = counting.count(traced(nets.Depthwise().eval(), nets.images(3), 20))
    assert [layer.groups for layer in found.layers] == [1, 16, 1, 1]


def test_token_inputs_and_several_outputs() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(7, 8)
            self.head = nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            hidden = self.table(x).mean(1)
            return self.head(hidden), hidden

    model, samples = Tokens().eval(), torch.tensor([[0, 6, 2], [1, 2, 3], [3, 4, 5]])
    document = traced(model, samples, 20)
    assert [output.name for output in document.graph.output] == ["y0", "y1"]
    assert parity.worst_error(model, document.SerializeToString(), samples) <= 1e-4


class _Branch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class _FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.arange(2.0)[:, None, None, None]


def test_a_model_that_cannot_be_traced_fails_in_a_few_lines() -> None:
    with pytest.raises(StageError, match="PyTorch cannot trace the model") as caught:
        traced(_Branch(), nets.images(3), 20)
    assert caught.value.stage == "export"
    assert len(caught.value.what) < 400
    assert "\n" not in caught.value.what


def test_a_model_tied_to_one_batch_size_fails_clearly() -> None:
    inputs = nets.images(3)
    with pytest.raises(StageError, match="tied to a batch of 2"):
        traced(_FixedBatch(), inputs, 20)


def test_a_model_that_takes_only_one_batch_size_in_torch_fails_clearly() -> None:
    content = traced(nn.Linear(4, 2).eval(), torch.randn(3, 4), 20).SerializeToString()

    class Picky(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(3, 4)

    with pytest.raises(StageError, match="PyTorch model fails on a random batch of 1"):
        parity.worst_error(Picky(), content, torch.randn(3, 4))


# ------------------------------------------------------------------------------ parity


def test_a_file_that_computes_something_else_fails_with_the_figure() -> None:
    model = nn.Linear(4, 2).eval()
    inputs = torch.randn(3, 4)
    other = nn.Linear(4, 2)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.bias.add_(0.01)
    content = traced(other.eval(), inputs, 20).SerializeToString()
    with pytest.raises(StageError, match=r"differs from PyTorch by \d\.\de-0\d"):
        parity.worst_error(model, content, inputs)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_fail(value: float) -> None:
    model = nn.Linear(4, 2).eval()
    with torch.no_grad():
        model.bias[0] = value
    inputs = torch.randn(3, 4)
    content = traced(model, inputs, 20).SerializeToString()
    with pytest.raises(StageError, match="not finite"):
        parity.worst_error(model, content, inputs)


def test_a_file_that_is_none_is_refused() -> None:
    with pytest.raises(StageError, match="ONNX Runtime refuses the file"):
        parity.worst_error(nn.Linear(4, 2), b"not onnx", torch.randn(3, 4))


def test_disagreement_of_a_deployed_artifact(
    models: dict[str, CompressedModel], toy: Workload, tmp_path: Path
) -> None:
    made = _exported(models["dense"], toy, tmp_path)
    inputs = toy.data("validation")[0]
    with torch.no_grad():
        outputs = compress.load(models["dense"], toy)(inputs).numpy()
    assert disagreement(made, inputs.numpy(), outputs) < 1e-5
    assert disagreement(made, inputs.numpy(), outputs[:7]) < 1e-5
    moved = outputs.copy()
    moved[3, 1] += 0.1 * np.abs(outputs).max()
    assert disagreement(made, inputs.numpy(), moved) == pytest.approx(0.1, rel=1e-3)
    moved[0, 0] = np.nan
    with pytest.raises(StageError, match="1 of 1024 outputs"):
        disagreement(made, inputs.numpy(), moved)
    with pytest.raises(StageError, match="answers"):
        disagreement(made, inputs.numpy(), outputs[:, :2])
    with pytest.raises(StageError, match="no outputs"):
        disagreement(made, inputs.numpy(), outputs[:0])


# ------------------------------------------------------------------------------ counting


def _graph(nodes: list[onnx.NodeProto], **arrays: np.ndarray) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)])


def test_zeros_and_denormals_by_hand() -> None:
    weight = np.array([[0, 1e-40, 1, -2], [0, 0, -1e-45, -0.0]], np.float32)
    bias = np.array([1e-39, 1], np.float32)
    found = counting.count(
        _graph([helper.make_node("Gemm", ["x", "a.weight", "b"], ["y"], transB=1)],
               **{"a.weight": weight, "b": bias})
    )  # fmt: skip
    (layer,) = found.layers
    assert (layer.name, layer.op, layer.shape) == ("a", "Gemm", (2, 4))
    assert (layer.parameters, layer.nonzero, layer.macs) == (8, 4, 8)
    assert layer.sparsity == 0.5
    assert found.denormals == 3  # two weights and a bias
    assert (found.parameters, found.nonzero, found.macs) == (8, 4, 8)


def test_a_weight_behind_a_transpose_counts_and_a_shared_one_once() -> None:
    weight = np.eye(4, dtype=np.float32)
    found = counting.count(
        _graph(
            [
                helper.make_node("Transpose", ["w"], ["t"]),
                helper.make_node("MatMul", ["x", "t"], ["h"], name="first"),
                helper.make_node("MatMul", ["h", "w"], ["y"], name="second"),
            ],
            w=weight,
        )
    )
    assert [layer.name for layer in found.layers] == ["first", "second"]
    assert (found.parameters, found.nonzero, found.macs) == (16, 4, 32)


def test_a_product_without_a_weight_costs_but_is_no_layer() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    found = counting.count(_graph(nodes))
    assert (found.layers, found.parameters, found.macs) == ((), 0, 4)


def test_a_shape_that_does_not_follow_is_said() -> None:
    nodes = [
        helper.make_node("NonZero", ["x"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("MatMul", ["f", "w"], ["y"], name="m"),
    ]
    with pytest.raises(StageError, match="cannot count MatMul 'm'"):
        counting.count(_graph(nodes, w=np.eye(4, dtype=np.float32)))


def test_exporting_damaged_weights_is_an_export_failure(
    models: dict[str, CompressedModel], toy: Workload, tmp_path: Path
) -> None:
    broken = dataclasses.replace(models["dense"], folder=tmp_path)
    with pytest.raises(StageError) as caught:
        _exported(broken, toy, tmp_path)
    assert caught.value.stage == "export"


def test_denormals_are_counted_where_the_processor_flushes_them() -> None:
    from hwbench.export import counting
    from hwbench.worker import stopwatch

    values = np.array([0.0, -0.0, 1e-40, -1e-40, 1.0, -2.0, 1.2e-38], dtype=np.float32)
    assert (counting._nonzero(values), counting._denormals(values)) == (5, 2)
    if stopwatch.flush_denormals():  # the mode is given back after each test
        assert (counting._nonzero(values), counting._denormals(values)) == (5, 2)


@pytest.mark.parametrize(("kind", "gates"), [(nn.LSTM, 4), (nn.GRU, 3)])
def test_recurrent_layers_are_exported_and_counted(kind: type[nn.LSTM], gates: int) -> None:
    """Two weights: gates x 6 x 5 of the inputs, gates x 6 x 6 of the state, 7 steps each."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.recurrent, self.head = kind(5, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.head(self.recurrent(x)[0][:, -1])
            return y

    found = counting.count(traced(Net().eval(), torch.randn(3, 7, 5), 20))
    sizes = [gates * 6 * 5, gates * 6 * 6, 12]
    assert [layer.parameters for layer in found.layers] == sizes
    assert [layer.macs for layer in found.layers] == [7 * sizes[0], 7 * sizes[1], 12]
    assert found.nonzero == found.parameters == sum(sizes)

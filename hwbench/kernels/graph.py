"""An ONNX file as a short list of steps: shapes static, constants folded, epilogues fused."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hwbench.errors import StageError
from hwbench.kernels.layouts import Window

Array = NDArray[Any]


POINT = Window((1, 1))


@dataclass(slots=True)
class Step:
    """One operator after fusion.

    ``kind``: ``conv``, ``linear``, ``pool`` (max, average), ``mean`` (over the image), ``round``
    (to what 8 bits can say) or ``other`` (left to TVM, ``node`` says what). ``weights`` are
    (outputs, inputs / groups, kernel height, kernel width) for a convolution and (outputs,
    inputs) for a linear layer;
    ``bias`` has one float32 an output. ``residual`` is added before the activation.
    """

    kind: str
    name: str
    inputs: list[str]
    output: str
    node: onnx.NodeProto
    window: Window = POINT
    groups: int = 1
    weights: Array | None = None
    bias: Array | None = None
    residual: str | None = None
    activation: str = "none"
    low: float | None = None
    high: float | None = None
    scale: float = 1.0
    """For ``round``, and what comes of it: a value is ``scale`` times (8 bits - ``zero``)."""
    zero: int = 0
    coded: tuple[Array, Array] | None = None
    """Weights as they stand in the file, 8 bits, and their scale per output."""
    average: str = ""
    """For ``pool``: empty for the maximum, else ``all`` or ``real``: what it divides by."""

    @property
    def layer(self) -> str:
        """The name that people know the layer by: that of its weights, as PyTorch has it."""
        weight = self.node.input[1] if len(self.node.input) > 1 else ""
        weight = weight.removesuffix("_DequantizeLinear_Output")
        return weight.removesuffix(".weight") if weight.endswith(".weight") else self.name or weight

    @property
    def open(self) -> bool:
        """Whether an activation can still be fused behind it."""
        return self.kind in ("conv", "linear") and self.activation == "none"


@dataclass(frozen=True, slots=True)
class Graph:
    """Steps in an order that can be run, and what they speak of."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, Array]
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    opset: int
    uses: Mapping[str, int] = field(default_factory=dict)


def read(path: Path, batch: int) -> Graph:
    """Return the graph of an ONNX file for a fixed batch.

    Raises `StageError` when a shape stays unknown: the kernels need static ones.
    """
    document = onnx.load(str(path))
    _fix_batch(document, batch)
    _unsplit(document)
    coded = _coded(document)
    constants = _fold(document)
    document = _inferred(document)
    shapes, dtypes = _tensors(document, constants)
    graph = document.graph
    known = {i.name for i in graph.initializer}
    opset = next(o.version for o in document.opset_import if o.domain in ("", "ai.onnx"))
    steps = _Fuser(document, constants, shapes, coded).steps()
    _check_static(steps, shapes)
    return Graph(
        inputs=tuple(i.name for i in graph.input if i.name not in known),
        outputs=tuple(o.name for o in graph.output),
        steps=tuple(steps),
        constants=constants,
        shapes=shapes,
        dtypes=dtypes,
        opset=opset,
        uses=_uses(steps, [o.name for o in graph.output]),
    )


def _fix_batch(document: onnx.ModelProto, batch: int) -> None:
    """Set the free first dimension of every input; forget inferred shapes that named it."""
    for tensor in document.graph.input:
        for position, size in enumerate(tensor.type.tensor_type.shape.dim):
            if size.HasField("dim_value") and size.dim_value > 0:
                continue
            if position:
                raise StageError(
                    "compile",
                    f"input {tensor.name!r} has a dynamic dimension {position}",
                    expected="static shapes behind the batch",
                    mend="export the model with a fixed input size",
                )
            size.ClearField("dim_param")
            size.dim_value = batch
    del document.graph.value_info[:]
    for tensor in document.graph.output:
        tensor.type.tensor_type.ClearField("shape")


def _unsplit(document: onnx.ModelProto) -> None:
    """Replace splits into equal or listed parts by slices: a step has one output."""
    constants = {i.name: numpy_helper.to_array(i) for i in document.graph.initializer}
    shapes, _ = _tensors(_inferred(document), constants)
    nodes: list[onnx.NodeProto] = []
    for node in document.graph.node:
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        shape = shapes.get(node.input[0], ()) if node.op_type == "Split" else ()
        listed = constants.get(node.input[1]) if shape and len(node.input) > 1 else None
        if not shape or (len(node.input) > 1 and listed is None):
            nodes.append(node)
            continue
        axis = given.get("axis", 0) % len(shape)
        part = -(-shape[axis] // len(node.output))
        sizes = listed.tolist() if listed is not None else [part] * len(node.output)
        start = 0
        for name, size in zip(node.output, sizes, strict=True):
            names = [f"{name} {what}" for what in ("start", "end", "axis")]
            for key, value in zip(names, (start, start + size, axis), strict=True):
                one = numpy_helper.from_array(np.array([value], np.int64), key)
                document.graph.initializer.append(one)
            nodes.append(helper.make_node("Slice", [node.input[0], *names], [name], name=name))
            start += size
    del document.graph.node[:]
    document.graph.node.extend(nodes)


def _coded(document: onnx.ModelProto) -> dict[str, tuple[Array, Array]]:
    """Return signed weights of 8 bits and their scales, by the name of what they decode to."""
    constants = {i.name: numpy_helper.to_array(i) for i in document.graph.initializer}
    coded = {}
    for node in document.graph.node:
        if node.op_type != "DequantizeLinear" or any(name not in constants for name in node.input):
            continue
        weights, scale, *zero = (constants[name] for name in node.input)
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
        per_row = scale.ndim == 1 and axis == 0 and len(scale) == len(weights)
        symmetric = not any(z.any() for z in zero)
        if weights.dtype == np.int8 and symmetric and (scale.size == 1 or per_row):
            scales = np.broadcast_to(scale.reshape(-1), len(weights)).astype(np.float32)
            coded[node.output[0]] = (weights, scales)
    return coded


def _inferred(document: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(document, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        line = str(error).splitlines()[0]
        raise StageError("compile", f"the shapes of the ONNX file do not add up: {line}") from error


def _fold(document: onnx.ModelProto) -> dict[str, Array]:
    """Return every constant by name, after evaluating what depends on constants alone."""
    from onnx.reference import ReferenceEvaluator

    constants = {i.name: numpy_helper.to_array(i) for i in document.graph.initializer}
    left = True
    while left:
        left = False
        shaped = _inferred(document)
        shapes, _ = _tensors(shaped, constants)
        rest = []
        for node in document.graph.node:
            value = _value(node, constants, shapes, ReferenceEvaluator)
            if value is None:
                rest.append(node)
                continue
            constants[node.output[0]] = value
            document.graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
            left = True
        del document.graph.node[:]
        document.graph.node.extend(rest)
    return constants


def _value(
    node: onnx.NodeProto, constants: Mapping[str, Array], shapes: Mapping[str, Any], run: Any
) -> Array | None:
    if len(node.output) != 1:
        return None
    if node.op_type == "Shape":
        shape = shapes.get(node.input[0])
        if shape is None or any(size <= 0 for size in shape):
            return None
        given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        return np.array(shape[given.get("start", 0) : given.get("end", len(shape))], np.int64)
    present = [name for name in node.input if name]
    if any(name not in constants for name in present):
        return None
    feeds = {name: constants[name] for name in present}
    result = run(node).run(None, feeds)
    return np.asarray(result[0])


def _tensors(
    document: onnx.ModelProto, constants: Mapping[str, Array]
) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    graph = document.graph
    shapes = {name: tuple(value.shape) for name, value in constants.items()}
    dtypes = {name: str(value.dtype) for name, value in constants.items()}
    for tensor in (*graph.input, *graph.value_info, *graph.output):
        kind = tensor.type.tensor_type
        if kind.elem_type:
            dtypes[tensor.name] = str(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        if kind.HasField("shape"):
            sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
            shapes[tensor.name] = tuple(sizes)
    return shapes, dtypes


def _check_static(steps: list[Step], shapes: Mapping[str, tuple[int, ...]]) -> None:
    for step in steps:
        shape = shapes.get(step.output)
        if shape is None or any(size < 0 for size in shape):
            raise StageError(
                "compile",
                f"the output shape of {step.node.op_type} {step.name!r} is not static",
                expected="static shapes for a fixed batch",
            )


def _uses(steps: list[Step], outputs: list[str]) -> dict[str, int]:
    counted: Counter[str] = Counter(outputs)
    for step in steps:
        counted.update(step.inputs)
        if step.residual:
            counted[step.residual] += 1
    return dict(counted)


class _Fuser:
    """Turns nodes into steps, one after the other, fusing each into what came before."""

    def __init__(
        self,
        document: onnx.ModelProto,
        constants: dict[str, Array],
        shapes: dict[str, tuple[int, ...]],
        coded: dict[str, tuple[Array, Array]],
    ) -> None:
        self.coded = coded
        self.grids: dict[str, tuple[float, int]] = {}
        self.graph = document.graph
        self.constants = constants
        self.shapes = shapes
        self.same: dict[str, str] = {}
        self.fused: dict[str, Step] = {}
        self.uses = Counter(name for node in self.graph.node for name in node.input)
        self.uses.update(output.name for output in self.graph.output)

    def steps(self) -> list[Step]:
        """Return the steps."""
        rules = {
            "Conv": self._conv,
            "Gemm": self._gemm,
            "MatMul": self._matmul,
            "BatchNormalization": self._norm,
            "Relu": self._clip,
            "Clip": self._clip,
            "HardSwish": self._clip,
            "Gelu": self._clip,
            "Add": self._add,
            "MaxPool": self._pool,
            "AveragePool": self._pool,
            "GlobalAveragePool": self._mean,
            "ReduceMean": self._mean,
            "Identity": self._identity,
            "Dropout": self._identity,
            "QuantizeLinear": self._quantize,
            "DequantizeLinear": self._dequantize,
        }
        finals = {output.name for output in self.graph.output}
        for node in self.graph.node:
            inputs = [self.same.get(name, name) for name in node.input]
            rule = rules.get(node.op_type)
            step = rule(node, inputs) if rule else None
            if step is None and node.output[0] not in self.same:
                step = self._other(node, inputs)
            if step is not None:
                self.fused.pop(step.output, None)
                step.output = node.output[0]
                # Behind everything made so far: a residual must exist before it is added.
                self.fused[step.output] = step
        for name in finals & self.grids.keys():
            what = f"the output {name!r} is in 8 bits"
            raise StageError("compile", what, expected="a DequantizeLinear at the end")
        alias = [f for f in finals if f in self.same]
        for name in alias:
            node = helper.make_node("Identity", [self.same[name]], [name], name=name)
            self.fused[name] = self._other(node, [self.same[name]])
        return list(self.fused.values())

    def _attributes(self, node: onnx.NodeProto) -> dict[str, Any]:
        return {a.name: helper.get_attribute_value(a) for a in node.attribute}

    def _other(self, node: onnx.NodeProto, inputs: list[str]) -> Step:
        used = [name for name in inputs if name and name not in self.constants]
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(inputs)
        return Step("other", node.name or node.output[0], used, node.output[0], copy)

    def _floats(self, name: str) -> Array | None:
        value = self.constants.get(name)
        return value if value is not None and value.dtype == np.float32 else None

    def _identity(self, node: onnx.NodeProto, inputs: list[str]) -> None:
        if len(node.output) == 1 or not any(self.uses[name] for name in node.output[1:]):
            self.same[node.output[0]] = inputs[0]
            if node.input[0] in self.grids:
                self.grids[node.output[0]] = self.grids[node.input[0]]
            self.uses[inputs[0]] += self.uses[node.output[0]] - 1

    def _conv(self, node: onnx.NodeProto, inputs: list[str]) -> Step | None:
        weights = self._floats(inputs[1])
        shape = self.shapes[inputs[0]]
        if weights is None or weights.ndim != 4:
            return None
        given = self._attributes(node)
        bias = self._floats(inputs[2]) if len(inputs) > 2 and inputs[2] else None
        window = _window(given, (weights.shape[2], weights.shape[3]), (shape[2], shape[3]))
        return Step(
            "conv",
            node.name or node.output[0],
            [inputs[0]],
            node.output[0],
            node,
            window=window,
            groups=given.get("group", 1),
            weights=weights,
            bias=bias if bias is not None else np.zeros(len(weights), np.float32),
            coded=self.coded.get(inputs[1]),
        )

    def _quantize(self, node: onnx.NodeProto, inputs: list[str]) -> None:
        grid = self._grid(inputs)
        if grid is not None:
            self.grids[node.output[0]] = grid
            self.same[node.output[0]] = inputs[0]

    def _dequantize(self, node: onnx.NodeProto, inputs: list[str]) -> Step | None:
        grid = self.grids.get(node.input[0])
        if grid is None or grid != self._grid(inputs):
            return None
        name = node.name or node.output[0]
        return Step("round", name, inputs[:1], node.output[0], node, scale=grid[0], zero=grid[1])

    def _grid(self, inputs: list[str]) -> tuple[float, int] | None:
        """Return scale and zero point, if they are one for the whole value and unsigned."""
        numbers = [self.constants.get(name) for name in inputs[1:3]]
        if len(numbers) < 2 or any(value is None or value.size != 1 for value in numbers):
            return None
        scale, zero = (np.asarray(value).reshape(()) for value in numbers)
        return (float(scale), int(zero)) if zero.dtype == np.uint8 else None

    def _gemm(self, node: onnx.NodeProto, inputs: list[str]) -> Step | None:
        given, weights = self._attributes(node), self._floats(inputs[1])
        bias = self._floats(inputs[2]) if len(inputs) > 2 and inputs[2] else None
        if weights is None or given.get("transA", 0) or (len(inputs) > 2 and bias is None):
            return None
        matrix = weights if given.get("transB", 0) else weights.T
        if bias is not None and bias.size not in (1, len(matrix)):
            return None
        return self._linear(
            node,
            inputs[0],
            matrix * np.float32(given.get("alpha", 1.0)),
            None if bias is None else bias * np.float32(given.get("beta", 1.0)),
        )

    def _matmul(self, node: onnx.NodeProto, inputs: list[str]) -> Step | None:
        weights = self._floats(inputs[1])
        if weights is None or weights.ndim != 2 or len(self.shapes[inputs[0]]) < 2:
            return None
        return self._linear(node, inputs[0], weights.T, None)

    def _linear(self, node: onnx.NodeProto, x: str, matrix: Array, bias: Array | None) -> Step:
        matrix = np.ascontiguousarray(matrix, np.float32)
        full = np.zeros(len(matrix), np.float32)
        if bias is not None:
            full += bias.reshape(-1)
        name = node.name or node.output[0]
        return Step("linear", name, [x], node.output[0], node, weights=matrix, bias=full)

    def _open(self, name: str) -> Step | None:
        """Return the step that makes a value, if something can be fused behind it."""
        step = self.fused.get(name)
        return step if step is not None and step.open and self.uses[step.output] == 1 else None

    def _norm(self, node: onnx.NodeProto, inputs: list[str]) -> Step | None:
        step = self._open(inputs[0])
        numbers = [self._floats(name) for name in inputs[1:5]]
        if step is None or step.residual or any(n is None for n in numbers):
            return None
        assert step.weights is not None
        assert step.bias is not None
        scale, shift, mean, variance = (np.asarray(n, np.float64) for n in numbers)
        epsilon = self._attributes(node).get("epsilon", 1e-5)
        factor = scale / np.sqrt(variance + epsilon)
        around = (-1,) + (1,) * (step.weights.ndim - 1)
        step.weights = (step.weights * factor.reshape(around)).astype(np.float32)
        step.bias = ((step.bias - mean) * factor + shift).astype(np.float32)
        return step

    def _clip(self, node: onnx.NodeProto, inputs: list[str]) -> Step | None:
        step = self._open(inputs[0])
        if step is None:
            return None
        if node.op_type == "HardSwish":
            step.activation = "hardswish"
            return step
        if node.op_type == "Gelu":
            tanh = self._attributes(node).get("approximate", b"none") == b"tanh"
            step.activation = "gelu_tanh" if tanh else "gelu"
            return step
        low: float | None = 0.0
        high: float | None = None
        if node.op_type == "Clip":
            ends = [self._floats(name) if name else None for name in inputs[1:3]]
            if any(name and end is None for name, end in zip(inputs[1:3], ends, strict=True)):
                return None
            low, high = ([None if e is None else float(e) for e in ends] + [None, None])[:2]
        step.activation, step.low, step.high = "clip", low, high
        return step

    def _add(self, node: onnx.NodeProto, inputs: list[str]) -> Step | None:
        for one, two in (inputs, inputs[::-1]):
            step, extra = self._open(one), self._floats(two)
            if step is None or step.residual:
                continue
            assert step.bias is not None
            if extra is not None:
                if step.kind == "linear" and extra.shape in ((len(step.bias),), (1,), ()):
                    step.bias = step.bias + extra
                    return step
                continue
            if two not in self.constants and self.shapes[one] == self.shapes[two]:
                step.residual = two
                return step
        return None

    def _pool(self, node: onnx.NodeProto, inputs: list[str]) -> Step | None:
        given, shape = self._attributes(node), self.shapes[inputs[0]]
        if len(shape) != 4 or len(node.output) > 1 or given.get("ceil_mode", 0):
            return None
        window = _window(given, tuple(given["kernel_shape"]), (shape[2], shape[3]))
        average = ""
        if node.op_type == "AveragePool":
            average = "all" if given.get("count_include_pad", 0) else "real"
        name = node.name or node.output[0]
        return Step("pool", name, inputs[:1], node.output[0], node, window=window, average=average)

    def _mean(self, node: onnx.NodeProto, inputs: list[str]) -> Step | None:
        if len(self.shapes[inputs[0]]) != 4:
            return None
        if node.op_type == "ReduceMean":
            axes = self._attributes(node).get("axes")
            if axes is None and len(inputs) > 1:
                axes = self.constants.get(inputs[1])
            if axes is None or sorted(int(a) % 4 for a in axes) != [2, 3]:
                return None
        return Step("mean", node.name or node.output[0], inputs[:1], node.output[0], node)


def _window(given: Mapping[str, Any], kernel: tuple[int, ...], size: tuple[int, int]) -> Window:
    """Return a window with its pads worked out (``auto_pad`` included)."""
    stride, dilation = given.get("strides", (1, 1)), given.get("dilations", (1, 1))
    pads = tuple(given.get("pads", (0, 0, 0, 0)))
    auto = given.get("auto_pad", b"NOTSET").decode()
    if auto == "VALID":
        pads = (0, 0, 0, 0)
    elif auto.startswith("SAME"):
        needed = [
            max((-(-n // s) - 1) * s + d * (k - 1) + 1 - n, 0)
            for n, s, d, k in zip(size, stride, dilation, kernel, strict=True)
        ]
        small, large = [n // 2 for n in needed], [n - n // 2 for n in needed]
        pads = (*small, *large) if auto == "SAME_UPPER" else (*large, *small)
    return dataclasses.replace(
        Window((kernel[0], kernel[1])),
        stride=(stride[0], stride[1]),
        dilation=(dilation[0], dilation[1]),
        pads=(pads[0], pads[1], pads[2], pads[3]),
    )

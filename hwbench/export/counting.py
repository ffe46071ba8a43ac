"""Parameters, multiply-adds, zeros and denormals, counted on the ONNX file itself."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from hwbench.errors import StageError
from hwbench.export.parity import onnx_errors
from hwbench.records import Counts, Layer

if TYPE_CHECKING:
    import numpy as np
    import onnx

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_RECURRENT = ("LSTM", "GRU", "RNN")
"""Operators with two weights: of the inputs, and of the state."""
_SAME_VALUES = ("Identity", "Transpose", "Reshape", "DequantizeLinear")
"""Operators through which an initializer still is the weight it was."""


def count(model: onnx.ModelProto) -> Counts:
    """Return the counts of a model whose first dimension is a free batch.

    Biases and folded norms are no `parameters` here: those are the weights that pruning is
    about. Raises `StageError` when a shape that is needed cannot be inferred.
    """
    from onnx import numpy_helper

    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    shapes = shapes_at_batch_one(model)
    origin = _origins(model, set(arrays))
    layers, macs, weights = [], 0, {}
    for node in model.graph.node:
        if node.op_type in _RECURRENT:
            for operand in node.input[1:3]:
                found = _steps(node, shapes) * math.prod(shapes[operand])
                macs += found
                if operand in origin:
                    weights[origin[operand]] = array = arrays[origin[operand]]
                    layers.append(_layer(node, origin[operand], array, found))
            continue
        if node.op_type not in _WEIGHTED or node.domain not in ("", "ai.onnx"):
            continue
        found = _macs(node, shapes)
        macs += found
        operands = node.input[:2] if node.op_type == "MatMul" else node.input[1:2]
        names = [origin[operand] for operand in operands if operand in origin]
        if names:
            weights[names[-1]] = array = arrays[names[-1]]
            layers.append(_layer(node, names[-1], array, found))
    return Counts(
        layers=tuple(layers),
        parameters=sum(array.size for array in weights.values()),
        nonzero=sum(_nonzero(array) for array in weights.values()),
        macs=macs,
        denormals=sum(_denormals(array) for array in arrays.values()),
    )


def shapes_at_batch_one(model: onnx.ModelProto) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every value that can be inferred once the free dimensions are 1."""
    import onnx

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    # What the exporter noted speaks of a symbolic batch: inferred afresh instead.
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_param"):
                dim.dim_value = 1
    inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {i.name: tuple(i.dims) for i in inferred.initializer}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if value.type.tensor_type.HasField("shape") and all(d.HasField("dim_value") for d in dims):
            shapes[value.name] = tuple(d.dim_value for d in dims)
    heavy = [n for n in fixed.graph.node if n.op_type in (*_WEIGHTED, *_RECURRENT)]
    needed = {name for node in heavy for name in (*node.input[:2], node.output[0])}
    return shapes if needed <= shapes.keys() else {**_shapes_by_running(fixed), **shapes}


def _shapes_by_running(fixed: onnx.ModelProto) -> Mapping[str, tuple[int, ...]]:
    """Return every value's shape in one run on zeros; nothing when the model does not run.

    For shapes that are computed on the way, as around recurrent layers.
    """
    import numpy as np
    import onnx
    import onnxruntime

    probe = onnx.ModelProto()
    probe.CopyFrom(fixed)
    names = [name for node in probe.graph.node for name in node.output if name]
    known = {output.name for output in probe.graph.output}
    probe.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in known)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    feeds = {}
    for value in probe.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        feeds[value.name] = np.zeros(shape, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
    try:
        session = onnxruntime.InferenceSession(
            probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        found = session.run(names, feeds)
    except onnx_errors():
        return {}
    return {name: tuple(np.shape(value)) for name, value in zip(names, found, strict=True)}


def _steps(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return how often a recurrent operator goes through its weights: steps x batch."""
    try:
        return math.prod(shapes[node.input[0]][:2])
    except KeyError as error:
        what = f"cannot count {node.op_type} {node.name!r}: no shape for {error}"
        raise StageError("export", what, expected="shapes that follow from the input's") from error


def _origins(model: onnx.ModelProto, initializers: set[str]) -> Mapping[str, str]:
    """Return, per value, the initializer it is a reordering of."""
    origin = {name: name for name in initializers}
    for node in model.graph.node:
        if node.op_type in _SAME_VALUES and node.input[0] in origin:
            origin[node.output[0]] = origin[node.input[0]]
    return origin


def _macs(node: onnx.NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    """Return the multiply-adds of one weighted operator."""
    import onnx

    try:
        left, right = shapes[node.input[0]], shapes[node.input[1]]
        output = shapes[node.output[0]]
    except KeyError as error:
        what = f"cannot count {node.op_type} {node.name!r}: no shape for {error}"
        raise StageError("export", what, expected="shapes that follow from the input's") from error
    if node.op_type == "Conv":
        return math.prod(output) * math.prod(right[1:])
    if node.op_type == "ConvTranspose":
        return math.prod(left) * math.prod(right[1:])
    turned = any(a.name == "transA" and a.i for a in node.attribute)
    assert node.op_type in ("Gemm", "MatMul"), onnx.__version__
    return math.prod(output) * (left[0] if turned else left[-1])


def _layer(node: onnx.NodeProto, weight: str, array: np.ndarray, macs: int) -> Layer:

    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    return Layer(
        name=_named(weight, node),
        op=node.op_type,
        shape=tuple(array.shape),
        groups=groups,
        parameters=int(array.size),
        nonzero=_nonzero(array),
        macs=macs,
    )


def _named(weight: str, node: onnx.NodeProto) -> str:
    """Return a layer's name: its weight's (quantised or not), else its operator's."""
    plain = weight.removesuffix("_quantized")
    return plain.removesuffix(".weight") if plain.endswith(".weight") else node.name or plain


def _nonzero(array: np.ndarray) -> int:
    import numpy as np

    return int(np.count_nonzero(_magnitudes(array) if array.dtype.kind == "f" else array))


def _denormals(array: np.ndarray) -> int:
    import numpy as np

    if array.dtype.kind != "f":
        return 0
    found = _magnitudes(array)
    smallest = _magnitudes(np.array([np.finfo(array.dtype).smallest_normal], array.dtype))[0]
    return int(((found > 0) & (found < smallest)).sum())


def _magnitudes(array: np.ndarray) -> np.ndarray:
    """Return the bits of floats without their sign: they order as the absolute values do.

    Comparing the floats themselves would miss denormals wherever the processor flushes them.
    """
    import numpy as np

    width = array.dtype.itemsize
    bits = np.ascontiguousarray(array).view(f"u{width}")
    magnitudes: np.ndarray = bits & np.array((1 << (8 * width - 1)) - 1, dtype=bits.dtype)
    return magnitudes

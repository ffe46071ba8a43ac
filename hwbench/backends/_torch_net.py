"""Rebuilds a network from its JSON graph and its safetensors, with torch alone. Not a plug-in.

It stands by itself (no other module of ours), because a copy travels with every artifact: the
bundle's ``run.py`` needs it. Nothing in an artifact is executed: every node names an operator of
`OPERATORS`, everything else is refused.

The graph: ``{"format": 1, "inputs": [name], "outputs": [name], "nodes": [{"op", "in", "out",
"with"}]}``. ``in`` names values or weights (None: absent), ``with`` holds plain JSON settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FORMAT = 1
GRAPH, WEIGHTS = "graph.json", "weights.safetensors"
_KINDS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def load(folder: Path) -> nn.Module:
    """Return the network of a folder, float32 on the CPU; raises `ValueError` for anything else."""
    try:
        graph = json.loads((folder / GRAPH).read_text())
        if graph["format"] != FORMAT:
            raise ValueError(f"format {graph['format']} instead of {FORMAT}")
        return build(graph, read_tensors(folder / WEIGHTS))
    except (OSError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"not an artifact of the torch backend: {error}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file (the format is a JSON header and plain bytes)."""
    data = bytearray(path.read_bytes())
    size = int.from_bytes(data[:8], "little")
    header = json.loads(bytes(data[8 : 8 + size]))
    start, found = 8 + size, {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        begin, end = entry["data_offsets"]
        kind, shape = _KINDS[entry["dtype"]], entry["shape"]
        if not 0 <= begin <= end <= len(data) - start:
            raise ValueError(f"the tensor {name!r} lies outside its file")
        if not math.prod(shape):
            found[name] = torch.empty(shape, dtype=kind)
            continue
        count = (end - begin) // kind.itemsize
        flat = torch.frombuffer(data, dtype=kind, count=count, offset=start + begin)
        found[name] = flat.reshape(shape).clone()
    return found


class Linear(nn.Module):
    """``x @ weight.T + bias`` over the last axis; the layers that may be replaced are of it."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        """Keep the weight (outputs, inputs)."""
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., outputs)."""
        return F.linear(x, self.weight, self.bias)


class Conv2d(nn.Module):
    """A convolution over images; the layers that may be replaced are of it."""

    def __init__(self, weight: Tensor, bias: Tensor | None, settings: Mapping[str, Any]) -> None:
        """Keep the weight (outputs, inputs / groups, height, width) and ONNX's settings."""
        super().__init__()
        self.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.stride = tuple(settings.get("strides", (1, 1)))
        self.pads = tuple(settings.get("pads", (0, 0, 0, 0)))
        self.dilation = tuple(settings.get("dilations", (1, 1)))
        self.groups = int(settings.get("group", 1))
        top, left, bottom, right = self.pads
        self.even = (top, left) == (bottom, right)

    def padded(self, x: Tensor) -> Tensor:
        """Return the input with its margins."""
        top, left, bottom, right = self.pads
        return F.pad(x, (left, right, top, bottom)) if any(self.pads) else x

    def forward(self, x: Tensor) -> Tensor:
        """Return (n, outputs, height, width)."""
        inside = self.pads[:2] if self.even else (0, 0)
        x = x if self.even else self.padded(x)
        return F.conv2d(x, self.weight, self.bias, self.stride, inside, self.dilation, self.groups)


def build(graph: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the network as a `torch.fx.GraphModule`; raises `ValueError` for unknown operators."""
    root = nn.Module()
    made = torch.fx.Graph()
    values: dict[str, Any] = {name: made.placeholder(f"x{i}") for i, name in
                              enumerate(graph["inputs"])}  # fmt: skip

    def value(name: str | None) -> Any:
        if name is None:
            return None
        if name not in values:
            attribute = f"constant_{len(values)}"
            root.register_buffer(attribute, tensors[name])
            values[name] = made.get_attr(attribute)
        return values[name]

    for index, node in enumerate(graph["nodes"]):
        settings, operands = node["with"], node["in"]
        layer = _layer(node["op"], operands, settings, tensors)
        if layer is not None:
            name = f"layer_{index}"
            root.add_module(name, layer)
            found = made.call_module(name, (value(operands[0]),))
        elif node["op"] in OPERATORS:
            arguments = tuple(value(name) for name in operands)
            found = made.call_function(OPERATORS[node["op"]], arguments, dict(settings))
        else:
            raise ValueError(f"the operator {node['op']!r} is not offered")
        if len(node["out"]) == 1:
            values[node["out"][0]] = found
        else:
            for place, name in enumerate(node["out"]):
                values[name] = made.call_function(_item, (found, place))
    made.output(tuple(value(name) for name in graph["outputs"]))
    made.lint()
    return torch.fx.GraphModule(root, made)


def _layer(
    kind: str, operands: Sequence[str | None], settings: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> nn.Module | None:  # fmt: skip
    """Return the module of a node whose weight is in the file, where it is one we may replace."""
    names = [name for name in operands[1:] if name is not None]
    if kind not in ("Conv", "Gemm", "MatMul") or any(n not in tensors for n in names) or not names:
        return None
    weight = tensors[names[0]]
    bias = tensors[names[1]] if len(names) > 1 else None
    if kind == "Conv":
        return Conv2d(weight, bias, settings) if weight.dim() == 4 else None
    if weight.dim() != 2 or settings.get("transA"):
        return None
    if settings.get("alpha", 1.0) != 1.0 or settings.get("beta", 1.0) != 1.0:
        return None
    rows = weight if settings.get("transB") else weight.t()
    return Linear(rows, None if bias is None else bias.reshape(-1).expand(len(rows)).clone())


# --------------------------------------------------------------------------------------------
# operators, by their names in ONNX


def _item(values: Sequence[Any], place: int) -> Any:
    return values[place]


def _gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,  # noqa: N803  (ONNX's names)
) -> Tensor:  # fmt: skip
    found = alpha * ((a.t() if transA else a) @ (b.t() if transB else b))
    return found if c is None else found + beta * c


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **settings: Any) -> Tensor:
    layer = Conv2d(weight, bias, settings)
    found: Tensor = layer(x)
    return found


def _clip(x: Tensor, low: float | None = None, high: float | None = None) -> Tensor:
    return x.clamp(low, high)


def _max_pool(
    x: Tensor, kernel_shape: Sequence[int], strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0), dilations: Sequence[int] = (1, 1), ceil_mode: int = 0,
) -> Tensor:  # fmt: skip
    top, left, bottom, right = pads
    if any(pads):
        x = F.pad(x, (left, right, top, bottom), value=-math.inf)
    return F.max_pool2d(x, list(kernel_shape), list(strides), 0, list(dilations), bool(ceil_mode))


def _average_pool(
    x: Tensor, kernel_shape: Sequence[int], strides: Sequence[int] = (1, 1),
    pads: Sequence[int] = (0, 0, 0, 0), ceil_mode: int = 0, count_include_pad: int = 0,
) -> Tensor:  # fmt: skip
    if tuple(pads[:2]) != tuple(pads[2:]):
        raise ValueError("AveragePool with uneven margins is not offered")
    return F.avg_pool2d(
        x, list(kernel_shape), list(strides), list(pads[:2]), bool(ceil_mode),
        bool(count_include_pad),
    )  # fmt: skip


def _layer_norm(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, axis: int = -1, epsilon: float = 1e-5
) -> Tensor:
    return F.layer_norm(x, x.shape[axis:], weight, bias, epsilon)


def _batch_norm(
    x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, variance: Tensor, epsilon: float = 1e-5
) -> Tensor:
    return F.batch_norm(x, mean, variance, weight, bias, False, 0.0, epsilon)


def _mean(x: Tensor, axes: Sequence[int] | None = None, keepdims: int = 1) -> Tensor:
    return x.mean(list(range(x.dim())) if axes is None else list(axes), keepdim=bool(keepdims))


def _sum(x: Tensor, axes: Sequence[int] | None = None, keepdims: int = 1) -> Tensor:
    return x.sum(list(range(x.dim())) if axes is None else list(axes), keepdim=bool(keepdims))


def _reshape(x: Tensor, shape: Sequence[int], allowzero: int = 0) -> Tensor:
    sizes = [x.shape[i] if not d and not allowzero else d for i, d in enumerate(shape)]
    return x.reshape(sizes)


def _flatten(x: Tensor, axis: int = 1) -> Tensor:
    return x.reshape(math.prod(x.shape[:axis]), -1)


def _squeeze(x: Tensor, axes: Sequence[int] | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(axes))


def _unsqueeze(x: Tensor, axes: Sequence[int]) -> Tensor:
    whole = x.dim() + len(axes)
    for axis in sorted(a % whole for a in axes):
        x = x.unsqueeze(axis)
    return x


def _slice(
    x: Tensor, starts: Sequence[int], ends: Sequence[int], axes: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
) -> Tensor:  # fmt: skip
    axes = range(len(starts)) if axes is None else axes
    for start, end, axis, step in zip(starts, ends, axes, steps or [1] * len(starts), strict=True):
        if step < 1:
            raise ValueError("Slice backwards is not offered")
        index = [slice(None)] * x.dim()
        index[axis % x.dim()] = slice(start, end, step)
        x = x[tuple(index)]
    return x


def _split(
    x: Tensor, split: Sequence[int] | None = None, axis: int = 0, num_outputs: int = 0
) -> Sequence[Tensor]:
    if split is not None:
        return torch.split(x, list(split), axis)
    return torch.split(x, -(-x.shape[axis] // num_outputs), axis)


def _gather(x: Tensor, index: Tensor, axis: int = 0) -> Tensor:
    axis %= x.dim()
    index = torch.where(index < 0, index + x.shape[axis], index)
    flat = x.index_select(axis, index.reshape(-1))
    return flat.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def _gather_at(x: Tensor, index: int, axis: int = 0) -> Tensor:
    return x.select(axis, index)


def _pad(x: Tensor, pads: Sequence[int], value: float = 0.0, mode: str = "constant") -> Tensor:
    half = len(pads) // 2
    turned = [p for a in reversed(range(half)) for p in (pads[a], pads[a + half])]
    return F.pad(x, turned, mode=mode, value=value)


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def _hard_sigmoid(x: Tensor, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return (alpha * x + beta).clamp(0.0, 1.0)


def _softmax(x: Tensor, axis: int = -1) -> Tensor:
    return x.softmax(axis)


def _concat(*parts: Tensor, axis: int = 0) -> Tensor:
    return torch.cat(parts, axis)


def _transpose(x: Tensor, perm: Sequence[int] | None = None) -> Tensor:
    return x.permute(list(perm) if perm is not None else list(reversed(range(x.dim()))))


def _leaky(x: Tensor, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def _power(x: Tensor, y: Tensor) -> Tensor:
    return x.pow(y)


def _same(x: Tensor) -> Tensor:
    return x


def _pooled(x: Tensor) -> Tensor:
    return x.mean((2, 3), keepdim=True)


def _expand(x: Tensor, shape: Sequence[int]) -> Tensor:
    # Both ways, as in ONNX: the shape asked for may have ones where x has more.
    return x * torch.ones(tuple(shape), dtype=x.dtype, device=x.device)


def _along(parameter: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return a quantiser's figures in a shape that goes with `x` (one each, or one a channel)."""
    if parameter.dim() == 0 or parameter.numel() == 1:
        return parameter.reshape(())
    return parameter.reshape([-1 if a == axis % x.dim() else 1 for a in range(x.dim())])


def _quantize(x: Tensor, scale: Tensor, zero: Tensor, axis: int = 1) -> Tensor:
    limits = torch.iinfo(zero.dtype)
    shifted = torch.round(x / _along(scale, x, axis)) + _along(zero, x, axis)
    return shifted.clamp(limits.min, limits.max).to(zero.dtype)


def _dequantize(x: Tensor, scale: Tensor, zero: Tensor | None = None, axis: int = 1) -> Tensor:
    numbers = x.to(scale.dtype)
    if zero is not None:
        numbers = numbers - _along(zero, x, axis).to(scale.dtype)
    return numbers * _along(scale, x, axis)


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "Add": torch.add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Div": torch.div,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherAt": _gather_at,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _pooled,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": F.hardswish,
    "Identity": _same,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _leaky,
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Pad": _pad,
    "Pow": _power,
    "QuantizeLinear": _quantize,
    "ReduceMean": _mean,
    "ReduceSum": _sum,
    "Relu": F.relu,
    "Reshape": _reshape,
    "Sigmoid": torch.sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sqrt": torch.sqrt,
    "Squeeze": _squeeze,
    "Sub": torch.sub,
    "Tanh": torch.tanh,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}

"""An ONNX file from elsewhere, as the record that the backends compile from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.errors import StageError, UserError
from hwbench.export.counting import Counts, count
from hwbench.records import (
    CompressionSpec,
    ExportSpec,
    OnnxModel,
    TrainSpec,
    WorkloadSpec,
    file_digest,
)

if TYPE_CHECKING:
    import onnx

_NOTHING = Counts((), 0, 0, 0, 0)


def read(path: Path) -> tuple[OnnxModel, int | None]:
    """Return an ONNX file's record, and its batch if that is fixed.

    What cannot be counted on it (a shape that is not fixed) is counted as nothing: backends use
    the counts for notes only. Raises `UserError` for what is no ONNX file, or has more than one
    input or an input whose shape is open besides the batch.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except (OSError, DecodeError, onnx.checker.ValidationError, ValueError) as error:
        line = (str(error).strip().splitlines() or ["empty"])[0][:200]
        raise UserError(f"is not an ONNX file that can be used: {line}", where=str(path)) from error
    weights = {i.name for i in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs) or "none"
        raise UserError(f"has the inputs {names}", where=str(path), expected="exactly one input")
    batch, shape = _shape(inputs[0], path)
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(inputs[0].type.tensor_type.elem_type))
    try:
        counts = count(model) if batch is None else _NOTHING
    except StageError:
        counts = _NOTHING
    digest = file_digest(path)
    spec = CompressionSpec(WorkloadSpec("onnx", {"file": path.name}, digest), TrainSpec(epochs=0))
    found = OnnxModel(
        spec=ExportSpec(spec),
        path=path,
        digest=digest,
        input_name=inputs[0].name,
        input_shape=shape,
        input_dtype=dtype,
        output_names=tuple(o.name for o in model.graph.output),
        layers=counts.layers,
        parameters=counts.parameters,
        nonzero=counts.nonzero,
        macs=counts.macs,
        denormals=counts.denormals,
        parity=0.0,
        opset=max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0
        ),
    )
    return found, batch


def _shape(value: onnx.ValueInfoProto, path: Path) -> tuple[int | None, tuple[int, ...]]:
    dims = value.type.tensor_type.shape.dim
    sizes = [d.dim_value if d.HasField("dim_value") else None for d in dims]
    if not sizes or any(size is None for size in sizes[1:]):
        words = " × ".join("?" if size is None else str(size) for size in sizes) or "a scalar"
        raise UserError(
            f"the shape of its input {value.name!r} is open: {words}",
            where=str(path),
            expected="a batch (open or fixed) first, then fixed sizes",
        )
    return sizes[0], tuple(size for size in sizes[1:] if size is not None)

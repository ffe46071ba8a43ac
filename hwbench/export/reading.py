"""An ONNX file from elsewhere, as the record that the backends compile from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.errors import StageError, UserError
from hwbench.export.counting import count
from hwbench.records import OnnxFile, OnnxModel, file_digest

if TYPE_CHECKING:
    import onnx


def read(path: Path) -> tuple[OnnxModel, int | None]:
    """Return an ONNX file's record, and its batch if that is fixed.

    What cannot be counted on it (a shape that is not fixed) is not counted: backends use the
    counts for notes only. Raises `UserError` for what is no ONNX file, or has more than one
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
    file = described(model, path)
    batch = _sizes(_input(model, path), path)[0]
    try:
        counts = count(model) if batch is None else None
    except StageError:
        counts = None
    return OnnxModel.of_file(file, counts), batch


def described(model: onnx.ModelProto, path: Path) -> OnnxFile:
    """Return what has to be known to run a model that lies at `path`; raises as `read` does."""
    import onnx

    value = _input(model, path)
    kind = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    own = (o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    return OnnxFile(
        path=path,
        digest=file_digest(path),
        input_name=value.name,
        input_shape=_sizes(value, path)[1],
        input_dtype=str(kind),
        output_names=tuple(o.name for o in model.graph.output),
        opset=max(own, default=0),
    )


def _input(model: onnx.ModelProto, path: Path) -> onnx.ValueInfoProto:
    weights = {i.name for i in model.graph.initializer}
    inputs: list[onnx.ValueInfoProto] = [i for i in model.graph.input if i.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(i.name for i in inputs) or "none"
        raise UserError(f"has the inputs {names}", where=str(path), expected="exactly one input")
    return inputs[0]


def _sizes(value: onnx.ValueInfoProto, path: Path) -> tuple[int | None, tuple[int, ...]]:
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

"""The export room: PyTorch → one ONNX file that agrees with PyTorch, and what is counted on it."""

from __future__ import annotations

import contextlib
import io
import logging
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hwbench import files
from hwbench.errors import StageError
from hwbench.export import counting, parity, reading
from hwbench.export.parity import disagreement
from hwbench.export.quantising import quantised
from hwbench.export.reading import read
from hwbench.export.shift import shifted
from hwbench.protocols import Modelled
from hwbench.pruners import _weights
from hwbench.records import CompressedModel, ExportSpec, OnnxModel, Precision

if TYPE_CHECKING:
    import onnx
    from torch import Tensor, nn

__all__ = ["disagreement", "export", "read", "shifted"]

INPUT = "x"
FILE = "model.onnx"
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def export(spec: ExportSpec, model: CompressedModel, workload: Modelled, folder: Path) -> OnnxModel:
    """Return the exported model, written as one file ``model.onnx`` into `folder` (exists).

    The input is named ``x``, its batch is free, batch norms are folded; the bytes depend on the
    weights alone. Parity with PyTorch is checked through ONNX Runtime; the precision ``int8``
    then quantises the file on training samples, and its parity is a figure and no condition.

    Raises `StageError` when the model cannot be traced or quantised, gives outputs that are not
    finite, or in fp32 differs from PyTorch by more than 1e-4 of the largest output.
    """
    if spec.precision not in PRECISIONS:
        what = f"the precision {spec.precision!r} is not offered"
        raise StageError("export", what, expected=" or ".join(PRECISIONS))
    net = _weights.load(model.folder, workload, stage="export")
    samples = workload.data("validation")[0][: max(parity.BATCHES)]
    document = _traced(net, samples, spec.opset)
    content = document.SerializeToString(deterministic=True)
    worst = parity.worst_error(net, content, samples)
    if spec.precision == "int8":
        document = quantised(document, workload.data("train")[0])
        content = document.SerializeToString(deterministic=True)
        worst = parity.worst_error(net, content, samples, limit=math.inf)
    counts = counting.count(document)
    path = folder / FILE
    files.write(path, content)
    return OnnxModel(spec, reading.described(document, path), counts, worst)


def _traced(model: nn.Module, samples: Tensor, opset: int) -> onnx.ModelProto:
    """Return the ONNX model, traced with a free batch. Raises `StageError` with a short cause."""
    import torch
    from torch.onnx.errors import OnnxExporterError

    # Two samples: with one, torch.export would take the batch for the constant 1.
    example = samples[torch.arange(2) % len(samples)]
    with torch.no_grad():
        outputs = len(parity.flat(model(example)))
    names = ["y"] if outputs == 1 else [f"y{index}" for index in range(outputs)]
    try:
        with _silence():
            program = torch.onnx.export(
                model,
                (example,),
                input_names=[INPUT],
                output_names=names,
                opset_version=opset,
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    except OnnxExporterError as error:
        raise StageError(
            "export",
            f"PyTorch cannot trace the model: {_cause(error)}",
            expected="a model without control flow on tensor values, for any batch size",
            mend="try torch.export.export(model, (inputs,)) by itself; torch.where and "
            "x.shape[0] instead of numbers usually mend it",
        ) from error
    assert program is not None
    document = _plain(program.model_proto)
    # Instead of failing, torch may quietly take the example's batch for the only one.
    if not document.graph.input[0].type.tensor_type.shape.dim[0].dim_param:
        raise StageError(
            "export",
            f"the model is tied to a batch of {len(example)}",
            expected="a model for any batch size",
            mend="x.shape[0] instead of numbers in reshapes and constants",
        )
    return document


def _plain(document: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model without the exporter's notes: stack traces would make every file differ."""
    document.doc_string = ""
    del document.metadata_props[:]
    graph = document.graph
    for part in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info):
        part.doc_string = ""
        del part.metadata_props[:]
    for initializer in graph.initializer:
        initializer.doc_string = ""
        del initializer.metadata_props[:]
    return document


def _cause(error: BaseException) -> str:
    """Return the first line of the innermost cause: the exporter wraps it in pages."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's prints, warnings and log lines (missing torchvision) off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

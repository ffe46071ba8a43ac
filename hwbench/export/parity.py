"""Does the file compute what the PyTorch model computes? Asked of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from hwbench.errors import StageError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

    from hwbench.records import OnnxModel

LIMIT = 1e-4
"""Largest error allowed, relative to the largest output of PyTorch."""

BATCHES = (1, 3)

_ROWS = 250


def worst_error(model: nn.Module, content: bytes, samples: Tensor, limit: float = LIMIT) -> float:
    """Return the largest max|onnx - torch| / max|torch| over random and real inputs.

    Both kinds are tried at batch 1 and 3, every output on its own. Raises `StageError` when an
    output is not finite, the file does not run, or the error is above the limit.
    """
    session = _session(content)
    name = session.get_inputs()[0].name
    worst = 0.0
    for kind, inputs in _inputs(samples):
        wanted = _torch_outputs(model, inputs, kind)
        found = _onnx_outputs(session, name, inputs, kind)
        for own, reference in zip(found, wanted, strict=True):
            worst = max(worst, _error(own, reference, kind))
    if worst > limit:
        raise StageError(
            "export",
            f"the ONNX file differs from PyTorch by {worst:.1e} of the largest output",
            expected=f"at most {limit:g}",
            mend="does the model draw random numbers or keep state in evaluation mode?",
        )
    return worst


def answers(model: OnnxModel, inputs: np.ndarray) -> np.ndarray:
    """Return the ONNX file's first output for all inputs, run by ONNX Runtime here."""
    import numpy as np

    session = _session(model.path.read_bytes())
    rows = []
    for start in range(0, len(inputs), _ROWS):
        batch = np.ascontiguousarray(inputs[start : start + _ROWS])
        rows.append(session.run(model.file.output_names[:1], {model.input_name: batch})[0])
    return np.concatenate(rows)


def disagreement(model: OnnxModel, inputs: np.ndarray, outputs: np.ndarray) -> float:
    """Return how far a deployed artifact's answers are from the ONNX file's: max|a-b| / max|b|.

    `outputs` holds one row for each of the first inputs; the file is run by ONNX Runtime here.
    Raises `StageError` when an answer is not finite or of another shape.
    """
    import numpy as np

    if not len(outputs):
        raise StageError("measure", "the deployed artifact gave no outputs")
    wanted = answers(model, inputs[: len(outputs)])
    if wanted.shape != outputs.shape:
        what = f"the deployed artifact answers {outputs.shape}, its ONNX file {wanted.shape}"
        raise StageError("measure", what)
    bad = int((~np.isfinite(outputs)).sum())
    if bad:
        raise StageError("measure", f"{bad} of {outputs.size} outputs on the device are not finite")
    difference = float(np.abs(outputs.astype(np.float64) - wanted).max())
    scale = float(np.abs(wanted).max())
    return difference / scale if scale else difference


def flat(output: object) -> list[Tensor]:
    """Return the tensors of a model's output, in order."""
    from torch import Tensor

    if isinstance(output, Tensor):
        return [output]
    assert isinstance(output, dict | list | tuple)
    parts = output.values() if isinstance(output, dict) else output
    return [tensor for part in parts for tensor in flat(part)]


def _inputs(samples: Tensor) -> Iterator[tuple[str, Tensor]]:
    import torch

    generator = torch.Generator().manual_seed(0)
    for batch in BATCHES:
        shape = (batch, *samples.shape[1:])
        if samples.is_floating_point():
            yield "random", torch.randn(shape, generator=generator, dtype=samples.dtype)
        else:  # token numbers: any that the data holds are legal
            low, high = int(samples.min()), int(samples.max())
            drawn = torch.randint(low, high + 1, shape, generator=generator)
            yield "random", drawn.to(samples.dtype)
        yield "real", samples[torch.arange(batch) % len(samples)]


def _session(content: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except onnx_errors() as error:
        raise StageError("export", f"ONNX Runtime refuses the file: {_line(error)}") from error


def _torch_outputs(model: nn.Module, inputs: Tensor, kind: str) -> list[np.ndarray]:
    import torch

    try:
        with torch.no_grad():
            return [tensor.numpy() for tensor in flat(model(inputs))]
    except (RuntimeError, ValueError, LookupError, TypeError, AssertionError) as error:
        what = f"the PyTorch model fails on a {kind} batch of {len(inputs)}: {_line(error)}"
        raise StageError("export", what, expected="any batch to run") from error


def _onnx_outputs(session: Any, name: str, inputs: Tensor, kind: str) -> list[np.ndarray]:
    try:
        return list(session.run(None, {name: inputs.numpy()}))
    except onnx_errors() as error:
        what = f"the ONNX file fails on a {kind} batch of {len(inputs)}: {_line(error)}"
        raise StageError("export", what, expected="any batch to run") from error


def _error(found: np.ndarray, wanted: np.ndarray, kind: str) -> float:
    import numpy as np

    if found.shape != wanted.shape:
        what = f"an output has the shape {found.shape} in ONNX and {wanted.shape} in PyTorch"
        raise StageError("export", what)
    for who, values in (("PyTorch", wanted), ("ONNX", found)):
        if not np.isfinite(values).all():
            raise StageError("export", f"{who} gives outputs that are not finite on {kind} inputs")
    difference = float(np.abs(found.astype(np.float64) - wanted).max(initial=0.0))
    scale = float(np.abs(wanted).max(initial=0.0))
    return difference / scale if scale else difference


def onnx_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises when a model does not load or run."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return tuple(
        kind
        for kind in vars(state).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    )


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

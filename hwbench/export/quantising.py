"""int8: an ONNX file with its weights and activations in 8 bits, by ONNX Runtime's tool.

Static quantisation (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference"): activations in unsigned 8 bits with a scale and a zero point
each, weights in signed 8 bits with one scale an output channel, written as QuantizeLinear and
DequantizeLinear pairs that runtimes fuse. Zeros stay zeros: weights are quantised about 0.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.errors import StageError

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from torch import Tensor

SAMPLES = 256
"""Training samples that the ranges of activations are taken from."""

_BATCH = 32


class _Reader:
    """Hands training samples to ONNX Runtime's calibration, one batch after the other."""

    def __init__(self, name: str, samples: np.ndarray) -> None:
        parts = range(0, len(samples), _BATCH)
        self._batches: Iterator[dict[str, np.ndarray]] = iter(
            [{name: samples[start : start + _BATCH]} for start in parts]
        )

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch, or None at the end."""
        return next(self._batches, None)


def quantised(document: onnx.ModelProto, training: Tensor) -> onnx.ModelProto:
    """Return the model in 8 bits, its activations' ranges taken from training samples.

    Of `training`, at most `SAMPLES` samples evenly spread are used, so that data sorted by class
    do no harm. Raises `StageError` when there are none or ONNX Runtime cannot.
    """
    import onnx

    if not len(training):
        raise StageError(
            "export",
            "the calibration set is empty: the training split has no samples",
            expected="training samples, from which the ranges of activations are taken",
            mend="give data('train') some samples, or leave int8 out of search.precisions",
        )
    chosen = training[:: max(1, len(training) // SAMPLES)][:SAMPLES].numpy()
    with tempfile.TemporaryDirectory(prefix="hwbench-int8-") as folder:
        path = Path(folder) / "int8.onnx"
        _quantise(document, path, _Reader(document.graph.input[0].name, chosen))
        return onnx.load(str(path))


def _quantise(document: onnx.ModelProto, path: Path, reader: _Reader) -> None:
    from onnxruntime import quantization

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            quantization.quantize_static(
                document,
                path,
                reader,
                quant_format=quantization.QuantFormat.QDQ,
                per_channel=True,
                activation_type=quantization.QuantType.QUInt8,
                weight_type=quantization.QuantType.QInt8,
                extra_options=_OPTIONS,
            )
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError) as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        what = f"ONNX Runtime cannot quantise the model: {line}"
        raise StageError("export", what, mend="leave int8 out of search.precisions") from error
    finally:
        logging.disable(before)


_OPTIONS: Mapping[str, Any] = {"WeightSymmetric": True, "ActivationSymmetric": False}

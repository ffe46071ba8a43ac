"""OpenVINO: what it computes in is what was asked for, and what it lacks is said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from hwbench.backends.openvino import TRAITS, _insist_on_bf16, _say
from hwbench.errors import StageError
from hwbench.export.quantising import quantised
from hwbench.registry import BACKENDS
from tests import artifacts


def _convolutions(session: object) -> set[str]:
    """Return the types that the convolutions of a loaded model are really computed in."""
    model = session._request.get_compiled_model().get_runtime_model()  # type: ignore[attr-defined]
    kinds = [op.get_rt_info() for op in model.get_ordered_ops()]
    return {
        str(info["runtimePrecision"].astype(str)).lower()
        for info in kinds
        if info["layerType"].astype(str) == "Convolution"
    }


def test_int8_files_run_in_integers_and_agree(tmp_path: Path) -> None:
    plain = artifacts.network(tmp_path / "m.onnx")
    path = tmp_path / "int8.onnx"
    samples = torch.randn((64, *artifacts.SHAPE), generator=torch.Generator().manual_seed(0))
    onnx.save(quantised(onnx.load(str(plain.path)), samples), str(path))
    model = artifacts.at(plain, path)
    made = artifacts.compiled(model, artifacts.candidate("openvino", batch=4), tmp_path / "a")
    session = BACKENDS.create("openvino").load(made.folder / made.entry, 1)
    x = samples[:4].numpy()
    session.set_inputs([x])
    session.invoke()
    wanted = ort.InferenceSession(str(path)).run(None, {"x": x})[0]
    far = np.abs(session.outputs()[0] - wanted).max() / np.abs(wanted).max()
    assert far < 0.1, "the rounding of 8 bits, and no more"
    assert _convolutions(session) <= {"u8", "i8"}


def test_fp32_is_not_computed_in_short_floats(tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    made = artifacts.compiled(model, artifacts.candidate("openvino"), tmp_path / "a")
    session = BACKENDS.create("openvino").load(made.folder / made.entry, 1)
    assert _convolutions(session) == {"f32"}


def test_bf16_is_bf16_or_not_available(tmp_path: Path) -> None:
    import openvino

    model = artifacts.network(tmp_path / "m.onnx")
    own = artifacts.candidate("openvino", {"precision": "bf16"})
    assert own.label == "dense · openvino bf16"
    made = artifacts.compiled(model, own, tmp_path / "a")
    backend = BACKENDS.create("openvino", {"precision": "bf16"})
    if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        assert "bf16" in _convolutions(backend.load(made.folder / made.entry, 1))
    else:
        with pytest.raises(StageError, match="not available"):
            backend.load(made.folder / made.entry, 1)
    with pytest.raises(StageError, match="not available: this processor has no units for bf16"):
        _insist_on_bf16(["FP32", "INT8"])
    assert TRAITS.tolerance({"precision": "bf16"}) > TRAITS.tolerance({})


def test_errors_say_the_line_that_says_something() -> None:
    error = RuntimeError("Exception from src/a.cpp:1:\nCheck 'x' failed at b.cpp:2:\nNo operator\n")
    assert _say(error) == "OpenVINO: No operator"

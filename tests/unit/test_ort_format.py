"""ONNX Runtime's own format: the same answers and kernels, made for this machine or another."""

from __future__ import annotations

import dataclasses
import platform
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.errors import StageError
from hwbench.records import OnnxModel, PluginSpec, file_digest
from hwbench.registry import BACKENDS
from tests import artifacts

REORDERED = b"ReorderOutput"


@pytest.fixture
def wide(tmp_path: Path) -> OnnxModel:
    """A convolution of 32 channels: wide enough for blocked layouts."""
    weight = np.random.default_rng(0).standard_normal((32, 3, 3, 3)).astype(np.float32)
    conv = helper.make_node("Conv", ["x", "w"], ["y"], kernel_shape=[3, 3], pads=[1] * 4)
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", channels, 8, 8])
        for name, channels in (("x", 3), ("y", 32))
    )
    graph = helper.make_graph([conv], "wide", [x], [y], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    path = tmp_path / "wide.onnx"
    onnx.save(model, str(path))
    plain = artifacts.identity(tmp_path / "m.onnx")
    file = dataclasses.replace(plain.file, path=path, digest=file_digest(path))
    return dataclasses.replace(plain, file=file)


@pytest.mark.parametrize(
    "change",
    [
        {"isa": "aarch64" if platform.machine() == "x86_64" else "x86_64"},
        {"connection": PluginSpec("ssh", {"host": "pi@board"})},
    ],
)
def test_layouts_of_this_machine_stay_here(
    wide: OnnxModel, change: dict[str, object], tmp_path: Path
) -> None:
    backend = BACKENDS.create("ort_format")
    found = {}
    targets = {"here": artifacts.TARGET, "there": dataclasses.replace(artifacts.TARGET, **change)}  # type: ignore[arg-type]
    x = np.random.default_rng(1).standard_normal((1, 3, 8, 8)).astype(np.float32)
    for name, target in targets.items():
        folder = tmp_path / name
        folder.mkdir()
        entry = backend.compile(wide, artifacts.candidate("ort_format"), target, folder)
        assert sorted(p.name for p in folder.iterdir()) == ["model.ort", "session.json"]
        session = backend.load(folder / entry, 1)
        session.set_inputs([x])
        session.invoke()
        found[name] = session.outputs()[0]
        if name == "there":
            assert REORDERED not in (folder / entry).read_bytes()
        elif platform.machine() == "x86_64":
            assert REORDERED in (folder / entry).read_bytes()
    np.testing.assert_allclose(found["here"], found["there"], rtol=1e-5, atol=1e-5)


def test_what_onnxruntime_refuses_is_a_stage_error(wide: OnnxModel, tmp_path: Path) -> None:
    wide.path.write_bytes(b"no model")
    with pytest.raises(StageError, match="ONNX Runtime"):
        BACKENDS.create("ort_format").compile(
            wide, artifacts.candidate("ort_format"), artifacts.TARGET, tmp_path
        )

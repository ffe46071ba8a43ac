"""What the options of the shipped backends do."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwbench.backends import null
from hwbench.compile import compile_model
from hwbench.errors import StageError, UserError
from hwbench.registry import BACKENDS
from tests import artifacts


def _compile(kind: str, options: dict[str, Any], folder: Path, threads: int = 1) -> Path:
    model = artifacts.network(folder / "m.onnx")
    candidate = dataclasses.replace(artifacts.candidate(kind, options), threads=threads)
    made = compile_model(candidate, model, artifacts.TARGET, folder / f"a{threads}")
    return made.folder / made.entry


def test_session_options_travel_with_the_artifact(tmp_path: Path) -> None:
    options = {"arena": False, "optimize": "basic", "spin": True, "flush_denormals": False}
    entry = _compile("onnxruntime", options, tmp_path)
    beside = json.loads((entry.parent / "session.json").read_text())
    assert beside["arena"] is False
    assert beside["level"] == "ORT_ENABLE_BASIC"
    assert beside["entries"] == {
        "session.set_denormal_as_zero": "0",
        "session.intra_op.allow_spinning": "1",
    }
    assert BACKENDS.create("onnxruntime").load(entry, 2)


@pytest.mark.parametrize("options", [{"schedule": False}, {"schedule": True}])
@pytest.mark.parametrize("threads", [1, 2])
def test_tvm_schedules_are_right(options: dict[str, Any], threads: int, tmp_path: Path) -> None:
    import onnxruntime as ort

    entry = _compile("tvm", options, tmp_path, threads)
    session = BACKENDS.create("tvm", options).load(entry, threads)
    x = np.random.default_rng(2).standard_normal((1, *artifacts.SHAPE)).astype(np.float32)
    session.set_inputs([x])
    session.invoke()
    expected = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": x})[0]
    np.testing.assert_allclose(session.outputs()[0], expected, rtol=1e-5, atol=1e-5)


def test_tvm_without_a_linker_says_what_to_install(tmp_path: Path) -> None:
    options = {"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72", "cc": "no-such-compiler"}
    with pytest.raises(StageError, match="no-such-compiler") as caught:
        _compile("tvm", options, tmp_path)
    assert "apt install" in caught.value.mend


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mtriple": "no-such-triple", "mcpu": "x"}, "no-such-triple"),
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "znver4"}, "znver4"),
        ({"mcpu": "no-such-processor"}, "no-such-processor"),
        ({"mtriple": "aarch64-linux-gnu"}, "LLVM knows no mcpu"),  # that of the host
    ],
)
def test_tvm_with_a_processor_nobody_knows(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=words):
        _compile("tvm", options, tmp_path)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"mcpu": "no-such-processor"}, "LLVM knows no processor 'no-such-processor'"),
        ({"mtriple": "riscy-linux", "mcpu": "x"}, "no code can be made for the system"),
        ({"mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a722"}, "'cortex-a722'"),
    ],
)
def test_sparse_kernels_for_a_processor_nobody_knows(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    with pytest.raises(StageError, match=words) as caught:
        _compile("tvm_sparse", options, tmp_path)
    assert caught.value.stage == "compile"


def test_sparse_kernels_for_an_operator_nobody_knows(tmp_path: Path) -> None:
    import onnx
    from onnx import helper

    model = artifacts.identity(tmp_path / "m.onnx")
    document = onnx.load(str(model.path))
    del document.graph.node[:]
    document.graph.node.append(helper.make_node("Det", ["x"], ["y"], name="volume"))
    document.graph.output[0].type.tensor_type.ClearField("shape")
    onnx.save(document, str(model.path))
    with pytest.raises(StageError, match=r"no kernel for the operator Det \(volume\)") as caught:
        artifacts.compiled(model, artifacts.candidate("tvm_sparse"), tmp_path / "a")
    assert "leave tvm_sparse out" in caught.value.mend


def test_sparse_kernels_need_fixed_shapes(tmp_path: Path) -> None:
    import onnx

    model = artifacts.identity(tmp_path / "m.onnx")
    document = onnx.load(str(model.path))
    document.graph.input[0].type.tensor_type.shape.dim[3].dim_param = "wide"
    onnx.save(document, str(model.path))
    with pytest.raises(StageError, match="dynamic dimension 3") as caught:
        artifacts.compiled(model, artifacts.candidate("tvm_sparse"), tmp_path / "a")
    assert "fixed input size" in caught.value.mend


def test_an_option_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="arenas"):
        _compile("onnxruntime", {"arenas": True}, tmp_path)


@pytest.mark.parametrize(("slower", "turns"), [(0.0, 1000), (0.03, 1030), (1.0, 2000)])
def test_the_double_is_slower_by_what_was_asked(slower: float, turns: int) -> None:
    session = null.NullSession(null.Options(spins=1000, slower=slower), [[1]])
    assert session.turns == turns


def test_the_double_needs_fixed_output_shapes(tmp_path: Path) -> None:
    import onnx

    model = artifacts.identity(tmp_path / "m.onnx")
    graph = onnx.load(str(model.path))
    graph.graph.output[0].type.tensor_type.shape.dim[2].dim_param = "anything"
    onnx.save(graph, str(model.path))
    with pytest.raises(StageError, match="not fixed"):
        artifacts.compiled(model, artifacts.candidate("null"), tmp_path / "a")

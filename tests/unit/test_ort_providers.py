"""ONNX Runtime on a GPU: what it lacks is said, and where its nodes ran is looked up."""

from __future__ import annotations

import json
from pathlib import Path

import onnxruntime as ort
import pytest

from hwbench.backends.onnxruntime import check_placed, placed
from hwbench.errors import StageError
from hwbench.registry import BACKENDS
from tests import artifacts

CPU, CUDA, RT = (f"{n}ExecutionProvider" for n in ("CPU", "CUDA", "Tensorrt"))


@pytest.mark.skipif(CUDA in ort.get_available_providers(), reason="this onnxruntime has CUDA")
@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_provider_that_is_not_there_is_not_available(provider: str, tmp_path: Path) -> None:
    backend = BACKENDS.create("onnxruntime", {"provider": provider})
    entry = backend.compile_empty(artifacts.TARGET, tmp_path)
    for use in (backend.versions, lambda: backend.load(tmp_path / entry, 1)):
        with pytest.raises(StageError, match="not available: this onnxruntime has no") as refused:
            use()
        assert "onnxruntime-gpu" in refused.value.mend


def test_where_nodes_ran_is_read_from_a_real_profile(tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    options = ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    session = ort.InferenceSession(str(model.path), options, providers=[CPU])
    import numpy as np

    session.run(None, {"x": np.zeros((1, *artifacts.SHAPE), np.float32)})
    found = placed(json.loads(Path(session.end_profiling()).read_text()))
    assert list(found) == [CPU]
    assert any("Conv" in op for op in found[CPU])
    # This is what a silent fall-back to the CPU looks like: it is a failure.
    with pytest.raises(StageError, match=r"ran nodes on the CPU: .*Conv"):
        check_placed(found)


@pytest.mark.parametrize(
    "found", [{CUDA: ["Conv", "Gemm"]}, {RT: ["TRTKernel"], CUDA: ["Gemm"], CPU: ["Shape"]}]
)
def test_shapes_may_be_handled_on_the_cpu(found: dict[str, list[str]]) -> None:
    check_placed(found)


@pytest.mark.parametrize("found", [{}, {CPU: ["Shape"]}, {CUDA: ["Conv"], CPU: ["Gemm"]}])
def test_nothing_else_may(found: dict[str, list[str]]) -> None:
    with pytest.raises(StageError, match="ran nodes on the CPU"):
        check_placed(found)

"""TVM's GPU half: kernels bound to threads and translated here, a session on a GPU that is none."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hwbench.errors import StageError
from hwbench.pipeline import keys
from hwbench.records import Gpu
from hwbench.registry import BACKENDS
from tests import artifacts

H200 = dataclasses.replace(artifacts.TARGET, gpu=Gpu("any", "H200", "9.0"))
NVCC = pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc here to make kernels with")
GPU = {"device": "cuda"}


def backend(**options: Any) -> Any:
    return BACKENDS.create("tvm", {**GPU, **options})


def compiled(folder: Path) -> Path:
    """Return the artifact of a small network for an H200."""
    model = artifacts.network(folder / "m.onnx")
    entry: str = backend().compile(model, artifacts.candidate("tvm", GPU, batch=2), H200, folder)
    return folder / entry


@pytest.mark.slow
def test_every_kernel_is_bound_to_blocks_and_threads(tmp_path: Path) -> None:
    import onnx
    import tvm
    from tvm.relax.frontend.onnx import from_onnx

    from hwbench.backends import _tvm_cuda
    from hwbench.kernels.build import fused

    model = artifacts.network(tmp_path / "m.onnx")
    module = from_onnx(onnx.load(str(model.path)), shape_dict={"x": [2, *artifacts.SHAPE]})
    target = _tvm_cuda.target("sm_80", tvm.target.Target("llvm"))
    assert str(target.attrs["arch"]) == "sm_80"
    lowered = fused(module, target)
    bound = {n.name_hint: str(f) for n, f in _tvm_cuda.schedule(lowered, target).functions.items()}
    kernels = {name: text for name, text in bound.items() if name != "main"}
    assert len(kernels) >= 5
    assert all("blockIdx" in text and "threadIdx" in text for text in kernels.values())


@pytest.mark.parametrize("target", [artifacts.TARGET, dataclasses.replace(H200, gpu=Gpu())])
def test_which_gpu_must_be_known(target: Any, tmp_path: Path) -> None:
    with pytest.raises(StageError, match="which GPU to make code for is not known") as refused:
        backend().compile_empty(target, tmp_path)
    assert "capability" in refused.value.mend


def test_artifacts_of_another_gpu_are_others(tmp_path: Path) -> None:
    model, candidate = artifacts.identity(tmp_path / "m.onnx"), artifacts.candidate("tvm", GPU)
    other = dataclasses.replace(H200, gpu=Gpu("any", "A100", "8.0"))
    made = {keys.artifact(candidate, t, model) for t in (H200, other, artifacts.TARGET)}
    assert len(made) == 3


def test_without_nvcc_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linker = tmp_path / "bin"
    linker.mkdir()
    for name in ("cc", "gcc", "ld", "as"):
        if found := shutil.which(name):
            (linker / name).symlink_to(found)
    monkeypatch.setenv("PATH", str(linker))
    with pytest.raises(StageError, match="there is no nvcc here") as refused:
        backend().compile_empty(H200, tmp_path)
    assert "CUDA toolkit" in refused.value.mend


@pytest.mark.skipif(Path("/proc/driver/nvidia").exists(), reason="there is a GPU")
def test_without_a_driver_it_is_not_available(tmp_path: Path) -> None:
    for use in (backend().versions, lambda: backend().load(tmp_path / "model.so", 1)):
        with pytest.raises(StageError, match=r"not available: .*libcud") as refused:
            use()
        assert "driver" in refused.value.mend


SESSION = """
import json, sys
from pathlib import Path
import numpy as np
from hwbench.registry import BACKENDS
from hwbench.errors import StageError

entry = Path(sys.argv[1])
backend = BACKENDS.create("tvm", {"device": "cuda"})
assert backend.versions()["apache-tvm"]
session = backend.load(entry, 1)
x = np.arange(2 * 3 * 8 * 8, dtype=np.float32).reshape(2, 3, 8, 8)
session.set_inputs([x])
session.invoke()
found = session.outputs()[0]
back = session._memory.get(session._inputs[0])
told = {"shape": found.shape, "same": bool((back == x).all()), "ns": session.time_call(),
        "clock": session.clock, "memory": session.device_memory()}
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile a CUDA that computes nothing; return the folder of its libraries."""
    folder = tmp_path_factory.mktemp("cuda")
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed"
    versions = folder / "versions"
    versions.write_text("libcudart.so.13 { global: *; };\n")
    source = str(Path(__file__).parents[1] / "cuda.c")
    for name, more in (
        ("libcuda.so.1", []),
        ("libcudart.so.13", [f"-Wl,--version-script={versions}"]),
    ):
        named = [f"-Wl,-soname={name}", "-o", str(folder / name)]
        subprocess.run([compiler, "-shared", "-fPIC", *more, *named, source], check=True)
    return folder


@NVCC
@pytest.mark.slow
def test_a_session_takes_the_kernels_that_were_made_here(libraries: Path, tmp_path: Path) -> None:
    """The real runtime of TVM's wheel on a driver that counts launches: all but the arithmetic."""
    entry = compiled(tmp_path)
    assert (tmp_path / "kernels.cubin").read_bytes()[:4] == b"\x7fELF"
    assert json.loads((tmp_path / "kernels.json").read_text())["arch"] == "sm_90"
    log = tmp_path / "log"
    told = _session(entry, libraries, log)
    assert told.returncode == 0, told.stderr
    assert json.loads(told.stdout) == {
        "shape": [2, 5], "same": True, "ns": 1_500_000,
        "clock": "CUDA events, L2 warm", "memory": {},
    }  # fmt: skip
    asked = log.read_text().split("\n")
    assert "load ELF" in asked
    assert sum(line.startswith("launch fused_conv2d") for line in asked) >= 8  # four, twice
    assert asked.count("record event") == 2
    # Kernels that are not its own are not taken.
    beside = json.loads((tmp_path / "kernels.json").read_text())
    (tmp_path / "kernels.json").write_text(json.dumps({**beside, "source": "another"}))
    refused = _session(entry, libraries, log)
    assert refused.returncode
    assert "belong to another one" in refused.stderr


def _session(entry: Path, libraries: Path, log: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(libraries), "HWBENCH_CUDA_LOG": str(log)}
    return subprocess.run(
        [sys.executable, "-c", SESSION, str(entry)],
        capture_output=True, text=True, check=False, env=environment,
    )  # fmt: skip

"""The sparse backend on a whole network: right here, right on an emulated Cortex-A72, and fast."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from hwbench import registry
from hwbench.errors import StageError
from hwbench.kernels import bench, build, choose, encode, graph, layouts, lower, problem
from hwbench.kernels.template import Epilogue
from tests.unit.test_kernels import block


def test_resnet8_as_the_house_exports_it(tmp_path: Path) -> None:
    import torch

    from hwbench.workloads._resnet8 import ResNet8

    torch.manual_seed(0)
    model = ResNet8(3, 10, (16, 32, 64), 1).eval()
    document = bench.prune(bench.traced(model, (3, 32, 32)), 0.9)
    onnx.save(document, str(tmp_path / "m.onnx"))
    x = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    session, notes = bench.compiled(tmp_path / "m.onnx", x, 1)
    session.set_inputs([x])
    session.invoke()
    expected = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": x})[0]
    np.testing.assert_allclose(session.outputs()[0], expected, rtol=1e-4, atol=1e-5)
    assert len(notes) == 10
    assert sum(note.eligible for note in notes) >= 8
    assert [note.why for note in notes if "µs" not in note.why] == []


def test_an_artifact_for_a_cortex_a72_links(tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-gcc") is None:
        pytest.skip("needs gcc-aarch64-linux-gnu")
    model, _ = block(np.random.default_rng(0), 16, 5)
    onnx.save(model, str(tmp_path / "m.onnx"))
    made = build.machine("cortex-a72", "aarch64-linux-gnu")
    assert made.lanes == 4
    assert not made.native
    lowered = lower.lower(graph.read(tmp_path / "m.onnx", 2), made, choose.Chooser(made))
    build.library(build.prepare(lowered.module, None, made), made, tmp_path / "model.so")
    head = (tmp_path / "model.so").read_bytes()[:20]
    assert head[:4] == b"\x7fELF"
    assert int.from_bytes(head[18:20], "little") == 183  # EM_AARCH64


def test_no_linker_is_said(tmp_path: Path) -> None:
    backend = registry.create("backends", "tvm_sparse", {"cc": "no-such-gcc"})
    model, x = block(np.random.default_rng(0), 16, 5)
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(StageError, match="no-such-gcc"):
        bench.compiled(tmp_path / "m.onnx", x, 1, backend)


MAIN = Path(__file__).parent / "kernel_main.c"


@pytest.mark.parametrize("cpu", ["cortex-a72", "cortex-a76"])
def test_right_on_an_emulated_core(cpu: str, tmp_path: Path) -> None:
    """One kernel, called through TVM's C interface, under qemu: NEON code gives the numbers."""
    gcc, qemu = shutil.which("aarch64-linux-gnu-gcc"), shutil.which("qemu-aarch64")
    if gcc is None or qemu is None:
        pytest.skip("needs gcc-aarch64-linux-gnu and qemu-user")
    import tvm
    import tvm_ffi

    rng = np.random.default_rng(0)
    channels, rows, size = 6, 13, 11
    made = build.machine(cpu, "aarch64-linux-gnu")
    layout = layouts.Planar.of(size, size, made.lanes, 1)
    window = layouts.Window((3, 3), pads=(1, 1, 1, 1))
    weights = rng.standard_normal((rows, channels, 3, 3))
    weights *= rng.random(weights.shape) < 0.3
    matrix = weights.reshape(rows, -1).astype(np.float32)
    taps = [layout.tap(*tap) for tap in window.taps]
    offsets = np.add.outer(np.arange(channels) * layout.plane, taps)
    asked = problem.Problem(
        layout, layout, window, offsets.reshape(-1), matrix,
        rng.standard_normal(rows).astype(np.float32), 8 * layout.plane, 1,
        Epilogue(activation="clip", low=0.0),
    )  # fmt: skip
    config = choose.Chooser(made)(asked)
    kernel = problem.kernel(asked, config, "layer")
    image = rng.standard_normal((channels, size, size)).astype(np.float32)
    x = np.zeros((8, layout.plane), np.float32)
    x[:channels][:, layout.index()] = image
    arrays = [x.reshape(-1), *kernel.constants, np.zeros(asked.y_size, np.float32)]
    with made.target:
        library = tvm.compile(tvm.IRModule({"layer": kernel.function}), target=made.target)
    library.export_library(str(tmp_path / "layer.so"), cc=gcc)
    for number, array in enumerate(arrays):
        array.tofile(tmp_path / f"{number}.bin")
    include = Path(tvm_ffi.__file__).parent / "include"
    subprocess.run(
        [gcc, "-O1", f"-I{include}", "-rdynamic", str(MAIN), "-ldl", "-o", str(tmp_path / "main")],
        check=True,
    )
    kinds = "".join("i" if a.dtype == np.int32 else "f" for a in arrays)
    subprocess.run(
        [qemu, "-cpu", cpu if cpu == "cortex-a72" else "max", "-L", "/usr/aarch64-linux-gnu",
         str(tmp_path / "main"), kinds],
        check=True, cwd=tmp_path, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    y = np.fromfile(tmp_path / "y.bin", np.float32).reshape(-1, layout.plane)
    found = y[:rows][:, layout.index()]
    import torch

    expected = torch.relu(
        torch.nn.functional.conv2d(
            torch.from_numpy(image)[None],
            torch.from_numpy(matrix.reshape(weights.shape)),
            torch.from_numpy(asked.bias),
            padding=1,
        )
    )[0].numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert encode.encode(matrix, offsets.reshape(-1), 54).stored == np.count_nonzero(matrix)

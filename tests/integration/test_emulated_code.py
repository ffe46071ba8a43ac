"""Genuine aarch64 runtimes under plain qemu: a Cortex-A72 answers as this machine does."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from hwbench.measurement import worker_zip
from hwbench.records import OnnxModel
from hwbench.registry import BACKENDS
from tests import artifacts, emulated

pytestmark = [pytest.mark.contract, pytest.mark.slow]

CROSS = {"mcpu": "cortex-a72", "mtriple": "aarch64-linux-gnu"}
RUNTIMES = {"onnxruntime": {}, "tvm": CROSS, "tvm_sparse": CROSS}
THERE = """
import importlib, json, pathlib, sys
worker, folder = sys.argv[1], pathlib.Path(sys.argv[2])
sys.path.insert(0, worker)
import numpy as np
for kind, (options, entry) in json.loads((folder / "jobs.json").read_text()).items():
    found = importlib.import_module("hwbench.backends." + kind)
    session = found.PLUGIN(found.Options(**options)).load(folder / kind / entry, 1)
    x = np.load(folder / "x.npy")
    for sample, row in enumerate(x):
        session.set_inputs([row[None]])
        session.invoke()
        np.save(folder / f"{kind}-{sample}.npy", session.outputs()[0])
assert "tvm" not in sys.modules, "the compiler was loaded"
from hwbench import conditions
from hwbench.registry import BACKENDS
from hwbench.registry import BACKENDS
print(json.dumps([conditions.emulated(environment={}), conditions.read().identity]))
"""


@pytest.fixture(scope="module")
def board() -> Path:
    return emulated.built()


def qemu(board: Path, site: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    root = board / "root"
    return subprocess.run(
        [
            str(board / "qemu-aarch64"), "-cpu", "cortex-a72", "-L", str(root),
            str(root / "usr/bin/python3.11"), *arguments,
        ],
        env={"PYTHONHOME": str(root / "usr"), "PYTHONPATH": site, "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def sparse(folder: Path) -> OnnxModel:
    """Return the network of all kinds of layers, with four of five weights zero."""
    found = artifacts.network(folder / "model.onnx")
    model, rng = onnx.load(str(found.path)), np.random.default_rng(1)
    for tensor in model.graph.initializer:
        data = numpy_helper.to_array(tensor).copy()
        if tensor.name.endswith(".w"):
            data[rng.random(data.shape) < 0.8] = 0.0
        tensor.CopyFrom(numpy_helper.from_array(data, tensor.name))
    onnx.save(model, str(found.path))
    return found


def test_a_cortex_a72_answers_as_this_machine_does(board: Path, tmp_path: Path) -> None:
    model = sparse(tmp_path)
    x = np.load(artifacts.inputs(tmp_path / "x.npy"))
    jobs = {}
    for kind, options in RUNTIMES.items():
        made = artifacts.compiled(model, artifacts.candidate(kind, options), tmp_path / kind)
        jobs[kind] = (options, made.entry)
        script = BACKENDS.create(kind, options).script(f"{kind}/{made.entry}", made)
        (tmp_path / f"run-{kind}.py").write_text(script)
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    worker = worker_zip(tmp_path / "worker.zip")
    site = f"{board}/root/opt/hwbench"
    done = qemu(board, site, "-c", THERE, str(worker), str(tmp_path))
    assert done.returncode == 0, done.stderr
    shipped = qemu(board, site, str(tmp_path / "run-tvm.py"))
    assert shipped.returncode == 0, "the shipped script needs no compiler: " + shipped.stderr
    why, identity = json.loads(done.stdout.splitlines()[-1])
    assert why, "an emulated process knows that it is one, without being told"
    assert identity["machine"] == "aarch64"
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model.path))
    for kind in RUNTIMES:
        for sample, row in enumerate(x):
            (expected,) = session.run(None, {"x": row[None]})
            found = np.load(tmp_path / f"{kind}-{sample}.npy")
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6, err_msg=kind)


def test_a_wheel_for_newer_processors_dies_there_as_on_a_real_one(board: Path) -> None:
    """Microsoft/onnxruntime#23957: 1.21.0 uses the dot product, which a Cortex-A72 lacks."""
    sites = f"{board}/root/opt/broken:{board}/root/opt/hwbench"
    done = qemu(board, sites, "-c", "import onnxruntime; print('alive')")
    assert "alive" not in done.stdout
    assert "Illegal instruction" in done.stderr
    assert done.returncode == -4


def test_the_facade_says_that_it_is_one(board: Path) -> None:
    for path in (board / "root/facade/cpuinfo", board / "root/proc/cpuinfo"):
        assert "not a real board" in path.read_text()

"""ONNX Runtime on a GPU: what it lacks is said, and where its nodes ran is looked up."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from hwbench.backends import _cuda, _ort_gpu
from hwbench.backends._ort_gpu import GpuSession, check_placed, placed
from hwbench.backends.onnxruntime import TRAITS
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
    session.run(None, {"x": np.zeros((1, *artifacts.SHAPE), np.float32)})
    found = placed(json.loads(Path(session.end_profiling()).read_text()))
    assert list(found) == [CPU]
    assert any("Conv" in op for op in found[CPU])
    # This is what a silent fall-back to the CPU looks like: it is a failure.
    with pytest.raises(StageError, match=r"ran nodes on the CPU: .*Conv"):
        check_placed(found, "cuda")


@pytest.mark.parametrize(
    ("provider", "found"),
    [
        ("cuda", {CUDA: ["Conv", "Gemm"]}),
        ("tensorrt", {RT: ["TRTKernel"], CUDA: ["Gemm"], CPU: ["Shape"]}),
    ],
)
def test_shapes_may_be_handled_on_the_cpu(provider: str, found: dict[str, list[str]]) -> None:
    check_placed(found, provider)


def test_tensorrt_does_not_become_cuda_in_silence() -> None:
    with pytest.raises(StageError, match=r"no node on Tensorrt.* \(2 on CUDAExecutionProvider\)"):
        check_placed({CUDA: ["Conv", "Gemm"]}, "tensorrt")


@pytest.mark.parametrize("found", [{}, {CPU: ["Shape"]}, {CUDA: ["Conv"], CPU: ["Gemm"]}])
def test_nothing_else_may(found: dict[str, list[str]]) -> None:
    with pytest.raises(StageError, match="ran nodes on the CPU"):
        check_placed(found, "cuda")


# --------------------------------------------------------------------------------------------
# what a provider lacks


@pytest.fixture
def libraries(tmp_path: Path) -> Path:
    """Build a library that needs two others, of which one is gone again."""
    compiler = shutil.which("cc")
    assert compiler, "a C compiler is needed"
    (tmp_path / "empty.c").write_text("int nothing;\n")

    def build(name: str, *needs: str) -> None:
        links = [f"-L{tmp_path}", "-Wl,--no-as-needed", *(f"-l:{n}" for n in needs)]
        named = [f"-Wl,-soname={name}", "-o", str(tmp_path / name), str(tmp_path / "empty.c")]
        subprocess.run([compiler, "-shared", "-fPIC", *named, *links], check=True)

    build("libhwbenchgone.so.9")
    build("libonnxruntime_providers_tensorrt.so", "libhwbenchgone.so.9", "libm.so.6")
    (tmp_path / "libhwbenchgone.so.9").unlink()
    return tmp_path


def test_what_a_library_needs_is_read_from_it(libraries: Path) -> None:
    path = libraries / "libonnxruntime_providers_tensorrt.so"
    assert _cuda.needed(path)[:2] == ["libhwbenchgone.so.9", "libm.so.6"]
    assert [said.partition(":")[0] for said in _cuda.lacking(path)] == ["libhwbenchgone.so.9"]


def test_pips_packages_are_looked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = tmp_path / "packages" / "tensorrt_libs"
    there.mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path / "packages"))
    with pytest.raises(OSError, match="libhwbenchnever"):
        _cuda.library("libhwbenchnever.so")
    (tmp_path / "m.c").write_text("int hwbench_found(void) { return 7; }\n")
    built = ["-o", str(there / "libhwbenchnever.so"), str(tmp_path / "m.c")]
    subprocess.run(["cc", "-shared", "-fPIC", *built], check=True)
    assert _cuda.library("libhwbenchnever.so").hwbench_found() == 7


def test_a_library_that_is_missing_is_named(
    libraries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime" / "capi").mkdir(parents=True)
    name = "libonnxruntime_providers_tensorrt.so"
    shutil.copyfile(libraries / name, tmp_path / "onnxruntime" / "capi" / name)
    monkeypatch.setattr(ort, "__file__", str(tmp_path / "onnxruntime" / "__init__.py"))
    monkeypatch.setattr(ort, "get_available_providers", lambda: [RT, CUDA, CPU])
    with pytest.raises(StageError, match=r"not available: Tensorrt.* libhwbenchgone") as refused:
        BACKENDS.create("onnxruntime", {"provider": "tensorrt"}).versions()
    assert "install TensorRT" in refused.value.mend


def test_what_preloading_prints_is_not_in_the_way(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called: list[str] = []

    def preload() -> None:
        called.append("yes")
        print("Failed to load libcublas")

    monkeypatch.setattr(ort, "preload_dlls", preload, raising=False)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    _ort_gpu.require("cuda")
    assert called == ["yes"]
    assert capsys.readouterr().out == ""
    # Older ones have it not.
    monkeypatch.delattr(ort, "preload_dlls")
    _ort_gpu.require("cuda")


# --------------------------------------------------------------------------------------------
# options


def test_options_are_those_of_the_providers(tmp_path: Path) -> None:
    asked = dict(_ort_gpu.asked("cuda", "fp32", tmp_path / "model.onnx", 94368, graph=True))
    # Without being told, ONNX Runtime multiplies float32 as tf32.
    told = {"device_id": "0", "use_tf32": "0", "user_compute_stream": "94368"}
    assert asked == {CUDA: {**told, "enable_cuda_graph": "1"}, CPU: {}}
    asked = dict(_ort_gpu.asked("tensorrt", "fp16", tmp_path / "model.onnx"))
    assert list(asked) == [RT, CUDA, CPU]
    assert asked[RT]["trt_fp16_enable"] == asked[RT]["trt_engine_cache_enable"] == "True"
    assert asked[RT]["trt_engine_cache_path"] == str(tmp_path / "engines")
    assert asked[CUDA] == {"device_id": "0", "use_tf32": "1"}


@pytest.mark.parametrize(
    "options",
    [{"precision": "fp16"}, {"precision": "tf32"}, {"graph": True},
     {"provider": "tensorrt", "graph": True}],
)  # fmt: skip
def test_what_cannot_be_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(StageError, match=r"needs (a GPU|the CUDA provider)"):
        BACKENDS.create("onnxruntime", options)


def test_short_formats_may_differ_more() -> None:
    limits = [
        TRAITS.tolerance({"provider": "cuda", "precision": p}) for p in ("fp32", "tf32", "fp16")
    ]
    assert limits == sorted(set(limits))
    assert TRAITS.tolerance({}) == limits[0]
    assert TRAITS.tolerance({"provider": "tensorrt"}) == limits[1]


def test_fp16_is_a_file_of_half_the_size_that_answers_alike(tmp_path: Path) -> None:
    import onnx

    model = artifacts.network(tmp_path / "m.onnx")
    options = {"provider": "cuda", "precision": "fp16"}
    made = artifacts.compiled(model, artifacts.candidate("onnxruntime", options), tmp_path / "a")
    path = made.folder / made.entry
    kinds = {t.data_type for t in onnx.load(str(path)).graph.initializer}
    assert kinds == {onnx.TensorProto.FLOAT16}
    x = np.random.default_rng(0).standard_normal((2, *artifacts.SHAPE)).astype(np.float32)
    wanted, found = (
        ort.InferenceSession(str(p), providers=[CPU]).run(None, {"x": x})[0]
        for p in (model.path, path)
    )
    assert found.dtype == np.float32
    assert 0 < np.abs(found - wanted).max() <= TRAITS.tolerance(options) * np.abs(wanted).max()


def test_the_script_has_the_options_that_were_measured(tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    for provider, options in (("cpu", {}), ("cuda", {"precision": "tf32", "graph": True})):
        candidate = artifacts.candidate("onnxruntime", {"provider": provider, **options})
        made = artifacts.compiled(model, candidate, tmp_path / provider)
        backend = BACKENDS.create("onnxruntime", {"provider": provider, **options})
        script = backend.script(made.entry, made)
        compile(script, "run.py", "exec")
        assert ("preload_dlls" in script) == (provider == "cuda")
        assert ("'use_tf32': '1'" in script) == (provider == "cuda")


# --------------------------------------------------------------------------------------------
# sessions, with stand-ins for ONNX Runtime's and a clock that counts


class Value:
    """A tensor "there": what was copied into it, and how often."""

    def __init__(self, data: np.ndarray) -> None:
        self.data, self.copies = data.copy(), 1

    @classmethod
    def ortvalue_from_numpy(cls, data: np.ndarray, device: str, number: int) -> Value:
        assert (device, number) == ("cuda", 0)
        return cls(data)

    def shape(self) -> list[int]:
        return list(self.data.shape)

    def update_inplace(self, data: np.ndarray) -> None:
        self.data[:] = data
        self.copies += 1


class Node:
    def __init__(self, name: str) -> None:
        self.name, self.type, self.shape = name, "tensor(float)", ["batch", 2]


class There:
    """A session and its binding: doubles its input; a graph works on what it was captured with."""

    def __init__(self) -> None:
        self.bound: dict[str, Value | None] = {}
        self.runs: list[tuple[str, str]] = []
        self.graphs: dict[str, tuple[Value, Value]] = {}

    def io_binding(self) -> There:
        return self

    def get_inputs(self) -> list[Node]:
        return [Node("x")]

    def get_outputs(self) -> Any:
        # Of the session: nodes. Of the binding, once it ran: values.
        found = self.bound.get("y")
        return [Outputs(found)]

    def bind_ortvalue_input(self, name: str, value: Value) -> None:
        self.bound[name] = value

    def bind_output(self, name: str, device: str) -> None:
        assert device == "cuda"
        self.bound[name] = None

    def bind_ortvalue_output(self, name: str, value: Outputs) -> None:
        assert value.value is not None
        self.bound[name] = value.value

    def run_with_iobinding(self, binding: There, options: Any) -> None:
        graph = _entry(options, "gpu_graph_id")
        self.runs.append((graph, _entry(options, "disable_synchronize_execution_providers")))
        x, y = self.bound["x"], self.bound["y"]
        assert x is not None
        if graph in ("", "-1"):
            self.bound["y"] = y = y or Value(x.data)
        else:
            assert y is not None, "a graph needs outputs that stay where they are"
            x, y = self.graphs.setdefault(graph, (x, y))
        y.data[:] = 2 * x.data

    def synchronize_outputs(self) -> None:
        self.runs.append(("waited", ""))

    def copy_outputs_to_cpu(self) -> list[np.ndarray]:
        value = self.bound["y"]
        assert value is not None
        return [value.data]


class Outputs(Node):
    """What stands for an output: its name for the session, its value for the binding."""

    def __init__(self, value: Value | None) -> None:
        super().__init__("y")
        self.value = value


class Clock:
    """A stream and its events."""

    def __init__(self) -> None:
        self.events, self.said = self, list[str]()

    def wait(self) -> None:
        self.said.append("wait")

    def begin(self) -> None:
        self.said.append("begin")

    def end(self) -> int:
        self.said.append("end")
        return 1234


def _entry(options: Any, key: str) -> str:
    try:
        return str(options.get_run_config_entry(key))
    except RuntimeError:
        return ""


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> There:
    monkeypatch.setattr(ort, "OrtValue", Value)
    return There()


def answer(session: GpuSession, *rows: tuple[float, float]) -> list[list[float]]:
    session.set_inputs([np.array(rows, np.float32)])
    session.invoke()
    found: list[list[float]] = session.outputs()[0].tolist()
    return found


def test_a_graph_is_captured_with_outputs_that_stay_and_replayed(there: There) -> None:
    clock: Any = Clock()
    session = GpuSession(there, clock, graph=True)
    assert answer(session, (1, 2)) == [[2, 4]]
    # Plainly first, to learn the outputs; then as a graph. Our stream is waited for by us.
    assert there.runs == [("-1", "1"), ("1", "1"), ("1", "1"), ("1", "1")]
    first = there.bound["x"]
    assert answer(session, (3, 4)) == [[6, 8]]
    # New inputs go where the graph reads.
    assert there.bound["x"] is first
    assert first is not None
    assert first.copies == 2
    assert len(there.graphs) == 1
    # Another shape is another graph.
    assert answer(session, (1, 1), (2, 2)) == [[2, 2], [4, 4]]
    assert sorted(there.graphs) == ["1", "2"]


def test_calls_are_timed_by_events_in_a_stream_of_ours(there: There) -> None:
    clock: Any = Clock()
    session = GpuSession(there, clock)
    assert answer(session, (1, 2)) == [[2, 4]]
    clock.said.clear()
    assert session.time_call() == 1234
    assert clock.said == ["wait", "begin", "end"]
    assert session.clock == "CUDA events, L2 warm"
    assert {graph for graph, _ in there.runs} == {""}


def test_without_one_by_the_hosts_clock(there: There) -> None:
    session = GpuSession(there)
    assert answer(session, (1, 2)) == [[2, 4]]
    assert there.runs == [("", ""), ("waited", "")]
    assert session.time_call() > 0
    assert "host's clock" in session.clock


def test_inputs_that_do_not_fit_are_refused(there: There) -> None:
    session = GpuSession(there)
    with pytest.raises(StageError, match="got 2 inputs"):
        session.set_inputs([np.zeros((1, 2), np.float32)] * 2)
    with pytest.raises(StageError, match=r"got float64 of shape \(1, 2\)"):
        session.set_inputs([np.zeros((1, 2))])


STREAM = """
import sys
from hwbench.backends import _cuda, _ort_gpu
import onnxruntime as ort
ort.cuda_version = "13.0"
stream = _ort_gpu.stream()
stream.wait()
stream.events.begin()
print(stream.address, stream.events.end())
"""


def test_a_stream_is_made_with_the_cuda_of_this_onnxruntime(tmp_path: Path) -> None:
    """Against a CUDA that computes nothing: names, and the order of arguments."""
    source = str(Path(__file__).parents[1] / "cuda.c")
    named = ["-Wl,-soname=libcudart.so.13", "-o", str(tmp_path / "libcudart.so.13")]
    subprocess.run(["cc", "-shared", "-fPIC", *named, source], check=True)
    done = subprocess.run(
        [sys.executable, "-c", STREAM], capture_output=True, text=True, check=False,
        env={"LD_LIBRARY_PATH": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    address, nanoseconds = done.stdout.split()
    assert int(address) > 0
    assert int(nanoseconds) == 1_500_000

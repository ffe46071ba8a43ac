"""ONNX Runtime on an NVIDIA GPU: its providers, where nodes ran, sessions in a stream of ours.

Not a plug-in. ONNX Runtime falls back to the CPU without a word: what a provider lacks is looked up
before, and where every node ran is read from a profile.
"""

from __future__ import annotations

import contextlib
import functools
import io
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench.backends import _cuda
from hwbench.errors import StageError

if TYPE_CHECKING:
    import numpy as np

PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
KINDS = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
_SHAPES = frozenset(
    ("Cast", "Concat", "Expand", "Gather", "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze")
)
_UNSYNCHRONISED = "disable_synchronize_execution_providers"
_GRAPH, _NO_GRAPH = "gpu_graph_id", "-1"
_WARM = 2


# --------------------------------------------------------------------------------------------
# providers


def require(provider: str) -> None:
    """Raise `StageError` saying why a provider cannot be had here; nothing for the CPU's."""
    import onnxruntime as ort

    name, there = PROVIDERS[provider][0], ort.get_available_providers()
    if name not in there:
        raise StageError(
            "measure",
            f"not available: this onnxruntime has no {name}, only {', '.join(there)}",
            mend="pip install onnxruntime-gpu on the device, in the place of onnxruntime",
        )
    if provider == "cpu":
        return
    _preload()
    library = Path(ort.__file__).parent / "capi" / f"libonnxruntime_providers_{provider}.so"
    lacks = _cuda.lacking(library) if library.exists() else []
    if lacks:
        names = ", ".join(said.partition(":")[0] for said in lacks)
        what = f"not available: {name} needs {names}, which cannot be loaded here"
        raise StageError("measure", what, where=lacks[0], mend=_MEND[provider])


_MEND = {
    "cuda": "it needs NVIDIA's driver, and CUDA and cuDNN as the wheel was made for "
    "(pip install onnxruntime-gpu[cuda,cudnn])",
    "tensorrt": "install TensorRT on the device, of the version that this onnxruntime-gpu "
    "was made for (pip's tensorrt packages will do)",
}


def _preload() -> None:
    """Have ONNX Runtime load CUDA and cuDNN from pip's packages; it came with 1.21."""
    import onnxruntime as ort

    if hasattr(ort, "preload_dlls"):
        # It prints what it does not find. What is needed we look up ourselves, and say.
        with contextlib.redirect_stdout(io.StringIO()):
            ort.preload_dlls()


def asked(
    provider: str, precision: str, artifact: Path, stream: int = 0, graph: bool = False
) -> list[tuple[str, dict[str, str]]]:
    """Return the providers with their options, as a session takes them.

    ``stream`` is the address of a CUDA stream of ours (0: ONNX Runtime makes its own).
    """
    cuda = {"device_id": "0", "use_tf32": str(int(precision != "fp32"))}
    if stream:
        cuda["user_compute_stream"] = str(stream)
    if graph:
        cuda["enable_cuda_graph"] = "1"
    tensorrt = {
        "device_id": "0",
        "trt_fp16_enable": str(precision == "fp16"),
        # Building takes minutes, and every process that loads the artifact would do it again.
        "trt_engine_cache_enable": "True",
        "trt_engine_cache_path": str(artifact.parent / "engines"),
    }
    own = {PROVIDERS["cuda"][0]: cuda, PROVIDERS["tensorrt"][0]: tensorrt}
    return [(name, own.get(name, {})) for name in PROVIDERS[provider]]


# --------------------------------------------------------------------------------------------
# where nodes ran


def check_placement(
    artifact: Path, options: Any, providers: Sequence[Any], provider: str
) -> tuple[str, ...]:
    """Run the model once with ONNX Runtime's profiler on, and look where its nodes ran.

    Returns what TensorRT left to CUDA, in words. Raises `StageError`, see `check_placed`.
    """
    import numpy as np
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(
            str(artifact), options, providers=providers, enable_fallback=0
        )
        if PROVIDERS[provider][0] not in session.get_providers():
            raise StageError(
                "measure",
                f"not available: ONNX Runtime did not take {PROVIDERS[provider][0]}, "
                f"only {', '.join(session.get_providers())}",
                mend="its log says why; does nvidia-smi list a GPU there?",
            )
        feeds = {
            node.name: np.zeros([d if isinstance(d, int) else 1 for d in node.shape], kind)
            for node in session.get_inputs()
            if (kind := KINDS.get(node.type))
        }
        session.run(None, feeds)
        found = placed(json.loads(Path(session.end_profiling()).read_text()))
        options.enable_profiling = False
    check_placed(found, provider)
    left = found.get(PROVIDERS["cuda"][0], []) if provider == "tensorrt" else []
    return (f"TensorRT left to CUDA: {', '.join(sorted(set(left)))}",) if left else ()


def placed(events: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the operators that each provider ran, from the events of a profile."""
    found: dict[str, list[str]] = {}
    for event in events:
        arguments = event.get("args") or {}
        if event.get("cat") == "Node" and arguments.get("provider"):
            found.setdefault(arguments["provider"], []).append(str(arguments.get("op_name")))
    return found


def check_placed(found: Mapping[str, Sequence[str]], provider: str) -> None:
    """Raise `StageError` when a node that computes ran on the CPU, or none as it was asked for.

    What only handles shapes ONNX Runtime puts on the CPU on purpose.
    """
    where = ", ".join(f"{len(ops)} on {name}" for name, ops in sorted(found.items())) or "none"
    stray = sorted({op for op in found.get(PROVIDERS["cpu"][0], ()) if op not in _SHAPES})
    if stray or not any(name in found for name in PROVIDERS["tensorrt"][:2]):
        raise StageError(
            "measure",
            f"ONNX Runtime ran nodes on the CPU: {', '.join(stray) or 'all'} ({where})",
            expected="every node that computes on the GPU",
            mend="its log says why; precisions and operators that the provider lacks fall back",
        )
    if PROVIDERS[provider][0] not in found:
        raise StageError(
            "measure",
            f"ONNX Runtime ran no node on {PROVIDERS[provider][0]} ({where})",
            expected="that the provider that was asked for runs the network",
            mend="its log says why",
        )


# --------------------------------------------------------------------------------------------
# sessions


class GpuSession:
    """An inference session with inputs and outputs bound on the GPU.

    In a stream of ours it is timed by CUDA events there, and can be a CUDA graph; without one
    (TensorRT) by the host's clock until the GPU is done.
    """

    def __init__(
        self,
        session: Any,
        stream: _cuda.Stream | None = None,
        *,
        graph: bool = False,
        layers: tuple[str, ...] = (),
    ) -> None:
        """Keep the session; nothing is bound yet."""
        self._session = session
        self._stream = stream
        self._captures = graph
        self._graphs = 0
        self._binding = session.io_binding()
        self._inputs: list[Any] = []
        self._outputs: list[Any] = []
        self._asked = self._run_options("")
        self.layers = layers

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Copy the inputs to the GPU, into what is bound there already where they fit.

        Raises `StageError` when they do not fit the model.
        """
        import numpy as np
        import onnxruntime as ort

        check_inputs(self._session, inputs)
        given = [np.ascontiguousarray(value) for value in inputs]
        with translated():
            if [list(there.shape()) for there in self._inputs] == [list(v.shape) for v in given]:
                # A graph reads where it read when it was captured.
                for there, value in zip(self._inputs, given, strict=True):
                    there.update_inplace(value)
                return
            self._inputs = [ort.OrtValue.ortvalue_from_numpy(v, "cuda", 0) for v in given]
            for node, there in zip(self._session.get_inputs(), self._inputs, strict=True):
                self._binding.bind_ortvalue_input(node.name, there)
            for node in self._session.get_outputs():
                self._binding.bind_output(node.name, "cuda")
            if self._captures:
                self._capture()

    def _capture(self) -> None:
        """Run plainly to learn the outputs, keep them where they are, and run as a new graph.

        ONNX Runtime runs as often as it must before it captures; more runs replay.
        """
        self._asked = self._run_options(_NO_GRAPH)
        self._run()
        self._outputs = self._binding.get_outputs()
        for node, there in zip(self._session.get_outputs(), self._outputs, strict=True):
            self._binding.bind_ortvalue_output(node.name, there)
        self._graphs += 1
        self._asked = self._run_options(str(self._graphs))
        for _ in range(_WARM):
            self._run()

    def _run_options(self, graph: str) -> Any:
        """Return options of a run: which graph it is, and that our stream is waited for by us."""
        import onnxruntime as ort

        options = ort.RunOptions()
        if self._stream is not None:
            options.add_run_config_entry(_UNSYNCHRONISED, "1")
        if graph:
            options.add_run_config_entry(_GRAPH, graph)
        return options

    def _run(self) -> None:
        self._session.run_with_iobinding(self._binding, self._asked)
        if self._stream is None:
            self._binding.synchronize_outputs()
        else:
            self._stream.wait()

    def invoke(self) -> None:
        """Run one inference, to its end."""
        with translated():
            self._run()

    @property
    def clock(self) -> str:
        """What calls are timed by."""
        if self._stream is None:
            return "the host's clock until the GPU is done, L2 warm"
        return "CUDA events, L2 warm"

    def time_call(self) -> int:
        """Return the nanoseconds of one call.

        By events the stream is empty before it: launching counts, waking up does not.
        """
        with translated():
            if self._stream is None:
                begun = time.perf_counter_ns()
                self._run()
                return time.perf_counter_ns() - begun
            self._stream.wait()
            self._stream.events.begin()
            self._session.run_with_iobinding(self._binding, self._asked)
            return self._stream.events.end()

    def device_memory(self) -> dict[str, int]:
        """Return nothing: ONNX Runtime does not tell what its arena holds; the driver does."""
        return {}

    def outputs(self) -> list[np.ndarray]:
        """Return copies of the outputs."""
        with translated():
            return [value.copy() for value in self._binding.copy_outputs_to_cpu()]


def stream() -> _cuda.Stream:
    """Return a stream of the CUDA that this ONNX Runtime was made for."""
    import onnxruntime as ort

    major = str(getattr(ort, "cuda_version", "")).partition(".")[0]
    try:
        return _cuda.Stream(_cuda.library(f"libcudart.so.{major}" if major else "libcudart.so"))
    except OSError as error:
        raise StageError("measure", f"not available: {error}", mend=_MEND["cuda"]) from error


def check_inputs(session: Any, inputs: Sequence[np.ndarray]) -> None:
    """Raise `StageError` when inputs do not fit the model in number, type or shape."""
    nodes = session.get_inputs()
    if len(inputs) != len(nodes):
        raise StageError("measure", f"got {len(inputs)} inputs", expected=f"{len(nodes)} inputs")
    for node, value in zip(nodes, inputs, strict=True):
        wanted = [d if isinstance(d, int) else None for d in node.shape]
        fits = len(wanted) == value.ndim and all(
            w in (None, size) for w, size in zip(wanted, value.shape, strict=True)
        )
        kind = KINDS.get(node.type, "")
        if not fits or kind != str(value.dtype):
            raise StageError(
                "measure",
                f"input {node.name!r} got {value.dtype} of shape {value.shape}",
                expected=f"{kind or node.type} of shape {tuple(node.shape)}",
            )


@functools.cache
def _errors() -> tuple[type[Exception], ...]:
    import onnxruntime.capi.onnxruntime_pybind11_state as state

    own = (v for v in vars(state).values() if isinstance(v, type) and issubclass(v, Exception))
    # What it cannot name it raises as RuntimeError or ValueError.
    return (*own, RuntimeError, ValueError)


@contextlib.contextmanager
def translated(stage: str = "measure") -> Iterator[None]:
    """Turn whatever ONNX Runtime raises inside the block into a `StageError`."""
    try:
        yield
    except _errors() as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise StageError(stage, f"ONNX Runtime: {said[:300]}") from error

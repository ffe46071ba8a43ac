"""ONNX Runtime: the file is the artifact, the session options stand beside it.

On a GPU every node's provider is read from a profile of the session, not assumed: ONNX Runtime
falls back to the CPU without a word, and such a session does not load here.
"""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwbench.errors import StageError
from hwbench.protocols import Backend, Session
from hwbench.records import Candidate, CompiledModel, LayerNote, OnnxModel, TargetProfile
from hwbench.traits import DTYPES, BackendTraits

if TYPE_CHECKING:
    import numpy as np

TRAITS = BackendTraits(
    requires={"onnxruntime": "onnxruntime>=1.31,<2"},
    host_distributions=("onnxruntime", "onnx"),
    # onnxruntime-gpu is installed in the place of onnxruntime.
    device_distributions=("onnxruntime", "onnxruntime-gpu"),
    board_distributions=("onnxruntime",),
    # It runs int8 as integers, and not only as what they stand for.
    precisions=("fp32", "int8"),
    # The arena trades memory for time.
    memory_variants={"without its arena": {"arena": False}},
    naming=("provider",),
    input_dtypes=DTYPES,
    devices=("cpu", "cuda"),
)

_WHY = "ONNX Runtime multiplies zeros like any other number: no speed-up expected from them"


@dataclass(frozen=True, slots=True)
class Options:
    """How sessions are made.

    ``arena``: keep freed memory for the next call (ONNX Runtime's default, what users get).
    ``optimize``: graph rewriting, as ONNX Runtime names its levels. ``spin``: with 2 threads and
    more, idle threads turn in a loop while they wait (faster, but burns the CPU; off by
    default). ``flush_denormals``: take numbers below 1e-38 for zero (off, they can make a CPU
    several times slower). ``provider``: ``cuda`` or ``tensorrt`` run on the GPU that the target
    names, in an onnxruntime-gpu.
    """

    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    arena: bool = True
    optimize: Literal["disable", "basic", "extended", "all"] = "all"
    spin: bool = False
    flush_denormals: bool = True


class OrtSession:
    """An inference session with its inputs and outputs bound once."""

    def __init__(self, session: Any, device: str = "cpu") -> None:
        """Bind the outputs to memory of the runtime's own, on the device."""
        self._session = session
        self._device = device
        self._binding = session.io_binding()
        for output in session.get_outputs():
            self._binding.bind_output(output.name, device)
        self._inputs: list[Any] = []

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Bind the inputs; raises `StageError` when they do not fit the model."""
        import numpy as np

        wanted = self._session.get_inputs()
        if len(inputs) != len(wanted):
            raise StageError(
                "measure", f"got {len(inputs)} inputs", expected=f"{len(wanted)} inputs"
            )
        # The binding does not keep the memory alive: we do.
        self._inputs = [np.ascontiguousarray(x) for x in inputs]
        for node, value in zip(wanted, self._inputs, strict=True):
            _check(node, value)
            with translated():
                self._bind(node.name, value)

    def _bind(self, name: str, value: np.ndarray) -> None:
        if self._device == "cpu":
            self._binding.bind_cpu_input(name, value)
            return
        import onnxruntime as ort

        # Copied once, here: what is timed begins with the inputs on the GPU.
        there = ort.OrtValue.ortvalue_from_numpy(value, self._device, 0)
        self._inputs.append(there)
        self._binding.bind_ortvalue_input(name, there)

    def invoke(self) -> None:
        """Run one inference, to its end."""
        try:
            self._session.run_with_iobinding(self._binding)
            if self._device != "cpu":
                self._binding.synchronize_outputs()
        except _errors() as error:
            raise StageError("measure", _say(error)) from error

    layers: tuple[str, ...] = ()

    @property
    def clock(self) -> str:
        """What GPU calls are timed by: the host's clock, since the stream is ONNX Runtime's own."""
        return "the host's clock until the GPU is done, L2 warm" if self._device != "cpu" else ""

    def time_call(self) -> int:
        """Return the nanoseconds of one call, launching and waiting included."""
        begun = time.perf_counter_ns()
        self.invoke()
        return time.perf_counter_ns() - begun

    def device_memory(self) -> dict[str, int]:
        """Return nothing: ONNX Runtime does not tell what its arena holds; the driver does."""
        return {}

    def outputs(self) -> list[np.ndarray]:
        """Return copies of the outputs."""
        return [value.copy() for value in self._binding.copy_outputs_to_cpu()]


class OrtBackend:
    """ONNX Runtime on a CPU or an NVIDIA GPU."""

    def __init__(self, options: Options) -> None:
        """Keep the options."""
        self._options = options

    def eligible(self, model: OnnxModel) -> tuple[LayerNote, ...]:
        """Return that no layer gains from zeros."""
        return tuple(LayerNote(layer.name, False, _WHY) for layer in model.layers)

    def compile(
        self, model: OnnxModel, candidate: Candidate, target: TargetProfile, folder: Path
    ) -> str:
        """Copy the ONNX file (with its external data) and write the session options."""
        shutil.copyfile(model.path, folder / "model.onnx")
        for name in _external(model.path):
            shutil.copyfile(model.path.parent / name, folder / name)
        self.write_settings(folder)
        return "model.onnx"

    def compile_empty(self, target: TargetProfile, folder: Path) -> str:
        """Write a model of one ``Identity``."""
        import onnx
        from onnx import TensorProto, helper

        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 1])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])
        graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "empty", [x], [y])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(model, str(folder / "model.onnx"))
        self.write_settings(folder)
        return "model.onnx"

    def load(self, artifact: Path, threads: int) -> Session:
        """Return a session with the options that were shipped with the artifact."""
        import onnxruntime as ort

        beside = json.loads(artifact.with_name(_BESIDE).read_text())
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, beside["level"])
        options.enable_cpu_mem_arena = beside["arena"] and self._options.arena
        options.log_severity_level = 3
        for key, value in beside["entries"].items():
            options.add_session_config_entry(key, value)
        providers = require(self._options.provider)
        with translated():
            if self._options.provider != "cpu":
                _check_placement(artifact, options, providers)
            session = ort.InferenceSession(str(artifact), options, providers=providers)
        return OrtSession(session, "cpu" if self._options.provider == "cpu" else "cuda")

    def versions(self) -> Mapping[str, str]:
        """Return the version of ONNX Runtime."""
        import onnxruntime as ort

        require(self._options.provider)
        return {"onnxruntime": str(ort.__version__)}

    def script(self, entry: str, compiled: CompiledModel) -> str:
        """Return a script for ONNX Runtime alone, with the options that were measured."""
        return _SCRIPT.format(
            entry=entry,
            beside=_BESIDE,
            threads=compiled.candidate.threads,
            shape=(compiled.candidate.batch, *compiled.input_shape),
            dtype=compiled.input_dtype,
            providers=_PROVIDERS[self._options.provider],
        )

    def write_settings(self, folder: Path) -> None:
        """Write how a session is made beside the artifact: `load` and the script read it."""
        entries = {
            "session.set_denormal_as_zero": str(int(self._options.flush_denormals)),
            "session.intra_op.allow_spinning": str(int(self._options.spin)),
        }
        data = {
            "format": 1,
            "level": _LEVELS[self._options.optimize],
            "arena": self._options.arena,
            "entries": entries,
        }
        (folder / _BESIDE).write_text(json.dumps(data, indent=1))


def require(provider: str) -> list[str]:
    """Return the providers to ask for; raises `StageError` where this ONNX Runtime has it not."""
    import onnxruntime as ort

    wanted = _PROVIDERS[provider]
    there = ort.get_available_providers()
    if wanted[0] not in there:
        raise StageError(
            "measure",
            f"not available: this onnxruntime has no {wanted[0]}, only {', '.join(there)}",
            mend="pip install onnxruntime-gpu on the device, in the place of onnxruntime",
        )
    return wanted


def _check_placement(artifact: Path, options: Any, providers: Sequence[str]) -> None:
    """Run the model once with ONNX Runtime's profiler on, and look where its nodes ran."""
    import numpy as np
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = ort.InferenceSession(str(artifact), options, providers=providers)
        feeds = {
            node.name: np.zeros([d if isinstance(d, int) else 1 for d in node.shape], kind)
            for node in session.get_inputs()
            if (kind := _KINDS.get(node.type))
        }
        session.run(None, feeds)
        found = placed(json.loads(Path(session.end_profiling()).read_text()))
        options.enable_profiling = False
    check_placed(found)


def placed(events: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return the operators that each provider ran, from the events of a profile."""
    found: dict[str, list[str]] = {}
    for event in events:
        arguments = event.get("args") or {}
        if event.get("cat") == "Node" and arguments.get("provider"):
            found.setdefault(arguments["provider"], []).append(str(arguments.get("op_name")))
    return found


def check_placed(found: Mapping[str, Sequence[str]]) -> None:
    """Raise `StageError` when a node that computes ran on the CPU, or nothing ran on a GPU.

    What only handles shapes ONNX Runtime puts on the CPU on purpose.
    """
    stray = sorted({op for op in found.get(_PROVIDERS["cpu"][0], ()) if op not in _SHAPES})
    if stray or not any(p in found for p in ("CUDAExecutionProvider", "TensorrtExecutionProvider")):
        where = ", ".join(f"{len(ops)} on {provider}" for provider, ops in sorted(found.items()))
        raise StageError(
            "measure",
            f"ONNX Runtime ran nodes on the CPU: {', '.join(stray) or 'all'} ({where or 'none'})",
            expected="every node that computes on the GPU",
            mend="its log says why; precisions and operators that the provider lacks fall back",
        )


def _check(node: Any, value: np.ndarray) -> None:
    wanted = [d if isinstance(d, int) else None for d in node.shape]
    fits = len(wanted) == value.ndim and all(
        w in (None, size) for w, size in zip(wanted, value.shape, strict=True)
    )
    kind = _KINDS.get(node.type, "")
    if not fits or kind != str(value.dtype):
        raise StageError(
            "measure",
            f"input {node.name!r} got {value.dtype} of shape {value.shape}",
            expected=f"{kind or node.type} of shape {tuple(node.shape)}",
        )


def _external(path: Path) -> list[str]:
    """Return the names of the files in which an ONNX file keeps its larger weights."""
    import onnx

    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    places = (e.value for t in tensors for e in t.external_data if e.key == "location")
    return sorted({Path(place).name for place in places})


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
        raise StageError(stage, _say(error)) from error


def _say(error: Exception) -> str:
    return f"ONNX Runtime: {str(error).strip().splitlines()[0][:300]}"


_BESIDE = "session.json"
_PROVIDERS = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "tensorrt": ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"],
}
_SHAPES = frozenset(
    ("Cast", "Concat", "Expand", "Gather", "Reshape", "Shape", "Slice", "Squeeze", "Unsqueeze")
)
_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_KINDS = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}
_SCRIPT = '''\
"""Run the model of this folder: python run.py [inputs.npy], one batch of shape {shape}."""
import json, pathlib, sys
import numpy as np, onnxruntime as ort

path = pathlib.Path(__file__).parent / "{entry}"
options, beside = ort.SessionOptions(), json.loads(path.with_name("{beside}").read_text())
options.intra_op_num_threads, options.enable_cpu_mem_arena = {threads}, beside["arena"]
options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, beside["level"])
for key, value in beside["entries"].items():
    options.add_session_config_entry(key, value)
session = ort.InferenceSession(str(path), options, providers={providers})
x = np.load(sys.argv[1]) if len(sys.argv) > 1 else np.zeros({shape}, "{dtype}")
for y in session.run(None, {{session.get_inputs()[0].name: x}}):
    print(y)
'''

PLUGIN: type[Backend] = OrtBackend

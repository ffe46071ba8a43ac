"""ONNX Runtime: the file is the artifact, the session options stand beside it.

On a GPU every node's provider is read from a profile of the session, not assumed: ONNX Runtime
falls back to the CPU without a word, and such a session does not load here (``_ort_gpu``).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwbench.backends import _ort_gpu
from hwbench.backends._ort_gpu import check_inputs, translated
from hwbench.errors import StageError
from hwbench.protocols import Backend, Session
from hwbench.records import Candidate, CompiledModel, LayerNote, OnnxModel, TargetProfile
from hwbench.traits import AGREES, DTYPES, BackendTraits

if TYPE_CHECKING:
    import numpy as np


def _tolerance(options: Mapping[str, Any]) -> float:
    """Return how far answers may be from those of the float32 file before they count as broken.

    Relative to the largest answer. TensorRT's fp32 is tf32 where it likes.
    """
    precision = str(options.get("precision", "fp32"))
    short = options.get("provider") == "tensorrt" and precision == "fp32"
    return {"fp32": AGREES, "tf32": 1e-2, "fp16": 2e-2}["tf32" if short else precision]


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
    tolerance=_tolerance,
    naming=("provider", "precision"),
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
    names, in an onnxruntime-gpu. ``precision``: on a GPU only; ``tf32`` lets float32 be multiplied
    short (ONNX Runtime's own default), ``fp16`` is a file converted by ONNX Runtime's tool with
    float32 inputs and outputs; TensorRT takes the file as it is, multiplies ``fp32`` as tf32 too,
    and chooses where fp16 pays. ``graph``: a CUDA graph that is replayed (``cuda`` only).
    """

    provider: Literal["cpu", "cuda", "tensorrt"] = "cpu"
    arena: bool = True
    optimize: Literal["disable", "basic", "extended", "all"] = "all"
    spin: bool = False
    flush_denormals: bool = True
    precision: Literal["fp32", "tf32", "fp16"] = "fp32"
    graph: bool = False


class OrtSession:
    """An inference session on the CPU, with its inputs and outputs bound once."""

    def __init__(self, session: Any) -> None:
        """Bind the outputs to memory of the runtime's own."""
        self._session = session
        self._binding = session.io_binding()
        for output in session.get_outputs():
            self._binding.bind_output(output.name)
        self._inputs: list[np.ndarray] = []

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Bind the inputs; raises `StageError` when they do not fit the model."""
        import numpy as np

        check_inputs(self._session, inputs)
        # The binding does not keep the memory alive: we do.
        self._inputs = [np.ascontiguousarray(x) for x in inputs]
        for node, value in zip(self._session.get_inputs(), self._inputs, strict=True):
            with translated():
                self._binding.bind_cpu_input(node.name, value)

    def invoke(self) -> None:
        """Run one inference."""
        with translated():
            self._session.run_with_iobinding(self._binding)

    def outputs(self) -> list[np.ndarray]:
        """Return copies of the outputs."""
        return [value.copy() for value in self._binding.copy_outputs_to_cpu()]


class OrtBackend:
    """ONNX Runtime on a CPU or an NVIDIA GPU."""

    def __init__(self, options: Options) -> None:
        """Keep the options; raises `StageError` for a combination that cannot be."""
        self._options = options
        if options.provider == "cpu" and options.precision != "fp32":
            raise StageError("compile", f"{options.precision} needs a GPU", mend="provider: cuda")
        if options.graph and options.provider != "cuda":
            raise StageError("compile", "graph needs the CUDA provider", mend="provider: cuda")

    def eligible(self, model: OnnxModel) -> tuple[LayerNote, ...]:
        """Return that no layer gains from zeros."""
        return tuple(LayerNote(layer.name, False, _WHY) for layer in model.layers)

    def compile(
        self, model: OnnxModel, candidate: Candidate, target: TargetProfile, folder: Path
    ) -> str:
        """Copy the ONNX file (with its external data) and write the session options."""
        if self._options.provider == "cuda" and self._options.precision == "fp16":
            _write_fp16(model, candidate, folder / "model.onnx")
        else:
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
        if self._options.provider != "cpu":
            return self._load_there(artifact, options)
        with translated():
            return OrtSession(
                ort.InferenceSession(str(artifact), options, providers=_ort_gpu.PROVIDERS["cpu"])
            )

    def _load_there(self, artifact: Path, options: Any) -> Session:
        import onnxruntime as ort

        own, precision = self._options.provider, self._options.precision
        _ort_gpu.require(own)
        with translated():
            plain = _ort_gpu.asked(own, precision, artifact)
            left = _ort_gpu.check_placement(artifact, options, plain, own)
            stream = _ort_gpu.stream() if own == "cuda" else None
            address = stream.address if stream else 0
            graph = self._options.graph
            session = ort.InferenceSession(
                str(artifact),
                options,
                providers=_ort_gpu.asked(own, precision, artifact, address, graph),
                enable_fallback=0,
            )
        return _ort_gpu.GpuSession(session, stream, graph=graph, layers=left)

    def versions(self) -> Mapping[str, str]:
        """Return the version of ONNX Runtime."""
        import onnxruntime as ort

        _ort_gpu.require(self._options.provider)
        return {"onnxruntime": str(ort.__version__)}

    def script(self, entry: str, compiled: CompiledModel) -> str:
        """Return a script for ONNX Runtime alone, with the options that were measured."""
        return _SCRIPT.format(
            entry=entry,
            beside=_BESIDE,
            threads=compiled.candidate.threads,
            shape=(compiled.candidate.batch, *compiled.input_shape),
            dtype=compiled.input_dtype,
            before=_ALONE if self._options.provider != "cpu" else "",
            providers=[
                (name, {k: v for k, v in own.items() if k != "trt_engine_cache_path"})
                for name, own in _ort_gpu.asked(
                    self._options.provider, self._options.precision, Path(entry)
                )
            ],
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


def _write_fp16(model: OnnxModel, candidate: Candidate, path: Path) -> None:
    """Write the file with float16 inside; what ONNX Runtime's tool blocks stays in float32."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if candidate.export.precision != "fp32":
        what = f"a file in {candidate.export.precision} is not converted to fp16"
        raise StageError("compile", what, expected="a file in fp32")
    try:
        short = convert_float_to_float16(onnx.load(str(model.path)), keep_io_types=True)
        onnx.save(short, str(path))
    except ValueError as error:
        raise StageError("compile", f"to fp16: {str(error)[:300]}") from error


def _external(path: Path) -> list[str]:
    """Return the names of the files in which an ONNX file keeps its larger weights."""
    import onnx

    tensors = onnx.load(str(path), load_external_data=False).graph.initializer
    places = (e.value for t in tensors for e in t.external_data if e.key == "location")
    return sorted({Path(place).name for place in places})


_BESIDE = "session.json"
_LEVELS = {
    "disable": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
_ALONE = """
ort.preload_dlls()  # CUDA and cuDNN, from pip's packages where the system has none"""
_SCRIPT = '''\
"""Run the model of this folder: python run.py [inputs.npy], one batch of shape {shape}."""
import json, pathlib, sys
import numpy as np, onnxruntime as ort
{before}
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

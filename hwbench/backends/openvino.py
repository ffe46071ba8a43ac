"""OpenVINO on a CPU: the artifact is its own IR (``model.xml`` and ``model.bin``), in fp32 or int8.

On processors with short-float units OpenVINO computes fp32 models in bf16 unless told otherwise;
here it is told, always, so that fp32 means fp32 and bf16 is a candidate of its own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hwbench.errors import StageError
from hwbench.protocols import Backend, Session
from hwbench.records import Candidate, CompiledModel, LayerNote, OnnxModel, TargetProfile
from hwbench.traits import AGREES, DTYPES, BackendTraits

if TYPE_CHECKING:
    import numpy as np


def _tolerance(options: Mapping[str, Any]) -> float:
    return 1e-1 if options.get("precision") == "bf16" else AGREES


TRAITS = BackendTraits(
    requires={"openvino": "openvino>=2026.4,<2027"},
    host_distributions=("openvino",),
    device_distributions=("openvino",),
    board_distributions=("openvino",),
    # int8 are files with QDQ nodes, which it runs in integers.
    precisions=("fp32", "int8"),
    tolerance=_tolerance,
    naming=("precision",),
    input_dtypes=DTYPES,
)

_WHY = "OpenVINO multiplies zeros like any other number: no speed-up expected from them"


@dataclass(frozen=True, slots=True)
class Options:
    """How models are run.

    ``precision``: what is computed in where the file says float32; ``bf16`` needs a processor
    with units for it. ``flush_denormals``: take numbers below 1e-38 for zero.
    """

    precision: Literal["fp32", "bf16"] = "fp32"
    flush_denormals: bool = True


class OpenVinoSession:
    """A compiled model with one request, its inputs in our memory."""

    def __init__(self, model: Any) -> None:
        """Make the request; nothing runs yet."""
        self._request = model.create_infer_request()
        self._count = len(model.inputs)
        self._kept: list[np.ndarray] = []

    def set_inputs(self, inputs: Sequence[np.ndarray]) -> None:
        """Bind the inputs; raises `StageError` when they do not fit the model."""
        import numpy as np
        import openvino

        if len(inputs) != self._count:
            raise StageError(
                "measure", f"got {len(inputs)} inputs", expected=f"{self._count} inputs"
            )
        # The tensors share this memory and do not keep it alive.
        self._kept = [np.ascontiguousarray(x) for x in inputs]
        with translated("measure"):
            for index, value in enumerate(self._kept):
                tensor = openvino.Tensor(value, shared_memory=True)
                self._request.set_input_tensor(index, tensor)

    def invoke(self) -> None:
        """Run one inference, to its end."""
        try:
            self._request.infer(share_outputs=True)
        except RuntimeError as error:
            raise StageError("measure", _say(error)) from error

    def outputs(self) -> list[np.ndarray]:
        """Return copies of the outputs."""
        return [tensor.data.copy() for tensor in self._request.output_tensors]


class OpenVinoBackend:
    """OpenVINO's CPU plug-in: one stream, tuned for latency."""

    def __init__(self, options: Options) -> None:
        """Keep the options."""
        self._options = options

    def eligible(self, model: OnnxModel) -> tuple[LayerNote, ...]:
        """Return that no layer gains from zeros."""
        return tuple(LayerNote(layer.name, False, _WHY) for layer in model.layers)

    def compile(
        self, model: OnnxModel, candidate: Candidate, target: TargetProfile, folder: Path
    ) -> str:
        """Convert the ONNX file at the candidate's batch; raises `StageError` if it cannot."""
        import openvino

        with translated("compile"):
            found = openvino.Core().read_model(str(model.path))
            found.reshape({found.input(0): [candidate.batch, *model.input_shape]})
            return _save(found, folder)

    def compile_empty(self, target: TargetProfile, folder: Path) -> str:
        """Write a model whose output is its input."""
        import openvino

        x = openvino.op.Parameter(openvino.Type.f32, openvino.Shape([1, 1]))
        x.get_output_tensor(0).set_names({"x"})
        return _save(openvino.Model([openvino.op.Result(x.output(0))], [x], "empty"), folder)

    def load(self, artifact: Path, threads: int) -> Session:
        """Return a session; raises `StageError` where the processor lacks the precision."""
        import openvino

        core = openvino.Core()
        if self._options.precision == "bf16":
            _insist_on_bf16(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
        with translated("measure"):
            model = core.read_model(str(artifact))
            return OpenVinoSession(core.compile_model(model, "CPU", self._settings(threads)))

    def versions(self) -> Mapping[str, str]:
        """Return the version of OpenVINO."""
        import openvino

        return {"openvino": str(openvino.__version__).partition("-")[0]}

    def script(self, entry: str, compiled: CompiledModel) -> str:
        """Return a script for OpenVINO alone, with the options that were measured."""
        return _SCRIPT.format(
            entry=entry,
            settings=self._settings(compiled.candidate.threads),
            shape=(compiled.candidate.batch, *compiled.input_shape),
            dtype=compiled.input_dtype,
        )

    def _settings(self, threads: int) -> dict[str, Any]:
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": 1,
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "bf16" if self._options.precision == "bf16" else "f32",
            "CPU_DENORMALS_OPTIMIZATION": self._options.flush_denormals,
            # Which cores the process may use is the worker's to say.
            "ENABLE_CPU_PINNING": False,
        }


def _insist_on_bf16(capabilities: Sequence[str]) -> None:
    if "BF16" not in capabilities:
        raise StageError(
            "measure",
            "not available: this processor has no units for bf16",
            expected=f"precision fp32 here (OpenVINO offers {', '.join(capabilities)})",
        )


def _save(model: Any, folder: Path) -> str:
    import openvino

    openvino.save_model(model, str(folder / _ENTRY), compress_to_fp16=False)
    return _ENTRY


@contextlib.contextmanager
def translated(stage: str) -> Iterator[None]:
    """Turn what OpenVINO raises inside the block into a `StageError`."""
    try:
        yield
    except (RuntimeError, TypeError, ValueError) as error:
        raise StageError(stage, _say(error)) from error


def _say(error: Exception) -> str:
    """Return the line of an error that says something; the others say where in its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [x for x in lines if x and not x.startswith(("Exception from", "Check '"))]
    return f"OpenVINO: {(telling or lines)[0][:300]}"


_ENTRY = "model.xml"
_SCRIPT = '''\
"""Run the model of this folder: python run.py [inputs.npy], one batch of shape {shape}."""
import pathlib, sys
import numpy as np, openvino

path = pathlib.Path(__file__).parent / "{entry}"
model = openvino.Core().compile_model(str(path), "CPU", {settings})
x = np.load(sys.argv[1]) if len(sys.argv) > 1 else np.zeros({shape}, "{dtype}")
for y in model(x).values():
    print(y)
'''

PLUGIN: type[Backend] = OpenVinoBackend

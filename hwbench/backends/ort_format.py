"""ONNX Runtime's own file format (``.ort``): the graph is rewritten once, here, and not at start.

It loads faster than an ONNX file, and it is what ONNX Runtime's reduced builds for phones read.
The same kernels run: what a call takes is the same.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwbench.backends import onnxruntime as plain
from hwbench.backends._ort_gpu import translated
from hwbench.protocols import Backend, Session
from hwbench.records import Candidate, CompiledModel, LayerNote, OnnxModel, TargetProfile
from hwbench.registry import is_remote
from hwbench.traits import DTYPES, BackendTraits

TRAITS = BackendTraits(
    requires=plain.TRAITS.requires,
    host_distributions=plain.TRAITS.host_distributions,
    device_distributions=("onnxruntime",),
    board_distributions=("onnxruntime",),
    precisions=plain.TRAITS.precisions,
    memory_variants=plain.TRAITS.memory_variants,
    # The layout of weights depends on how wide the vectors of this machine are.
    compiles="on_target",
    input_dtypes=DTYPES,
)
_ENTRY = "model.ort"


@dataclass(frozen=True, slots=True)
class Options:
    """How sessions are made.

    ``arena``: keep freed memory for the next call (ONNX Runtime's default). ``spin``: with 2
    threads and more, idle threads turn in a loop while they wait. ``flush_denormals``: take
    numbers below 1e-38 for zero.
    """

    arena: bool = True
    spin: bool = False
    flush_denormals: bool = True


class OrtFormatBackend:
    """ONNX Runtime on a CPU, from a file that needs no rewriting."""

    def __init__(self, options: Options) -> None:
        """Keep the options; all but the file is the plain backend's."""
        self._plain = plain.OrtBackend(
            plain.Options(
                arena=options.arena, spin=options.spin, flush_denormals=options.flush_denormals
            )
        )

    def eligible(self, model: OnnxModel) -> tuple[LayerNote, ...]:
        """Return that no layer gains from zeros."""
        return self._plain.eligible(model)

    def compile(
        self, model: OnnxModel, candidate: Candidate, target: TargetProfile, folder: Path
    ) -> str:
        """Rewrite the ONNX file for the target's processor; raises `StageError` if it cannot."""
        return self._written(model.path, target, folder)

    def compile_empty(self, target: TargetProfile, folder: Path) -> str:
        """Write a model of one ``Identity``."""
        source = folder / self._plain.compile_empty(target, folder)
        entry = self._written(source, target, folder)
        source.unlink()
        return entry

    def load(self, artifact: Path, threads: int) -> Session:
        """Return a session with the options that were shipped with the artifact."""
        return self._plain.load(artifact, threads)

    def versions(self) -> Mapping[str, str]:
        """Return the version of ONNX Runtime."""
        return self._plain.versions()

    def script(self, entry: str, compiled: CompiledModel) -> str:
        """Return a script for ONNX Runtime alone, with the options that were measured."""
        return self._plain.script(entry, compiled)

    def _written(self, source: Path, target: TargetProfile, folder: Path) -> str:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(folder / _ENTRY)
        options.add_session_config_entry("session.save_model_format", "ORT")
        # Blocked layouts are those of this machine's vectors: for another one they are left out.
        here = target.isa == platform.machine() and not is_remote(target.connection)
        with translated("compile"):
            ort.InferenceSession(
                str(source),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=[] if here else ["NchwcTransformer"],
            )
        self._plain.write_settings(folder)
        return _ENTRY


PLUGIN: type[Backend] = OrtFormatBackend

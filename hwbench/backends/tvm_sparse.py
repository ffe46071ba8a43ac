"""Sparse kernels of our own in a TVM module: zeros are skipped, whatever their pattern."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hwbench.backends import tvm as dense
from hwbench.protocols import Backend, Session
from hwbench.records import (
    Candidate,
    CompiledModel,
    Layer,
    LayerNote,
    OnnxModel,
    TargetProfile,
)
from hwbench.traits import DTYPES, BackendTraits

TRAITS = BackendTraits(
    requires=dense.TRAITS.requires,
    host_distributions=dense.TRAITS.host_distributions,
    device_distributions=dense.TRAITS.device_distributions,
    board_distributions=dense.TRAITS.board_distributions,
    # Kernels are timed on the machine that compiles, where that is the target.
    compiles="on_target",
    input_dtypes=DTYPES,
)


@dataclass(frozen=True, slots=True)
class Options:
    """What the code is made for, and how long may be spent on choosing kernels.

    ``mcpu``: the processor as LLVM names it (``cortex-a72``); ``host`` is the one we run on.
    ``mtriple``: the system, as in ``aarch64-linux-gnu`` (empty: this one). ``cc``: the compiler
    that links (empty: that of ``mtriple``). ``tune_seconds``: how long the kernels of a network
    may be timed against each other; 0, or another machine than this one: a cost model chooses.
    ``choices``: a JSON file that remembers what was timed, by kind of machine (empty: one in the
    cache of finished work).
    """

    mcpu: str = "host"
    mtriple: str = ""
    cc: str = ""
    tune_seconds: float = 20.0
    choices: str = ""


class SparseBackend:
    """TVM with sparse kernels; what they do not cover is lowered by TVM."""

    def __init__(self, options: Options) -> None:
        """Keep the options; the device half is that of the dense backend."""
        self._options = options
        self._dense = dense.TvmBackend(dense.Options(options.mcpu, options.mtriple, options.cc))
        self._found: dict[str, tuple[LayerNote, ...]] = {}
        self._planned: dict[str, int] = {}

    def eligible(self, model: OnnxModel) -> tuple[LayerNote, ...]:
        """Return, per layer, whether zeros can pay; after `compile`, what was chosen and why."""
        if model.digest in self._found:
            return self._found[model.digest]
        return tuple(_before(layer) for layer in model.layers)

    def compile(
        self, model: OnnxModel, candidate: Candidate, target: TargetProfile, folder: Path
    ) -> str:
        """Compile the ONNX file for a fixed batch into a shared library."""
        from hwbench.backends import _tvm_schedule
        from hwbench.kernels import build, choose, explain, graph, lower, memory, roofs

        options = self._options
        made = build.machine(options.mcpu, options.mtriple, candidate.threads)
        kept = memory.of(made, Path(options.choices) if options.choices else None)
        chooser = choose.Chooser(made, options.tune_seconds, kept)
        found = graph.read(model.path, candidate.batch)
        lowered = lower.lower(found, made, chooser)
        module = build.prepare(lowered.module, _tvm_schedule.schedule, made)
        self._planned[model.digest] = build.planned(module, made.target)
        path = folder / "model.so"
        build.library(module, made, path, options.cc)
        chooser.save()
        times = explain.times(path, found, made.threads) if made.native else {}
        best = roofs.known(made, kept) if made.native else {}
        told = explain.rows(lowered.layers, times, best, chooser.times)
        rows = {row.layer: row for row in told}
        self._found[model.digest] = tuple(
            LayerNote(layer.name, rows[layer.name].sparse, rows[layer.name].text)
            if layer.name in rows
            else _before(layer)
            for layer in model.layers
        )
        return path.name

    def planned_memory(self, model: OnnxModel) -> int | None:
        """Return the bytes of activations that TVM planned for `model` when it compiled it."""
        return self._planned.get(model.digest)

    def compile_empty(self, target: TargetProfile, folder: Path) -> str:
        """Compile the copy of one number."""
        return self._dense.compile_empty(target, folder)

    def load(self, artifact: Path, threads: int) -> Session:
        """Return a session; needs TVM's runtime library only, not its compiler."""
        return self._dense.load(artifact, threads)

    def versions(self) -> Mapping[str, str]:
        """Return the versions of TVM and of its foreign function interface."""
        return self._dense.versions()

    def script(self, entry: str, compiled: CompiledModel) -> str:
        """Return a script for TVM's runtime alone."""
        return self._dense.script(entry, compiled)


def _before(layer: Layer) -> LayerNote:
    from hwbench.kernels import TRY_FROM

    if layer.groups > 1 and layer.groups == layer.shape[0]:
        why = "depthwise: each output reads one channel, there is nothing to skip"
        return LayerNote(layer.name, False, why)
    share = f"{layer.sparsity:.0%} zeros"
    if layer.sparsity < TRY_FROM:
        why = f"{share}: sparse kernels are not tried below {TRY_FROM:.0%}"
        return LayerNote(layer.name, False, why)
    return LayerNote(layer.name, True, f"{share}: skipped, unless timing shows dense is faster")


PLUGIN: type[Backend] = SparseBackend

"""From candidates to artifacts: compressed, exported, compiled, each once and by the executor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from hwbench.errors import HwbenchError, StageError, UserError
from hwbench.executor.base import Executor, Heard, Job, done, silent, then
from hwbench.executor.jobs import (
    Compile,
    CompileEmpty,
    Compress,
    Export,
    Inputs,
    Prunable,
    Score,
    Scored,
    Sense,
    Shift,
    Widths,
    WriteInputs,
)
from hwbench.pipeline import keys
from hwbench.records import (
    Candidate,
    CompiledModel,
    CompressedModel,
    CompressionSpec,
    EmptyModel,
    ExportSpec,
    Failure,
    OnnxModel,
    PluginSpec,
    Sensitivity,
    Shifted,
    ShiftSpec,
    TargetProfile,
    WorkloadSpec,
)
from hwbench.store import Cache, Entry

A = TypeVar("A")
Watcher = Callable[[CompressionSpec, float], None]
"""Called with a set of weights and the share of the work on it that is done."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A candidate that can be measured: its ONNX file and its artifact."""

    candidate: Candidate
    model: OnnxModel
    compiled: CompiledModel
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lost:
    """A candidate that cannot be measured, and why; with its ONNX file, if it came so far."""

    candidate: Candidate
    failure: Failure
    model: OnnxModel | None = None
    notes: tuple[str, ...] = ()


Prepared = Ready | Lost


def nobody(_spec: CompressionSpec, _share: float) -> None:
    """Watch nothing."""


class Line:
    """What can be had of a spec, a file or a candidate: from the cache, or made by the executor.

    Every method returns a future at once; what it needs first is asked for first, and what is
    asked for twice is made once.
    """

    def __init__(self, cache: Cache, executor: Executor, target: TargetProfile) -> None:
        """Keep where finished work lies, who does the rest, and what artifacts are for."""
        self.cache, self.executor, self.target = cache, executor, target
        self._asked: dict[tuple[str, str], Future[Any]] = {}
        self._lock = threading.RLock()

    def at(self, target: TargetProfile) -> Line:
        """Return a line that compiles for another target, with the same cache and executor."""
        return Line(self.cache, self.executor, target)

    def weights(self, spec: CompressionSpec, heard: Heard = silent) -> Future[CompressedModel]:
        """Return a set of weights; the dense model that it is pruned from comes first."""
        entry = keys.weights(spec)
        if spec.is_dense or self.cache.find(entry) is not None:
            return self._ask(entry, lambda: Compress(spec), heard)
        if spec.scope == "sensitivity":
            return then(
                self.weights(spec.dense),
                lambda dense: then(
                    self.sensitivity(spec, heard),
                    lambda tried: self._ask(entry, lambda: Compress(spec, dense, tried), heard),
                ),
            )
        return then(
            self.weights(spec.dense),
            lambda dense: self._ask(entry, lambda: Compress(spec, dense), heard),
        )

    def sensitivity(self, spec: CompressionSpec, heard: Heard = silent) -> Future[Sensitivity]:
        """Return how much each layer can lose alone, by a spec's pattern and criterion."""
        return then(
            self.weights(spec.dense),
            lambda dense: self._ask(
                keys.sensitivity(spec), lambda: Sense(spec.alone, dense), heard
            ),
        )

    def widths(self, spec: CompressionSpec) -> Future[Prunable]:
        """Return the layers that a spec can prune."""
        return self._ask(keys.widths(spec), lambda: Widths(spec))

    def onnx(self, spec: ExportSpec, heard: Heard = silent) -> Future[OnnxModel]:
        """Return the ONNX file of a spec."""
        return then(
            self.weights(spec.compression, heard),
            lambda weights: self._ask(keys.onnx(spec), lambda: Export(spec, weights)),
        )

    def artifact(self, candidate: Candidate, heard: Heard = silent) -> Future[CompiledModel]:
        """Return a candidate's artifact."""
        return then(
            self.onnx(candidate.export, heard), lambda model: self.compiled(candidate, model, heard)
        )

    def compiled(
        self, candidate: Candidate, model: OnnxModel, heard: Heard = silent
    ) -> Future[CompiledModel]:
        """Return the artifact of an ONNX file, from wherever it comes."""
        entry = keys.artifact(candidate, self.target, model)
        return self._ask(entry, lambda: Compile(candidate, model, self.target), heard)

    def compiled_again(self, candidate: Candidate, model: OnnxModel) -> Future[CompiledModel]:
        """Return the artifact of an ONNX file, compiled anew: for the time that it takes."""
        entry = keys.again(candidate, self.target, model)
        self.cache.forget(entry)
        return self._ask(entry, lambda: Compile(candidate, model, self.target))

    def empties(self, models: Iterable[CompiledModel]) -> list[EmptyModel]:
        """Return the empty artifact of every backend among `models`.

        One that cannot be made is left out: then nothing is said of its runtime's own memory.
        """
        backends: list[PluginSpec] = []
        for model in models:
            if model.candidate.backend not in backends:
                backends.append(model.candidate.backend)
        asked = [
            self._ask(keys.empty(b, self.target), lambda b=b: CompileEmpty(b, self.target))  # type: ignore[misc]
            for b in backends
        ]
        return [found for future in asked if (found := _or_none(future)) is not None]

    def inputs(self, workload: WorkloadSpec, split: str) -> Future[Inputs]:
        """Return a split of a workload's data on disk."""
        return self._ask(keys.inputs(workload, split), lambda: WriteInputs(workload, split))

    def score(
        self, workload: WorkloadSpec, model: OnnxModel, outputs: Any, data: Inputs
    ) -> Future[Scored]:
        """Return the score of what an artifact answered (a file) to a split."""
        return self._ask(
            keys.score(workload, model, outputs, data),
            lambda: Score(workload, model, outputs, data.inputs, data.labels),
        )

    def shifted(
        self, workload: WorkloadSpec, model: OnnxModel, dense: OnnxModel, spec: ShiftSpec
    ) -> Future[Shifted]:
        """Return the accuracies of an ONNX file on shifted data, beside its dense model's."""
        entry = keys.shift(workload, model, dense, spec)
        return self._ask(entry, lambda: Shift(workload, model, dense, spec))

    def trained(self, spec: CompressionSpec) -> CompressedModel | None:
        """Return a set of weights if it was made before."""
        return self.cache.find(keys.weights(spec))

    def train(self, specs: Iterable[CompressionSpec], watch: Watcher = nobody) -> None:
        """Make sets of weights, and wait; what came of them, `trained` says."""
        asked = [self.weights(s, lambda share, s=s: watch(s, share)) for s in specs]  # type: ignore[misc]
        for future in asked:
            _or_none(future)

    def made(self, candidates: Sequence[Candidate], watch: Watcher = nobody) -> list[Prepared]:
        """Return candidates ready or lost, in the order given, when the last of them is."""
        asked = []
        for one in candidates:
            spec = one.compression
            asked.append(self.artifact(one, lambda share, spec=spec: watch(spec, share)))  # type: ignore[misc]
        return [self._prepared(c, f) for c, f in zip(candidates, asked, strict=True)]

    def _prepared(self, candidate: Candidate, artifact: Future[CompiledModel]) -> Prepared:
        try:
            compiled = artifact.result()
        except (StageError, UserError) as error:
            weights, model = self.trained(candidate.compression), None
            if weights is not None:
                model = self.cache.find(keys.onnx(candidate.export))
            notes = weights.notes if weights is not None else ()
            return Lost(candidate, Failure.of(error), model, notes)
        model = self.onnx(candidate.export).result()
        return Ready(candidate, model, compiled, self.weights(candidate.compression).result().notes)

    def _ask(self, entry: Entry[A], job: Callable[[], Job[A]], heard: Heard = silent) -> Future[A]:
        """Return the future of an entry: from the cache, of the job under way, or of a new one."""
        name = entry.room, entry.key
        with self._lock:
            if name in self._asked:
                return self._asked[name]
            found = self.cache.find(entry)
            if found is not None:
                return done(found)
            future = self._asked[name] = self.executor.submit(job(), entry, heard)
        future.add_done_callback(lambda _: self._asked.pop(name, None))
        return future


def prepare(line: Line, candidates: Sequence[Candidate], watch: Watcher = nobody) -> list[Prepared]:
    """Return every candidate ready or lost, in the order given.

    Raises `UserError` when the dense model cannot be prepared on any backend, or nothing can be
    pruned: then there is nothing to compare.
    """
    dense = line.made([c for c in candidates if c.compression.is_dense], watch)
    insist(dense, "the dense model cannot be prepared")
    pruned = line.made([c for c in candidates if not c.compression.is_dense], watch)
    if pruned:
        insist(pruned, "no pruned candidate could be prepared")
    order = {candidate.key: index for index, candidate in enumerate(candidates)}
    return sorted([*dense, *pruned], key=lambda p: order[p.candidate.key])


def insist(prepared: Sequence[Prepared], what: str) -> None:
    """Raise `UserError` saying `what` and the first reason, unless one of them is ready."""
    if any(isinstance(p, Ready) for p in prepared):
        return
    first = next(p.failure for p in prepared if isinstance(p, Lost))
    detail = f"\n  {first.detail}" if first.detail else ""
    raise UserError(f"{what}: {first.message}{detail}", where=first.stage)


def ready_of(prepared: Iterable[Prepared]) -> list[Ready]:
    """Return those that can be measured."""
    return [p for p in prepared if isinstance(p, Ready)]


def found(cache: Cache, candidate: Candidate, target: TargetProfile) -> Ready | None:
    """Return a candidate as it was prepared before, or None if it never was."""
    weights = cache.find(keys.weights(candidate.compression))
    model = cache.find(keys.onnx(candidate.export))
    if weights is None or model is None:
        return None
    compiled = cache.find(keys.artifact(candidate, target, model))
    return None if compiled is None else Ready(candidate, model, compiled, weights.notes)


_FIXED = 2.0
"""What export and compile cost, in epochs of fine-tuning; only the progress bar believes it."""


def watcher(candidates: Sequence[Candidate], show: Callable[[float, str], None]) -> Watcher:
    """Return what turns the progress of single weights into that of the whole preparing."""
    specs = {c.compression.key: c.compression for c in candidates}
    cost = {key: spec.epochs + _FIXED for key, spec in specs.items()}
    total = sum(cost.values())
    shares = dict.fromkeys(cost, 0.0)
    lock = threading.Lock()

    def watch(spec: CompressionSpec, share: float) -> None:
        # Every job is listened to by a thread of its own.
        with lock:
            shares[spec.key] = share
            done = sum(cost[key] * part for key, part in shares.items()) / total
            show(min(done, 1.0), spec.label)

    return watch


def _or_none(future: Future[A]) -> A | None:
    try:
        return future.result()
    except HwbenchError:
        return None

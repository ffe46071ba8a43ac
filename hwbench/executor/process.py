"""A hand: a child process that does the host's heavy work, one job at a time.

``python -m hwbench.executor.process`` reads jobs as JSON lines and answers on the file descriptor
that was its standard output; whatever torch or the user's code prints goes to standard error.
It lives in a process of its own so that a crash, a hang or a full memory costs one candidate
and not the run, and ends at once when its parent is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from hwbench import compile as compiling
from hwbench import files
from hwbench.compress import allotted, compress, prunable, sensitivity
from hwbench.errors import StageError, UserError
from hwbench.executor.jobs import (
    JOBS,
    Answer,
    Compile,
    Inputs,
    Job,
    Prepare,
    Prepared,
    Prunable,
    Score,
    Scored,
    Sense,
    Sensed,
    Shift,
    Widths,
    WriteInputs,
)
from hwbench.export import disagreement, export, shifted
from hwbench.protocols import Checked, Split, Workload
from hwbench.records import (
    Candidate,
    CompiledModel,
    CompressedModel,
    CompressionSpec,
    Failure,
    OnnxModel,
    Sensitivity,
    WorkloadSpec,
    from_json,
    to_json,
)
from hwbench.registry import WORKLOADS
from hwbench.store import Cache, compile_key

Progress = Callable[[float], None]


def main() -> None:
    """Answer jobs until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in _lines():
        message = json.loads(line)
        job = from_json(JOBS[message["job"]], message["data"])
        _answer(job, answers)


def _lines() -> Iterable[str]:
    """Yield the lines of standard input; the process ends with it, even in the middle of a job."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in sys.stdin:
            lines.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield lines.get()


def _answer(job: Job, stream: IO[str]) -> None:
    last = 0.0

    def say(**message: Any) -> None:
        stream.write(json.dumps(message) + "\n")

    def progress(share: float) -> None:
        nonlocal last
        if time.monotonic() - last > 0.2 or share >= 1:
            last = time.monotonic()
            say(progress=share)

    try:
        for answer in do(job, progress):
            say(answer=type(answer).__name__, data=to_json(answer))
        say(end=True)
    except UserError as error:
        parts = {"where": error.where, "expected": error.expected, "mend": error.mend}
        say(user_error=error.what, **parts)
    except StageError as error:
        say(failure=to_json(_failure(error)))


def do(job: Job, progress: Progress) -> Iterable[Answer]:
    """Do one job; yield its answers. Raises `UserError` or `StageError`."""
    if isinstance(job, Prepare):
        yield from _prepare(job, progress)
    elif isinstance(job, WriteInputs):
        yield _write_inputs(job)
    elif isinstance(job, Compile):
        made = compiling.compile_model(job.candidate, job.model, job.target, job.folder, progress)
        yield Prepared(job.candidate, job.model, made)
    elif isinstance(job, Widths):
        yield Prunable(prunable(job.spec, _workload(job.spec.workload)))
    elif isinstance(job, Sense):
        cache = Cache(job.cache, job.stamp)
        found = _sensed(cache, job.spec, _workload(job.spec.workload), progress)
        yield Sensed(found, allotted(found, job.spec.sparsity))
    elif isinstance(job, Shift):
        spec = job.spec
        yield shifted(job.model, job.dense, job.workload, spec.severities, spec.images)
    else:
        yield _score(job)


def _prepare(job: Prepare, progress: Progress) -> Iterable[Prepared]:
    cache = Cache(job.cache, job.stamp)
    # Where backends keep what they find out about a machine.
    os.environ["HWBENCH_CACHE"] = str(job.cache)
    workload = _workload(job.candidates[0].compression.workload)
    spec = job.candidates[0].compression
    try:
        compressed = _compressed(cache, spec, workload, progress)
    except StageError as error:
        yield from (Prepared(c, failure=_failure(error)) for c in job.candidates)
        return
    for candidate in job.candidates:
        try:
            model = cache.make(
                "export",
                candidate.export.key,
                OnnxModel,
                lambda folder, c=candidate: export(c.export, compressed, workload, folder),  # type: ignore[misc]
            )
        except StageError as error:
            yield Prepared(candidate, notes=compressed.notes, failure=_failure(error))
            continue
        yield _compiled(cache, job, candidate, model, compressed.notes, progress)


def _compressed(
    cache: Cache, spec: CompressionSpec, workload: Workload, progress: Progress
) -> CompressedModel:
    dense = None if spec.is_dense else _compressed(cache, spec.dense, workload, progress)
    by_trying = spec.scope == "sensitivity"
    tried = _sensed(cache, spec, workload, progress) if by_trying else None

    def build(folder: Path) -> CompressedModel:
        with _turn(cache, spec, progress):
            return compress(spec, workload, dense, folder, progress, tried)

    return cache.make("compress", spec.key, CompressedModel, build)


def _sensed(
    cache: Cache, spec: CompressionSpec, workload: Workload, progress: Progress
) -> Sensitivity:
    dense = _compressed(cache, spec.dense, workload, progress)

    def build(_folder: Path) -> Sensitivity:
        with _turn(cache, spec.alone, progress):
            return sensitivity(spec.alone, workload, dense, progress)

    return cache.make("sensitivity", spec.alone.key, Sensitivity, build)


@contextlib.contextmanager
def _turn(cache: Cache, spec: CompressionSpec, progress: Progress) -> Iterator[None]:
    """Hold the GPU, where the spec's weights are made on one: hands train there one at a time."""
    if spec.training.device == "cpu":
        yield
        return
    # A hand that says nothing counts as hanging.
    with files.locked(cache.root / "gpu.lock", wait=True, meanwhile=lambda: progress(0.0)):
        yield


def _compiled(
    cache: Cache,
    job: Prepare,
    candidate: Candidate,
    model: OnnxModel,
    notes: tuple[str, ...],
    progress: Progress,
) -> Prepared:
    try:
        compiled = cache.make(
            "compile",
            compile_key(candidate, job.target, model),
            CompiledModel,
            lambda folder: compiling.compile_model(candidate, model, job.target, folder, progress),
        )
    except StageError as error:
        return Prepared(candidate, model, None, notes, _failure(error))
    return Prepared(candidate, model, compiled, notes)


def _write_inputs(job: WriteInputs) -> Inputs:
    import numpy as np

    workload = _workload(job.workload)
    split: Split = "test" if job.split == "test" else "validation"
    if split == "validation" and isinstance(workload, Checked):
        # The first that is asked of a workload: its mistakes show before anything is trained.
        workload.check()
    inputs, labels = workload.data(split)
    paths = (job.folder / "inputs.npy", job.folder / "labels.npy")
    for path, tensor in zip(paths, (inputs, labels), strict=True):
        np.save(path, tensor.numpy(), allow_pickle=False)
    return Inputs(
        *paths,
        samples=len(inputs),
        metric=workload.metric,
        unscored=WORKLOADS.traits(job.workload.kind).unscored,
    )


def _score(job: Score) -> Scored:
    import numpy as np

    workload = _workload(job.workload)
    outputs, labels = np.load(job.outputs), np.load(job.labels)
    error = disagreement(job.model, np.load(job.inputs, mmap_mode="r"), outputs)
    score = float(workload.score(outputs, labels))
    if not np.isfinite(score):
        raise StageError("measure", f"the score is {score}", expected="a finite number")
    return Scored(workload.metric, score, len(labels), error)


def _workload(spec: WorkloadSpec) -> Workload:
    return WORKLOADS.create(spec.kind, spec.options)


def _failure(error: StageError) -> Failure:
    detail = "; ".join(p for p in (error.where, error.expected, error.mend) if p)
    return Failure(error.stage, error.what, detail)


if __name__ == "__main__":
    main()

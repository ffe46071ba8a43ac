"""From what artifacts answered to how right it is."""

from __future__ import annotations

import math
from concurrent.futures import Future

from hwbench.errors import StageError, UserError
from hwbench.executor.jobs import Inputs, Scored
from hwbench.pipeline.prepare import Line
from hwbench.records import (
    METRICS,
    Candidate,
    Failure,
    Measurement,
    OnnxModel,
    Source,
    Value,
    WorkloadSpec,
    missing,
)
from hwbench.registry import BACKENDS
from hwbench.traits import AGREES

Judged = tuple[Value, Failure | None]
"""A score, and what is wrong with the artifact if something is."""

_ROUNDS = 0.1
"""How far answers in int8 may be from the file's, relative to the largest of them.

Where two processors add floats in another order, a value on the edge rounds to the next of 256
steps, and what follows with it. A broken artifact is off by more.
"""


def asked(
    line: Line, workload: WorkloadSpec, model: OnnxModel, seen: Measurement, data: Inputs
) -> Future[Scored] | None:
    """Return the future score of what an artifact answered to a split; None if it did not."""
    if seen.outputs is None:
        return None
    return line.score(workload, model, seen.outputs, data)


def score(
    future: Future[Scored] | None,
    seen: Measurement,
    data: Inputs,
    source: Source,
    limit: float = AGREES,
) -> Judged:
    """Return the score that `asked` for, or what there is instead of it."""
    if future is None:
        failure = seen.failures.get("outputs")
        why = failure.message if failure is not None else "it answered nothing"
        return missing(data.metric, source, why), failure
    return accuracy(future, data, source, limit)


def tolerance(candidate: Candidate) -> float:
    """Return how far a candidate's answers may be from its file's: more in short formats."""
    if candidate.export.precision == "int8":
        return _ROUNDS
    backend = candidate.backend
    return BACKENDS.traits(backend.kind).tolerance(backend.options)


def accuracy(future: Future[Scored], data: Inputs, source: Source, limit: float = AGREES) -> Judged:
    """Return the score of a deployed artifact, or the reason why it has none.

    ``limit`` is how far its answers may be from its ONNX file's, relative to the largest.
    """
    try:
        scored = future.result()
    except (StageError, UserError) as error:
        return missing(data.metric, source, error.what), Failure.of(error, "measure")
    if not scored.disagreement <= limit:
        what = (
            f"the deployed artifact is {scored.disagreement:.1e} away from its ONNX file "
            f"(relative; at most {limit:.0e})"
        )
        return missing(scored.metric, source, what), Failure("measure", what)
    if data.unscored:
        return missing(scored.metric, source, f"not available: {data.unscored}"), None
    note = f"{scored.samples} samples"
    spread = None
    if METRICS[scored.metric].unit == "fraction":
        # Wald's interval is enough for a note; paired comparisons do better on the same images.
        spread = 1.96 * math.sqrt(max(scored.score * (1 - scored.score), 0) / scored.samples)
        note += f", sampling error ±{spread * 100:.1f} pp"
    return Value(scored.metric, scored.score, source, note=note, sampling=spread), None

"""What a device is asked: one interleaved session, a duel of few, or outputs alone; each cached."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from hwbench import files, measurement
from hwbench.executor.jobs import Inputs
from hwbench.pipeline import keys, scoring
from hwbench.pipeline.prepare import Ready
from hwbench.pipeline.session import Context
from hwbench.records import Answers, CompiledModel, MeasureSpec, Sitting, Source
from hwbench.store import Cache, Entry


def sit(context: Context, ready: Sequence[Ready], into: str = "") -> Sitting:
    """Return the session in which everything that is ready was measured.

    The dense model on the first backend that compiled it is the reference, or where it fails on
    the device the next one. A session from the cache says in its notes when it was. Raw samples are
    copied to the run's ``samples``, `into` a folder there.
    """
    compiled = [p.compiled for p in ready]
    dense = [c for c in compiled if c.candidate.compression.is_dense]
    inputs = context.split("validation")
    cache, workload = context.cache, context.recipe.workload
    entry = keys.session(context.on, context.spec, compiled, dense[0], workload)
    kept = _kept(cache, entry, context.fresh)
    sitting = kept or cache.make(
        entry,
        lambda folder: measurement.measure(
            compiled,
            dense[0],
            context.target,
            context.spec,
            inputs.inputs,
            folder,
            lambda share, label: context.progress("measure", share, label),
            lambda answers: _worth(context, ready, inputs, answers),
            dense,
            context.line.empties(compiled),
        ),
        resume=True,
    )
    keep_samples(cache.folder(entry), context.run.folder / "samples" / into)
    if not sitting.valid:
        # What cannot be trusted is shown, and measured again by the next run.
        cache.forget(entry)
    if kept is None:
        return sitting
    when = sitting.before.state.get("utc", "an earlier run")
    note = f"nothing changed since {when}: the measurements of then are shown (--fresh repeats)"
    return dataclasses.replace(sitting, notes=(note, *sitting.notes))


def duel(context: Context, batch: Sequence[CompiledModel], spec: MeasureSpec) -> Sitting:
    """Return a session of the latency alone, the first of `batch` beside all the others."""
    inputs = context.split("validation")
    entry = keys.duel(context.on, spec, batch, context.recipe.workload)
    sitting = _kept(context.cache, entry, context.fresh) or context.cache.make(
        entry,
        lambda folder: measurement.duel(
            batch,
            batch[0],
            context.target,
            spec,
            inputs.inputs,
            folder,
            lambda share, label: context.progress("confirm", share, f"head to head: {label}"),
        ),
        resume=True,
    )
    keep_samples(context.cache.folder(entry), context.run.folder / "samples" / "head-to-head")
    return sitting


def outputs(
    cache: Cache,
    on: keys.Device,
    spec: MeasureSpec,
    batch: Sequence[CompiledModel],
    data: Entry[Inputs],
    samples: int | None = None,
) -> Answers:
    """Return what artifacts answer on a device to a split (its first `samples`); failures too.

    `data` must be in the cache. What failed is asked again the next time.
    """
    split = cache.find(data)
    assert split is not None
    entry = keys.outputs(on, spec, batch, data, samples)

    def build(folder: Path) -> Answers:
        given = split.inputs if samples is None else _few(split.inputs, samples, folder)
        return measurement.answers(batch, on.target, spec, given, folder / "answers")

    answers = cache.make(entry, build)
    if any(m.failures for m in answers.measurements):
        cache.forget(entry)
    return answers


def keep_samples(kept: Path, folder: Path) -> None:
    """Copy the raw samples of a session into the run's folder: the cache may be cleaned."""
    for path in sorted(kept.glob("*.jsonl")):
        files.write(folder / path.name, path.read_bytes())


def _kept(cache: Cache, entry: Entry[Sitting], fresh: bool) -> Sitting | None:
    """Return a finished session; afresh it goes (one that was interrupted is gone on with)."""
    kept = cache.find(entry)
    if kept is not None and fresh:
        cache.forget(entry)
        return None
    return kept


def _worth(
    context: Context, ready: Sequence[Ready], data: Inputs, answers: Mapping[str, Path]
) -> Mapping[str, float]:
    """Return the scores of artifacts by what they answered; those that have none are left out."""
    models = {p.compiled.digest: p.model for p in ready}
    workload = context.recipe.workload
    asked = {
        name: context.line.score(workload, models[name], file, data)
        for name, file in answers.items()
    }
    scores = {}
    for name, future in asked.items():
        # Which is broken is said later; here only a score is wanted.
        value, _ = scoring.accuracy(future, data, Source.MEASURED, math.inf)
        if value.value is not None:
            scores[name] = value.value
    return scores


def _few(inputs: Path, samples: int, folder: Path) -> Path:
    """Write the first samples of a split as a file of their own; return its path."""
    import io

    import numpy as np

    content = io.BytesIO()
    np.save(content, np.load(inputs, mmap_mode="r", allow_pickle=False)[:samples])
    path = folder / "few.npy"
    files.write(path, content.getvalue())
    return path

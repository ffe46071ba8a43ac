"""Every candidate under distribution shift, where the recipe asks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hwbench.errors import StageError, UserError
from hwbench.pipeline.prepare import Ready
from hwbench.pipeline.session import Context
from hwbench.records import Result, Shifted, Source, Value, missing

METRIC = "top1_shift"


def shift(
    context: Context, ready: Sequence[Ready], results: Sequence[Result]
) -> tuple[list[Result], tuple[Shifted, ...]]:
    """Return the results with their accuracy under shift, and what else was seen there.

    Each ONNX file is run once, on the host, whatever backends it was compiled for.
    """
    spec, workload = context.recipe.shift, context.recipe.workload
    if spec is None:
        return list(results), ()
    models = {p.candidate.export.key: p for p in ready}
    dense = {
        p.candidate.compression.key: p.model
        for p in models.values()
        if p.candidate.compression.is_dense and p.candidate.export.precision == "fp32"
    }
    asked = {}
    for index, (key, one) in enumerate(models.items()):
        base = dense.get(one.candidate.compression.dense.key)
        if base is not None:
            context.progress("score", index / len(models), f"shift: {one.candidate.label}")
            asked[key] = context.line.shifted(workload, one.model, base, spec)
    found: dict[str, Shifted] = {}
    failed: dict[str, str] = {}
    for key, future in asked.items():
        try:
            # Files of two specs may be the same to the byte.
            found[key] = dataclasses.replace(future.result(), key=key)
        except (StageError, UserError) as error:
            failed[key] = error.what
    return [_with(r, found, failed) for r in results], tuple(found.values())


def _with(result: Result, found: dict[str, Shifted], failed: dict[str, str]) -> Result:
    if result.failure is not None:
        return result
    key = result.candidate.export.key
    seen = found.get(key)
    if seen is None:
        value = missing(METRIC, Source.MEASURED, failed.get(key, "no dense model to hold against"))
    else:
        means = [a for name, a in seen.accuracy.items() if name.isdigit()]
        half = max((p.high - p.low for n, p in seen.paired.items() if n.isdigit()), default=0) / 2
        note = f"mean over corruptions and severities, {seen.images} images, ONNX file on the host"
        value = Value(METRIC, sum(means) / len(means), Source.MEASURED, note=note, sampling=half)
    return dataclasses.replace(result, values={**result.values, METRIC: value})

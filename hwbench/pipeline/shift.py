"""Every candidate under distribution shift, where the recipe asks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from hwbench.errors import StageError
from hwbench.executor.jobs import Prepared, Shift
from hwbench.pipeline.context import Context
from hwbench.records import OnnxModel, Result, Shifted, Source, Value, digest, missing, to_json

METRIC = "top1_shift"


def shift(
    context: Context, ready: Sequence[Prepared], results: Sequence[Result]
) -> tuple[list[Result], tuple[Shifted, ...]]:
    """Return the results with their accuracy under shift, and what else was seen there.

    Each ONNX file is run once, on the host, whatever backends it was compiled for.
    """
    spec = context.recipe.shift
    if spec is None:
        return list(results), ()
    models = {p.candidate.export.key: p for p in ready if p.model is not None}
    dense = {
        p.candidate.compression.key: p.model
        for p in models.values()
        if p.candidate.compression.is_dense and p.candidate.export.precision == "fp32"
    }
    asked = {}
    for index, (key, prepared) in enumerate(models.items()):
        base = dense.get(prepared.candidate.compression.dense.key)
        if base is not None and prepared.model is not None:
            context.show("score", index / len(models), f"shift: {prepared.candidate.label}")
            asked[key] = _ask(context, prepared.model, base)
    found: dict[str, Shifted] = {}
    failed: dict[str, str] = {}
    for key, wait in asked.items():
        try:
            found[key] = wait()
        except StageError as error:
            failed[key] = error.what
    return [_with(r, found, failed) for r in results], tuple(found.values())


def _ask(context: Context, model: OnnxModel, dense: OnnxModel) -> Callable[[], Shifted]:
    spec = context.recipe.shift
    assert spec is not None
    workload = context.recipe.workload
    files = {"of": model.digest, "dense": dense.digest}
    key = digest({**files, "data": to_json(workload), "spec": to_json(spec)})
    done = context.cache.find("shift", key, Shifted)
    if done is not None:
        return lambda: dataclasses.replace(done, key=model.spec.key)
    future = context.crew.submit(Shift(workload, model, dense, spec))

    def wait() -> Shifted:
        answer = next(a for a in future.result() if isinstance(a, Shifted))
        return context.cache.make("shift", key, Shifted, lambda _folder: answer)

    return wait


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

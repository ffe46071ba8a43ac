"""From candidates to artifacts: compress, export and compile, by hands working in parallel."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import as_completed

from hwbench.errors import StageError, UserError
from hwbench.executor.jobs import Prepare, Prepared
from hwbench.pipeline.context import Context
from hwbench.records import (
    Candidate,
    CompiledModel,
    CompressedModel,
    Failure,
    OnnxModel,
    TargetProfile,
)
from hwbench.store import Cache, compile_key

_FIXED = 2.0
"""What export and compile cost, in epochs of fine-tuning; only the progress bar believes it."""


def prepare(context: Context, candidates: Sequence[Candidate]) -> list[Prepared]:
    """Return every candidate prepared or failed, in the order given.

    Raises `UserError` when the dense model cannot be prepared on any backend, or nothing can be
    pruned: then there is nothing to compare.
    """
    dense = made(context, [c for c in candidates if c.compression.is_dense])
    insist(dense, "the dense model cannot be prepared")
    pruned = made(context, [c for c in candidates if not c.compression.is_dense])
    if pruned:
        insist(pruned, "no pruned candidate could be prepared")
    order = {candidate.key: index for index, candidate in enumerate(candidates)}
    return sorted([*dense, *pruned], key=lambda p: order[p.candidate.key])


def made(context: Context, candidates: Sequence[Candidate]) -> list[Prepared]:
    """Return candidates prepared or failed, in no order; those that share weights go together."""
    groups: dict[str, list[Candidate]] = {}
    for candidate in candidates:
        groups.setdefault(candidate.compression.key, []).append(candidate)
    return _all(context, list(groups.values()))


def weights(candidates: Sequence[Candidate]) -> dict[str, float]:
    """Return each training's share of the whole preparing, by compression key."""
    specs = {c.compression.key: c.compression for c in candidates}
    cost = {key: spec.epochs + _FIXED for key, spec in specs.items()}
    total = sum(cost.values())
    return {key: value / total for key, value in cost.items()}


def found(cache: Cache, candidate: Candidate, target: TargetProfile) -> Prepared | None:
    """Return a candidate as it was prepared before, or None if it never was."""
    weights = cache.find("compress", candidate.compression.key, CompressedModel)
    model = cache.find("export", candidate.export.key, OnnxModel)
    if weights is None or model is None:
        return None
    compiled = cache.find("compile", compile_key(candidate, target, model), CompiledModel)
    if compiled is None:
        return None
    return Prepared(candidate, model, compiled, weights.notes)


def _all(context: Context, groups: Sequence[Sequence[Candidate]]) -> list[Prepared]:
    cache = context.cache
    cached = [[found(cache, c, context.target) for c in group] for group in groups]
    prepared = [p for group in cached if all(group) for p in group if p is not None]
    futures = {
        context.crew.submit(Prepare(tuple(g), context.target, cache.root, cache.stamp)): g
        for g, hits in zip(groups, cached, strict=True)
        if not all(hits)
    }
    for future in as_completed(futures):
        group = futures[future]
        try:
            prepared += [a for a in future.result() if isinstance(a, Prepared)]
        except StageError as error:
            failure = Failure(error.stage, error.what, error.where)
            prepared += [Prepared(c, failure=failure) for c in group]
    return prepared


def insist(prepared: Sequence[Prepared], what: str) -> None:
    """Raise `UserError` saying `what` and the first reason, unless one of them was prepared."""
    if any(p.compiled is not None for p in prepared):
        return
    first = next(p.failure for p in prepared if p.failure is not None)
    detail = f"\n  {first.detail}" if first.detail else ""
    raise UserError(f"{what}: {first.message}{detail}", where=first.stage)

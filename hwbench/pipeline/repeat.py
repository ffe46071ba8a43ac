"""How sure the accuracies that decided are: other fine-tuning seeds, and the same images."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench import pareto, stats
from hwbench.pipeline.session import Context
from hwbench.records import (
    Candidate,
    Decision,
    Repeated,
    Result,
)

if TYPE_CHECKING:
    import numpy as np

_CLOSE = 0.02
"""Accuracies nearer than this (2 points) are not told apart by one training."""


def repeat(
    context: Context,
    decision: Decision,
    results: Sequence[Result],
    outputs: Mapping[str, Path | None],
) -> Decision:
    """Return the decision with what other seeds and a paired test say of its accuracies.

    `outputs` are the files with what artifacts answered to the validation split, by artifact.
    The chosen model, if it is pruned, is held against the dense model; and so is its closest
    rival: the fastest that misses the accuracy goal by less than two points, or else the next
    that meets it. Each is fine-tuned anew, ``repeats`` seeds in all. The choice stays: the
    model that is shipped is the one that was measured. Only for ``top1``, where an answer is
    right or wrong.
    """
    by_key = {r.candidate.key: r for r in results}
    chosen = by_key.get(decision.chosen or "")
    data = context.split("validation")
    if chosen is None or data.metric != "top1" or context.recipe.search.repeats < 2:
        return decision
    asked = [r for r in (chosen, rival(chosen, results, context)) if r is not None]
    asked = [r for r in asked if not r.candidate.compression.is_dense and outputs.get(r.artifact)]
    scores = _scores(context, [r.candidate for r in asked])
    found = []
    for result in asked:
        dense = pareto.baseline(result, results)
        if dense is None:
            continue
        rights = [_right(outputs.get(r.artifact), data.labels) for r in (result, dense)]
        if rights[0] is None or rights[1] is None:
            continue
        gap = stats.difference(rights[0], rights[1])
        own = result.number("top1")
        if own is None:
            continue
        found.append(
            Repeated(
                candidate=result.candidate.key,
                scores=(own, *scores.get(result.candidate.key, ())),
                other=dense.candidate.key,
                difference=gap.estimate,
                low=gap.low,
                high=gap.high,
                p=gap.p,
                images=gap.images,
            )
        )
    said = words(found, by_key)
    return dataclasses.replace(
        decision, accuracy=tuple(found), reason=f"{decision.reason} {said}".strip()
    )


def rival(chosen: Result, results: Sequence[Result], context: Context) -> Result | None:
    """Return whom a little luck with the seed would have put in the chosen one's place."""
    best, metric = chosen.number(context.recipe.choose), context.recipe.choose
    own = chosen.number("top1")
    if best is None or own is None:
        return None
    near = []
    for result in results:
        cost, right = result.number(metric), result.number("top1")
        same = result.candidate.compression == chosen.candidate.compression
        if cost is None or right is None or same or result.candidate.compression.is_dense:
            continue
        if abs(right - own) <= _CLOSE and result.failure is None:
            near.append((cost, result.candidate.label, result))
    return min(near, key=lambda row: row[:2])[2] if near else None


def words(found: Sequence[Repeated], results: Mapping[str, Result]) -> str:
    """Return in sentences how sure the accuracies are."""
    said = []
    for one in found:
        label = results[one.candidate].candidate.label
        gap, ends = one.difference * 100, (one.low * 100, one.high * 100)
        line = f"On the same {one.images} images {label} is {gap:+.1f} pp from the dense model "
        line += f"(95 % interval {ends[0]:+.1f} to {ends[1]:+.1f}, McNemar p = {one.p:.2g})"
        if len(one.scores) > 1:
            mean, spread = statistics.mean(one.scores), statistics.stdev(one.scores)
            line += (
                f"; over {len(one.scores)} fine-tuning seeds {mean * 100:.1f} ± "
                f"{spread * 100:.1f} % (mean ± sd)"
            )
        said.append(f"{line}.")
    return " ".join(said)


def _scores(context: Context, candidates: Sequence[Candidate]) -> dict[str, list[float]]:
    """Return the validation scores of each candidate's other fine-tuning seeds."""
    again = {c.key: [_again(c, n) for n in range(1, context.recipe.search.repeats)]
             for c in candidates if c.compression.epochs}  # fmt: skip
    everyone = [c for group in again.values() for c in group]
    for index, candidate in enumerate(everyone):
        context.progress("repeat", index / len(everyone), candidate.label)
    context.line.train(c.compression for c in everyone)
    found: dict[str, list[float]] = {}
    for key, group in again.items():
        for candidate in group:
            healed = context.line.trained(candidate.compression)
            if healed is not None and "finetuned" in healed.scores:
                found.setdefault(key, []).append(healed.scores["finetuned"])
    return found


def _again(candidate: Candidate, number: int) -> Candidate:
    spec = dataclasses.replace(candidate.compression, repeat=number)
    return dataclasses.replace(
        candidate, export=dataclasses.replace(candidate.export, compression=spec)
    )


def _right(outputs: Path | None, labels: Path) -> np.ndarray | None:
    """Return which answers are right, or None where the largest output is no class."""
    import numpy as np

    if outputs is None:
        return None
    answers, wanted = np.load(outputs), np.load(labels)
    if answers.ndim != 2 or wanted.ndim != 1 or len(answers) != len(wanted):
        return None
    right: np.ndarray = answers.argmax(axis=1) == wanted
    return right

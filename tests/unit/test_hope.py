"""Whom to train next and when to stop, by hand-made results."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from hwbench.records import (
    CompressedModel,
    CompressionSpec,
    Goal,
    MeasureSpec,
    Result,
    Source,
    TrainSpec,
    Value,
)
from hwbench.search import promise, promotion
from hwbench.search.promise import HEALS, LEAST
from tests import synthetic

RECIPE = synthetic.recipe(objectives=("top1", "latency_p50"), goals=())


def row(sparsity: float, top1: float, latency: float) -> Result:
    who = synthetic.candidate("channel" if sparsity else "dense", sparsity)
    if sparsity:
        who = promotion.changed(who, recovery=TrainSpec(epochs=3, lr=0.03))
    numbers = {
        "top1": Value("top1", top1, Source.MEASURED),
        "latency_p50": synthetic.value("latency_p50", latency, 0.01),
    }
    return synthetic.result(who, numbers)


DENSE = row(0.0, 0.9, 10e-6)


def test_the_best_healing_seen_is_hoped_for_all_and_a_scratch_teaches_nothing() -> None:
    assert promise.power([]) == promise.power([(1.2, 0.9)]) == HEALS
    assert promise.power([(4.0, 2.0), (4.0, 1.0)]) == 0.0
    assert promise.power([(4.0, 2.0), (4.0, 5.0)]) == pytest.approx(0.5)
    assert promise.power([(4.0, 5.0)]) == 1.0


def test_an_error_is_hoped_to_shrink_to_a_little_less_than_the_dense_models() -> None:
    poor, spare = row(0.5, 0.5, 5e-6), 0.05 * 0.1
    whole = promise.hoped(poor, DENSE, RECIPE, 0.0).number("top1")
    half = promise.hoped(poor, DENSE, RECIPE, 0.5).number("top1")
    assert whole == pytest.approx(0.9 + spare)
    assert half == pytest.approx(1 - (math.sqrt(0.501 / 0.101) * 0.101 - 0.001) + spare)
    assert promise.hoped(poor, DENSE, RECIPE, 1.0).number("top1") == pytest.approx(0.5 + spare)
    better = row(0.1, 0.95, 9e-6)
    assert promise.hoped(better, DENSE, RECIPE, 0.5).number("top1") == pytest.approx(0.95 + spare)


def test_the_largest_gain_comes_first_and_little_gains_are_not_worth_a_training() -> None:
    large, small = row(0.75, 0.88, 3e-6), row(0.5, 0.88, 6e-6)
    assert promise.most_hopeful([DENSE], [small, large], DENSE, RECIPE) == large.candidate.key
    scrap = row(0.6, 0.8801, 2.99e-6)
    # The goal keeps the best in `choose` out of it: here it is the volume that decides.
    goals = dataclasses.replace(RECIPE, goals=(Goal("top1", "max_drop", 0.001),))
    assert promise.left([DENSE, large], [scrap], DENSE, goals) < LEAST
    assert promise.most_hopeful([DENSE, large], [scrap], DENSE, goals) is None


def test_who_would_be_shipped_is_trained_however_little_it_adds() -> None:
    goals = dataclasses.replace(RECIPE, goals=(Goal("top1", "max_drop", 0.01),))
    large, fit = row(0.75, 0.85, 3e-6), row(0.1, 0.895, 9.9e-6)
    assert promise.left([DENSE, large], [fit], DENSE, goals) < LEAST
    assert promise.most_hopeful([DENSE, large], [fit], DENSE, goals) == fit.candidate.key


class Kitchen:
    """Trains in no time what it knows the score of; counts what it was asked for."""

    executor = SimpleNamespace(size=1)

    def __init__(self, scores: dict[str, float]) -> None:
        self.scores, self.asked = scores, list[str]()

    def train(self, specs: Iterable[CompressionSpec]) -> None:
        self.asked += [spec.key for spec in specs]

    def trained(self, spec: CompressionSpec) -> CompressedModel | None:
        if spec.key not in self.asked or spec.key not in self.scores:
            return None
        return CompressedModel(spec, Path(), {"finetuned": self.scores[spec.key]}, 0.0, ())


def climbed(
    scores: dict[float, float], rows: list[Result], **recipe: Any
) -> tuple[dict[str, str], list[str]]:
    by_key = {r.candidate.compression.key: scores[r.candidate.compression.sparsity] for r in rows
              if r.candidate.compression.sparsity in scores}  # fmt: skip
    kitchen = Kitchen(by_key)
    context: Any = SimpleNamespace(
        recipe=dataclasses.replace(RECIPE, measure=MeasureSpec(), **recipe),
        line=kitchen,
    )
    return promotion.climb(context, [DENSE], rows), kitchen.asked


def test_what_is_learnt_from_the_first_ends_the_climb() -> None:
    # Untrained all are poor; the first that is trained hardly heals, so the rest promise nothing.
    poor = [row(s, 0.5, t) for s, t in ((0.75, 3e-6), (0.7, 3.2e-6), (0.65, 3.4e-6))]
    goal = (Goal("top1", "max_drop", 0.001),)
    out, asked = climbed({0.75: 0.52, 0.7: 0.52, 0.65: 0.52}, poor, goals=goal)
    assert asked == [poor[0].candidate.compression.key]
    assert set(out) == {r.candidate.key for r in poor[1:]}
    assert all(why.startswith("promises too little: the 2 that were left") for why in out.values())


def test_who_heals_well_leaves_hope_for_others() -> None:
    poor = [row(0.75, 0.5, 3e-6), row(0.5, 0.6, 6e-6)]
    goal = (Goal("top1", "max_drop", 0.001),)
    out, asked = climbed({0.75: 0.85, 0.5: 0.89}, poor, goals=goal)
    assert out == {}
    assert asked == [r.candidate.compression.key for r in poor]


def test_a_long_recovery_is_tried_briefly_first() -> None:
    recovery, brief = TrainSpec(epochs=16, lr=0.03), TrainSpec(epochs=2, lr=0.03)
    rows = []
    for one in (row(0.75, 0.5, 3e-6), row(0.5, 0.5, 4e-6)):
        rows.append(
            dataclasses.replace(one, candidate=promotion.changed(one.candidate, recovery=recovery))
        )
    tried = {promotion.changed(r.candidate, recovery=brief).compression.key: r for r in rows}
    kitchen = Kitchen(dict(zip(tried, (0.85, 0.5), strict=True)))
    recipe = dataclasses.replace(RECIPE, recovery=recovery)
    context: Any = SimpleNamespace(recipe=recipe, line=kitchen)
    out = promotion.climb(context, [DENSE], rows)
    beaten = rows[1].candidate.key
    assert set(out) == {beaten}
    assert out[beaten].endswith("(after 2 of 16 epochs)")
    assert kitchen.asked == [*tried, rows[0].candidate.compression.key], "the beaten one rests"


def test_a_training_that_fails_ends_nothing() -> None:
    poor = [row(0.75, 0.5, 3e-6), row(0.5, 0.6, 6e-6)]
    out, asked = climbed({0.5: 0.89}, poor)
    assert out == {}
    assert len(asked) == 2

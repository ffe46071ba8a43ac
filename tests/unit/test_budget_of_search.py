"""Trials and minutes: when a search stops asking."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from hwbench.records import Point, Tried
from hwbench.samplers.grid import GridSampler, Options
from hwbench.search import loop


def batches(
    monkeypatch: pytest.MonkeyPatch,
    size: int,
    space: int,
    each: float = 0.0,
    spent: float = 0.0,
    **budget: Any,
) -> list[list[int]]:
    """Walk a space whose batches take `each` seconds, `spent` before an interruption."""
    now = [1000.0]
    monkeypatch.setattr(loop, "time", SimpleNamespace(monotonic=lambda: now[0]))
    walk: Any = SimpleNamespace(began=now[0] - spent, tried={})
    asked = SimpleNamespace(trials=None, minutes=None)
    vars(asked).update(budget)
    context: Any = SimpleNamespace(recipe=SimpleNamespace(search=asked))
    sampler = GridSampler(Options())
    sampler.begin([Point({"n": str(i)}) for i in range(space)], 1)
    found = []
    for batch in loop._batches(context, walk, sampler, size):
        found.append(batch)
        now[0] += each
        walk.tried |= {str(i): Tried(str(i), "", 0.0, {}, "untrained") for i in batch}
    return found


def test_without_a_budget_all_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches(monkeypatch, 8, 20) == [[*range(8)], [*range(8, 16)], [*range(16, 20)]]


def test_trials_are_counted_to_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches(monkeypatch, 8, 20, trials=11) == [[*range(8)], [8, 9, 10]]
    assert batches(monkeypatch, 8, 5, trials=11) == [[*range(5)]]


def test_minutes_end_the_walk_before_the_next_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches(monkeypatch, 8, 30, each=50.0, minutes=1.5) == [[*range(8)], [*range(8, 16)]]
    # However little time there is, something is tried.
    assert batches(monkeypatch, 8, 30, each=50.0, minutes=0.01) == [[*range(8)]]


def test_minutes_of_an_interrupted_run_count(monkeypatch: pytest.MonkeyPatch) -> None:
    assert batches(monkeypatch, 8, 30, each=50.0, spent=60.0, minutes=1.5) == [[*range(8)]]

"""When a sitting knows enough, and what it says of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from hwbench.measurement import precision
from hwbench.records import Process
from tests import noise

CALM = noise.Noise(process=0.003, drift=0.01)


def measured(
    times: Sequence[float], generations: int = 6, shape: noise.Noise = CALM
) -> list[Process]:
    """R, S and candidates ``a2``, ``a3`` ... that take `times` milliseconds."""
    rng = np.random.default_rng(5)
    rows = noise.sitting(
        rng, [1e-3, 1e-3, *(t * 1e-3 for t in times)], generations=generations, noise=shape
    )
    shadow = [dataclasses.replace(p, role="shadow", artifact="a0") for p in rows[1]]
    return [p for row in (rows[0], shadow, *rows[2:]) for p in row]


def test_it_is_settled_when_everyone_is_known_and_not_before_the_fifth_generation() -> None:
    processes = measured([0.8, 1.3])
    assert precision.settled(processes, (), 0.02)
    assert not precision.settled(processes, (), 1e-5)
    early = [p for p in processes if p.generation < precision.SETTLED - 1]
    assert not precision.settled(early, (), 0.5)


@pytest.mark.parametrize("name", ["a2", "a3"])
def test_who_is_out_holds_nobody_up_and_who_never_met_the_reference_does(name: str) -> None:
    processes = measured([0.8, 1.3])
    lost = [
        dataclasses.replace(p, visits=()) if p.artifact == name and p.role == "candidate" else p
        for p in processes
    ]
    assert not precision.settled(lost, (), 0.05)
    assert precision.settled(lost, {name}, 0.05)
    # Dropped after two generations, as one that is worse than another in everything.
    dropped = [p for p in processes if p.artifact != name or p.generation < 2]
    assert not precision.settled(dropped, (), 0.05)
    assert precision.settled(dropped, {name}, 0.05)


def test_the_note_counts_those_who_were_measured_throughout() -> None:
    processes = measured([0.8, 1.3, 1.1])
    dropped = [p for p in processes if p.artifact != "a4" or p.generation < 2]
    said = precision.words(dropped)
    assert said.startswith("precision after 6 generations: 2 candidates known to ±0.")
    assert "2 within 1%" in said
    assert precision.words([p for p in processes if p.role != "candidate"]) == ""


def test_the_effect_that_is_not_seen_is_that_of_the_noisiest() -> None:
    processes = measured([0.8, 1.3])
    both = precision.worst_effect(processes, {"a2", "a3"})
    each = [precision.worst_effect(processes, {name}) for name in ("a2", "a3")]
    assert both is not None
    assert 0.001 < both < 0.05
    assert all(effect is not None for effect in each)
    assert precision.worst_effect(processes, ()) is None

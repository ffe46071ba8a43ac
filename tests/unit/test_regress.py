"""Tonight against before: one session, two sessions, many nights, and worlds of known truth."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from hwbench.instruments import nights
from hwbench.instruments.nights import SMALL, World, live
from hwbench.records import METRICS, Change, Floor, Status
from hwbench.regress import (
    FLOORS,
    change_points,
    conclude,
    creep,
    crept,
    judge,
    noise,
    paired_chance,
    pooled,
)

TIME = FLOORS["latency_p50"]


def change(ratio: float, half: float, before: float = 1e-3) -> Change:
    return Change(before, before * ratio, ratio, ratio - half, ratio + half)


@pytest.mark.parametrize(
    ("ratio", "half", "said"),
    [
        (1.05, 0.01, Status.WORSE),
        (1.05, 0.045, Status.FINE),  # slower for sure, but not by more than the floor for sure
        (1.005, 0.001, Status.FINE),
        (0.95, 0.01, Status.BETTER),
        (0.95, 0.06, Status.FINE),
    ],
)
def test_the_whole_interval_must_lie_beyond_the_floor(
    ratio: float, half: float, said: Status
) -> None:
    assert judge("latency_p50", change(ratio, half), TIME) is said


def test_a_number_that_is_gone_is_lost_and_one_that_never_was_is_missing() -> None:
    assert judge("latency_p50", Change(1e-3, None), TIME) is Status.LOST
    assert judge("latency_p50", Change(None, 1e-3), TIME) is Status.MISSING
    assert judge("energy", Change(1e-3, 1e-3, None), FLOORS["energy"]) is Status.MISSING


def test_both_the_share_and_the_amount_must_be_exceeded() -> None:
    floor = Floor(0.05, 1000.0)
    assert judge("peak_memory", Change(5000.0, 5900.0, 1.18), floor) is Status.FINE
    assert judge("peak_memory", Change(5000.0, 6100.0, 1.22), floor) is Status.WORSE
    assert judge("peak_memory", Change(1e6, 1.04e6, 1.04), floor) is Status.FINE


def test_what_scatters_from_night_to_night_needs_more() -> None:
    change = Change(1.0, 1.2, 1.2)
    assert judge("energy", change, FLOORS["energy"]) is Status.WORSE
    assert judge("energy", change, FLOORS["energy"], scatter=0.06) is Status.FINE


@pytest.mark.parametrize(
    ("now", "chance", "said"),
    [
        (0.85, None, Status.WORSE),
        (0.85, 0.2, Status.FINE),
        (0.85, 0.001, Status.WORSE),
        (0.895, 0.001, Status.FINE),
        (0.95, 0.001, Status.BETTER),
    ],
)
def test_accuracy_falls_by_points_and_not_by_chance(
    now: float, chance: float | None, said: Status
) -> None:
    assert judge("top1", Change(0.9, now, now / 0.9, chance=chance), FLOORS["top1"]) is said


def test_an_alarm_needs_a_second_session_that_agrees() -> None:
    assert conclude(Status.WORSE, Status.WORSE) is Status.WORSE
    assert conclude(Status.LOST, Status.LOST) is Status.LOST
    assert conclude(Status.WORSE, Status.FINE) is Status.UNCONFIRMED
    assert conclude(Status.WORSE, None) is Status.UNCONFIRMED
    assert conclude(Status.FINE, None) is Status.FINE


def test_mcnemar_by_hand() -> None:
    assert paired_chance(0, 0) == 1.0
    assert paired_chance(8, 0) == pytest.approx(2 * 0.5**8)
    assert paired_chance(5, 5) == 1.0


def test_every_floor_is_of_a_metric() -> None:
    assert set(FLOORS) <= set(METRICS)
    wanted = {"latency_p50", "peak_memory", "energy", "artifact_bytes", "compile_time", "load_time"}
    assert wanted | {"top1"} <= set(FLOORS)


# --------------------------------------------------------------------------------------------
# many nights


def rows(levels: list[float], spread: float = 0.004) -> list[float]:
    rng = np.random.default_rng(3)
    return [float(level * np.exp(rng.normal(0, spread))) for level in levels]


def test_a_step_is_found_where_it_is() -> None:
    series = rows([1.0] * 12 + [1.03] * 8)
    assert change_points(series) == (12,)
    found = creep(series, [0.01] * 20, 0.01)
    assert found is not None
    assert found.since == 12
    assert found.low < 1.03 < found.high


def test_a_quiet_series_has_no_change_and_a_fall_is_no_alarm() -> None:
    assert change_points(rows([1.0] * 30)) == ()
    assert creep(rows([1.0] * 30), [0.01] * 30, 0.01) is None
    assert creep(rows([1.0] * 15 + [0.95] * 15), [0.01] * 30, 0.01) is None


def test_too_short_a_series_says_nothing() -> None:
    assert creep([1.05] * 3, [0.01] * 3, 0.01) is None
    assert change_points([1.0] * 7) == ()
    assert noise([1.0, 1.1]) is None


def test_a_series_that_was_off_from_the_first_night_on_counts_from_there() -> None:
    found = creep(rows([1.02] * 8), [0.01] * 8, 0.01)
    assert found is not None
    assert found.since == 0


def test_a_night_that_was_not_measured_keeps_its_place() -> None:
    series = [Change(ratio=r) for r in rows([1.0] * 10 + [1.05] * 6)]
    series.insert(5, Change())
    found = crept(series, 0.01)
    assert found is not None
    assert found.since == 11


def test_two_sessions_are_pooled_on_the_logarithm() -> None:
    both = pooled(change(1.02, 0.01), change(1.04, 0.01))
    assert both.ratio == pytest.approx((1.02 * 1.04) ** 0.5)
    assert both.low is not None
    assert both.low > 1.02
    assert pooled(Change(), None) == Change()
    assert pooled(Change(1.0, 1.1, 1.1), None).low is None


# --------------------------------------------------------------------------------------------
# worlds of known truth


def test_a_small_simulation_holds_every_bar() -> None:
    size = dataclasses.replace(SMALL, changes=6, series=20)
    found = list(nights.bars(size))
    assert len(found) == 8
    assert all(bar.ok for bar in found), [bar for bar in found if not bar.ok]


def test_a_new_fingerprint_is_a_new_segment_and_no_alarm() -> None:
    told = live(World("fingerprint", series=4, nights=12), seed=1)
    assert told.segments == 2
    assert told.alarms == ()


def test_the_simulator_can_fail() -> None:
    """A judge who cries wolf is told apart from one who does not."""
    world = World("step", 0.05, series=4, nights=12)
    told = dataclasses.replace(live(world, 0), alarms=((3, 2, Status.WORSE),))
    assert told.false == 1
    assert told.after is None
    assert nights._quiet("none", [told]).ok
    worse = dataclasses.replace(told, alarms=((3, 2, Status.WORSE), (4, 1, Status.CREEP)))
    assert not nights._quiet("none", [worse]).ok

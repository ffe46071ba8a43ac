from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

from hwbench.config.measure import POLICIES
from hwbench.instruments import selftest
from hwbench.instruments.selftest import Row
from hwbench.measurement.trial import Trial
from hwbench.records import Failure
from tests import noise

CALM = noise.Noise(process=0.003, drift=0.01)


def trial(
    times: Sequence[float], names: Sequence[str], seed: int = 0, generations: int = 5
) -> Trial:
    """R and S take a millisecond, the doubles `times` times as long."""
    rng = np.random.default_rng(seed)
    all_times = [1e-3, 1e-3, *(1e-3 * t for t in times)]
    r, s, *rest = noise.sitting(rng, all_times, generations=generations, rounds=25, noise=CALM)
    doubles = {n: tuple(p) for n, p in zip(names, rest, strict=True)}
    return Trial(tuple(r), tuple(s), doubles, {}, 2.0)


@pytest.fixture(scope="module")
def same() -> Trial:
    return trial([1.0] * 6, [f"same {n}" for n in range(6)])


def test_twins_are_not_told_apart_and_strangers_are(same: Trial) -> None:
    row = selftest.judge_same([same, same])
    assert row.tries == 14  # S is a twin as well
    assert row.ok
    assert row.found.startswith("0 false alarms, 14 equivalent")
    stranger = trial([1.0, 1.08], ["same 0", "same 1"])
    assert selftest.judge_same([stranger]).ok is False


def test_a_slow_down_is_found_and_its_size_told() -> None:
    slow = [trial([1.03] * 3, ["slow 0", "slow 1", "slow 2"], seed) for seed in range(4)]
    row = selftest.judge_slower(slow, 0.03)
    assert (row.tries, row.ok, row.seconds) == (12, True, 8.0)
    assert "found 12 of 12" in row.found
    assert "0.7 s a pair" in row.found
    estimate = float(row.found.split("estimated ")[1].split("%")[0])
    assert estimate == pytest.approx(3.0, abs=0.5)
    missed = [trial([1.0], ["slow"], seed) for seed in range(4)]
    assert selftest.judge_slower(missed, 0.03).ok is False
    assert selftest.judge_slower(missed, 0.01).ok is None  # to know, not to pass


def test_a_drift_of_everything_cancels(same: Trial) -> None:
    drifted = selftest.drift(same)
    before, after = same.reference[0].visits, drifted.reference[0].visits
    assert after[0].wall == before[0].wall
    assert after[-1].wall == tuple(w * 1.2 for w in before[-1].wall)
    row = selftest.judge_planted(same, drifted, "drift", 0.005)
    assert row.ok, row


def test_the_offset_of_one_process_is_diluted_and_known(same: Trial) -> None:
    moved = selftest.offset(same)
    row = selftest.judge_planted(same, moved, "offset", 0.02 / 5 + 0.002)
    assert row.ok, row
    name = "same 0"
    shift = moved.interval(name).estimate / same.interval(name).estimate - 1
    assert shift == pytest.approx(0.02 / 5, rel=0.02)


def test_an_order_effect_cancels_in_random_order_only(same: Trial) -> None:
    assert selftest.judge_planted(same, selftest.order(same), "order", 0.01).ok
    # Were R always the first, all others would look 5 % faster.
    fixed = selftest.plant(same, lambda n, _p, _v: 1.05 if n == "reference" else 1.0)
    assert selftest.judge_planted(same, fixed, "fixed order", 0.01).ok is False


def test_a_killed_worker_must_be_recorded_and_the_others_go_on(same: Trial) -> None:
    killed = Failure("measure", "its process was ended by SIGKILL (visit)")
    assert selftest.judge_killed(dataclasses.replace(same, failures={"killed": killed})).ok
    assert selftest.judge_killed(same).ok is False
    all_gone = dataclasses.replace(same, failures={"killed": killed, "same 0": killed})
    assert selftest.judge_killed(all_gone).ok is False


def test_the_overhead_is_judged_by_both_bounds() -> None:
    assert selftest.judge_overhead([1e-7], [1e-6], 1e-3).ok
    assert selftest.judge_overhead([1.1e-6], [1e-6], 1.0).ok is False
    assert selftest.judge_overhead([1e-7], [1e-6], 5e-5).ok is False  # 0.2 % of 50 µs


def test_only_a_wrong_answer_fails() -> None:
    right, known = Row("q", 1, "", "", True), Row("q", 1, "", "", None)
    assert not selftest.failed([right, known])
    assert selftest.failed([right, dataclasses.replace(known, ok=False)])


def test_many_candidates_are_to_be_known_to_one_percent_in_the_time() -> None:
    names = ["small", "small again", "large", "large again"]
    found = trial([1.0, 1.0, 1.4, 1.4], names, generations=10)
    row = selftest.judge_many(found)
    assert row.ok, row
    assert "4 candidates known to ±" in row.found
    assert "2 pairs of twins at most 0." in row.found
    strangers = trial([1.0, 1.0, 1.4, 1.5], names, generations=10)
    assert selftest.judge_many(strangers).ok is False
    assert selftest.judge_many(dataclasses.replace(found, seconds=361.0)).ok is False
    r, s, one = noise.sitting(np.random.default_rng(1), [1e-3] * 3)
    wide = Trial(tuple(r), tuple(s), {"one 0": tuple(one)}, {}, 2.0)
    assert selftest.judge_many(wide).ok is False


def test_the_policy_it_tries_is_the_one_that_users_get() -> None:
    standard = dataclasses.replace(POLICIES["standard"], max_time=selftest.STANDARD.max_time)
    assert standard == selftest.STANDARD

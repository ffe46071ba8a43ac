"""Conclusions: by hand, by brute force, and calibrated on simulated sittings."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from hwbench import stats
from hwbench.records import Process
from hwbench.stats import Interval, Look, Verdict
from tests.noise import Noise, sitting


def interval(low: float, high: float) -> Interval:
    return Interval(math.sqrt(low * high), low, high, 3, 36)


def estimated(ratio: float, error: float, freedom: float = 8.0) -> Interval:
    return Interval(ratio, 0.0, math.inf, 3, 36, error, freedom).at(0.95)


class TestVerdict:
    @pytest.mark.parametrize(
        ("low", "high", "margin", "expected"),
        [
            (0.90, 0.95, 0.02, Verdict.FASTER),
            (0.95, 0.999, 0.02, Verdict.FASTER),
            (1.05, 1.08, 0.02, Verdict.SLOWER),
            (0.99, 1.01, 0.02, Verdict.EQUIVALENT),
            (1.001, 1.015, 0.02, Verdict.EQUIVALENT),
            (0.97, 1.01, 0.02, Verdict.AMBIGUOUS),
            (0.999, 1.001, 0.0, Verdict.AMBIGUOUS),
            (1.0, 1.0, 0.0, Verdict.EQUIVALENT),
            (0.0, math.inf, 0.02, Verdict.AMBIGUOUS),
        ],
    )
    def test_by_hand(self, low: float, high: float, margin: float, expected: Verdict) -> None:
        assert stats.verdict(Interval(1.0, low, high, 3, 36), margin) is expected

    @given(st.floats(0.5, 2.0), st.floats(1.0, 1.5), st.floats(0.0, 0.2))
    def test_turning_the_ratio_around_turns_the_verdict(
        self, middle: float, by: float, margin: float
    ) -> None:
        found = stats.verdict(interval(middle / by, middle * by), margin)
        back = stats.verdict(interval(1 / (middle * by), by / middle), margin)
        turned = {Verdict.FASTER: Verdict.SLOWER, Verdict.SLOWER: Verdict.FASTER}
        edge = min(abs(math.log(x)) for x in (middle / by, middle * by))
        if edge > 1e-9 and abs(edge - math.log1p(margin)) > 1e-9:  # not on the very edge
            assert back is turned.get(found, found)

    def test_beyond_asks_the_whole_interval(self) -> None:
        assert stats.beyond(interval(1.03, 1.06), 0.02)
        assert not stats.beyond(interval(1.01, 1.06), 0.02)

    def test_holm_takes_a_single_lucky_one_of_many_back(self) -> None:
        t = float(scipy.stats.t.ppf(1 - 0.004, 8))  # p = 0.008: enough alone, not among 30
        lucky = {"lucky": estimated(math.exp(-0.01 * t), 0.01)}
        others = {f"n{i}": estimated(1.0, 0.01) for i in range(29)}
        assert stats.verdicts(lucky, 0.0)["lucky"] is Verdict.FASTER
        assert stats.verdicts(lucky | others, 0.0)["lucky"] is Verdict.AMBIGUOUS

    def test_without_an_error_nothing_is_claimed(self) -> None:
        unbounded = Interval(0.5, 0.0, math.inf, 1, 1)
        assert stats.verdicts({"a": unbounded}, 0.02) == {"a": Verdict.AMBIGUOUS}


class TestPValues:
    @given(st.floats(0.8, 1.25), st.floats(1e-3, 0.1), st.floats(1.0, 40.0))
    def test_is_the_dual_of_the_interval(self, ratio: float, error: float, df: float) -> None:
        p = stats.p_value(estimated(ratio, error, df))
        assert p == pytest.approx(2 * scipy.stats.t.sf(abs(math.log(ratio)) / error, df), abs=1e-12)
        if 1e-6 < p < 0.999:
            bounds = estimated(ratio, error, df).at(1.0 - p)
            assert min(abs(bounds.low - 1), abs(bounds.high - 1)) < 1e-4

    def test_the_extremes(self) -> None:
        assert stats.p_value(Interval(0.5, 0.0, math.inf, 1, 1)) == 1.0
        assert stats.p_value(Interval(1.0, 1.0, 1.0, 3, 36, 0.0, 2.0)) == 1.0
        assert stats.p_value(Interval(1.1, 1.1, 1.1, 3, 36, 0.0, 2.0)) == 0.0
        normal = stats.p_value(Interval(math.exp(0.0196), 1.0, 2.0, 3, 36, 0.01, math.inf))
        assert normal == pytest.approx(0.05, abs=1e-3)

    @given(st.lists(st.floats(0.0, 1.0), max_size=12))
    def test_holm_by_definition(self, ps: list[float]) -> None:
        adjusted = stats.holm(ps)
        order = sorted(range(len(ps)), key=ps.__getitem__)
        for rank, index in enumerate(order):
            steps = [min(1.0, ps[order[k]] * (len(ps) - k)) for k in range(rank + 1)]
            assert adjusted[index] == pytest.approx(max(steps))

    def test_holm_on_a_textbook_example(self) -> None:
        assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))


class TestLook:
    wide, narrow = interval(0.9, 1.1), interval(0.995, 1.005)

    def test_precise_wherever_the_estimate_lies(self) -> None:
        assert stats.look(self.narrow, None, 0.01) is Look.PRECISE
        assert stats.look(interval(1.5, 1.51), self.wide, 0.01) is Look.PRECISE

    def test_a_clear_difference_does_not_stop_it(self) -> None:
        assert stats.look(interval(1.5, 1.7), None, 0.01) is Look.GO_ON

    def test_futile_when_more_rounds_stop_helping(self) -> None:
        assert stats.look(interval(0.902, 1.1), self.wide, 0.01) is Look.FUTILE
        assert stats.look(interval(0.95, 1.05), self.wide, 0.01) is Look.GO_ON

    def test_after_an_unbounded_look_it_goes_on(self) -> None:
        unbounded = Interval(1.0, 0.0, math.inf, 1, 1)
        assert stats.look(unbounded, unbounded, 0.01) is Look.GO_ON

    def test_eliminated_comes_first(self) -> None:
        assert stats.look(self.narrow, None, 0.01, eliminated=True) is Look.ELIMINATED


class TestEliminated:
    def test_worse_everywhere_is_out_and_worse_somewhere_is_not(self) -> None:
        bounds = {
            "good": {"time": interval(0.9, 0.95), "score": interval(0.80, 0.81)},
            "bad": {"time": interval(1.0, 1.1), "score": interval(0.70, 0.72)},
            "accurate": {"time": interval(1.0, 1.1), "score": interval(0.9, 0.91)},
            "close": {"time": interval(0.94, 1.1), "score": interval(0.70, 0.72)},
            "unknown": {"time": interval(5.0, 6.0)},
        }
        found = stats.eliminated(bounds, {"time": "lower", "score": "higher"})
        assert found == {"bad": "good"}

    def test_no_axes_no_losers(self) -> None:
        assert stats.eliminated({"a": {}, "b": {}}, {}) == {}


class TestFrontProbability:
    def test_without_noise_it_is_the_front(self) -> None:
        rng = np.random.default_rng(0)
        points = rng.integers(1, 8, (12, 2)).astype(float)
        values = {str(i): {"time": [p[0]], "score": [p[1]]} for i, p in enumerate(points)}
        found = stats.front_probability(values, {"time": "lower", "score": "higher"}, rng, draws=3)
        for i, mine in enumerate(points):
            beaten = any(
                t[0] <= mine[0] and t[1] >= mine[1] and (t[0] < mine[0] or t[1] > mine[1])
                for t in points
            )
            assert found[str(i)] == (0.0 if beaten else 1.0)

    def test_two_equals_share_it_and_touching_intervals_keep_both(self) -> None:
        ps = np.random.default_rng(1).normal(0.0, 0.01, (2, 20))
        ps -= ps.mean(axis=1, keepdims=True)
        values = {n: {"time": np.exp(row).tolist()} for n, row in zip("ab", ps, strict=True)}
        rng = np.random.default_rng(2)
        found = stats.front_probability(values, {"time": "lower"}, rng, draws=2000)
        assert found["a"] + found["b"] == pytest.approx(1.0, abs=0.01)
        assert found["a"] == pytest.approx(0.5, abs=0.1)
        bounds = {n: {"time": (0.9, 1.1)} for n in "ab"}
        both = stats.front_probability(values, {"time": "lower"}, rng, bounds=bounds)
        assert both == {"a": 1.0, "b": 1.0}

    def test_the_draws_of_one_candidate_vary_as_its_mean_does(self) -> None:
        # b is exact, one standard error above a: a wins with the normal's probability of that.
        logs = np.array([-0.01, 0.0, 0.01, 0.02, -0.02])
        error = logs.std(ddof=1) / math.sqrt(5)
        values = {"a": {"time": np.exp(logs).tolist()}, "b": {"time": [math.exp(error)]}}
        rng = np.random.default_rng(3)
        found = stats.front_probability(values, {"time": "lower"}, rng, draws=5000)
        assert found["a"] == pytest.approx(scipy.stats.norm.cdf(1.0), abs=0.03)

    def test_a_score_below_nothing_still_ranks(self) -> None:
        rng = np.random.default_rng(0)
        values = {"a": {"score": [-2.0]}, "b": {"score": [-1.0]}, "c": {"score": [-3.0]}}
        found = stats.front_probability(values, {"score": "higher"}, rng, draws=3)
        assert found == {"a": 0.0, "b": 1.0, "c": 0.0}

    def test_missing_values_are_left_out_and_crooked_ones_refused(self) -> None:
        rng = np.random.default_rng(0)
        values: Mapping[str, Mapping[str, Sequence[float]]] = {"a": {"time": [1.0]}, "b": {}}
        assert set(stats.front_probability(values, {"time": "lower"}, rng)) == {"a"}
        assert stats.front_probability({}, {"time": "lower"}, rng) == {}
        crooked = {"a": {"time": [1.0, 2.0]}, "b": {"time": [1.0, 2.0, 3.0]}}
        with pytest.raises(ValueError, match="line up"):
            stats.front_probability(crooked, {"time": "lower"}, rng)


class TestDetectable:
    @pytest.mark.parametrize("freedom", [2.0, 7.0, 30.0])
    def test_has_the_power_it_says(self, freedom: float) -> None:
        effect = math.log1p(stats.detectable(estimated(1.0, 0.004, freedom)))
        rng, n = np.random.default_rng(5), 40000
        t = (rng.normal(effect / 0.004, 1.0, n)) / np.sqrt(rng.chisquare(freedom, n) / freedom)
        power = float((t > scipy.stats.t.ppf(0.995, freedom)).mean())
        assert power == pytest.approx(0.9, abs=0.01)

    def test_normal_and_unknown(self) -> None:
        found = stats.detectable(estimated(1.0, 0.01, math.inf))
        assert math.log1p(found) == pytest.approx(0.01 * (2.5758 + 1.2816), rel=1e-4)
        assert stats.detectable(Interval(1.0, 0.0, math.inf, 1, 1)) == math.inf


def outcomes(
    seed: int,
    sittings: int,
    candidates: int,
    *,
    true: float = 1.0,
    generations: int = 3,
    noise: Noise = Noise(),  # noqa: B008  (frozen)
) -> list[tuple[Interval, Interval]]:
    """Ratios of candidates that truly take `true` times the reference: alone and pooled."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(sittings):
        times = [1e-3] + [1e-3 * true] * candidates
        r, *others = sitting(rng, times, generations=generations, noise=noise)
        spread = stats.pooled_spread(others, r)
        found += [(stats.ratio(o, r), stats.ratio(o, r, spread=spread)) for o in others]
    return found


def missed(found: Sequence[Interval], true: float, confidence: float) -> int:
    bounds = (one.at(confidence) for one in found)
    return sum(not one.low <= true <= one.high for one in bounds)


def at_most(share: float, n: int) -> int:
    """So many of n and no more, except once in 10 000 runs of the test with another seed."""
    return int(scipy.stats.binom.ppf(0.9999, n, share))


class TestCalibration:
    """The truth is known here: how often is it missed?"""

    def test_false_alarms_of_one_pair_a_sitting(self) -> None:
        found = [alone for alone, _ in outcomes(11, 2000, 1)]
        assert missed(found, 1.0, 0.99) <= at_most(0.01, 2000)
        assert missed(found, 1.0, 0.95) <= at_most(0.05, 2000)

    def test_pooling_keeps_the_level_and_halves_the_width(self) -> None:
        found = outcomes(12, 150, 10)
        alone, pooled = zip(*found, strict=True)
        # Ten candidates share one reference: allow as much as if a third were independent.
        third = len(pooled) // 3
        assert missed(pooled, 1.0, 0.99) / len(pooled) <= at_most(0.01, third) / third
        widths = [float(np.median([one.half_width for one in side])) for side in (pooled, alone)]
        assert widths[0] < 0.7 * widths[1]

    def test_a_known_shift_is_covered(self) -> None:
        found = [alone for alone, _ in outcomes(13, 800, 1, true=1.03, generations=5)]
        misses = missed(found, 1.03, 0.95)
        assert misses <= at_most(0.05, 800)
        assert misses >= scipy.stats.binom.ppf(0.0001, 800, 0.03)  # nor absurdly wide
        middle = float(np.median([one.estimate for one in found]))
        assert middle == pytest.approx(1.03, abs=0.001)

    def test_three_percent_is_found_among_ten_by_five_generations(self) -> None:
        noise = Noise(process=0.006)
        found = [
            pooled for _, pooled in outcomes(14, 40, 10, true=1.03, generations=5, noise=noise)
        ]
        slower = [stats.verdict(one.at(0.99), 0.0) is Verdict.SLOWER for one in found]
        assert sum(slower) / len(slower) >= 0.9

    def test_preemption_without_the_filter_would_be_worse(self) -> None:
        rng, noise = np.random.default_rng(15), Noise(preempted=0.6)
        errors: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(60):
            r, s = sitting(rng, [1e-3, 1e-3], noise=noise)
            for filtered, found in errors.items():
                pair = [r, s] if filtered else [[blind(p) for p in one] for one in (r, s)]
                found.append(abs(math.log(stats.ratio(pair[1], pair[0]).estimate)))
        assert np.quantile(errors[True], 0.95) < np.quantile(errors[False], 0.95)

    def test_a_planted_offset_of_one_process_widens_instead_of_deceiving(self) -> None:
        rng = np.random.default_rng(16)
        widths, alarms = [], 0
        for offsets in (None, {(1, 1): 0.02}):
            for _ in range(150):
                r, s = sitting(rng, [1e-3, 1e-3], noise=Noise(process=0.003), offsets=offsets)
                found = stats.ratio(s, r, 0.99)
                widths.append(found.half_width)
                alarms += stats.verdict(found, 0.0) is not Verdict.AMBIGUOUS
        assert np.median(widths[150:]) > 1.5 * np.median(widths[:150])
        assert alarms <= at_most(0.01, 300)


def blind(process: Process) -> Process:
    """The same process as seen by someone who does not count context switches."""
    visits = tuple(
        dataclasses.replace(v, switches=tuple(itertools.repeat(0, len(v.switches))))
        for v in process.visits
    )
    return dataclasses.replace(process, visits=visits)

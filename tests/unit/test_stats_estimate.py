"""Estimates against independent oracles: brute force, scipy, t-intervals by hand."""

from __future__ import annotations

import itertools
import math
import statistics
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench import stats
from hwbench.errors import StageError
from hwbench.records import Process, Visit
from hwbench.stats import theory
from tests.noise import QUIET, sitting

times = st.floats(1e-6, 10.0)


def visit(wall: Sequence[float], switches: Sequence[int] | None = None, index: int = 0) -> Visit:
    return Visit(index, 0, tuple(wall), tuple(wall), tuple(switches or [0] * len(wall)))


def process(values: Sequence[float], generation: int = 0, role: str = "candidate") -> Process:
    """A process whose visits have these values, one call each of three equal ones."""
    visits = tuple(visit([v] * 3, index=i) for i, v in enumerate(values))
    return Process("a", role, generation, 0.1, 0.01, 10, visits)


def generations(rows: Sequence[Sequence[float]]) -> tuple[list[Process], list[Process]]:
    """Candidates whose ln(ratio) to a reference of 1 s are these rows."""
    mine = [process([math.exp(v) for v in row], g) for g, row in enumerate(rows)]
    theirs = [process([1.0] * len(row), g, "reference") for g, row in enumerate(rows)]
    return mine, theirs


class TestVisitValue:
    def test_preempted_calls_do_not_count(self) -> None:
        value, clean = stats.visit_value(visit([1.0, 9.0, 2.0, 9.0, 3.0], [0, 1, 0, 4, 0]))
        assert (value, clean) == (2.0, True)

    def test_with_two_clean_calls_it_is_the_lower_quartile_of_all_and_dirty(self) -> None:
        wall = [5.0, 1.0, 4.0, 2.0, 8.0, 3.0]
        value, clean = stats.visit_value(visit(wall, [0, 1, 1, 1, 1, 0]))
        assert value == pytest.approx(np.quantile(wall, 0.25))
        assert not clean

    @given(st.lists(times, min_size=3, max_size=50))
    def test_clean_visits_have_their_median(self, wall: list[float]) -> None:
        value, clean = stats.visit_value(visit(wall))
        assert value == pytest.approx(statistics.median(wall))
        assert clean

    def test_no_calls_no_value(self) -> None:
        with pytest.raises(ValueError, match="without calls"):
            stats.visit_value(visit([]))


class TestHodgesLehmann:
    @given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=25))
    def test_is_the_median_of_all_pairwise_means(self, values: list[float]) -> None:
        pairs = itertools.combinations_with_replacement(values, 2)
        expected = statistics.median((a + b) / 2 for a, b in pairs)
        assert stats.hodges_lehmann(values) == pytest.approx(expected, abs=1e-9)

    def test_a_quarter_of_outliers_does_not_move_it_far(self) -> None:
        assert stats.hodges_lehmann([1.0, 1.01, 0.99, 1.0, 1.02, 0.98, 50.0, 60.0]) < 1.1

    def test_nothing_has_no_middle(self) -> None:
        with pytest.raises(ValueError, match="no values"):
            stats.hodges_lehmann([])


class TestSignedRank:
    @pytest.mark.parametrize("n", [6, 9, 12, 25, 50])
    @pytest.mark.parametrize("confidence", [0.9, 0.95])
    def test_bounds_are_where_scipys_test_turns(self, n: int, confidence: float) -> None:
        values = np.random.default_rng(n).normal(0.3, 1.0, n)
        low, high = theory.signed_rank_bounds(values.tolist(), confidence)

        def p(at: float) -> float:
            return float(scipy.stats.wilcoxon(values - at, method="exact").pvalue)

        for bound, outwards in ((low, -1e-9), (high, 1e-9)):
            assert p(bound + outwards) <= 1 - confidence
            assert p(bound - outwards) > 1 - confidence

    def test_beyond_200_values_the_normal_distribution_takes_over_smoothly(self) -> None:
        exact, normal = theory.ranks_to_drop(200, 0.025), theory.ranks_to_drop(201, 0.025)
        assert 0 < normal - exact < 150  # of 20100 and 20301 averages

    def test_too_few_rounds_fall_back_on_students_t(self) -> None:
        values = [0.1, 0.2, 0.35]
        low, high = theory.signed_rank_bounds(values, 0.95)
        half = 4.302653 * statistics.stdev(values) / math.sqrt(3)
        middle = stats.hodges_lehmann(values)
        assert (low, high) == pytest.approx((middle - half, middle + half), rel=1e-6)

    def test_one_round_bounds_nothing(self) -> None:
        assert theory.signed_rank_bounds([0.1], 0.95) == (-math.inf, math.inf)


class TestRatio:
    def test_is_the_t_interval_over_generations_by_hand(self) -> None:
        rows = [[0.10] * 6, [0.12] * 6, [0.17] * 6]
        found = stats.ratio(*generations(rows))
        mean, error = 0.13, statistics.stdev([0.10, 0.12, 0.17]) / math.sqrt(3)
        assert found.estimate == pytest.approx(math.exp(mean))
        assert found.low == pytest.approx(math.exp(mean - 4.302653 * error), rel=1e-6)
        assert found.high == pytest.approx(math.exp(mean + 4.302653 * error), rel=1e-6)
        assert (found.generations, found.rounds, found.freedom) == (3, 18, 2.0)
        assert not found.assumed

    def test_common_drift_cancels_exactly(self) -> None:
        drift = [1.0, 1.5, 0.7, 3.0, 1.1, 0.9, 2.0]
        slow = [process([1.1 * d * s for d in drift], g) for g, s in enumerate((1.0, 2.0, 0.4))]
        fast = [process([d * s for d in drift], g) for g, s in enumerate((1.0, 2.0, 0.4))]
        found = stats.ratio(slow, fast)
        assert found.estimate == pytest.approx(1.1)
        assert found.half_width == pytest.approx(0.0, abs=1e-9)

    def test_only_rounds_that_both_have_count(self) -> None:
        mine, theirs = generations([[0.1] * 8, [0.1] * 8])
        fewer = [process([1.0] * 5, 0, "reference"), process([1.0] * 3, 7, "reference")]
        found = stats.ratio(mine, fewer)
        assert (found.generations, found.rounds) == (1, 5)
        assert stats.ratio(mine, theirs).rounds == 16

    def test_quiet_rounds_that_only_one_of_them_has_do_not_count(self) -> None:
        mine = [process([2.0, 2.0, 1.0], 0)]
        found = stats.ratio(mine, [process([1.0, 1.0], 0, "reference")])
        assert found.estimate == pytest.approx(2.0)

    def test_nothing_in_common_is_an_error_not_a_number(self) -> None:
        mine, _ = generations([[0.1] * 3])
        with pytest.raises(StageError, match="no round in which both"):
            stats.ratio(mine, [process([1.0], 3)])

    def test_a_clock_that_stood_still_and_an_empty_visit_are_no_values(self) -> None:
        mine = [Process("a", "candidate", 0, 0.0, 0.0, 0, (visit([]), visit([0.0] * 3, index=1)))]
        with pytest.raises(StageError):
            stats.ratio(mine, mine)

    def test_a_single_generation_is_widened_by_the_known_process_spread_and_flagged(self) -> None:
        found = stats.ratio(*generations([[0.1] * 12]))
        assert found.assumed
        assert found.half_width == pytest.approx(1.96 * stats.PROCESS_SPREAD, rel=1e-3)
        assert found.at(0.99).half_width == pytest.approx(2.576 * stats.PROCESS_SPREAD, rel=1e-3)

    def test_inside_the_generation_it_is_narrower(self) -> None:
        rows = [np.random.default_rng(1).normal(0.1, 0.01, 12).tolist()]
        mine, theirs = generations(rows)
        inside = stats.within(mine[0], theirs[0])
        low, high = theory.signed_rank_bounds(rows[0], 0.95)
        assert (inside.low, inside.high) == pytest.approx((math.exp(low), math.exp(high)))
        assert inside.half_width < stats.ratio(mine, theirs).half_width

    def test_a_generation_counts_by_its_quietest_rounds(self) -> None:
        # Neighbours took up to two thirds of the rounds, of the candidate and of R at other times.
        rng = np.random.default_rng(3)
        mine, theirs = [], []
        for generation in range(6):
            slow, fast = np.full(12, 1.1e-3), np.full(12, 1e-3)
            for values in (slow, fast):
                hit = rng.permutation(12)[: rng.integers(0, 9)]
                values[hit] *= rng.uniform(1.05, 2.0, len(hit))
            mine.append(process(slow.tolist(), generation))
            theirs.append(process(fast.tolist(), generation, "reference"))
        found = stats.ratio(mine, theirs, 0.99)
        assert found.estimate == pytest.approx(1.1)
        assert found.half_width == pytest.approx(0.0, abs=1e-9)

    def test_one_lucky_call_decides_nothing(self) -> None:
        calls = (visit([1.0, 1.0, 1.0, 0.1, 1.0], index=0), visit([1.0] * 5, index=1))
        lucky = Process("a", "candidate", 0, 0.1, 0.01, 10, calls)
        assert stats.ratio([lucky], [process([1.0, 1.0])]).estimate == pytest.approx(1.0)

    def test_figures_of_generations_have_the_mean_of_the_estimate(self) -> None:
        rng = np.random.default_rng(4)
        theirs, mine = sitting(rng, [1e-3, 1.2e-3], generations=5)
        each = stats.by_generation(mine, theirs)
        mean = math.exp(sum(map(math.log, each.values())) / len(each))
        assert mean == pytest.approx(stats.ratio(mine, theirs).estimate)
        assert stats.by_generation(mine, []) == {}

    def test_one_round_leaves_it_unbounded(self) -> None:
        found = stats.ratio(*generations([[0.1]]))
        assert found.estimate == pytest.approx(math.exp(0.1))
        assert (found.low, found.high, found.bounded) == (0.0, math.inf, False)
        assert found.error is None

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.lists(st.floats(-0.5, 0.5), min_size=2, max_size=8), min_size=2, max_size=4),
        st.floats(0.1, 10.0),
    )
    def test_turning_it_around_and_scaling_it(self, rows: list[list[float]], by: float) -> None:
        mine, theirs = generations(rows)
        there, back = stats.ratio(mine, theirs), stats.ratio(theirs, mine)
        assert there.estimate * back.estimate == pytest.approx(1.0)
        assert there.low * back.high == pytest.approx(1.0)
        assert there.low <= there.estimate <= there.high
        slower, same = generations([[v + math.log(by) for v in row] for row in rows])
        assert stats.ratio(slower, same).estimate == pytest.approx(by * there.estimate)

    def test_other_confidence_from_the_same_interval(self) -> None:
        mine, theirs = generations([[0.1, 0.2, 0.15], [0.12, 0.22, 0.1], [0.3, 0.2, 0.1]])
        scaled, direct = stats.ratio(mine, theirs).at(0.99), stats.ratio(mine, theirs, 0.99)
        assert (scaled.low, scaled.high) == pytest.approx((direct.low, direct.high))


class TestPooledSpread:
    def test_needs_two_generations(self) -> None:
        mine, theirs = generations([[0.1] * 6])
        assert stats.pooled_spread([mine], theirs) is None

    def test_of_one_candidate_is_its_own_variance(self) -> None:
        mine, theirs = generations([[0.10] * 6, [0.12] * 6, [0.17] * 6])
        spread = stats.pooled_spread([mine], theirs)
        assert spread is not None
        assert spread.variance == pytest.approx(statistics.variance([0.10, 0.12, 0.17]))
        assert spread.freedom == 2.0
        assert stats.ratio(mine, theirs, spread=spread).low == pytest.approx(
            stats.ratio(mine, theirs).low
        )

    def test_the_reference_itself_does_not_count(self) -> None:
        _, theirs = generations([[0.1] * 6, [0.2] * 6])
        assert stats.pooled_spread([theirs], theirs) is None

    def test_narrows_an_interval_of_two_generations(self) -> None:
        r, *others = sitting(np.random.default_rng(4), [1e-3] * 13, generations=2)
        spread = stats.pooled_spread(others, r)
        alone = statistics.median(stats.ratio(o, r).half_width for o in others)
        pooled = statistics.median(stats.ratio(o, r, spread=spread).half_width for o in others)
        assert pooled < 0.5 * alone

    def test_prior_recovers_the_weight_it_was_drawn_with(self) -> None:
        rng, weight, typical = np.random.default_rng(0), 8.0, 4e-4
        true = typical * weight / rng.chisquare(weight, 20000)
        seen = true * rng.chisquare(2, 20000) / 2
        variance, found = theory.fit_prior(seen.tolist(), [2.0] * 20000)
        assert variance == pytest.approx(typical, rel=0.05)
        assert found == pytest.approx(weight, rel=0.15)

    def test_the_pool_never_outweighs_a_candidate_of_its_own_kind(self) -> None:
        rng = np.random.default_rng(5)
        _, theirs = generations([[0.0] * 6] * 20)
        calm = [generations([[v] * 6 for v in rng.normal(0.0, 0.005, 20)])[0] for _ in range(8)]
        wild = generations([[v] * 6 for v in rng.normal(0.0, 0.05, 20)])[0]
        spread = stats.pooled_spread([*calm, wild], theirs)
        assert spread is not None
        assert spread.weight <= 4.0
        alone, pooled = stats.ratio(wild, theirs), stats.ratio(wild, theirs, spread=spread)
        assert pooled.half_width > 0.7 * alone.half_width

    def test_variances_that_differ_by_chance_alone_weigh_without_limit(self) -> None:
        variance, weight = theory.fit_prior([1.0, 1.01, 0.99, 1.0], [2.0] * 4)
        assert math.isinf(weight)
        assert variance > 0.0

    @given(st.floats(1e-3, 1e3))
    def test_inverse_of_trigamma(self, value: float) -> None:
        from scipy.special import polygamma

        assert polygamma(1, theory._inverse_trigamma(value)) == pytest.approx(value, rel=1e-5)


class TestLevel:
    def test_without_noise_it_is_the_time(self) -> None:
        (r,) = sitting(np.random.default_rng(0), [2e-3], noise=QUIET)
        found = stats.level(r)
        assert found.estimate == pytest.approx(2e-3)
        assert found.half_width == pytest.approx(0.0, abs=1e-9)

    def test_by_hand(self) -> None:
        found = stats.level([process([v] * 3, g) for g, v in enumerate((1.0, 1.1, 1.2))])
        logs = [math.log(v) for v in (1.0, 1.1, 1.2)]
        assert found.estimate == pytest.approx(statistics.geometric_mean((1.0, 1.1, 1.2)))
        half = 4.302653 * statistics.stdev(logs) / math.sqrt(3)
        assert found.half_width == pytest.approx(half, rel=1e-6)

    def test_no_visits_is_an_error(self) -> None:
        with pytest.raises(StageError, match="not a single visit"):
            stats.level([Process("a", "candidate", 0, 0.0, 0.0, 0, ())])

    def test_absolute_multiplies_and_adds_the_widths_in_quadrature(self) -> None:
        ratio = stats.Interval(0.5, 0.5 / 1.03, 0.5 * 1.03, 3, 36)
        reference = stats.Interval(2e-3, 2e-3 / 1.04, 2e-3 * 1.04, 3, 36)
        found = stats.absolute(ratio, reference)
        assert found.estimate == pytest.approx(1e-3)
        assert found.half_width == pytest.approx(math.hypot(math.log(1.03), math.log(1.04)))
        unbounded = stats.absolute(stats.Interval(0.5, 0.0, math.inf, 1, 1), reference)
        assert (unbounded.low, unbounded.high) == (0.0, math.inf)


class TestPercentile:
    def test_the_calls_needed_are_those_of_mlperf(self) -> None:
        assert [stats.calls_needed(q) for q in (0.9, 0.95, 0.99)] == [64, 130, 662]
        with pytest.raises(ValueError, match="between 0 and 1"):
            stats.calls_needed(1.0)

    @pytest.mark.parametrize("q", [0.5, 0.9, 0.95, 0.99])
    def test_there_is_none_with_one_call_fewer(self, q: float) -> None:
        need = stats.calls_needed(q)
        wall = np.random.default_rng(0).exponential(1.0, need).tolist()
        one = [Process("a", "candidate", 0, 0.0, 0.0, 0, (visit(wall[:-1]),))]
        assert stats.percentile(one, q) is None
        found = stats.percentile([Process("a", "c", 0, 0.0, 0.0, 0, (visit(wall),))], q)
        assert found is not None
        assert found.low <= found.estimate <= found.high
        assert found.estimate == pytest.approx(np.quantile(wall, q))

    def test_bounds_agree_with_scipys_quantile_test(self) -> None:
        wall = np.random.default_rng(3).exponential(1.0, 500)
        found = stats.percentile([Process("a", "c", 0, 0.0, 0.0, 0, (visit(wall.tolist()),))], 0.9)
        test: Any = scipy.stats.quantile_test(wall, p=0.9)
        expected = test.confidence_interval(0.95)
        assert found is not None
        assert found.low == pytest.approx(expected.low)
        assert found.high == pytest.approx(expected.high)

    def test_as_experienced_holds_the_preempted_calls_and_clean_does_not(self) -> None:
        wall, switches = [1.0] * 200 + [9.0] * 40, [0] * 200 + [1] * 40
        one = [Process("a", "c", 0, 0.0, 0.0, 0, (visit(wall, switches),))]
        experienced, clean = stats.percentile(one, 0.9), stats.percentile(one, 0.9, clean=True)
        assert experienced is not None
        assert clean is not None
        assert (experienced.estimate, clean.estimate) == (9.0, 1.0)


def test_importing_it_does_not_load_scipy_stats() -> None:
    code = "import sys, hwbench.stats; print([m for m in sys.modules if m.startswith('scipy')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

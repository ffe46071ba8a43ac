import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.pareto import baseline, compare, dominates, front
from hwbench.records import Failure, Result, Source, Value, missing
from tests import synthetic
from tests.synthetic import ORT, TVM, candidate, value

AXES = ("top1", "latency_p50", "peak_memory")  # up, down, down
SIGN = {"top1": 1, "latency_p50": -1, "peak_memory": -1}
WHO = [candidate("unstructured", (i + 1) / 100) for i in range(10)]

grade = st.integers(0, 4)
cell = st.one_of(st.none(), grade)
spread = st.integers(0, 2)


def plain(numbers: tuple[int | None, ...], who: int) -> Result:
    values = {
        metric: value(metric, number)
        if number is not None
        else missing(metric, Source.MEASURED, "lost")
        for metric, number in zip(AXES, numbers, strict=True)
    }
    return Result(WHO[who], values)


def wide(cells: tuple[tuple[int, int], ...], who: int) -> Result:
    values = {
        metric: Value(metric, middle, Source.MEASURED, middle - reach, middle + reach)
        for metric, (middle, reach) in zip(AXES, cells, strict=True)
    }
    return Result(WHO[who], values)


@given(st.lists(st.tuples(cell, cell, cell), max_size=8))
def test_without_intervals_it_is_the_pareto_front(table: list[tuple[int | None, ...]]) -> None:
    rows = [plain(numbers, who) for who, numbers in enumerate(table)]
    # An axis that nobody has decides nothing; a row that lacks any other axis is out.
    live = [i for i in range(3) if any(numbers[i] is not None for numbers in table)]
    whole = {
        who: [SIGN[AXES[i]] * numbers[i] for i in live]  # type: ignore[operator]
        for who, numbers in enumerate(table)
        if live and all(numbers[i] is not None for i in live)
    }
    expected = {
        WHO[who].key
        for who, mine in whole.items()
        if not any(
            all(b >= a for a, b in zip(mine, other, strict=True)) and other != mine
            for other in whole.values()
        )
    }
    found = front(rows, AXES)
    if live:
        assert set(found.members) == expected
        lost = {WHO[who].key for who in range(len(table)) if who not in whole}
        assert set(found.missing) == lost
    assert set(found.left_out) == {AXES[i] for i in range(3) if i not in live}


def beats(a: tuple[tuple[int, int], ...], b: tuple[tuple[int, int], ...]) -> bool:
    """Dominance written again from its definition: clear wins, and no clear loss."""
    wins = losses = 0
    for metric, (mine, my_reach), (other, their_reach) in zip(AXES, a, b, strict=True):
        gap = SIGN[metric] * (mine - other)
        wins += gap > my_reach + their_reach
        losses += -gap > my_reach + their_reach
    return wins > 0 and losses == 0


wide_row = st.tuples(*[st.tuples(st.integers(0, 6), spread)] * 3)


@given(wide_row, wide_row)
def test_dominance_needs_intervals_that_do_not_touch(
    a: tuple[tuple[int, int], ...], b: tuple[tuple[int, int], ...]
) -> None:
    assert dominates(wide(a, 0), wide(b, 1), AXES) == beats(a, b)


@given(st.lists(wide_row, max_size=5), st.randoms(use_true_random=False))
def test_with_intervals_it_is_the_grounded_set(
    table: list[tuple[tuple[int, int], ...]], dice: random.Random
) -> None:
    """Oracle: of all complete labellings (in, out, undecided), what every one puts out."""
    size = len(table)
    attackers = [{a for a in range(size) if beats(table[a], table[b])} for b in range(size)]

    def complete(labels: tuple[str, ...]) -> bool:
        for mine, by in zip(labels, attackers, strict=True):
            all_out = all(labels[a] == "out" for a in by)
            any_in = any(labels[a] == "in" for a in by)
            if mine != ("in" if all_out else "out" if any_in else "undecided"):
                return False
        return True

    everyone = itertools.product(("in", "out", "undecided"), repeat=size)
    labellings = [labels for labels in everyone if complete(labels)]
    always_out = {i for i in range(size) if all(labels[i] == "out" for labels in labellings)}
    in_grounded = {i for i in range(size) if all(labels[i] == "in" for labels in labellings)}
    expected_out = {b for b in always_out if attackers[b] & in_grounded}

    rows = [wide(cells, who) for who, cells in enumerate(table)]
    dice.shuffle(rows)
    found = front(rows, AXES)
    assert set(found.dominated) == {WHO[i].key for i in expected_out}
    assert set(found.members) == {WHO[i].key for i in range(size) if i not in expected_out}
    assert bool(found.members) == bool(table)
    for loser, winner in found.dominated.items():
        assert winner in found.members
        by_key = {r.candidate.key: r for r in rows}
        assert dominates(by_key[winner], by_key[loser], AXES)


def test_small_steps_within_the_noise_do_not_erode_the_front() -> None:
    """Three models, each a little worse and clearly faster than the last: the ends both stay."""
    chain = [
        Result(
            WHO[i],
            {
                "top1": Value("top1", top, Source.MEASURED, top - 0.01, top + 0.01),
                "latency_p50": value("latency_p50", time),
            },
        )
        for i, (top, time) in enumerate([(0.88, 3.0), (0.865, 2.0), (0.85, 1.0)])
    ]
    found = front(chain, ("top1", "latency_p50"))
    assert set(found.members) == {WHO[0].key, WHO[2].key}
    assert found.dominated == {WHO[1].key: WHO[2].key}


def test_a_circle_of_dominance_keeps_everybody() -> None:
    # Axis by axis (up, down, down): each clearly beats the next once and draws with it otherwise.
    circle = [
        wide(((6, 0), (3, 3), (6, 0)), 0),
        wide(((0, 0), (0, 0), (3, 3)), 1),
        wide(((3, 3), (6, 0), (0, 0)), 2),
    ]
    pairs = {(i, j) for i in range(3) for j in range(3) if dominates(circle[i], circle[j], AXES)}
    assert pairs == {(0, 1), (1, 2), (2, 0)}
    assert set(front(circle, AXES).members) == {WHO[i].key for i in range(3)}


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_what_is_not_a_number_is_missing(number: float) -> None:
    odd = Result(WHO[0], {"latency_p50": value("latency_p50", number)})
    sane = Result(WHO[1], {"latency_p50": value("latency_p50", 1.0)})
    found = front([odd, sane], ("latency_p50",))
    assert found.members == (WHO[1].key,)
    assert str(number) in found.missing[WHO[0].key]


def test_a_failed_candidate_stands_nowhere_whatever_its_numbers() -> None:
    fast = Result(
        WHO[0], {"latency_p50": value("latency_p50", 0.0)}, failure=Failure("measure", "x")
    )
    slow = Result(WHO[1], {"latency_p50": value("latency_p50", 9.0)})
    found = front([fast, slow], ("latency_p50",))
    assert found.members == (WHO[1].key,)
    assert not found.missing
    assert not dominates(fast, slow, ("latency_p50",))


def test_a_proxy_never_meets_a_measurement_on_an_axis() -> None:
    measured = Result(WHO[0], {"energy": value("energy", 5.0)})
    proxy = Result(WHO[1], {"energy": value("energy", 1.0, source=Source.PROXY)})
    assert compare(proxy.values["energy"], measured.values["energy"]) == 0
    assert not dominates(proxy, measured, ("energy",))
    found = front([measured, proxy], ("energy",))
    assert found.members == (WHO[0].key,)
    assert "proxy" in found.missing[WHO[1].key]


def test_a_margin_swallows_small_differences() -> None:
    a, b = value("peak_memory", 99.0), value("peak_memory", 100.0)
    assert compare(a, b) == 1
    assert compare(b, a) == -1
    assert compare(a, b, margin=0.02) == 0


def test_one_interval_is_not_enough_to_call_it_noise() -> None:
    assert compare(value("latency_p50", 1.0, 0.5), value("latency_p50", 1.1)) == 1


def test_no_objectives_means_no_dominance() -> None:
    assert not dominates(plain((1, 1, 1), 0), plain((0, 0, 0), 1), ())


def test_the_baseline_is_the_parent_on_the_same_backend() -> None:
    dense = {
        (kind.kind, seed): Result(candidate(backend=kind, seed=seed), {})
        for kind in (ORT, TVM)
        for seed in (0, 1)
    }
    rows = list(dense.values())
    pruned = Result(candidate("channel", 0.5, backend=TVM, seed=1), {})
    assert baseline(pruned, rows) is dense["tvm", 1]
    assert baseline(pruned, [r for r in rows if r is not dense["tvm", 1]]) is dense["tvm", 0]
    assert (
        baseline(pruned, [dense["onnxruntime", 0], dense["onnxruntime", 1]])
        is (dense["onnxruntime", 1])
    )
    broken = Result(dense["tvm", 1].candidate, {}, failure=Failure("export", "x"))
    assert baseline(pruned, [broken, dense["onnxruntime", 0]]) is dense["onnxruntime", 0]
    assert baseline(pruned, [broken]) is None
    assert baseline(dense["tvm", 0], rows) is dense["tvm", 0]


def test_the_realistic_study_has_channel_pruning_on_its_front() -> None:
    found = front(synthetic.results(), synthetic.recipe().objectives)
    patterns = {
        r.candidate.compression.pattern
        for r in synthetic.results()
        if r.candidate.key in found.members
    }
    assert patterns == {"channel"}

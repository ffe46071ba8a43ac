"""Pruning schedules: where they start, where they end, and that they only ever go up."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.compress.schedule import Step, plan
from hwbench.errors import UserError
from hwbench.records import LAST, SCHEDULES, Schedule


def test_oneshot_prunes_once_at_the_start() -> None:
    assert plan("oneshot", 1, 0.8) == (Step(0.0, 0.8),)
    assert plan("oneshot", 5, 0.8) == (Step(0.0, 0.8),)


def test_linear_by_hand() -> None:
    steps = plan("linear", 4, 0.8)
    assert [step.sparsity for step in steps] == pytest.approx([0.2, 0.4, 0.6, 0.8])
    assert [step.at for step in steps] == pytest.approx([0, 2 / 9, 4 / 9, 2 / 3])


def test_cubic_by_hand() -> None:
    """Zhu & Gupta 2017: s (1 - (1 - t)³) with t = 1/2, 1."""
    assert [step.sparsity for step in plan("cubic", 2, 0.8)] == pytest.approx([0.7, 0.8])


@given(
    schedule=st.sampled_from(tuple(SCHEDULES)),
    steps=st.integers(1, 30),
    sparsity=st.floats(0.01, 0.99),
)
def test_shares_rise_to_the_one_asked_for_exactly(
    schedule: Schedule, steps: int, sparsity: float
) -> None:
    found = plan(schedule, steps, sparsity)
    assert found[-1].sparsity == sparsity
    assert found[0].at == 0
    assert all(a.sparsity < b.sparsity and a.at < b.at for a, b in itertools.pairwise(found))
    assert found[-1].at <= LAST


def test_iterative_by_hand() -> None:
    """Han et al. 2015: each of two steps takes half of what is left, 75 % in all."""
    steps = plan("iterative", 2, 0.75, begin=0.2, end=0.8)
    assert [step.sparsity for step in steps] == pytest.approx([0.5, 0.75])
    assert [step.at for step in steps] == pytest.approx([0.2, 0.8])
    with pytest.raises(UserError, match=r"from 0\.5 to 0\.2"):
        plan("linear", 2, 0.5, begin=0.5, end=0.2)


def test_nonsense_is_refused() -> None:
    with pytest.raises(UserError, match="did you mean 'cubic'"):
        plan("qubic", 3, 0.5)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="0 pruning steps"):
        plan("linear", 0, 0.5)

import numpy as np
import pytest
from scipy.stats import binomtest

from hwbench.stats import difference


def answers(both: int, first: int, second: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([1] * both + [1] * first + [0] * second + [0] * neither, dtype=bool),
        np.array([1] * both + [0] * first + [1] * second + [0] * neither, dtype=bool),
    )


def test_mcnemar_by_hand_and_against_scipy() -> None:
    found = difference(*answers(80, 9, 1, 10))
    assert found.estimate == pytest.approx(0.08)
    assert found.images == 100
    assert (found.first_only, found.second_only) == (9, 1)
    # 2 · P(X ≤ 1) of ten fair coins: 2 · 11/1024.
    assert found.p == pytest.approx(22 / 1024)
    assert found.p == pytest.approx(binomtest(1, 10, 0.5).pvalue)
    assert found.low < 0.08 < found.high
    # The paired interval: ± 1.96 · sqrt((10/100 - 0.08²)/100) or so.
    assert found.high - found.low == pytest.approx(
        2 * 1.96 * np.sqrt((0.1 - 0.0064) / 100), rel=0.1
    )


def test_the_same_answers_differ_by_nothing_for_sure() -> None:
    found = difference(*answers(50, 0, 0, 50))
    assert (found.estimate, found.low, found.high, found.p) == (0, 0, 0, 1)


def test_swapping_turns_the_sign() -> None:
    one, other = answers(70, 12, 5, 13)
    there, back = difference(one, other), difference(other, one)
    assert there.estimate == -back.estimate
    assert there.p == back.p


def test_answers_to_other_images_are_refused() -> None:
    with pytest.raises(ValueError, match="not paired"):
        difference(np.ones(3, bool), np.ones(4, bool))

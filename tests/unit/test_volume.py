import random

import pytest

from hwbench.stats import hypervolume, nondominated


def test_boxes_by_hand() -> None:
    assert hypervolume([(1.0, 1.0)], (2.0, 3.0)) == 2.0
    # Two boxes of 1 x 2 and 2 x 1 that share 1 x 1.
    assert hypervolume([(1.0, 0.0), (0.0, 1.0)], (2.0, 2.0)) == 3.0
    assert hypervolume([(0.0, 0.0, 0.0)], (2.0, 3.0, 4.0)) == 24.0


def test_what_is_not_below_the_reference_counts_nothing() -> None:
    assert hypervolume([(2.0, 0.0)], (2.0, 2.0)) == 0.0
    assert hypervolume([], (1.0,)) == 0.0


def test_dominated_points_and_doubles_add_nothing() -> None:
    front = [(0.0, 1.0), (1.0, 0.0)]
    assert hypervolume([*front, (1.0, 1.0), (0.0, 1.0)], (2.0, 2.0)) == 3.0
    assert nondominated([*front, (1.0, 1.0), (0.0, 1.0)]) == front


def test_it_agrees_with_counting_cells() -> None:
    dice = random.Random(0)
    points = [tuple(float(dice.randrange(6)) for _ in range(4)) for _ in range(12)]
    cells = sum(
        any(all(p[i] <= c[i] for i in range(4)) for p in points)
        for c in (
            (a, b, d, e) for a in range(6) for b in range(6) for d in range(6) for e in range(6)
        )
    )
    assert hypervolume(points, (6.0,) * 4) == pytest.approx(cells)

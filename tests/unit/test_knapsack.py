import itertools
import random

import pytest

from hwbench.records import Choice
from hwbench.search import allot

CHOICES = {
    "a": (Choice(0.25, 10.0, 0.01), Choice(0.5, 20.0, 0.05)),
    "b": (Choice(0.25, 12.0, 0.035), Choice(0.5, 30.0, 0.04)),
}


@pytest.mark.parametrize(
    ("budget", "shares"),
    [
        (100.0, {}),
        (90.0, {"a": 0.25}),
        (85.0, {"b": 0.5}),  # a at 0.5 saves enough as well, and loses more
        (62.0, {"a": 0.25, "b": 0.5}),
        (50.0, {"a": 0.5, "b": 0.5}),
    ],
)
def test_the_least_loss_that_fits_by_hand(budget: float, shares: dict[str, float]) -> None:
    assert allot(CHOICES, 100.0, budget) == shares


def test_a_budget_that_nothing_meets_has_no_shares() -> None:
    assert allot(CHOICES, 100.0, 49.0) is None


def test_it_finds_what_trying_everything_finds() -> None:
    dice = random.Random(0)
    choices = {
        str(layer): tuple(
            Choice(share, float(dice.randrange(1, 30)), dice.random()) for share in (0.25, 0.5)
        )
        for layer in range(5)
    }
    nothing = Choice(0.0, 0.0, 0.0)
    every = list(itertools.product(*((nothing, *options) for options in choices.values())))
    for budget in range(10, 100, 7):
        # A dense time of 400 makes a unit of the table one second: nothing is rounded.
        fits = [
            sum(c.loss for c in row) for row in every if sum(c.saved for c in row) >= 100 - budget
        ]
        found = allot(choices, 400.0, 300.0 + budget)
        if not fits:
            assert found is None
            continue
        assert found is not None
        losses = {(n, c.share): c.loss for n, options in choices.items() for c in options}
        assert sum(losses[item] for item in found.items()) == pytest.approx(min(fits))

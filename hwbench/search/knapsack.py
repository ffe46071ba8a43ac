"""Shares by layer from a time budget: the least loss that fits, by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from hwbench.records import Choice

STEPS = 400
"""Parts that the time of the dense model is divided into."""


def allot(
    choices: Mapping[str, Sequence[Choice]], dense: float, budget: float
) -> dict[str, float] | None:
    """Return each layer's share so that the predicted time fits the budget at the least loss.

    `choices` has for every layer what it can lose, what that saves (seconds of the whole model)
    and what it costs (accuracy); taking nothing is always one. Savings are taken as additive,
    rounded down to 1/400 of `dense`. None when not even all the largest savings suffice.
    The multiple-choice knapsack (Sinha & Zoltners 1979); for pruning: Shen et al., "Structural
    pruning via latency-saliency knapsack", NeurIPS 2022.
    """
    unit = dense / STEPS
    wanted = max(0, math.ceil((dense - budget) / unit - 1e-9))
    # best[s]: the least loss that saves at least s units, with the shares that do so.
    best: list[tuple[float, dict[str, float]] | None] = [None] * (wanted + 1)
    best[0] = (0.0, {})
    for layer, options in choices.items():
        found = list(best)
        for choice in options:
            saved = math.floor(choice.saved / unit + 1e-9)
            if saved <= 0:
                continue
            for have, state in enumerate(best):
                if state is None:
                    continue
                place = min(wanted, have + saved)
                loss = state[0] + choice.loss
                known = found[place]
                if known is None or loss < known[0]:
                    found[place] = (loss, {**state[1], layer: choice.share})
        best = found
    state = best[wanted]
    return None if state is None else state[1]

"""Criteria: how much each weight matters, one function each.

A criterion takes a weight (output channels first) and a seeded generator and returns one score
per weight, 0 or more, of the same shape; the lowest scores go first. Patterns pool the scores of
their units by the mean.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

    Criterion = Callable[[Tensor, Generator], Tensor]


def magnitude(weight: Tensor, generator: Generator) -> Tensor:
    """Return the absolute value (Han et al. 2015)."""
    return weight.abs()


def random(weight: Tensor, generator: Generator) -> Tensor:
    """Return uniform scores: the control that every other criterion has to beat."""
    import torch

    # 1 - [0, 1) lies in (0, 1]: above the 0 of the weights that are gone already.
    return 1 - torch.rand(weight.shape, generator=generator, dtype=torch.float32)


CRITERIA: Mapping[str, Criterion] = {"magnitude": magnitude, "random": random}

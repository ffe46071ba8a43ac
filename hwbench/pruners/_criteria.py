"""Criteria: how much each weight matters, one function each.

A criterion takes a weight (output channels first) and a seeded generator and returns one score
per weight, 0 or more, of the same shape; the lowest scores go first. Patterns pool the scores of
their units by the mean. Those in `FROM_DATA` take, instead of a generator, what the compress room
learnt from training samples (``hwbench.compress.evidence`` says how).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Generator, Tensor

    Criterion = Callable[[Tensor, Generator], Tensor]
    FromData = Callable[[Tensor, Tensor], Tensor]


def magnitude(weight: Tensor, generator: Generator) -> Tensor:
    """Return the absolute value (Han et al. 2015): the mean of a block is its L1 norm."""
    return weight.abs()


def square(weight: Tensor, generator: Generator) -> Tensor:
    """Return the square: the mean of a block is its L2 norm, squared."""
    return weight.square()


def lamp(weight: Tensor, generator: Generator) -> Tensor:
    """Return w² over the sum of all squares in the layer that are at least as large.

    Layer-adaptive magnitude (Lee et al. 2021, "Layer-adaptive Sparsity for the Magnitude-based
    Pruning"): global ranking by it never empties a layer, whose largest weight always scores 1.
    """
    import torch

    squares = weight.square().flatten().double()
    order = torch.argsort(squares, stable=True)
    rest = squares[order].flip(0).cumsum(0).flip(0)
    score = torch.empty_like(squares)
    score[order] = squares[order] / rest.clamp_min(torch.finfo(torch.double).tiny)
    return score.view(weight.shape)


def random(weight: Tensor, generator: Generator) -> Tensor:
    """Return uniform scores: the control that every other criterion has to beat."""
    import torch

    # 1 - [0, 1) lies in (0, 1]: above the 0 of the weights that are gone already.
    return 1 - torch.rand(weight.shape, generator=generator, dtype=torch.float32)


def as_found(weight: Tensor, evidence: Tensor) -> Tensor:
    """Return the evidence itself: it is a score per weight already."""
    return evidence


def wanda(weight: Tensor, evidence: Tensor) -> Tensor:
    """Return the rank, within its output's row, of |w| times the norm of its input (Wanda).

    Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language Models", compare
    the weights of one output with each other only: ranks (0..1] of each row make it so under
    every scope. `evidence` is the norm of each input channel, broadcast along the weight.
    """
    import torch

    product = (weight.abs() * evidence).flatten(1)
    order = torch.argsort(torch.argsort(product, dim=1, stable=True), dim=1)
    return ((order + 1) / product.shape[1]).view(weight.shape)


CRITERIA: Mapping[str, Criterion] = {"magnitude": magnitude, "lamp": lamp, "random": random}
"""Those that every mask pattern offers and that need the weights alone."""

OF_BLOCKS: Mapping[str, Criterion] = {**CRITERIA, "l2": square}
"""The same and the L2 norm, which ranks single weights as the magnitude does."""

FROM_DATA: Mapping[str, FromData] = {
    "taylor": as_found,
    "hessian": as_found,
    "movement": as_found,
    "wanda": wanda,
}
"""Those that need training samples."""

POOLED = ("taylor", "hessian", "movement")
"""Of these, the ones that channels, heads and blocks take as the sum or mean over their weights."""

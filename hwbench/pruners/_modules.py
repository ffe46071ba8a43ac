"""What the pruners of heads and of whole blocks share: scores of modules, and who goes first."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hwbench.pruners._masks import evidence_on
from hwbench.records import CompressionSpec


def score(
    parts: Sequence[tuple[str, Tensor, Sequence[int] | None, int]],
    spec: CompressionSpec,
    evidence: Mapping[str, Tensor],
    name: str,
) -> float:
    """Return how much a unit matters: the mean score of its weights.

    Each part is a parameter's name, the parameter, and which indices along which dimension
    belong to the unit (None: all). ``random`` draws by the seed and the unit's `name`.
    """
    if spec.criterion == "random":
        generator = torch.Generator().manual_seed(zlib.crc32(f"{spec.seed} {name}".encode()))
        return float(torch.rand((), generator=generator))
    total, count = 0.0, 0
    for parameter, weight, indices, along in parts:
        values = _values(parameter, weight, spec.criterion, evidence)
        if indices is not None:
            values = values.index_select(along, torch.tensor(list(indices)))
        total, count = total + float(values.sum()), count + values.numel()
    mean = total / max(count, 1)
    return mean**0.5 if spec.criterion == "l2" else mean


def lowest(scores: Sequence[tuple[str, float]], count: int, floors: Mapping[str, int]) -> list[int]:
    """Return the indices of the lowest scores, `count` at most; each group keeps its floor.

    `scores` pairs a unit's group with its score.
    """
    left: dict[str, int] = {}
    for group, _ in scores:
        left[group] = left.get(group, 0) + 1
    gone: list[int] = []
    for index in sorted(range(len(scores)), key=lambda i: (scores[i][1], i)):
        group = scores[index][0]
        if len(gone) < count and left[group] > floors.get(group, 0):
            left[group] -= 1
            gone.append(index)
    return sorted(gone)


def _values(
    parameter: str, weight: Tensor, criterion: str, evidence: Mapping[str, Tensor]
) -> Tensor:
    plain = weight.detach().float()
    if criterion == "l1":
        return plain.abs()
    if criterion == "l2":
        return plain.square()
    return evidence_on(parameter, criterion, evidence).float()

"""The patterns ``N:M``: of every M neighbouring input channels, N weights stay.

Groups run along the input channels of the layout (O, kh, kw, I), the reduction axis of the
matrix product (Mishra et al. 2021, "Accelerating Sparse Deep Neural Networks").
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import StageError
from hwbench.protocols import Pruned, Pruner
from hwbench.pruners import _masks
from hwbench.pruners._criteria import CRITERIA, FROM_DATA
from hwbench.records import SCHEDULES
from hwbench.traits import PrunerTraits

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.records import CompressionSpec

_PATTERN = re.compile(r"([1-9]\d{0,2}):([1-9]\d{0,2})")


def _accepts(pattern: str) -> bool:
    match = _PATTERN.fullmatch(pattern)
    return match is not None and int(match[1]) < int(match[2])


def _fixed_sparsity(pattern: str) -> float:
    kept, of = (int(part) for part in pattern.split(":"))
    return 1 - kept / of


TRAITS = PrunerTraits(
    requires={"torch": "torch"},
    host_distributions=("torch",),
    removes="weights",
    patterns=("2:4", "1:4"),
    accepts=_accepts,
    criteria=(*CRITERIA, *FROM_DATA),
    scopes=("local",),
    schedules=tuple(SCHEDULES),
    fixed_sparsity=_fixed_sparsity,
)


@dataclass(frozen=True, slots=True)
class Options:
    """No options."""


class NMPruner:
    """Keeps the N highest-scored weights of every group of M."""

    def __init__(self, options: Options) -> None:
        """Nothing to keep."""

    def layers(self, model: nn.Module, example: Tensor, spec: CompressionSpec) -> Mapping[str, int]:
        """Return the layers that take part: none, N:M fixes every share, with their weights."""
        return {}

    def prune(
        self,
        model: nn.Module,
        example: Tensor,
        spec: CompressionSpec,
        sparsity: float,
        evidence: Mapping[str, Tensor] = {},
    ) -> Pruned:
        """Return a copy in which every whole group of M input channels keeps N weights.

        The pattern fixes the sparsity at 1 - N/M; a schedule that asks for less first gets the
        least number of weights a group that is not above it (3:4 on the way to 2:4). Stem,
        classifier, depthwise weights and layers whose input channels M does not divide take no
        part. Raises `StageError` when no layer is left, or when more is asked than N:M gives.
        """
        _masks.check_offer(spec, TRAITS.criteria, TRAITS.scopes, sparsity)
        kept, of = (int(part) for part in spec.pattern.split(":"))
        if sparsity > 1 - kept / of + 1e-6:
            raise StageError(
                "compress",
                f"{spec.pattern} cannot be {sparsity:.1%} sparse",
                expected=f"a sparsity of {1 - kept / of:g}",
            )
        # Guard the ceiling against 4 * (1 - 0.5) coming out as 2.0000000000000004.
        kept = max(kept, math.ceil(of * (1 - sparsity) - 1e-6))
        start = _dividing(_masks.prunable(model, example, keep_ends=True), of, spec.pattern)
        found = _masks.scores(start.layers, spec, evidence)
        masks = {
            layer.parameter: group_mask(score, kept, of)
            for layer, score in zip(start.layers, found, strict=True)
        }
        return _masks.masked(start, masks)

    def restore(
        self, model: nn.Module, example: Tensor, structure: Mapping[str, object]
    ) -> nn.Module:
        """Return the model as it is: zeros change no shape."""
        return model


PLUGIN: type[Pruner] = NMPruner


def group_mask(score: Tensor, kept: int, of: int) -> Tensor:
    """Return the 0/1 mask that keeps the `kept` highest of every `of` input channels.

    `score` is (outputs, inputs, kernel...) with inputs a multiple of `of`. Of equal scores the
    lower channel goes first.
    """
    import torch

    groups = score.movedim(1, -1)
    groups = groups.reshape(*groups.shape[:-1], -1, of)
    lowest = torch.argsort(groups, dim=-1, stable=True)[..., : of - kept]
    keep = torch.ones_like(groups).scatter_(-1, lowest, 0.0)
    return keep.flatten(-2).movedim(-1, 1).contiguous()


def _dividing(start: _masks.Prunable, of: int, pattern: str) -> _masks.Prunable:
    """Return only the layers whose input channels `of` divides, the others in the notes."""
    fitting = tuple(layer for layer in start.layers if layer.weight.shape[1] % of == 0)
    skipped = [
        f"{layer.layer} ({layer.weight.shape[1]})" for layer in start.layers if layer not in fitting
    ]
    notes = start.notes
    if skipped:
        notes += (f"{of} does not divide the input channels of {', '.join(skipped)}: left alone",)
    if not fitting:
        raise StageError(
            "compress",
            f"{pattern} applies to no layer",
            expected=f"a layer whose input channels are a multiple of {of}",
            mend="; ".join(notes),
        )
    return _masks.Prunable(start.model, fitting, notes)

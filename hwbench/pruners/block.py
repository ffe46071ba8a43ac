"""The patterns ``NxM``: blocks of N output by M input channels become zero together.

Every kernel position has its own blocks, in the layout (O, kh, kw, I) that sparse kernels walk:
``4x1`` keeps or drops the same input for four neighbouring outputs (Elsen et al. 2020, "Fast
Sparse ConvNets").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.protocols import Pruned, Pruner
from hwbench.pruners import _masks
from hwbench.pruners._criteria import CRITERIA, FROM_DATA
from hwbench.records import SCHEDULES
from hwbench.traits import PrunerTraits

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.records import CompressionSpec

_PATTERN = re.compile(r"([1-9]\d{0,2})x([1-9]\d{0,2})")


def _accepts(pattern: str) -> bool:
    return _PATTERN.fullmatch(pattern) is not None


TRAITS = PrunerTraits(
    requires={"torch": "torch"},
    host_distributions=("torch",),
    removes="weights",
    patterns=("4x1", "1x4"),
    accepts=_accepts,
    criteria=(*CRITERIA, "l2", *FROM_DATA),
    scopes=("global", "local", "erk", "vector"),
    schedules=tuple(SCHEDULES),
)


@dataclass(frozen=True, slots=True)
class Options:
    """No options."""


class BlockPruner:
    """Sets the blocks with the lowest mean score to zero."""

    def __init__(self, options: Options) -> None:
        """Nothing to keep."""

    def layers(self, model: nn.Module, example: Tensor, spec: CompressionSpec) -> Mapping[str, int]:
        """Return the layers that take part under a per-layer share, with their weights."""
        return _masks.sizes(model, example)

    def prune(
        self,
        model: nn.Module,
        example: Tensor,
        spec: CompressionSpec,
        sparsity: float,
        evidence: Mapping[str, Tensor] = {},
    ) -> Pruned:
        """Return a copy in which that share of the weights taking part is zero, block by block.

        Where channels do not divide, the last blocks are smaller. Depthwise weights take no
        part; for the scope ``local`` neither do stem and classifier.
        Raises `StageError` when there is nothing to prune.
        """
        _masks.check_offer(spec, TRAITS.criteria, TRAITS.scopes, sparsity)
        rows, columns = (int(size) for size in spec.pattern.split("x"))
        return _masks.prune_blocks(model, example, spec, sparsity, evidence, rows, columns)

    def restore(
        self, model: nn.Module, example: Tensor, structure: Mapping[str, object]
    ) -> nn.Module:
        """Return the model as it is: zeros change no shape."""
        return model


PLUGIN: type[Pruner] = BlockPruner

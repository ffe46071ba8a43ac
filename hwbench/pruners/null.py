"""The pattern ``dense``: a copy with nothing removed, the baseline of every study."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.protocols import Pruned, Pruner
from hwbench.traits import PrunerTraits

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.records import CompressionSpec


def _accepts(pattern: str) -> bool:
    return pattern == "dense"


TRAITS = PrunerTraits(
    requires={"torch": "torch"},
    host_distributions=("torch",),
    removes="nothing",
    patterns=("dense",),
    accepts=_accepts,
    criteria=("magnitude",),
    scopes=("global",),
    schedules=(),
)


@dataclass(frozen=True, slots=True)
class Options:
    """No options."""


class NullPruner:
    """Copies the model."""

    def __init__(self, options: Options) -> None:
        """Nothing to keep."""

    def layers(self, model: nn.Module, example: Tensor, spec: CompressionSpec) -> Mapping[str, int]:
        """Return nothing: nothing is removed."""
        return {}

    def prune(
        self,
        model: nn.Module,
        example: Tensor,
        spec: CompressionSpec,
        sparsity: float,
        evidence: Mapping[str, Tensor] = {},
    ) -> Pruned:
        """Return a copy of the model, whatever the sparsity."""
        return Pruned(copy.deepcopy(model), {}, {})

    def restore(
        self, model: nn.Module, example: Tensor, structure: Mapping[str, object]
    ) -> nn.Module:
        """Return the model as it is."""
        return model


PLUGIN: type[Pruner] = NullPruner

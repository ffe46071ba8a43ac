"""The pattern ``unstructured``: any single weight may become zero (Han et al. 2015)."""

from __future__ import annotations

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


def _accepts(pattern: str) -> bool:
    return pattern == "unstructured"


TRAITS = PrunerTraits(
    requires={"torch": "torch"},
    host_distributions=("torch",),
    removes="weights",
    patterns=("unstructured",),
    accepts=_accepts,
    criteria=(*CRITERIA, *FROM_DATA),
    scopes=("global", "local", "erk", "vector"),
    schedules=tuple(SCHEDULES),
)


@dataclass(frozen=True, slots=True)
class Options:
    """No options."""


class UnstructuredPruner:
    """Sets the lowest-scored weights to zero, over the whole model or layer by layer."""

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
        """Return a copy in which that share of the weights taking part is zero.

        Depthwise weights take no part; for the scope ``local`` neither do stem and classifier.
        Raises `StageError` when there is nothing to prune.
        """
        _masks.check_offer(spec, TRAITS.criteria, TRAITS.scopes, sparsity)
        return _masks.prune_blocks(model, example, spec, sparsity, evidence, 1, 1)

    def restore(
        self, model: nn.Module, example: Tensor, structure: Mapping[str, object]
    ) -> nn.Module:
        """Return the model as it is: zeros change no shape."""
        return model


PLUGIN: type[Pruner] = UnstructuredPruner

"""The pattern ``head``: whole attention heads leave (Michel et al. 2019, "Are Sixteen Heads...").

Attention is recognised by what it has: a number of heads (``heads``, ``num_heads``, ``n_heads`` or
``num_attention_heads``), linear projections for queries, keys and values (one each, or packed in
one), and a linear layer that brings the heads together. ``nn.MultiheadAttention`` cannot lose
heads, its widths are tied: such a model is refused by name.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import StageError
from hwbench.protocols import Pruned, Pruner
from hwbench.pruners._criteria import POOLED
from hwbench.pruners._masks import check_offer, check_ratios
from hwbench.records import SCHEDULES
from hwbench.traits import PrunerTraits

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.records import CompressionSpec


def _accepts(pattern: str) -> bool:
    return pattern == "head"


TRAITS = PrunerTraits(
    requires={"torch": "torch"},
    host_distributions=("torch",),
    removes="heads",
    patterns=("head",),
    accepts=_accepts,
    criteria=("l2", "l1", *POOLED, "random"),
    scopes=("local", "global", "vector"),
    schedules=tuple(SCHEDULES),
)


@dataclass(frozen=True, slots=True)
class Options:
    """``min_heads``: how many heads every layer keeps."""

    min_heads: int = 1


class HeadPruner:
    """Removes the heads whose projections have the lowest mean score."""

    def __init__(self, options: Options) -> None:
        """Keep the bound."""
        self.options = options

    def layers(self, model: nn.Module, example: Tensor, spec: CompressionSpec) -> Mapping[str, int]:
        """Return the attention layers and how many heads they have."""
        from hwbench.pruners import _heads

        return {found.name: found.heads for found in _heads.find(model)}

    def prune(
        self,
        model: nn.Module,
        example: Tensor,
        spec: CompressionSpec,
        sparsity: float,
        evidence: Mapping[str, Tensor] = {},
    ) -> Pruned:
        """Return a copy without that share of the *dense* model's heads.

        The number is rounded to the nearest. Raises `StageError` when there are no heads, when
        they cannot be cut, or when the share is less than one head.
        """
        from hwbench.pruners import _heads

        check_offer(spec, TRAITS.criteria, TRAITS.scopes, sparsity)
        own = copy.deepcopy(model)
        found = _heads.find(own)
        check_ratios(spec.ratios, [layer.name for layer in found])
        removals = _heads.choose(found, spec, sparsity, evidence, self.options.min_heads)
        _heads.cut(own, removals)
        _heads.check(model, own, removals, example)
        dense = sum(layer.dense for layer in found)
        left = sum(layer.heads for layer in found) - sum(map(len, removals.values()))
        if sparsity == spec.sparsity and left == dense:
            raise StageError(
                "compress",
                f"{sparsity:.0%} of {dense} heads, with {self.options.min_heads} kept a layer, is "
                "none",
                mend="ask for more",
            )
        note = f"{dense - left} of {dense} heads removed: " + ", ".join(
            f"{name} {gone}" for name, gone in removals.items() if gone
        )
        return Pruned(own, {}, {"heads": _heads.history(own)}, (note,))

    def restore(
        self, model: nn.Module, example: Tensor, structure: Mapping[str, object]
    ) -> nn.Module:
        """Return the dense model without the recorded heads, in the recorded order."""
        from hwbench.pruners import _heads

        steps = structure.get("heads")
        if not isinstance(steps, list):
            raise StageError("compress", "the record of removed heads is missing its heads")
        for removals in steps:
            _heads.cut(model, removals)
        return model


PLUGIN: type[Pruner] = HeadPruner

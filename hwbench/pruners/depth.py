"""The pattern ``depth``: whole residual blocks leave, and the shortcut alone stays.

A net of residual blocks still works without some of them (Veit et al. 2016, "Residual Networks
Behave Like Ensembles"; Fan et al. 2020, "LayerDrop", for transformers).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import StageError
from hwbench.protocols import Pruned, Pruner
from hwbench.pruners._criteria import POOLED
from hwbench.pruners._masks import check_offer
from hwbench.records import SCHEDULES
from hwbench.traits import PrunerTraits

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.records import CompressionSpec


def _accepts(pattern: str) -> bool:
    return pattern == "depth"


TRAITS = PrunerTraits(
    requires={"torch": "torch"},
    host_distributions=("torch",),
    removes="blocks",
    patterns=("depth",),
    accepts=_accepts,
    criteria=("l2", "l1", *POOLED, "random"),
    scopes=("global",),
    schedules=tuple(SCHEDULES),
)


@dataclass(frozen=True, slots=True)
class Options:
    """No options."""


class DepthPruner:
    """Replaces the residual blocks with the lowest mean score by nothing."""

    def __init__(self, options: Options) -> None:
        """Nothing to keep."""

    def layers(self, model: nn.Module, example: Tensor, spec: CompressionSpec) -> Mapping[str, int]:
        """Return nothing: a block stays or goes."""
        return {}

    def prune(
        self,
        model: nn.Module,
        example: Tensor,
        spec: CompressionSpec,
        sparsity: float,
        evidence: Mapping[str, Tensor] = {},
    ) -> Pruned:
        """Return a copy without that share of the *dense* model's removable blocks.

        Removable is a block whose output is its input once its weights are zero: the shortcut
        is an identity. The number is rounded to the nearest. Raises `StageError` when there are
        none or the share is less than one.
        """
        from hwbench.pruners import _blocks, _modules

        check_offer(spec, TRAITS.criteria, TRAITS.scopes, sparsity)
        own = copy.deepcopy(model)
        gone = _blocks.removed(own)
        found = _blocks.find(own, example)
        if not found and not gone:
            raise StageError(
                "compress",
                "the model has no residual block that can be left out",
                expected="blocks whose shortcut is an identity, of equal input and output shape",
                mend="take channel, unstructured or N:M",
            )
        dense = len(found) + len(gone)
        count = round(sparsity * dense) - len(gone)
        scores = [
            ("", _modules.score(_blocks.parts(own, name), spec, evidence, name)) for name in found
        ]
        chosen = [found[index] for index in _modules.lowest(scores, count, {})]
        if sparsity == spec.sparsity and not chosen and not gone:
            what = f"{sparsity:.0%} of {dense} residual blocks is none"
            raise StageError("compress", what, mend="ask for more")
        _blocks.remove(own, chosen)
        everything = [*gone, *chosen]
        note = f"{len(everything)} of {dense} residual blocks removed: {', '.join(everything)}"
        return Pruned(own, {}, {"blocks": everything}, (note,))

    def restore(
        self, model: nn.Module, example: Tensor, structure: Mapping[str, object]
    ) -> nn.Module:
        """Return the dense model without the recorded blocks."""
        from hwbench.pruners import _blocks

        names = structure.get("blocks")
        if not isinstance(names, list):
            raise StageError("compress", "the record of removed blocks is missing its blocks")
        _blocks.remove(model, names)
        return model


PLUGIN: type[Pruner] = DepthPruner

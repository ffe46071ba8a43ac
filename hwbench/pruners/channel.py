"""The pattern ``channel``: whole channels leave, and every layer that touches them shrinks.

``filter`` is the same for the channels of convolutions alone, ``neuron`` for those of linear
layers, ``mlp`` for hidden units between exactly two linear layers (a transformer's MLP width).

Which layers hang together is found by torch-pruning's dependency graph (Fang et al. 2023,
"DepGraph"). A group's channels are ranked by their norm over the whole group (``l1``, ``l2``: Li et
al. 2017), by that norm over the larger ones (``lamp``), by the scale of their batch norm
(``bn_scale``: Liu et al. 2017, "Network Slimming"), by their distance from all other filters
(``fpgm``: He et al. 2019), or by what data say about their weights (``taylor``, ``hessian``,
``movement``). What is removed is decided here, because its own pruner rounds widths down (25 % of
16 with a multiple of 8 would be 50 %), lets a global ranking leave one channel, and shares
mutable default arguments between its instances.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import StageError
from hwbench.protocols import Pruned, Pruner
from hwbench.pruners._masks import check_offer
from hwbench.records import CHANNELS, SCHEDULES
from hwbench.traits import PrunerTraits

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.records import CompressionSpec


def _accepts(pattern: str) -> bool:
    return pattern in CHANNELS


TRAITS = PrunerTraits(
    requires={"torch": "torch", "torch_pruning": "torch-pruning"},
    host_distributions=("torch", "torch-pruning"),
    removes="channels",
    patterns=CHANNELS,
    accepts=_accepts,
    criteria=(
        "l2",
        "l1",
        "lamp",
        "bn_scale",
        "fpgm",
        "taylor",
        "hessian",
        "movement",
        "random",
    ),
    scopes=("local", "global", "vector"),
    schedules=tuple(SCHEDULES),
)


@dataclass(frozen=True, slots=True)
class Options:
    """Bounds on what is removed.

    ``min_width``: channels that every layer keeps. ``max_ratio``: the largest share of a layer's
    channels that leaves.
    """

    min_width: int = 8
    max_ratio: float = 0.9


class ChannelPruner:
    """Removes the channels whose groups have the lowest norm."""

    def __init__(self, options: Options) -> None:
        """Keep the bounds."""
        self.options = options

    def layers(self, model: nn.Module, example: Tensor, spec: CompressionSpec) -> Mapping[str, int]:
        """Return the first layer of every group of channels that can leave, and its width."""
        from hwbench.pruners import _channels

        return _channels.Graph(copy.deepcopy(model), example, spec.pattern).widths()

    def prune(
        self,
        model: nn.Module,
        example: Tensor,
        spec: CompressionSpec,
        sparsity: float,
        evidence: Mapping[str, Tensor] = {},
    ) -> Pruned:
        """Return a copy with that share of the *dense* model's prunable channels removed.

        A share p of the channels takes about 1 - (1 - p)² of the parameters. Widths are rounded
        to the nearest multiple of ``spec.channel_multiple`` and never fall below the bounds, so
        the share reached differs a little from the one asked for; the notes have it. The layer
        that makes the output and everything tied to ``nn.MultiheadAttention`` keep their
        widths. A model that was cut before goes on from there (schedules).

        Raises `StageError` when nothing can be removed or the model is beyond torch-pruning.
        """
        from hwbench.pruners import _channels

        check_offer(spec, TRAITS.criteria, TRAITS.scopes, sparsity)
        own = copy.deepcopy(model)
        graph = _channels.Graph(own, example, spec.pattern)
        bounds = (self.options.min_width, self.options.max_ratio)
        widths = [_channels.width(group, own, spec, bounds, evidence) for group in graph.groups]
        if not widths:
            raise StageError(
                "compress",
                f"the model has nothing to prune by the pattern {spec.pattern}",
                expected=_channels.KINDS[spec.pattern],
                mend="; ".join(graph.notes),
            )
        keep = _channels.kept(widths, sparsity, spec)
        graph.cut([width.lowest(count) for width, count in zip(widths, keep, strict=True)])
        _channels.check(model, own, graph, example)
        dense = sum(width.dense for width in widths)
        reached = 1 - sum(keep) / dense
        if sparsity == spec.sparsity and reached <= 0 < sparsity:
            raise StageError(
                "compress",
                f"{sparsity:.0%} of the channels, in multiples of {spec.channel_multiple} and "
                f"with at least {self.options.min_width} a layer, is none",
                mend="ask for more, or take a smaller channel multiple",
            )
        names = ", ".join(f"{w.name} {w.dense} → {k}" for w, k in zip(widths, keep, strict=True))
        note = f"{reached:.1%} of the channels removed, {sparsity:.1%} asked for: {names}"
        return Pruned(own, {}, {"cuts": graph.history}, (*graph.notes, note))

    def restore(
        self, model: nn.Module, example: Tensor, structure: Mapping[str, object]
    ) -> nn.Module:
        """Return the dense model with the recorded channels removed, in the recorded order."""
        from hwbench.pruners import _channels

        _channels.replay(model, example, structure)
        return model


PLUGIN: type[Pruner] = ChannelPruner

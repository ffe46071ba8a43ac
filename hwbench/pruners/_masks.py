"""The mask engine: weights that become zero while the shape of the model stays.

A pattern is a set of units (single weights, N:M groups, N x M blocks); a criterion scores
weights; a scope says which units compete. Masks are plain 0/1 tensors beside the model rather
than parametrizations on it: copies stay copies, and there is nothing left to bake into the
exported graph (an active parametrization leaves a Mul and keeps batch norm from being folded).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwbench.errors import StageError, UserError, did_you_mean
from hwbench.protocols import Pruned
from hwbench.pruners._criteria import FROM_DATA, OF_BLOCKS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from hwbench.pruners._layers import WeightedLayer
    from hwbench.records import CompressionSpec


@dataclass(frozen=True, slots=True)
class Prunable:
    """The copy to prune, the layers that take part, and why the others do not."""

    model: nn.Module
    layers: tuple[WeightedLayer, ...]
    notes: tuple[str, ...]


def check_offer(
    spec: CompressionSpec, criteria: Sequence[str], scopes: Sequence[str], sparsity: float
) -> None:
    """Raise `UserError` for a criterion or scope that is not offered, or a sparsity beyond 0..1."""
    for kind, found, offered in (
        ("criterion", spec.criterion, criteria),
        ("scope", spec.scope, scopes),
    ):
        if found not in offered:
            what = f"the pattern {spec.pattern!r} has no {kind} {found!r}"
            raise UserError(what, mend=did_you_mean(found, offered))
    if not 0 <= sparsity < 1:
        raise UserError(f"a sparsity of {sparsity:g}", expected="0 or more, and less than 1")


def prunable(model: nn.Module, example: Tensor, *, keep_ends: bool) -> Prunable:
    """Return a copy of the model and the layers that masks may cover.

    Depthwise weights are always left alone: they are few and each counts (leaving them out
    brought 96.0 to 99.0 % at 80 % sparsity). ``keep_ends`` also leaves the stem and the
    classifier alone, as is right where every layer gets the same sparsity.

    Raises `StageError` when nothing is left to prune.
    """
    from hwbench.pruners._layers import find_ends, weighted_layers

    own = copy.deepcopy(model)
    layers = weighted_layers(own)
    notes = []
    depthwise = [layer.layer for layer in layers if layer.depthwise]
    if depthwise:
        notes.append(f"depthwise weights left alone: {', '.join(depthwise)}")
    layers = [layer for layer in layers if not layer.depthwise]
    if keep_ends:
        ends = find_ends(own, example)
        spared = [layer.layer for layer in layers if layer.layer in (ends.stem, ends.classifier)]
        if spared:
            notes.append(f"stem and classifier left alone: {', '.join(spared)}")
        layers = [layer for layer in layers if layer.layer not in spared]
    if not layers:
        raise StageError(
            "compress",
            "the model has nothing to prune",
            expected="a convolution (not depthwise) or a linear layer"
            + (" besides the stem and the classifier" if keep_ends else ""),
            mend="; ".join(notes),
        )
    return Prunable(own, tuple(layers), tuple(notes))


def scores(
    layers: Sequence[WeightedLayer], spec: CompressionSpec, evidence: Mapping[str, Tensor]
) -> list[Tensor]:
    """Return the criterion's score of every weight, float32, 0 for weights that are zero already.

    The 0 makes steps nest: what an earlier step removed is removed again. Raises `StageError`
    when the criterion needs evidence on a layer and there is none.
    """
    import torch

    generator = torch.Generator().manual_seed(spec.seed)
    found = []
    for layer in layers:
        weight = layer.weight.detach()
        if spec.criterion in FROM_DATA:
            learnt = evidence_on(layer.parameter, spec.criterion, evidence)
            score = FROM_DATA[spec.criterion](weight, learnt)
        else:
            score = OF_BLOCKS[spec.criterion](weight, generator)
        found.append(score.float() * (weight != 0))
    return found


def evidence_on(parameter: str, criterion: str, evidence: Mapping[str, Tensor]) -> Tensor:
    """Return what was learnt about a weight; raises `StageError` when nothing finite was."""
    found = evidence.get(parameter)
    if found is None or not bool(found.isfinite().all()):
        what = "nothing was" if found is None else "nothing finite was"
        raise StageError(
            "compress",
            f"the criterion {criterion} needs data, and {what} learnt about {parameter}",
            mend="take magnitude or lamp, or a training split that reaches this layer",
        )
    return found


def prune_blocks(
    model: nn.Module,
    example: Tensor,
    spec: CompressionSpec,
    sparsity: float,
    evidence: Mapping[str, Tensor],
    rows: int,
    columns: int,
) -> Pruned:
    """Return a copy with the lowest-scored blocks set to zero (1 x 1: single weights).

    A block is `rows` output by `columns` input channels at one kernel position; blocks at a
    ragged edge are smaller. Scope ``global``: all blocks compete; ``local``: each layer reaches
    the sparsity on its own; ``erk`` and ``vector``: each reaches its own. The share is of the
    weights that take part, and met as nearly as whole blocks allow.
    """
    start = prunable(model, example, keep_ends=spec.scope == "local")
    pools = [pool(score, rows, columns) for score in scores(start.layers, spec, evidence)]
    if spec.scope == "global":
        kept = _keep_jointly(pools, sparsity)
    else:
        shares = _shares(start.layers, spec, sparsity)
        kept = [_keep_jointly([p], share)[0] for p, share in zip(pools, shares, strict=True)]
    masks = {
        layer.parameter: unpool(keep, layer.weight.shape, rows, columns)
        for layer, keep in zip(start.layers, kept, strict=True)
    }
    return masked(start, masks)


def sizes(model: nn.Module, example: Tensor) -> Mapping[str, int]:
    """Return the weights of each layer that per-layer shares may name."""
    found: dict[str, int] = {}
    for layer in prunable(model, example, keep_ends=False).layers:
        found[layer.layer] = found.get(layer.layer, 0) + layer.weight.numel()
    return found


def check_ratios(ratios: Mapping[str, float], known: Iterable[str]) -> None:
    """Raise `StageError` for a share of a layer that is not there or not prunable."""
    names = list(known)
    for name in ratios:
        if name not in names:
            raise StageError(
                "compress",
                f"ratios name {name!r}, which is no layer that can be pruned so",
                mend=did_you_mean(name, names),
            )


def erk(shapes: Sequence[Sequence[int]], sparsity: float) -> list[float]:
    """Return each layer's sparsity by the Erdős-Rényi-Kernel rule (Evci et al. 2020, "RigL").

    The density of a layer goes with (sum of its dimensions) / (product of them), so that small
    layers keep more; a layer that would keep more than all is dense, and the others make up.
    """
    counts = [math.prod(shape) for shape in shapes]
    raw = [sum(shape) / count for shape, count in zip(shapes, counts, strict=True)]
    dense: set[int] = set()
    while True:
        rest = [index for index in range(len(shapes)) if index not in dense]
        left = (1 - sparsity) * sum(counts) - sum(counts[index] for index in dense)
        scale = left / sum(raw[index] * counts[index] for index in rest) if rest else 0.0
        full = {index for index in rest if scale * raw[index] > 1}
        if not full:
            break
        dense |= full
    return [0.0 if i in dense else max(0.0, 1 - scale * r) for i, r in enumerate(raw)]


def _shares(
    layers: Sequence[WeightedLayer], spec: CompressionSpec, sparsity: float
) -> Sequence[float]:
    """Return each layer's own sparsity under a scope in which layers do not compete."""
    if spec.scope == "erk":
        return erk([layer.weight.shape for layer in layers], sparsity)
    if spec.scope == "vector":
        check_ratios(spec.ratios, [layer.layer for layer in layers])
        return [spec.ratios.get(layer.layer, 0.0) for layer in layers]
    return [sparsity] * len(layers)


def pool(score: Tensor, rows: int, columns: int) -> tuple[Tensor, Tensor]:
    """Return the mean score and the number of weights of every block.

    Both have the shape (output blocks, kernel positions, input blocks).
    """
    import torch

    def total(values: Tensor) -> Tensor:
        flat = values.reshape(values.shape[0], values.shape[1], -1).transpose(1, 2)
        below, right = -flat.shape[0] % rows, -flat.shape[2] % columns
        flat = torch.nn.functional.pad(flat, (0, right, 0, 0, 0, below))
        outputs, positions, inputs = flat.shape
        blocks = (outputs // rows, rows, positions, inputs // columns, columns)
        return flat.reshape(blocks).sum(dim=(1, 4))

    sizes = total(torch.ones_like(score))
    return total(score) / sizes, sizes


def unpool(keep: Tensor, shape: Sequence[int], rows: int, columns: int) -> Tensor:
    """Return the 0/1 mask, of a weight's shape, that says of every block whether it stays."""
    wide = keep.repeat_interleave(rows, 0).repeat_interleave(columns, 2)
    cut = wide[: shape[0], :, : shape[1]].transpose(1, 2)
    return cut.reshape(tuple(shape)).float().contiguous()


def masked(start: Prunable, masks: Mapping[str, Tensor]) -> Pruned:
    """Return the result with the masks applied and what they cover in the notes."""
    import torch

    notes = list(start.notes)
    with torch.no_grad():
        for layer in start.layers:
            mask = masks.get(layer.parameter)
            if mask is None:
                continue
            layer.weight.mul_(mask)
            if not mask.any():
                notes.append(f"{layer.layer} lost all its weights")
    covered = sum(mask.numel() for mask in masks.values())
    zeros = covered - sum(int(mask.sum()) for mask in masks.values())
    total = sum(weight.numel() for weight in start.model.parameters())
    notes.append(
        f"{zeros} of the {covered} weights that take part are zero ({zeros / covered:.1%}); "
        f"the model has {total} parameters"
    )
    return Pruned(start.model, dict(masks), {}, tuple(notes))


def _keep_jointly(pools: Sequence[tuple[Tensor, Tensor]], sparsity: float) -> list[Tensor]:
    """Return, per layer, which units stay when those of all layers compete.

    Units go in the order of their scores (ties: in the order of the layers) until the number
    of weights gone is as near to the share as whole units allow.
    """
    import torch

    ranked = torch.cat([score.flatten() for score, _ in pools])
    sizes = torch.cat([size.flatten() for _, size in pools]).double()
    order = torch.argsort(ranked, stable=True)
    gone = torch.cat([sizes.new_zeros(1), sizes[order].cumsum(0)])
    count = int((gone - sparsity * gone[-1]).abs().argmin())
    keep = torch.ones(len(ranked), dtype=torch.bool)
    keep[order[:count]] = False
    parts = torch.split(keep, [score.numel() for score, _ in pools])
    return [part.view(score.shape) for part, (score, _) in zip(parts, pools, strict=True)]

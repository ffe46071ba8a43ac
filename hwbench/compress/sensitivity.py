"""How much each layer can lose: curves by trying, and per-layer shares read off them."""

from __future__ import annotations

import copy
import dataclasses
import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from hwbench.compress import device
from hwbench.compress.evidence import gather
from hwbench.compress.training import Progress, reestimate_norms, score
from hwbench.errors import StageError
from hwbench.protocols import Workload
from hwbench.pruners import _weights
from hwbench.records import CompressionSpec, LayerCurve, Sensitivity

if TYPE_CHECKING:
    from torch import nn

SHARES = (0.3, 0.6, 0.8, 0.9, 0.97)
"""Shares of one layer that are tried."""

_MOST = 0.995
"""No layer is asked for more than this."""


def curves(
    spec: CompressionSpec,
    workload: Workload,
    model: nn.Module,
    progress: Progress,
    shares: Sequence[float] = SHARES,
) -> Sensitivity:
    """Return what pruning each layer alone by each share costs, without training.

    The pattern and criterion are the spec's; batch-norm statistics are estimated again each time
    (Li et al. 2017, "Pruning Filters for Efficient ConvNets", and Han et al. 2015 draw such
    curves). Raises `StageError` when the pattern has no per-layer shares.
    """
    pruner, example = _weights.pruner_for(spec.pattern, spec.options), _weights.example_of(workload)
    layers = pruner.layers(copy.deepcopy(model).cpu(), example, spec)
    if not layers:
        raise StageError("compress", f"the pattern {spec.pattern} has no shares by layer")
    evidence, dense = gather(spec, model, workload), score(model, workload)
    found = []
    for index, (layer, units) in enumerate(layers.items()):
        scores = []
        for place, share in enumerate(shares):
            alone = dataclasses.replace(spec, scope="vector", sparsity=share, ratios={layer: share})
            made = device.prune(pruner, model, example, alone, share, evidence)
            reestimate_norms(made.model, workload, seed=spec.seed)
            scores.append(score(made.model, workload))
            progress((index + (place + 1) / len(shares)) / len(layers))
        found.append(LayerCurve(layer, units, dense, tuple(shares), tuple(scores)))
    return Sensitivity(spec, tuple(found))


def allotted(sensitivity: Sensitivity, sparsity: float) -> dict[str, float]:
    """Return each layer's share so that all together lose `sparsity` of the units.

    Every layer goes as far as its curve stays above one common score, the highest that still
    meets the whole (found by halving): no layer is a weaker link than another.
    """
    lines = [_line(curve) for curve in sensitivity.curves]
    units = [curve.units for curve in sensitivity.curves]
    low = min(score for line in lines for _, score in line)
    high = max(score for line in lines for _, score in line)
    for _ in range(50):
        middle = (low + high) / 2
        shares = [_reach(line, middle) for line in lines]
        met = sum(s * u for s, u in zip(shares, units, strict=True)) >= sparsity * sum(units)
        low, high = (middle, high) if met else (low, middle)
    shares = [_reach(line, low) for line in lines]
    # What halving leaves over is taken off everywhere alike.
    total = sum(s * u for s, u in zip(shares, units, strict=True)) / sum(units)
    scale = sparsity / total if total > sparsity else 1.0
    names = [curve.layer for curve in sensitivity.curves]
    return {n: round(s * scale, 6) for n, s in zip(names, shares, strict=True)}


def _line(curve: LayerCurve) -> list[tuple[float, float]]:
    """Return the curve as falling points from share 0 to the most, noise smoothed away."""
    points, worst = [(0.0, curve.score)], curve.score
    for share, found in zip(curve.sparsities, curve.scores, strict=True):
        worst = min(worst, found)
        points.append((share, worst))
    # Beyond the last trial it goes on falling as it fell from the dense score up to there.
    (share, last), fallen = points[-1], curve.score - points[-1][1]
    if share < _MOST:
        points.append((_MOST, last - fallen * (_MOST - share) / share - 1e-9))
    return points


def _reach(line: Sequence[tuple[float, float]], level: float) -> float:
    """Return the largest share at which a falling line is still at or above a level."""
    best = 0.0
    for (left, high), (right, low) in itertools.pairwise(line):
        if low >= level:
            best = right
        elif high >= level:
            return left + (right - left) * (high - level) / (high - low)
    return best

"""The compress room: train, prune ⇄ fine-tune, bake. The loop between the two stays in here."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.compress import device, rounds
from hwbench.compress.sensitivity import allotted, curves
from hwbench.compress.training import Progress, fit, score, seeded, within
from hwbench.protocols import Pruned, Workload
from hwbench.pruners import _weights
from hwbench.records import CompressedModel, CompressionSpec, Sensitivity

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Progress", "allotted", "compress", "load", "prunable", "score", "sensitivity"]

_WAYS: Mapping[str, rounds.Way] = {
    "lottery": rounds.draw,
    "lr_rewinding": rounds.rewind,
    "scratch": rounds.anew,
}


def compress(
    spec: CompressionSpec,
    workload: Workload,
    dense: CompressedModel | None,
    folder: Path,
    progress: Progress,
    tried: Sensitivity | None = None,
) -> CompressedModel:
    """Return the model that the spec describes, its files written into `folder` (empty, exists).

    A dense spec is trained from the workload's fresh model; any other starts from `dense`, is
    pruned by its schedule, gets its batch-norm statistics estimated again after every pruning
    step and is fine-tuned (or taught by the dense model) with its zeros kept; a lottery ticket is
    trained again from an early epoch instead, a net from ``scratch`` from fresh weights. The same
    spec gives the same weights (on one number of threads).

    ``scores`` are on the validation split: ``trained`` for the dense model; ``pruned`` and
    ``bn_reestimated`` right after the last pruning step, ``finetuned`` at the end if there was
    a recovery. `progress` is called with shares from 0 to 1. What is not pruning happens on the
    device of ``spec.training``; the files hold tensors of the CPU. ``notes`` say which GPU it was.

    The scope ``sensitivity`` reads its shares off `tried`, what `sensitivity` found for
    ``spec.alone``; without it the layers are tried here.

    Raises `StageError` when the model cannot be pruned so or training diverges.
    """
    started = time.perf_counter()
    progress(0.0)
    with device.ready(spec.training) as where, seeded(spec.seed):
        if spec.is_dense:
            made, scores = _train_dense(spec, workload, progress)
        else:
            made, scores = _prune(spec, workload, dense, progress, tried)
        made.model.cpu()
    _bake(made)
    _weights.save(made.model, folder, spec, made.structure)
    progress(1.0)
    notes = (*made.notes, *where.notes)
    return CompressedModel(spec, folder, scores, time.perf_counter() - started, notes)


def load(model: CompressedModel, workload: Workload) -> nn.Module:
    """Return the saved model in evaluation mode; raises `StageError` when it does not load."""
    return _weights.load(model.folder, workload, stage="compress")


def _train_dense(
    spec: CompressionSpec, workload: Workload, progress: Progress
) -> tuple[Pruned, Mapping[str, float]]:
    model = workload.model().to(spec.training.device)
    if spec.train.epochs:
        fit(model, workload, spec.train, seed=spec.seed, masks={}, progress=within(progress, 0, 1))
    return Pruned(model, {}, {}), {"trained": score(model, workload)}


def _prune(
    spec: CompressionSpec,
    workload: Workload,
    dense: CompressedModel | None,
    progress: Progress,
    tried: Sensitivity | None,
) -> tuple[Pruned, Mapping[str, float]]:
    if dense is None:
        raise ValueError(f"{spec.label} needs its dense model")
    model = load(dense, workload).to(spec.training.device)
    way = _WAYS.get(spec.schedule, rounds.grow)
    asked = _with_ratios(spec, workload, model, tried)
    return way(asked, workload, model, within(progress, 0, 1))


def prunable(spec: CompressionSpec, workload: Workload) -> Mapping[str, int]:
    """Return the layers that the spec's pattern can prune, each with its units (channels, ...)."""
    pruner = _weights.pruner_for(spec.pattern, spec.options)
    with seeded(spec.seed):
        return pruner.layers(workload.model(), _weights.example_of(workload), spec)


def sensitivity(
    spec: CompressionSpec, workload: Workload, dense: CompressedModel, progress: Progress
) -> Sensitivity:
    """Return what pruning each layer alone costs, by the spec's pattern and criterion.

    Raises `StageError` when the pattern has no shares by layer.
    """
    with device.ready(spec.training) as where, seeded(spec.seed):
        return curves(spec, workload, load(dense, workload).to(where.device), progress)


def _with_ratios(
    spec: CompressionSpec, workload: Workload, model: nn.Module, tried: Sensitivity | None
) -> CompressionSpec:
    """Return the spec with the shares that the scope ``sensitivity`` stands for."""
    if spec.scope != "sensitivity":
        return spec
    found = tried or curves(spec, workload, model, lambda _: None)
    ratios = allotted(found, spec.sparsity)
    return dataclasses.replace(spec, scope="vector", ratios=ratios)


def _bake(made: Pruned) -> None:
    """Make every masked weight exactly +0: a product with the mask leaves -0 behind."""
    import torch

    parameters = dict(made.model.named_parameters())
    with torch.no_grad():
        for name, mask in made.masks.items():
            parameters[name].masked_fill_(mask == 0, 0.0)
    made.model.eval()

"""The compress room: train, prune ⇄ fine-tune, bake. The loop between the two stays in here."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hwbench.compress import schedule
from hwbench.compress.training import Progress, fit, reestimate_norms, score, seeded
from hwbench.errors import StageError
from hwbench.protocols import Pruned, Workload
from hwbench.pruners import _weights
from hwbench.records import CompressedModel, CompressionSpec, TrainSpec

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Progress", "compress", "load", "score"]


def compress(
    spec: CompressionSpec,
    workload: Workload,
    dense: CompressedModel | None,
    folder: Path,
    progress: Progress,
) -> CompressedModel:
    """Return the model that the spec describes, its files written into `folder` (empty, exists).

    A dense spec is trained from the workload's fresh model; any other starts from `dense`, is
    pruned by its schedule, gets its batch-norm statistics estimated again after every pruning
    step and is fine-tuned with its zeros kept. The same spec gives the same weights (on one
    number of threads).

    ``scores`` are on the validation split: ``trained`` for the dense model; ``pruned`` and
    ``bn_reestimated`` right after the last pruning step, ``finetuned`` at the end if there was
    a recovery. `progress` is called with shares from 0 to 1.

    Raises `StageError` when the model cannot be pruned so or training diverges.
    """
    started = time.perf_counter()
    progress(0.0)
    with seeded(spec.seed):
        if spec.is_dense:
            made, scores = _train_dense(spec, workload, progress)
        else:
            if dense is None:
                raise ValueError(f"{spec.label} needs its dense model")
            made, scores = _prune(spec, workload, load(dense, workload), progress)
    _bake(made)
    _weights.save(made.model, folder, spec, made.structure)
    progress(1.0)
    return CompressedModel(spec, folder, scores, time.perf_counter() - started, made.notes)


def load(model: CompressedModel, workload: Workload) -> nn.Module:
    """Return the saved model in evaluation mode; raises `StageError` when it does not load."""
    return _weights.load(model.folder, workload, stage="compress")


def _train_dense(
    spec: CompressionSpec, workload: Workload, progress: Progress
) -> tuple[Pruned, Mapping[str, float]]:
    model = workload.model()
    if spec.train.epochs:
        fit(model, workload, spec.train, seed=spec.seed, masks={}, progress=_within(progress, 0, 1))
    return Pruned(model, {}, {}), {"trained": score(model, workload)}


def _prune(
    spec: CompressionSpec, workload: Workload, model: nn.Module, progress: Progress
) -> tuple[Pruned, Mapping[str, float]]:
    pruner, example = _weights.pruner_for(spec.pattern, spec.options), _weights.example_of(workload)
    recovery = spec.recovery or TrainSpec(epochs=0)
    steps = schedule.plan(spec.schedule, spec.steps, spec.sparsity)
    if not recovery.epochs:
        steps = steps[-1:]  # nothing heals in between, so the way there does not matter
    scores: dict[str, float] = {}
    ends = [*(step.at for step in steps[1:]), 1.0]
    made = Pruned(model, {}, {})
    for step, end in zip(steps, ends, strict=True):
        made = pruner.prune(made.model, example, spec, step.sparsity)
        last = step is steps[-1]
        if last:
            scores |= _on_the_way("pruned", made.model, workload)
        reestimate_norms(made.model, workload, seed=spec.seed)
        if last and recovery.epochs:
            scores |= _on_the_way("bn_reestimated", made.model, workload)
        elif last:
            scores["bn_reestimated"] = score(made.model, workload)
        if recovery.epochs:
            start = 0.0 if step is steps[0] else step.at
            fit(
                made.model,
                workload,
                recovery,
                seed=spec.seed,
                masks=made.masks,
                start=start,
                stop=end,
                progress=_within(progress, start, end),
            )
    if recovery.epochs:
        scores["finetuned"] = score(made.model, workload)
    return made, scores


def _on_the_way(moment: str, model: nn.Module, workload: Workload) -> Mapping[str, float]:
    """Return a score that decides nothing; none where collapsed outputs have none (AUC, F1)."""
    try:
        return {moment: score(model, workload)}
    except StageError:
        return {}


def _bake(made: Pruned) -> None:
    """Make every masked weight exactly +0: a product with the mask leaves -0 behind."""
    import torch

    parameters = dict(made.model.named_parameters())
    with torch.no_grad():
        for name, mask in made.masks.items():
            parameters[name].masked_fill_(mask == 0, 0.0)
    made.model.eval()


def _within(progress: Progress, start: float, end: float) -> Progress:
    """Return a progress that fills `start` to `end` of the given one, 5 % kept for the rest."""
    return lambda share: progress(0.02 + 0.95 * (start + share * (end - start)))

"""The ways from a dense model to a pruned one: prune ⇄ train, in rounds."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from hwbench.compress import device, schedule
from hwbench.compress.distillation import taught
from hwbench.compress.evidence import gather
from hwbench.compress.training import Loss, Progress, fit, reestimate_norms, score, seeded
from hwbench.errors import StageError
from hwbench.protocols import Pruned, Workload
from hwbench.pruners import _weights
from hwbench.records import CompressionSpec, TrainSpec

if TYPE_CHECKING:
    from torch import nn

Scores = Mapping[str, float]

_OTHER = 1_000_003
"""Added to a seed where other weights than the dense model began with are wanted."""
Way = Callable[[CompressionSpec, Workload, "nn.Module", Progress], tuple[Pruned, Scores]]


def grow(
    spec: CompressionSpec, workload: Workload, model: nn.Module, progress: Progress
) -> tuple[Pruned, Scores]:
    """Return the model pruned step by step during one recovery, and its scores on the way."""
    recovery = spec.recovery or TrainSpec(epochs=0)
    steps = schedule.plan(spec.schedule, spec.steps, spec.sparsity, spec.begin, spec.end)
    if not recovery.epochs:
        steps = steps[-1:]  # nothing heals in between, so the way there does not matter
    loss = _loss(spec, workload, model)
    scores: dict[str, float] = {}
    made = Pruned(copy.deepcopy(model), {}, {})

    def train(start: float, stop: float) -> None:
        if recovery.epochs and stop > start:
            part = _part(progress, start, stop)
            fit(
                made.model,
                workload,
                recovery,
                seed=spec.healing_seed,
                masks=made.masks,
                start=start,
                stop=stop,
                loss_of=loss,
                progress=part,
            )

    train(0.0, steps[0].at)
    for step, end in zip(steps, [*(s.at for s in steps[1:]), 1.0], strict=True):
        made = _cut(spec, workload, made.model, step.sparsity)
        if step is steps[-1]:
            scores |= _healed(spec, workload, made, final=not recovery.epochs)
        else:
            reestimate_norms(made.model, workload, seed=spec.seed)
        train(step.at, end)
    if recovery.epochs:
        scores["finetuned"] = score(made.model, workload)
    return made, scores


def rewind(
    spec: CompressionSpec, workload: Workload, model: nn.Module, progress: Progress
) -> tuple[Pruned, Scores]:
    """Return the model pruned in rounds, each followed by the end of the first training again.

    The weights stay and the learning rate goes back to where it was that many epochs before the
    end (Renda et al. 2020, "Comparing Rewinding and Fine-tuning").
    """
    assert spec.recovery is not None
    start = 1 - spec.recovery.epochs / spec.train.epochs
    steps = schedule.plan(spec.schedule, spec.steps, spec.sparsity)
    loss = _loss(spec, workload, model)
    made, scores = Pruned(model, {}, {}), {}
    for index, step in enumerate(steps):
        made = _cut(spec, workload, made.model, step.sparsity)
        scores = dict(_healed(spec, workload, made, final=False))
        fit(
            made.model,
            workload,
            spec.train,
            seed=spec.healing_seed + 1 + index,
            masks=made.masks,
            start=start,
            loss_of=loss,
            progress=_part(progress, index / len(steps), (index + 1) / len(steps)),
        )
    scores["finetuned"] = score(made.model, workload)
    return made, scores


def draw(
    spec: CompressionSpec, workload: Workload, model: nn.Module, progress: Progress
) -> tuple[Pruned, Scores]:
    """Return a lottery ticket, trained (Frankle & Carbin 2019, "The Lottery Ticket Hypothesis").

    In rounds: prune the trained net, put the weights that are left back to what they were at
    epoch ``spec.rewind`` of its first training (0: at initialisation; later epochs: Frankle et al.
    2020, "Linear Mode Connectivity"), train them again with the net's shape kept. A ``random``
    ticket is the control: the last round trains fresh weights in the shape that was found.
    """
    early = _early(spec, workload)
    back = spec.rewind / spec.train.epochs
    steps = schedule.plan(spec.schedule, spec.steps, spec.sparsity)
    made = Pruned(model, {}, {})
    for index, step in enumerate(steps):
        found = _cut(spec, workload, made.model, step.sparsity)
        chance = spec.ticket == "random" and step is steps[-1]
        weights = _fresh(spec, workload, seed=spec.seed + _OTHER) if chance else early
        made = _worn(spec, workload, found, weights)
        fit(
            made.model,
            workload,
            spec.train,
            seed=spec.healing_seed,
            masks=made.masks,
            start=0.0 if chance else back,
            progress=_part(progress, index / len(steps), (index + 1) / len(steps)),
        )
    return made, {"finetuned": score(made.model, workload)}


def anew(
    spec: CompressionSpec, workload: Workload, model: nn.Module, progress: Progress
) -> tuple[Pruned, Scores]:
    """Return the shape that pruning finds, trained from fresh weights: the control of pruning.

    For as long as the dense training and the recovery together, so that nobody had more of it
    (Liu et al. 2019, "Rethinking the Value of Network Pruning", train so from scratch).
    """
    found = _cut(spec, workload, model, spec.sparsity)
    made = _worn(spec, workload, found, _fresh(spec, workload, seed=spec.seed + _OTHER))
    fit(
        made.model,
        workload,
        spec.whole_training,
        seed=spec.healing_seed,
        masks=made.masks,
        progress=progress,
    )
    return made, {"finetuned": score(made.model, workload)}


def _early(spec: CompressionSpec, workload: Workload) -> nn.Module:
    """Return the dense model as it was at epoch ``spec.rewind``: trained again up to there."""
    model = _fresh(spec, workload, seed=spec.seed).to(spec.train.device)
    if spec.rewind:
        stop = spec.rewind / spec.train.epochs
        # The dense model was trained under this very seed: the same steps, the same weights.
        fit(
            model,
            workload,
            spec.train,
            seed=spec.seed,
            masks={},
            stop=stop,
            progress=lambda _: None,
        )
    return model


def _fresh(spec: CompressionSpec, workload: Workload, *, seed: int) -> nn.Module:
    with seeded(seed):
        return workload.model()


def _worn(spec: CompressionSpec, workload: Workload, found: Pruned, weights: nn.Module) -> Pruned:
    """Return a copy of `weights` in the shape, and with the zeros, that were found."""
    import torch

    pruner, example = _weights.pruner_for(spec.pattern, spec.options), _weights.example_of(workload)
    model = pruner.restore(copy.deepcopy(weights).cpu(), example, found.structure)
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, mask in found.masks.items():
            parameters[name].mul_(mask)
    return dataclasses.replace(found, model=model.to(device.of(found.model)))


def _cut(spec: CompressionSpec, workload: Workload, model: nn.Module, sparsity: float) -> Pruned:
    pruner, example = _weights.pruner_for(spec.pattern, spec.options), _weights.example_of(workload)
    if spec.ratios and sparsity < spec.sparsity:
        part = sparsity / spec.sparsity
        ratios = {name: share * part for name, share in spec.ratios.items()}
        spec = dataclasses.replace(spec, ratios=ratios)
    evidence = gather(spec, model, workload)
    return device.prune(pruner, model, example, spec, sparsity, evidence)


def _healed(
    spec: CompressionSpec, workload: Workload, made: Pruned, *, final: bool
) -> Mapping[str, float]:
    """Estimate batch-norm statistics again; return the scores before and after."""
    scores = dict(_on_the_way("pruned", made.model, workload))
    reestimate_norms(made.model, workload, seed=spec.seed)
    if final:
        return {**scores, "bn_reestimated": score(made.model, workload)}
    return {**scores, **_on_the_way("bn_reestimated", made.model, workload)}


def _on_the_way(moment: str, model: nn.Module, workload: Workload) -> Mapping[str, float]:
    """Return a score that decides nothing; none where collapsed outputs have none (AUC, F1)."""
    try:
        return {moment: score(model, workload)}
    except StageError:
        return {}


def _loss(spec: CompressionSpec, workload: Workload, dense: nn.Module) -> Loss | None:
    if spec.healing != "distill":
        return None
    return taught(workload, copy.deepcopy(dense), spec.teacher, spec.temperature)


def _part(progress: Progress, start: float, end: float) -> Progress:
    return lambda share: progress(start + share * (end - start))

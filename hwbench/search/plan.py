"""The grid: a recipe and a target in, every candidate out."""

from __future__ import annotations

from hwbench import pruners
from hwbench.backends import told_apart
from hwbench.errors import UserError
from hwbench.records import (
    Candidate,
    CompressionSpec,
    ExportSpec,
    Method,
    PluginSpec,
    Precision,
    Recipe,
    TargetProfile,
)
from hwbench.registry import BACKENDS, PRUNERS


def plan(recipe: Recipe, target: TargetProfile) -> tuple[Candidate, ...]:
    """Return every candidate of a study, dense models first, in a stable order, none twice.

    The grid: seeds × (dense + methods × sparsities) × precisions × the backends that both the
    recipe asks for and the target runs, where a backend takes the precision. The dense model is
    tried in int8 whatever the recipe says: what it costs and gains is what pruning competes with.
    Raises `UserError` when that is empty.
    """
    backends = shared_backends(recipe, target)
    specs = [spec for seed in recipe.seeds for spec in _compressions(recipe, target, seed)]
    candidates = [
        Candidate(ExportSpec(spec, precision), backend, target.name, recipe.batch, target.threads)
        for spec in sorted(specs, key=lambda s: not s.is_dense)
        for precision in _precisions(recipe, spec)
        for backend in backends
        if precision in BACKENDS.traits(backend.kind).precisions
    ]
    unique = {candidate.key: candidate for candidate in candidates}
    if all(c.compression.is_dense for c in unique.values()):
        raise UserError(
            "there is nothing to try beside the dense model",
            where=f"recipe {recipe.name}: search",
            expected="a method with at least one sparsity above 0",
        )
    return tuple(unique.values())


def shared_backends(recipe: Recipe, target: TargetProfile) -> tuple[PluginSpec, ...]:
    """Return the backends to use: the target's options, with the recipe's on top.

    Raises `UserError` when recipe and target share none.
    """
    offered = {spec.kind: spec for spec in target.backends}
    shared = tuple(
        PluginSpec(spec.kind, {**offered[spec.kind].options, **spec.options})
        for spec in recipe.backends
        if spec.kind in offered
    )
    if not shared:
        raise UserError(
            f"the recipe {recipe.name} and the target {target.name} share no backend",
            expected=f"one of {', '.join(offered)}",
            mend="add one of them under 'backends' of the recipe",
        )
    return told_apart(shared, {kind: spec.options for kind, spec in offered.items()})


def left_out(recipe: Recipe, target: TargetProfile) -> tuple[str, ...]:
    """Return the backends that the recipe asks for and the target does not run."""
    offered = {spec.kind for spec in target.backends}
    return tuple(spec.kind for spec in recipe.backends if spec.kind not in offered)


def _precisions(recipe: Recipe, spec: CompressionSpec) -> tuple[Precision, ...]:
    """Return the precisions of a model, fp32 first; the dense model has them all."""
    return ("fp32", "int8") if spec.is_dense else tuple(sorted(recipe.precisions))


def _compressions(recipe: Recipe, target: TargetProfile, seed: int) -> list[CompressionSpec]:
    dense = CompressionSpec(workload=recipe.workload, train=recipe.train, seed=seed)
    pruned = [
        _compression(recipe, target, method, sparsity, seed)
        for method in recipe.methods
        for sparsity in method.sparsities
    ]
    return [dense, *pruned]


def _compression(
    recipe: Recipe, target: TargetProfile, method: Method, sparsity: float, seed: int
) -> CompressionSpec:
    # Weights do not depend on the target unless whole channels go: then they are shared.
    pruner = PRUNERS.traits(pruners.for_pattern(method.pattern))
    multiple = target.channel_multiple if pruner.removes == "channels" else 1
    return CompressionSpec(
        workload=recipe.workload,
        train=recipe.train,
        pattern=method.pattern,
        criterion=method.criterion,
        scope=method.scope,
        sparsity=sparsity,
        schedule=method.schedule,
        steps=method.steps,
        begin=method.begin,
        end=method.end,
        rewind=method.rewind,
        ticket=method.ticket,
        ratios=method.ratios,
        healing=method.healing,
        teacher=method.teacher,
        temperature=method.temperature,
        channel_multiple=multiple,
        options=method.options,
        recovery=None if method.healing == "bn" else recipe.recovery,
        seed=seed,
    )

"""What a run would do, without doing it: candidates, trainings, files, time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hwbench import search
from hwbench.pipeline import keys
from hwbench.pipeline.prepare import found
from hwbench.pipeline.session import Workspace, measure_spec, open_cache
from hwbench.records import Candidate, CompressionSpec, Recipe, TargetProfile
from hwbench.store import Cache
from hwbench.studies.without_board import is_absent

GUESSED_EPOCH = 1.5
"""Seconds an epoch takes when this machine has trained nothing yet (p32 on one server core)."""
_EXPORT, _COMPILE = 3.0, 2.5
_START, _PASSES = 0.8, 2.5


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a run would do. Times in seconds; ``basis`` says what they rest on."""

    recipe: str
    target: str
    candidates: tuple[Candidate, ...]
    trainings: int
    trainings_cached: int
    artifacts: int
    artifacts_cached: int
    prepare_seconds: float
    measure_seconds: float
    basis: str
    folder: Path
    files: tuple[str, ...]


def forecast(recipe: Recipe, target: TargetProfile, workspace: Workspace) -> Forecast:
    """Return what `bench` would do with the same arguments, from the cache as it is now."""
    cache = open_cache(workspace)
    candidates = search.plan(recipe, target)
    specs = {c.compression.key: c.compression for c in candidates}
    cached = {k for k in specs if cache.find(keys.weights(specs[k])) is not None}
    ready = [c for c in candidates if found(cache, c, target) is not None]
    epoch, basis = _epoch_seconds(cache, specs)
    todo = [s for k, s in specs.items() if k not in cached]
    dense = sum(s.epochs * epoch for s in todo if s.is_dense)
    work = sum(s.epochs * epoch for s in todo if not s.is_dense)
    files = len({c.export.key for c in candidates} - {c.export.key for c in ready})
    work += files * _EXPORT + (len(candidates) - len(ready)) * _COMPILE
    spec = measure_spec(recipe, target)
    visits = spec.generations * spec.looks[-1] * spec.visit_seconds
    one = visits + spec.generations * _START + _PASSES + spec.energy_seconds
    return Forecast(
        recipe=recipe.name,
        target=target.name,
        candidates=candidates,
        trainings=len(specs),
        trainings_cached=len(cached),
        artifacts=len(candidates),
        artifacts_cached=len(ready),
        # One dense model after the other holds up everything that is pruned from it.
        prepare_seconds=dense + work / workspace.jobs,
        # A board that is not there is not measured on.
        measure_seconds=0.0
        if is_absent(target)
        else min(one * (len(candidates) + 2), spec.max_time),
        basis=basis + _less(recipe),
        folder=workspace.reports / recipe.name / target.name,
        files=(
            "config.json",
            "results.jsonl",
            "samples/",
            "study.json",
            "report.html",
            "pareto.png",
            "results.csv",
            "decision.md",
            "decision.json",
            "model/",
            "logs/",
        ),
    )


def _less(recipe: Recipe) -> str:
    if recipe.search.strategy == "train_all":
        return ""
    return "; latency first trains and measures only what can still win"


def _epoch_seconds(cache: Cache, specs: dict[str, CompressionSpec]) -> tuple[float, str]:
    for spec in specs.values():
        done = cache.find(keys.weights(spec))
        if done is not None and spec.is_dense and spec.epochs:
            return done.seconds / spec.epochs, "an epoch as measured here"
    return GUESSED_EPOCH, f"a guess of {GUESSED_EPOCH} s an epoch; nothing was trained here yet"

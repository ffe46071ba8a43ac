"""What every step of the line needs, and the stamp that cached work carries."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import importlib.metadata
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import hwbench
from hwbench import registry
from hwbench.executor.local import Crew
from hwbench.records import MeasureSpec, Recipe, TargetProfile, digest
from hwbench.registry import BACKENDS, FAMILIES, PRUNERS, WORKLOADS
from hwbench.store import Cache, Run

Show = Callable[[str, float, str], None]
"""Called with a phase, how much of it is done (0..1), and what is going on."""

PHASES = ("search", "prepare", "measure", "score", "confirm", "repeat", "report")
_DISTRIBUTIONS = ("torch", "onnx", "onnxscript", "onnxruntime", "safetensors", "numpy")
"""What compressing and exporting stand on; what plug-ins do, their traits say."""
# The rooms whose code decides what is cached; a change of the report costs nobody a training.
_MAKERS = ("workloads", "pruners", "compress", "export", "compile", "backends", "kernels")
_MEASURERS = ("measure", "worker", "conditions", "connections", "meters", "stats")


@dataclass(frozen=True, slots=True)
class Place:
    """Where a run keeps things, how many hands it uses, and whether it measures anew.

    ``patience``: seconds without a word (an epoch, a batch) after which a training, an export or
    a compiler counts as hanging and is stopped.
    """

    reports: Path = Path("reports")
    cache: Path = Path(".hwbench/cache")
    jobs: int = min(4, os.cpu_count() or 1)
    fresh: bool = False
    patience: float = 600.0


@dataclass(frozen=True, slots=True)
class Context:
    """One run in progress."""

    recipe: Recipe
    target: TargetProfile
    spec: MeasureSpec
    cache: Cache
    run: Run
    crew: Crew
    show: Show
    fresh: bool


@functools.cache
def versions() -> Mapping[str, str]:
    """Return the host's software that has a say in the results, by name."""
    found = {"hwbench": hwbench.__version__}
    for name in sorted({*_DISTRIBUTIONS, *_of_plugins()}):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _of_plugins() -> Iterator[str]:
    """Yield the distributions that plug-ins name as deciding what is made here."""
    for backend in map(BACKENDS.traits, BACKENDS.kinds()):
        yield from backend.host_distributions
    for pruner in map(PRUNERS.traits, PRUNERS.kinds()):
        yield from pruner.host_distributions
    for workload in map(WORKLOADS.traits, WORKLOADS.kinds()):
        yield from workload.host_distributions


@functools.cache
def stamp() -> str:
    """Return a hash of the software that makes what is cached, source and plug-ins included."""
    return digest({"versions": versions(), "source": _source(_MAKERS)})


@functools.cache
def measuring_stamp() -> str:
    """Return a hash of the source, that of plug-ins included, that decides what a sitting gives."""
    return _source(_MEASURERS)


def _source(places: Sequence[str]) -> str:
    source = hashlib.sha256()
    package = Path(hwbench.__file__).parent
    for name in places:
        place = package / name
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place.with_suffix(".py")]:
            source.update(path.read_bytes())
        if name in FAMILIES:
            for file in registry.sources(FAMILIES[name]).values():
                source.update(file.read_bytes())
    return source.hexdigest()


def measure_spec(recipe: Recipe, target: TargetProfile) -> MeasureSpec:
    """Return how to measure: the recipe's policy, with what the device needs on top."""
    return dataclasses.replace(recipe.measure, **target.measure)


def open_cache(place: Place) -> Cache:
    """Return the cache of finished work for the software that is installed now."""
    return Cache(place.cache.absolute(), stamp())

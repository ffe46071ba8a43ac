"""Small ONNX files, targets and artifacts to measure: those that ship with the contracts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from hwbench.executor.base import silent
from hwbench.executor.jobs import CompileEmpty
from hwbench.records import CompiledModel, Counts, EmptyModel, Layer, OnnxModel
from hwbench.testing.models import (
    QUICK,
    SHAPE,
    TARGET,
    at,
    candidate,
    compiled,
    identity,
    inputs,
    network,
    spec,
)

__all__ = [
    "QUICK",
    "SHAPE",
    "TARGET",
    "at",
    "candidate",
    "compiled",
    "empties",
    "identity",
    "inputs",
    "network",
    "spec",
    "with_layers",
]


def empties(models: Sequence[CompiledModel], folder: Path) -> list[EmptyModel]:
    """Return the empty artifact of every backend among some models."""
    specs = [m.candidate.backend for m in models]
    unique = [one for place, one in enumerate(specs) if one not in specs[:place]]
    found = []
    for number, one in enumerate(unique):
        home = folder / str(number)
        home.mkdir(parents=True)
        found.append(CompileEmpty(one, TARGET).do(home, silent))
    return found


def with_layers(model: OnnxModel, *layers: Layer) -> OnnxModel:
    """Return a model with other layers counted on it."""
    return dataclasses.replace(model, counts=Counts(layers, 1, 1, 1, 0))

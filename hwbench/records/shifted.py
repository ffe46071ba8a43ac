"""How models do on data that is not as it was in training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ShiftSpec:
    """How to shift: corruptions at which severities (1 to 5), on how many validation images.

    ``delta`` is what a model may err more often than its dense one before its sparsity counts
    as too much, as a share of 1.
    """

    severities: tuple[int, ...] = (1, 3, 5)
    images: int = 2000
    delta: float = 0.01


@dataclass(frozen=True, slots=True)
class Paired:
    """A mean difference over the same images, with its 95 % interval, as shares of 1."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Distance:
    """Two models on the same inputs: how often they agree, and the mean L2 of their softmax."""

    agreement: float
    softmax: float


@dataclass(frozen=True, slots=True)
class Shifted:
    """One ONNX file under shift, beside its dense model's on the same images.

    ``key`` is the export's. By name of the data (``nominal``, ``3`` the mean of all corruptions
    at severity 3, ``3 jpeg``): ``accuracy``, and ``paired`` error less the dense model's.
    ``excess`` by severity: what it errs more under shift beyond what the dense model does.
    ``distance`` by the amplitude of uniform noise on the inputs.
    """

    key: str
    images: int
    accuracy: Mapping[str, float]
    paired: Mapping[str, Paired]
    excess: Mapping[str, Paired]
    distance: Mapping[str, Distance]

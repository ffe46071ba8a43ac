"""Small ONNX files, targets and artifacts to measure: those that ship with the contracts."""

from hwbench.testing.models import (
    QUICK,
    SHAPE,
    TARGET,
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
    "candidate",
    "compiled",
    "identity",
    "inputs",
    "network",
    "spec",
]

"""Which candidates a run keeps, by what the device says of its backends."""

from __future__ import annotations

import dataclasses

import pytest

from hwbench.errors import TargetError
from hwbench.records import Conditions, PluginSpec
from hwbench.studies.bench import runnable
from tests import artifacts

GPU = {"provider": "cuda"}
TARGET = dataclasses.replace(
    artifacts.TARGET, backends=(PluginSpec("onnxruntime", GPU), PluginSpec("torch", {}))
)
LOST = "not available: this onnxruntime has no CUDAExecutionProvider"
HERE = Conditions({}, {"backends": {"onnxruntime": LOST, "torch": "torch 2"}}, {})


def test_a_backend_that_does_not_run_there_is_left_out_and_named() -> None:
    lost = artifacts.candidate("onnxruntime", {**GPU, "arena": False})
    own = artifacts.candidate("onnxruntime", {"provider": "cpu"})
    other = artifacts.candidate("torch")
    left, notes = runnable((lost, own, other), TARGET, HERE)
    # What the recipe runs otherwise than the target's file says was not looked at.
    assert left == (own, other)
    assert notes == (f"onnxruntime: {LOST}",)
    left, notes = runnable((lost, other), TARGET, HERE)
    assert (left, notes) == ((other,), (f"onnxruntime: {LOST}",))


def test_a_run_without_any_backend_ends_before_it_trains() -> None:
    lost = artifacts.candidate("onnxruntime", GPU)
    with pytest.raises(TargetError, match="this onnxruntime has no CUDA") as refused:
        runnable((lost,), TARGET, HERE)
    assert "hwbench doctor here" in refused.value.mend


def test_nothing_is_left_out_where_nobody_was_asked() -> None:
    candidates = (artifacts.candidate("onnxruntime", GPU),)
    assert runnable(candidates, TARGET, Conditions({}, {}, {})) == (candidates, ())

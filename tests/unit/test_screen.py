"""Who cannot win before training, by hand-made results."""

from __future__ import annotations

import dataclasses

from hwbench.instruments.sampler_race import Entry, run
from hwbench.records import Goal, LayerNote, PluginSpec, Point, Result, Source, Value
from hwbench.samplers.grid import GridSampler, Options
from hwbench.search import screen
from hwbench.stats import costs_of, ruled
from tests import synthetic

RECIPE = synthetic.recipe(objectives=("top1", "latency_p50", "peak_memory"), goals=())
ORT, TVM = synthetic.ORT, PluginSpec("tvm")


def row(
    pattern: str,
    sparsity: float,
    top1: float,
    latency: float,
    memory: float = 1e6,
    backend: PluginSpec = ORT,
    why: str = "",
) -> Result:
    who = synthetic.candidate(pattern, sparsity, backend=backend)
    numbers = {
        "top1": Value("top1", top1, Source.MEASURED),
        "latency_p50": synthetic.value("latency_p50", latency, 0.01),
        "peak_memory": synthetic.value("peak_memory", memory, 0.01),
    }
    found = synthetic.result(who, numbers)
    return dataclasses.replace(found, layers=(LayerNote("conv", False, why),)) if why else found


DENSE = row("dense", 0.0, 0.9, 10e-6)


def test_who_gains_nothing_over_its_backends_dense_model_is_dropped() -> None:
    mask = row("unstructured", 0.9, 0.85, 10e-6, why="ORT multiplies zeros")
    whole = row("channel", 0.5, 0.7, 5e-6)
    found = screen.hopeless([DENSE, mask, whole], RECIPE)
    assert set(found) == {mask.candidate.key}
    assert "no gain on onnxruntime" in found[mask.candidate.key]
    assert "latency p50 1.00 × the dense model's" in found[mask.candidate.key]
    assert "ORT multiplies zeros" in found[mask.candidate.key]


def test_a_gain_in_memory_alone_keeps_a_candidate_and_a_gain_within_the_noise_does_not() -> None:
    smaller = row("channel", 0.25, 0.89, 10e-6, memory=0.8e6)
    barely = row("channel", 0.1, 0.89, 9.95e-6)
    found = screen.hopeless([DENSE, smaller, barely], RECIPE)
    assert set(found) == {barely.candidate.key}


def test_each_backend_is_held_against_its_own_dense_model() -> None:
    slow = row("dense", 0.0, 0.9, 20e-6, backend=TVM)
    pruned = row("channel", 0.5, 0.8, 15e-6, memory=0.5e6, backend=TVM)
    assert screen.hopeless([DENSE, slow, pruned], RECIPE) == {}


def test_the_same_weights_on_a_worse_backend_are_beaten_and_close_accuracies_are_not() -> None:
    fast = row("channel", 0.5, 0.80, 5e-6, memory=0.5e6)
    slow = row("channel", 0.5, 0.80, 7e-6, memory=0.6e6, backend=TVM)
    other = row("2:4", 0.5, 0.79, 6e-6, memory=0.6e6)
    poor = row("4x1", 0.5, 0.60, 6e-6, memory=0.6e6)
    found = screen.hopeless([DENSE, fast, slow, other, poor], RECIPE)
    assert set(found) == {slow.candidate.key, poor.candidate.key}
    assert "beaten on every axis before training by channel 50 %" in found[slow.candidate.key]


def test_a_cost_goal_missed_for_sure_needs_no_training() -> None:
    asked = dataclasses.replace(RECIPE, goals=(Goal("latency_p50", "max", 4e-6),))
    near, far = row("channel", 0.7, 0.7, 4.02e-6), row("channel", 0.5, 0.8, 5e-6)
    found = screen.hopeless([DENSE, near, far], asked)
    assert set(found) == {far.candidate.key}
    assert "misses a goal for sure" in found[far.candidate.key]


def test_costs_are_relative_to_the_reference_and_missing_numbers_are_no_costs() -> None:
    half = row("channel", 0.5, 0.8, 5e-6, memory=0.5e6)
    costs = costs_of(half, DENSE, RECIPE.objectives)
    assert costs is not None
    assert costs["latency_p50"] == 0.5
    assert abs(costs["top1"] - 0.201 / 0.101) < 1e-9
    assert costs_of(dataclasses.replace(half, values={}), DENSE, RECIPE.objectives) is None
    assert ruled([{"a": 1.0, "b": 1.5}]) == 0.5
    assert ruled([]) == 0.0


def test_a_race_tells_the_share_found_after_each_trial() -> None:
    table = [
        Entry(Point({"a": str(i)}), costs)
        for i, costs in enumerate([{"x": 1.5, "y": 1.5}, None, {"x": 1.0, "y": 1.0}])
    ]
    assert run(table, GridSampler(Options()), 5) == [0.25, 0.25, 1.0]

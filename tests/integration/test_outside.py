"""A runtime of another package is benched like ours, and again when its source changes."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.integration.house import House
from tests.outside import acme

RECIPE = """
version: 1
workload: {kind: untrained, net: mlp, width: 64, depth: 2, samples: 8}
train: {epochs: 0}
recover: {epochs: 0}
search:
  strategy: train_all
  sparsities: [0.5]
  methods: [{pattern: neuron}]
backends: {acme: [{}, {flavour: odd}]}
objectives: [latency_p50, peak_memory]
choose: latency_p50
measure: {policy: quick, generations: 2, looks: [5], energy_seconds: 0.2}
"""
TARGET = """
version: 1
title: This machine
soc: whatever CPU this machine has
isa: host
cores: host
ram: host
connection: {kind: local}
backends: {acme: {}}
"""


def test_bench_of_a_runtime_from_outside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outside = acme(tmp_path / "site")
    monkeypatch.setenv("PYTHONPATH", os.fspath(outside.site))
    house = House.build(tmp_path / "house")
    (house.folder / "recipes/acme.yaml").write_text(RECIPE)
    (house.folder / "targets/acme.yaml").write_text(TARGET)
    command = ("bench", "--recipe", "acme", "--target", "acme", "--json")
    first = json.loads(house.run(*command).stdout)
    assert first["decision"]["verdict"] != "none"
    results = house.results()
    assert all(r["failure"] is None and r["values"]["latency_p50"]["value"] for r in results)
    assert {r["candidate"]["backend"]["kind"] for r in results} == {"acme"}
    labels = [tuple(r["candidate"]["backend"]["naming"]) for r in results]
    assert set(labels) == {(), ("odd",)}
    # The bundle holds the script that its own file wrote.
    assert "steps.json" in (house.folder / "reports/latest/model/run.py").read_text()

    cached = set((house.folder / ".hwbench/cache").iterdir())
    beside = outside.package / "shapes.py"
    beside.write_text(beside.read_text() + "\n# changed\n")
    house.run(*command)
    assert set((house.folder / ".hwbench/cache").iterdir()) > cached

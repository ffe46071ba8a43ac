"""Searches and methods through the command, small: what comes out, and what is refused and how."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.integration.house import House

pytestmark = pytest.mark.slow

TOY = {"kind": "toy", "train": 192, "validation": 96, "test": 32}
SEARCH = {"strategy": "train_all", "repeats": 1, "sparsities": [0.5]}
TINY: Mapping[str, Any] = {
    "version": 1,
    "workload": TOY,
    "train": {"epochs": 1, "lr": 0.1, "batch": 64},
    "recover": {"epochs": 1, "lr": 0.03, "batch": 64},
    "backends": {"onnxruntime": {}},
    "objectives": ["top1", "latency_p50"],
    "choose": "latency_p50",
    "measure": {"generations": 2, "looks": [2], "warmup_seconds": 0.05, "energy_seconds": 0.02},
}
CHANNEL = {"pattern": "channel", "criterion": "l2", "scope": "local"}
MASK = {"pattern": "unstructured"}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """One folder for all, so that the dense model is made once."""
    return House.build(tmp_path_factory.mktemp("house"))


def _asks(house: House, methods: list[dict[str, Any]], **changes: Any) -> str:
    """Write a recipe of these methods; return its name."""
    search = {**SEARCH, "methods": methods, **changes.pop("search", {})}
    recipe = {**TINY, **changes, "search": search}
    # Every JSON is YAML.
    (house.folder / "recipes/tiny.yaml").write_text(json.dumps(recipe))
    return "tiny"


def _failures(house: House) -> dict[str, str]:
    return {
        result["candidate"]["export"]["compression"]["pattern"]: result["failure"]["message"]
        for result in house.results()
        if result["failure"]
    }


def test_a_budget_that_nobody_meets_ends_with_1_and_names_the_nearest(house: House) -> None:
    name = _asks(house, [CHANNEL])
    missed = house.run("budget", "--recipe", name, "--max", "1ns", code=1)
    assert "nothing meets it; the nearest is" in missed.stdout
    # The same table serves the next budget, which everything meets.
    found = json.loads(house.run("budget", "-r", name, "--max", "1s", "--json").stdout)
    assert found["budget"] == 1.0
    assert set(found["table"]["units"]) == {"stem", "down"}
    assert found["uniform"]["seconds"] >= found["nearest"]["seconds"] > 0
    assert len(found["uniform"]["scores"]) == 1


def test_sensitivity_ends_in_shares_for_a_recipe(house: House) -> None:
    name = _asks(house, [MASK])
    asked = ("sensitivity", name, "--pattern", "unstructured", "--sparsity", "0.6")
    said = json.loads(house.run(*asked, "--json").stdout)
    (one,) = said["sensitivity"]
    curves = {c["layer"]: c for c in one["found"]["curves"]}
    assert list(curves) == ["stem", "conv", "down", "head"]
    units = sum(c["units"] for c in curves.values())
    removed = sum(one["ratios"][layer] * c["units"] for layer, c in curves.items())
    assert removed / units == pytest.approx(0.6, abs=0.01)
    assert "in a recipe: {pattern: unstructured" in house.run(*asked).stdout
    refused = house.run("sensitivity", name, "--pattern", "2:4", code=2)
    assert "no shares by layer" in refused.stderr


def test_a_walk_of_gaussian_processes_under_shift_with_controls(house: House) -> None:
    """Bounded search, a short fine-tuning first, corruptions, curves: one run of everything."""
    pytest.importorskip("optuna", reason="needs optuna: pip install hwbench[optuna]")
    search = {
        "strategy": "latency_first",
        "sampler": {"kind": "optuna", "algorithm": "gp", "seed": 1},
        "budget": {"trials": 2},
        "controls": ["scratch"],
    }
    long = {"epochs": 8, "lr": 0.03, "batch": 64}
    more = {"shift": {"severities": [3], "images": 32}, "sensitivity": True, "recover": long}
    small = {"kind": "p32", "train": 128, "validation": 64, "test": 32}
    name = _asks(house, [CHANNEL], search=search, workload=small, **more)
    done = house.run("bench", "--recipe", name)
    study = json.loads((house.folder / "reports/latest/study.json").read_text())["study"]
    assert 0 < len(study["tried"]) <= 2
    assert study["shift"]
    assert [s["spec"]["pattern"] for s in study["sensitivity"]] == ["channel"]
    page = (house.folder / "reports/latest/report.html").read_text()
    assert "What each layer loses alone: channel l2" in page
    assert "Under distribution shift" in page
    assert "Traceback" not in done.stderr


def test_what_cannot_apply_is_refused_by_name_and_costs_nobody_else(house: House) -> None:
    methods: list[dict[str, Any]] = [MASK, {"pattern": "2:4"}, {"pattern": "head"}]
    name = _asks(house, methods, workload={**TOY, "width": 3})
    house.run("bench", "--recipe", name)
    failed = _failures(house)
    assert set(failed) == {"2:4", "head"}
    assert "2:4" in failed["2:4"]
    assert "head" in failed["head"]
    written = (house.folder / "reports/latest/report.html").read_text()
    assert "What failed, and why" in written


def test_a_loss_that_diverges_is_said_with_the_rate(house: House) -> None:
    name = _asks(house, [MASK], recover={"epochs": 4, "lr": 1e9, "batch": 64})
    refused = house.run("bench", "--recipe", name, code=2)
    assert "training diverged: the loss is" in refused.stderr
    assert "1e+09" in refused.stderr
    assert "Traceback" not in refused.stderr


EMPTY = '''
"""A trained model that comes without a training split."""
import torch
from torch import nn


class Mine:
    metric = "top1"

    def model(self):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 16), nn.ReLU(), nn.Linear(16, 4))

    def data(self, split):
        count = 0 if split == "train" else 32
        generator = torch.Generator().manual_seed(len(split))
        return torch.randn((count, 3, 8, 8), generator=generator), torch.arange(count) % 4

    def train_step(self, model, inputs, labels):
        return nn.functional.cross_entropy(model(inputs), labels)

    def score(self, outputs, labels):
        return float((outputs.argmax(1) == labels).mean())
'''


def test_an_empty_calibration_set_is_refused_before_anything_is_made(house: House) -> None:
    """int8 is always tried on the dense model, so there is no study without training samples."""
    (house.folder / "recipes/empty.py").write_text(EMPTY)
    workload = {"kind": "python", "file": "empty.py", "class_name": "Mine"}
    none = {"epochs": 0}
    name = _asks(house, [MASK], workload=workload, train=none, recover=none)
    refused = house.run("bench", "--recipe", name, code=2)
    assert "data('train') returned 0 inputs" in refused.stderr
    assert "not 0" in refused.stderr

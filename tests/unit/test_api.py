"""The door for programmers: its names, what it takes, what it says of mistakes."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import hwbench
from hwbench import api, config, records
from hwbench.testing import models

ROOT = Path(__file__).parents[2]


def test_every_name_that_is_promised_is_there_and_nothing_else_is_shown() -> None:
    for name in hwbench.__all__:
        assert getattr(hwbench, name) is not None
    assert dir(hwbench) == sorted(hwbench.__all__)
    promised = {
        name for name, value in vars(api).items()
        if callable(value) and getattr(value, "__module__", "") == api.__name__
        and not name.startswith("_")
    }  # fmt: skip
    assert promised <= set(hwbench.__all__)


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'bnech'"):
        hwbench.bnech  # type: ignore[attr-defined]  # noqa: B018


def test_importing_it_costs_nothing() -> None:
    heavy = "{'numpy', 'torch', 'onnx', 'pydantic'}"
    code = f"import sys, hwbench; print(sorted({heavy} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def _recipe() -> dict[str, Any]:
    data: dict[str, Any] = yaml.safe_load((ROOT / "recipes/smoke.yaml").read_text())
    return data


@pytest.mark.parametrize("kind", ["name", "path", "mapping", "record"])
def test_a_recipe_may_be_a_name_a_path_a_mapping_or_a_record(kind: str) -> None:
    path = ROOT / "recipes/smoke.yaml"
    record = config.load_recipe(str(path))
    given: Any = {"name": "smoke", "path": path, "mapping": _recipe(), "record": record}[kind]
    read = hwbench.load_recipe(given)
    assert dataclasses.replace(read, name=record.name, title=record.title) == record


def test_a_mapping_is_not_changed_by_overrides() -> None:
    data = _recipe()
    before = json.dumps(data)
    assert hwbench.load_recipe(data, ["batch=3"]).batch == 3
    assert json.dumps(data) == before


def test_a_target_may_be_a_mapping() -> None:
    data = yaml.safe_load((ROOT / "targets/local-cpu.yaml").read_text())
    assert hwbench.load_target(data).backends == hwbench.load_target("local-cpu").backends


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: hwbench.load_recipe(3), "int is not a recipe"),  # type: ignore[arg-type]
        (lambda: hwbench.load_target(None), "NoneType is not a target"),  # type: ignore[arg-type]
        (lambda: hwbench.load_recipe({**_recipe(), "bacth": 2}), "bacth"),
        (hwbench.measure, "nothing to measure"),
        (lambda: hwbench.read_study("no/such/run"), "not the folder of a finished run"),
    ],
)
def test_mistakes_are_user_errors(call: Any, what: str) -> None:
    with pytest.raises(hwbench.UserError, match=what):
        call()


@pytest.mark.slow
def test_finished_files_are_measured_and_what_is_none_is_named(tmp_path: Path) -> None:
    good, other = tmp_path / "good.onnx", tmp_path / "other.onnx"
    models.network(good)
    models.network(other, seed=1)
    broken = tmp_path / "text.onnx"
    broken.write_text("no model")
    costs = hwbench.measure(good, other, max_time=5)
    first, second = costs.models
    assert costs.measured
    assert first.values["latency_p50"].source is records.Source.MEASURED
    assert first.values["latency_p50"].value
    assert not first.beside
    assert {row.metric for row in second.beside} >= {"latency_p50", "peak_memory"}
    with pytest.raises((hwbench.UserError, hwbench.StageError)):
        hwbench.measure(broken, max_time=5)


@pytest.mark.slow
def test_the_command_measures_a_file_and_refuses_what_is_none(tmp_path: Path) -> None:
    good, broken = tmp_path / "good.onnx", tmp_path / "text.onnx"
    models.network(good)
    broken.write_text("no model")

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "hwbench", "measure", *words, "--max-time", "5", "--json"],
            capture_output=True, text=True, check=False, cwd=ROOT,
        )  # fmt: skip

    done = run(str(good))
    assert done.returncode == 0, done.stderr
    (model,) = json.loads(done.stdout)["models"]
    assert model["values"]["latency_p50"]["value"] > 0
    refused = run(str(broken))
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert "text.onnx" in refused.stderr

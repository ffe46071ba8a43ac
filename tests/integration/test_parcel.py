"""A folder goes to a machine that no host can reach, is measured there, and comes back."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwbench import measurement, store, studies
from hwbench.errors import TargetError, UserError
from hwbench.measurement.parcel import Parcel, recorded
from hwbench.records import CompiledModel, Measurement, PluginSpec, Source
from hwbench.worker.messages import Outputs, encode
from tests import artifacts
from tests.integration.house import House

SPEC = artifacts.spec(generations=2, looks=(2, 4))


def worker(folder: Path, code: int = 0, path: str = "") -> str:
    """Measure a packed folder as a bare machine would: no hwbench on the path, no home, no net."""
    offline = ["unshare", "-rn"] if _can_unshare() else []
    done = subprocess.run(
        [*offline, sys.executable, str(folder / "worker.zip"), "run", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={"PATH": os.environ["PATH"], "PYTHONPATH": path},
    )
    assert done.returncode == code, done.stderr
    return done.stderr


def _can_unshare() -> bool:
    tool = shutil.which("unshare")
    return tool is not None and not subprocess.run([tool, "-rn", "true"], check=False).returncode


def made(folder: Path) -> list[CompiledModel]:
    """Compile a model, a slower one and one that dies in its later calls."""
    model = artifacts.identity(folder / "m.onnx")
    kinds: list[dict[str, Any]] = [
        {"spins": 200},
        {"spins": 400},
        {"spins": 200, "fault": "crash", "at": 9},
    ]
    return [
        artifacts.compiled(model, artifacts.candidate("null", o, label=i), folder / f"a{i}")
        for i, o in enumerate(kinds)
    ]


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    models = made(tmp_path)
    folder = tmp_path / "parcel"
    folder.mkdir()
    inputs = artifacts.inputs(tmp_path / "x.npy")
    empties = artifacts.empties(models, tmp_path / "empty")
    size = measurement.pack(models, models[0], artifacts.TARGET, SPEC, inputs, folder, empties)
    assert size == sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
    return folder


@pytest.mark.slow
def test_a_recipe_is_measured_elsewhere_and_reported_here(tmp_path: Path) -> None:
    house = House.build(tmp_path / "house")
    change = ["--set", "search.methods=[{pattern: unstructured}]", "--set", "train.epochs=1"]
    house.run("pack", "smoke", "--to", "parcel", *change)
    parcel = house.folder / "parcel"
    place = studies.Workspace(house.folder / "reports", house.folder / ".hwbench/cache")
    with pytest.raises(TargetError, match="holds no measurements"):
        studies.unpack(parcel, place, lambda *_: None)
    # There and back: the other machine has another place for it.
    away = tmp_path / "elsewhere" / "p"
    shutil.copytree(parcel, away)
    worker(away)
    shutil.rmtree(parcel)
    shutil.copytree(away, parcel)
    said = house.run("unpack", "parcel")
    assert "a parcel holds one sitting" in said.stdout
    study = store.read_study(house.folder / "reports/latest")
    for result in study.results:
        values = result.values
        assert values["latency_p50"].source is Source.MEASURED
        assert all(values[m].value for m in ("latency_p50", "top1", "peak_memory", "energy"))
    assert "test split was not read" in str(study.decision.test["dense"].reason)
    # A folder that somebody changed is not taken in.
    (parcel / "job.json").write_text((parcel / "job.json").read_text() + " ")
    with pytest.raises(UserError, match="is not what was packed"):
        studies.unpack(parcel, place, lambda *_: None)
    stranger = json.loads((parcel / "parcel.json").read_text()) | {"parcel": "../../../etc"}
    (parcel / "parcel.json").write_text(json.dumps(stranger))
    with pytest.raises(UserError, match="was not packed here"):
        studies.unpack(parcel, place, lambda *_: None)


def test_a_sitting_made_of_a_parcel(packed: Path, tmp_path: Path) -> None:
    worker(packed)
    sitting = _sat(packed, tmp_path)
    own = sitting[0]
    assert [len(p.visits) for p in own.latency] == [4, 4]  # every round of both generations
    assert own.memory is not None
    assert own.memory.empty_runtime
    assert own.energy is not None
    assert own.outputs is not None
    np.testing.assert_array_equal(np.load(own.outputs), np.load(tmp_path / "x.npy"))
    assert {len(p.visits) for p in sitting[1].latency} == {4}
    assert "SIGSEGV" in sitting[2].failures["latency"].message


# What `pip install torch numpy` brings along.
WITH_TORCH = (
    "torch", "torchgen", "functorch", "numpy", "numpy.libs", "sympy", "mpmath", "networkx",
    "jinja2", "markupsafe", "filelock", "fsspec", "typing_extensions.py",
)  # fmt: skip
ALONE = """
import importlib.util, os, sys
sys.path[:] = [p for p in sys.path if "site-packages" not in p and "work" not in p.split("/")]
sys.meta_path[:] = [f for f in sys.meta_path if "editable" not in str(f).lower()]
for name in ("onnx", "onnxruntime", "tvm", "pydantic", "yaml", "scipy", "safetensors"):
    if importlib.util.find_spec(name) is not None:
        os._exit(9)
"""


@pytest.mark.slow
def test_a_machine_with_torch_and_numpy_alone_measures(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    home = Path(np.__file__).parents[1]
    for name in WITH_TORCH:
        if (home / name).exists():
            (bare / name).symlink_to(home / name)
    (bare / "sitecustomize.py").write_text(ALONE)
    model = artifacts.network(tmp_path / "m.onnx")
    models = [
        artifacts.compiled(model, artifacts.candidate("torch", o), tmp_path / f"a{i}")
        for i, o in enumerate([{}, {"precision": "int8"}])
    ]
    target = dataclasses.replace(artifacts.TARGET, backends=(PluginSpec("torch"),))
    packed = tmp_path / "parcel"
    packed.mkdir()
    inputs = artifacts.inputs(tmp_path / "x.npy")
    measurement.pack(models, models[0], target, SPEC, inputs, packed)
    worker(packed, path=str(bare))
    played = PluginSpec("parcel", {"folder": str(packed)})
    sitting = measurement.measure(
        models, models[0], dataclasses.replace(target, connection=played), SPEC, inputs,
        tmp_path / "s", lambda _s, _l: None,
    )  # fmt: skip
    for found in sitting.measurements:
        assert not found.failures
        assert found.memory is not None
        assert found.outputs is not None
        assert sum(len(p.visits) for p in found.latency) == 8


def _sat(packed: Path, tmp_path: Path) -> tuple[Measurement, ...]:
    played = PluginSpec("parcel", {"folder": str(packed)})
    target = dataclasses.replace(artifacts.TARGET, connection=played)
    models = made(tmp_path)
    sitting = measurement.measure(
        models, models[0], target, SPEC, tmp_path / "x.npy", tmp_path / "s", lambda _s, _l: None,
        empties=artifacts.empties(models, tmp_path / "empty-again"),
    )  # fmt: skip
    by = {m.artifact: m for m in sitting.measurements}
    return tuple(by[m.digest] for m in models)


def test_it_goes_on_where_it_was_stopped(packed: Path) -> None:
    worker(packed)
    whole = (packed / "samples.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    # Stopped in the middle of a generation, with a torn line.
    opened = next(i for i, line in enumerate(lines) if line == b'{"done": "Memory"}\n')
    (packed / "samples.jsonl").write_bytes(b"".join(lines[: opened + 1]) + lines[opened + 1][:9])
    with pytest.raises(TargetError, match="only in part"):
        recorded(packed)
    said = worker(packed)
    assert "Outputs" not in said
    assert "Open" in said
    assert len(recorded(packed)) == len(json.loads((packed / "job.json").read_text()))
    assert worker(packed) == ""


def test_outputs_that_stayed_behind(packed: Path, tmp_path: Path) -> None:
    worker(packed)
    shutil.rmtree(packed / "outputs")
    with pytest.raises(TargetError, match="did not come back"):
        _sat(packed, tmp_path)


def test_what_nobody_was_asked_has_no_answer(packed: Path) -> None:
    worker(packed)
    said = recorded(packed)
    asked = next(s.command for s in said if isinstance(s.command, Outputs))
    stranger = Outputs((dataclasses.replace(asked.jobs[0], name="stranger"),), asked.settings)
    parcel = Parcel(packed)
    parcel.send(encode(stranger))
    assert parcel.receive(1) == '{"hello": true}'
    assert "no answer about it" in json.loads(parcel.receive(1))["failure"]["message"]

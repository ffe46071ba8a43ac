"""Every backend keeps its promise: artifacts that load from the worker's zip and answer rightly."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwbench import measurement, registry
from hwbench.errors import StageError
from hwbench.protocols import Backend
from hwbench.records import CompiledModel, OnnxModel
from hwbench.worker.messages import Command, Job, Memory, Outputs, Settings, encode
from tests import artifacts

NAMES = registry.names("backends")
COMPUTING = [name for name in NAMES if name != "null"]  # the double only echoes


def _make(kind: str) -> Backend:
    backend: Backend = registry.create("backends", kind)
    return backend


def _compiled(kind: str, model: OnnxModel, folder: Path, batch: int = 1) -> CompiledModel:
    return artifacts.compiled(model, artifacts.candidate(kind, batch=batch), folder)


def _expected(model: OnnxModel, x: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    found: np.ndarray = ort.InferenceSession(str(model.path)).run(None, {"x": x})[0]
    return found


@pytest.mark.parametrize("kind", NAMES)
def test_identity(kind: str, tmp_path: Path) -> None:
    model = artifacts.identity(tmp_path / "m.onnx")
    made = _compiled(kind, model, tmp_path / "a", batch=3)
    session = _make(kind).load(made.folder / made.entry, 1)
    x = np.random.default_rng(1).standard_normal((3, *artifacts.SHAPE)).astype(np.float32)
    session.set_inputs([x])
    session.invoke()
    first = session.outputs()[0]
    session.set_inputs([x + 1])
    session.invoke()
    np.testing.assert_array_equal(first, x)  # a copy: the next call must not change it
    np.testing.assert_array_equal(session.outputs()[0], x + 1)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", COMPUTING)
def test_agrees_with_onnxruntime(kind: str, batch: int, tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    made = _compiled(kind, model, tmp_path / "a", batch)
    session = _make(kind).load(made.folder / made.entry, 1)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((batch, *artifacts.SHAPE)).astype(np.float32)
        session.set_inputs([x])
        session.invoke()
        np.testing.assert_allclose(session.outputs()[0], _expected(model, x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", NAMES)
def test_notes_on_every_layer(kind: str, tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    notes = _make(kind).eligible(model)
    assert [note.layer for note in notes] == [layer.name for layer in model.layers]
    assert all(note.why for note in notes)


@pytest.mark.parametrize("kind", NAMES)
def test_record_of_the_artifact(kind: str, tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    made = _compiled(kind, model, tmp_path / "a")
    files = [p for p in made.folder.rglob("*") if p.is_file()]
    assert made.artifact_bytes == sum(p.stat().st_size for p in files) > 0
    assert made.versions
    other = _compiled(kind, model, tmp_path / "b", batch=2)
    assert other.digest != made.digest


@pytest.mark.parametrize("kind", NAMES)
def test_loads_in_a_fresh_process_from_the_zip(kind: str, tmp_path: Path) -> None:
    model = artifacts.network(tmp_path / "m.onnx")
    made = _compiled(kind, model, tmp_path / "a", batch=2)
    empty = tmp_path / "empty"
    empty.mkdir()
    nothing = _make(kind).compile_empty(artifacts.TARGET, empty)
    x = artifacts.inputs(tmp_path / "x.npy", samples=5)  # the last batch is padded
    module = registry.module("backends", kind).__name__
    whole = Job("whole", module, {}, str(made.folder / made.entry), 1, 2)
    commands: list[Command] = [
        Outputs((whole,), Settings(str(x))),
        Memory(
            (dataclasses.replace(whole, name="none", artifact=str(empty / nothing)),),
            Settings(""),
            2,
        ),
    ]
    said = _worker_run(tmp_path / "session", [json.loads(encode(c)) for c in commands])
    answers = {line["of"]: line for line in said if "of" in line}
    assert answers["whole"]["outputs"] == {"file": "outputs/whole.npy"}
    found = np.load(tmp_path / "session" / "outputs" / "whole.npy")
    if kind in COMPUTING:
        np.testing.assert_allclose(found, _expected(model, np.load(x)), rtol=1e-5, atol=1e-5)
    assert found.shape == (5, 5)
    memory = answers["none"]["memory"]
    assert 0 < memory["after_load"] <= memory["after_first"] <= memory["after_runs"]


@pytest.mark.parametrize("kind", NAMES)
def test_empty_artifact_copies(kind: str, tmp_path: Path) -> None:
    backend = _make(kind)
    session = backend.load(tmp_path / backend.compile_empty(artifacts.TARGET, tmp_path), 1)
    session.set_inputs([np.full((1, 1), 7.0, np.float32)])
    session.invoke()
    np.testing.assert_array_equal(session.outputs()[0], [[7.0]])


@pytest.mark.parametrize("kind", NAMES)
def test_script_runs_without_hwbench(kind: str, tmp_path: Path) -> None:
    model = artifacts.identity(tmp_path / "m.onnx")
    made = _compiled(kind, model, tmp_path / "artifact")
    script = _make(kind).script(f"artifact/{made.entry}", made)
    assert "hwbench" not in script
    (tmp_path / "run.py").write_text(script)
    x = np.full((1, *artifacts.SHAPE), 0.25, np.float32)
    np.save(tmp_path / "x.npy", x)
    for arguments, expected in (([], "0."), ([str(tmp_path / "x.npy")], "0.25")):
        done = subprocess.run(
            [sys.executable, str(tmp_path / "run.py"), *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
        )
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout


@pytest.mark.parametrize("kind", NAMES)
def test_what_does_not_load_is_a_stage_error(kind: str, tmp_path: Path) -> None:
    made = _compiled(kind, artifacts.identity(tmp_path / "m.onnx"), tmp_path / "a")
    (made.folder / made.entry).write_bytes(b"not an artifact")
    with pytest.raises(StageError):
        _make(kind).load(made.folder / made.entry, 1)


@pytest.mark.parametrize("kind", COMPUTING)
def test_wrong_inputs_are_a_stage_error(kind: str, tmp_path: Path) -> None:
    made = _compiled(kind, artifacts.network(tmp_path / "m.onnx"), tmp_path / "a")
    session = _make(kind).load(made.folder / made.entry, 1)

    def feed(x: np.ndarray) -> None:
        session.set_inputs([x])
        session.invoke()

    with pytest.raises(StageError):
        feed(np.zeros((1, 4, 8, 8), np.float32))
    with pytest.raises(StageError):
        feed(np.zeros((1, *artifacts.SHAPE), np.float64))


@pytest.mark.parametrize("kind", COMPUTING)
def test_what_is_no_model_is_a_stage_error(kind: str, tmp_path: Path) -> None:
    model = artifacts.identity(tmp_path / "m.onnx")
    unknown = artifacts.at(model, tmp_path / "unknown.onnx")
    import onnx

    graph = onnx.load(str(model.path))
    graph.graph.node[0].op_type = "NoSuchOperator"
    onnx.save(graph, str(unknown.path))

    def use() -> None:
        made = _compiled(kind, unknown, tmp_path / "a")
        _make(kind).load(made.folder / made.entry, 1)

    with pytest.raises(StageError):
        use()


def _worker_run(folder: Path, commands: list[dict[str, Any]]) -> list[dict[str, Any]]:
    folder.mkdir()
    zipped = measurement.worker_zip(folder / "worker.zip")
    (folder / "job.json").write_text(json.dumps(commands))
    subprocess.run([sys.executable, str(zipped), "run", str(folder)], check=True, cwd="/")
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]

"""What every backend promises: artifacts that load from the worker's zip and answer rightly."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest

from hwbench import measurement
from hwbench.errors import StageError
from hwbench.registry import BACKENDS
from hwbench.testing import models
from hwbench.testing._plugin import PluginContract
from hwbench.worker.messages import Command, Job, Memory, Outputs, Settings, encode

if TYPE_CHECKING:
    import numpy as np

    from hwbench.protocols import Backend, Session
    from hwbench.records import CompiledModel, OnnxModel
    from hwbench.traits import BackendTraits


class BackendContract(PluginContract):
    """A backend named by ``kind``, held to its protocol and its traits on this machine."""

    family = BACKENDS

    def network(self, path: Path) -> OnnxModel:
        """Write the model whose answers are compared, and return its record.

        A runtime of few operators overrides it: `hwbench.testing.models.perceptron` is one of
        linear layers alone. Its input must be float32 and called ``x``, its output have one row a
        sample.
        """
        return models.network(path)

    # ------------------------------------------------------------------------ what it is

    @property
    def traits(self) -> BackendTraits:
        """What the backend says of itself."""
        return BACKENDS.traits(self.kind)

    @property
    def batches(self) -> tuple[int, ...]:
        """The batches that are tried: 1, and a larger one where it takes any."""
        most = self.traits.max_batch
        return (1,) if most == 1 else (1, 3 if most is None else min(3, most))

    def backend(self) -> Backend:
        """Return an instance."""
        return BACKENDS.create(self.kind, self.options)

    def compiled(self, model: OnnxModel, folder: Path, batch: int = 1) -> CompiledModel:
        """Return a model's artifact for this machine."""
        of = models.candidate(self.kind, self.options, batch=batch)
        return models.compiled(model, of, folder)

    def loaded(self, compiled: CompiledModel) -> Session:
        """Return a session of an artifact on one thread."""
        return self.backend().load(compiled.folder / compiled.entry, 1)

    # ------------------------------------------------------------------------ traits

    def test_naming_options_are_there_and_tell_apart(self) -> None:
        """Options that are told by their value have few values, and no two of them the same."""
        hints = typing.get_type_hints(self.plugin.options)
        words: list[str] = []
        for name in self.traits.naming:
            words += [str(v) for v in _choices(hints[name])]
        assert len(words) == len(set(words))

    def test_memory_variants_are_options(self) -> None:
        """Each variant differs from the usual in options that exist."""
        names = {field.name for field in dataclasses.fields(self.plugin.options)}
        for variant in self.traits.memory_variants.values():
            assert variant
            assert set(variant) <= names

    def test_tolerance_is_a_share(self) -> None:
        """Whatever its options, answers may be off by something, and never by everything."""
        hints = typing.get_type_hints(self.plugin.options)
        choices = {n: _choices(h) for n, h in hints.items() if typing.get_origin(h) is Literal}
        for values in itertools.product(*choices.values()):
            assert 0 < self.traits.tolerance(dict(zip(choices, values, strict=True))) < 1
        assert 0 < self.traits.tolerance({}) < 1

    def test_devices_are_those_of_its_options(self) -> None:
        """What the option ``device`` offers is what the traits say."""
        hint = typing.get_type_hints(self.plugin.options).get("device")
        if hint is not None:
            assert set(typing.get_args(hint)) == set(self.traits.devices)
        assert self.traits.devices

    def test_a_batch_beyond_the_largest_is_refused(self, tmp_path: Path) -> None:
        """A batch that it cannot take costs the candidate, with a reason."""
        most = self.traits.max_batch
        if most is None:
            return
        assert most >= 1
        with pytest.raises(StageError, match="batch"):
            self.compiled(models.identity(tmp_path / "m.onnx"), tmp_path / "a", most + 1)

    # ------------------------------------------------------------------------ answers

    def test_identity(self, tmp_path: Path) -> None:
        """A copy is a copy, and an answer stays what it was when the next call comes."""
        import numpy as np

        batch = self.batches[-1]
        compiled = self.compiled(models.identity(tmp_path / "m.onnx"), tmp_path / "a", batch)
        session = self.loaded(compiled)
        x = np.random.default_rng(1).standard_normal((batch, *models.SHAPE)).astype(np.float32)
        session.set_inputs([x])
        session.invoke()
        first = session.outputs()[0]
        session.set_inputs([x + 1])
        session.invoke()
        np.testing.assert_array_equal(first, x)
        np.testing.assert_array_equal(session.outputs()[0], x + 1)

    def test_agrees_with_onnxruntime(self, tmp_path: Path) -> None:
        """Its answers are the ONNX file's, for every batch that is tried."""
        import numpy as np

        if not self.traits.computes:
            return
        model = self.network(tmp_path / "m.onnx")
        limit = self.traits.tolerance(self.options)
        for batch in self.batches:
            session = self.loaded(self.compiled(model, tmp_path / f"a{batch}", batch))
            for seed in range(3):
                x = _noise(model, batch, seed)
                session.set_inputs([x])
                session.invoke()
                expected = _expected(model, x)
                error = np.abs(session.outputs()[0] - expected).max() / np.abs(expected).max()
                assert error <= limit

    def test_notes_on_every_layer(self, tmp_path: Path) -> None:
        """It says of every layer whether zeros can pay, and why."""
        model = self.network(tmp_path / "m.onnx")
        notes = self.backend().eligible(model)
        assert [note.layer for note in notes] == [layer.name for layer in model.layers]
        assert all(note.why for note in notes)

    def test_record_of_the_artifact(self, tmp_path: Path) -> None:
        """The artifact is the files in its folder, and another batch is another artifact."""
        model = self.network(tmp_path / "m.onnx")
        compiled = self.compiled(model, tmp_path / "a")
        files = [p for p in compiled.folder.rglob("*") if p.is_file()]
        assert compiled.artifact_bytes == sum(p.stat().st_size for p in files) > 0
        assert compiled.versions
        if len(self.batches) > 1:
            other = self.compiled(model, tmp_path / "b", self.batches[-1])
            assert other.digest != compiled.digest

    # ------------------------------------------------------------------------ on a device

    def test_loads_in_a_fresh_process_from_the_zip(self, tmp_path: Path) -> None:
        """What a device gets is enough: the worker's zip, the artifact, and the runtime there."""
        import numpy as np

        model = self.network(tmp_path / "m.onnx")
        batch = min(2, self.batches[-1])
        compiled = self.compiled(model, tmp_path / "a", batch)
        empty = tmp_path / "empty"
        empty.mkdir()
        nothing = self.backend().compile_empty(models.TARGET, empty)
        x = np.concatenate([_noise(model, 1, seed) for seed in range(5)])
        np.save(tmp_path / "x.npy", x)
        whole = Job(
            "whole",
            self.plugin.module,
            self.options,
            str(compiled.folder / compiled.entry),
            1,
            batch,
        )
        bare = dataclasses.replace(whole, name="none", artifact=str(empty / nothing), batch=1)
        commands = (
            Outputs((whole,), Settings(str(tmp_path / "x.npy"))),  # the last batch is padded
            Memory((bare,), Settings(""), 2),
        )
        answers = _worker_run(tmp_path / "session", commands)
        assert answers["whole"].get("outputs") == {"file": "outputs/whole.npy"}, answers["whole"]
        outputs = np.load(tmp_path / "session" / "outputs" / "whole.npy")
        expected = np.concatenate([_expected(model, row[None]) for row in x])
        assert outputs.shape == expected.shape
        if self.traits.computes:
            limit = self.traits.tolerance(self.options)
            assert np.abs(outputs - expected).max() / np.abs(expected).max() <= limit
        memory = answers["none"]["memory"]
        assert 0 < memory["after_load"] <= memory["after_first"] <= memory["after_runs"]

    def test_empty_artifact_copies(self, tmp_path: Path) -> None:
        """The empty artifact copies one number."""
        import numpy as np

        backend = self.backend()
        session = backend.load(tmp_path / backend.compile_empty(models.TARGET, tmp_path), 1)
        session.set_inputs([np.full((1, 1), 7.0, np.float32)])
        session.invoke()
        np.testing.assert_array_equal(session.outputs()[0], [[7.0]])

    def test_script_runs_without_hwbench(self, tmp_path: Path) -> None:
        """The script that ships with an artifact runs it, and knows nothing of hwbench."""
        import numpy as np

        compiled = self.compiled(models.identity(tmp_path / "m.onnx"), tmp_path / "artifact")
        script = self.backend().script(f"artifact/{compiled.entry}", compiled)
        assert "hwbench" not in script
        (tmp_path / "run.py").write_text(script)
        np.save(tmp_path / "x.npy", np.full((1, *models.SHAPE), 0.25, np.float32))
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

    # ------------------------------------------------------------------------ what is wrong

    def test_what_does_not_load_is_a_stage_error(self, tmp_path: Path) -> None:
        """A damaged artifact costs the candidate, with a reason."""
        compiled = self.compiled(models.identity(tmp_path / "m.onnx"), tmp_path / "a")
        (compiled.folder / compiled.entry).write_bytes(b"not an artifact")
        with pytest.raises(StageError):
            self.loaded(compiled)

    def test_wrong_inputs_are_a_stage_error(self, tmp_path: Path) -> None:
        """Inputs of another shape or type are refused, not read as something else."""
        import numpy as np

        if not self.traits.computes:
            return
        model = self.network(tmp_path / "m.onnx")
        session = self.loaded(self.compiled(model, tmp_path / "a"))
        right = _noise(model, 1, 0)
        wrong = np.concatenate([right, right], axis=1)
        for x in (wrong, right.astype(np.float64)):
            with pytest.raises(StageError):
                _feed(session, x)

    def test_what_is_no_model_is_a_stage_error(self, tmp_path: Path) -> None:
        """An operator that nobody knows costs the candidate, with a reason."""
        import onnx

        if not self.traits.computes:
            return
        model = models.identity(tmp_path / "m.onnx")
        unknown = models.at(model, tmp_path / "unknown.onnx")
        graph = onnx.load(str(model.path))
        graph.graph.node[0].op_type = "NoSuchOperator"
        onnx.save(graph, str(unknown.path))
        with pytest.raises(StageError):
            self._used(unknown, tmp_path / "a")

    def _used(self, model: OnnxModel, folder: Path) -> None:
        self.loaded(self.compiled(model, folder))


def _choices(hint: Any) -> tuple[Any, ...]:
    assert typing.get_origin(hint) is Literal, f"{hint} has too many values to name a candidate"
    return typing.get_args(hint)


def _noise(model: OnnxModel, batch: int, seed: int) -> np.ndarray:
    import numpy as np

    shape = (batch, *model.input_shape)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def _feed(session: Session, x: np.ndarray) -> None:
    session.set_inputs([x])
    session.invoke()


def _expected(model: OnnxModel, x: np.ndarray) -> np.ndarray:
    import onnxruntime as ort

    found: np.ndarray = ort.InferenceSession(str(model.path)).run(None, {model.input_name: x})[0]
    return found


def _worker_run(folder: Path, commands: tuple[Command, ...]) -> dict[str, dict[str, Any]]:
    """Return what the worker answers of each job, from its zip and nothing else of hwbench's."""
    folder.mkdir()
    zipped = measurement.worker_zip(folder / "worker.zip")
    (folder / "job.json").write_text(json.dumps([json.loads(encode(c)) for c in commands]))
    bare = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, str(zipped), "run", str(folder)], check=True, cwd="/", env=bare)
    lines = (folder / "samples.jsonl").read_text().splitlines()
    return {line["of"]: line for line in map(json.loads, lines) if "of" in line}

"""doctor, compare and selftest, on this machine."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from hwbench import studies
from hwbench.cli.shell import run
from hwbench.errors import UserError
from hwbench.instruments import selftest
from hwbench.measurement import doctor, trial
from hwbench.measurement.device import opened
from hwbench.records import to_json
from tests import artifacts

pytestmark = pytest.mark.slow

SPEC = artifacts.spec(timeout=3.0)
WORK = {"spins": 500}


def bundle(folder: Path, options: Mapping[str, Any], label: int = 0) -> Path:
    """Write what a run leaves under ``model/``, with the null backend."""
    (folder / "artifact").mkdir(parents=True)
    model = artifacts.identity(folder / "model.onnx")
    candidate = artifacts.candidate("null", options, label=label)
    made = artifacts.compiled(model, candidate, folder / "artifact")
    manifest = {
        "candidate": to_json(candidate),
        "entry": made.entry,
        "input": {"name": "x", "shape": [1, *artifacts.SHAPE], "dtype": "float32"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("a") / "model", WORK)


def foreign(path: Path) -> Path:
    """Write an ONNX file with an operator that nobody has."""
    x, y = (
        helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", *artifacts.SHAPE])
        for n in ("x", "y")
    )
    node = helper.make_node("Nobodys", ["x"], ["y"], domain="nowhere")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("nowhere", 1)]
    graph = helper.make_graph([node], "net", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), str(path))
    return path


def test_an_a_that_does_not_compile_is_a_message_and_a_b_a_result(tmp_path: Path) -> None:
    good, bad = artifacts.identity(tmp_path / "good.onnx").path, foreign(tmp_path / "bad.onnx")
    with pytest.raises(UserError, match="cannot be measured") as caught:
        studies.compare(bad, good, artifacts.TARGET, SPEC, backend="tvm")
    assert caught.value.where == str(bad)
    found = studies.compare(good, bad, artifacts.TARGET, SPEC, backend="tvm")
    assert found.failure is not None
    assert found.failure.stage == "compile"


def test_one_that_takes_twice_as_long_is_worse(healthy: Path, tmp_path: Path) -> None:
    twice = bundle(tmp_path / "model", {**WORK, "slower": 1.0}, label=1)
    spec = artifacts.spec(generations=3, looks=(6,), max_calls=20)
    found = studies.compare(healthy, twice, artifacts.TARGET, spec)
    assert found.failure is None
    assert {r.metric for r in found.rows} >= {"latency_p50", "load_time", "peak_memory"}
    latency = next(r for r in found.rows if r.metric == "latency_p50")
    assert latency.ratio is not None
    assert latency.verdict
    assert any("answers differ by up to 0.0e+00" in note for note in found.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fault": "refuse"}, "told not to load"),
        ({"fault": "crash"}, "SIGSEGV"),
        ({"fault": "nan"}, "sample 0 is nan"),
        ({"fault": "hang", "at": 30}, "it hangs and was killed"),
        ({"fault": "raise", "at": 30}, "told to raise"),
    ],
)
def test_a_b_that_fails_is_a_result(
    options: Mapping[str, Any], words: str, healthy: Path, tmp_path: Path
) -> None:
    broken = bundle(tmp_path / "model", {**WORK, **options}, label=1)
    found = studies.compare(healthy, broken, artifacts.TARGET, SPEC)
    assert found.failure is not None
    assert words in found.failure.message
    assert not found.passed
    assert found.rows == ()


@pytest.mark.parametrize("fault", [{"fault": "spike", "at": 30}, {"fault": "print", "at": 30}])
def test_a_spike_and_megabytes_of_print_disturb_nothing(
    fault: Mapping[str, Any], healthy: Path, tmp_path: Path
) -> None:
    loud = bundle(tmp_path / "model", {**WORK, **fault}, label=1)
    found = studies.compare(healthy, loud, artifacts.TARGET, SPEC)
    assert found.failure is None
    assert all(r.ratio is not None for r in found.rows if r.metric == "latency_p50")


def test_an_a_that_fails_and_inputs_that_differ_are_the_users_to_mend(
    healthy: Path, tmp_path: Path
) -> None:
    broken = bundle(tmp_path / "broken", {**WORK, "fault": "refuse"})
    with pytest.raises(UserError, match="told not to load"):
        studies.compare(broken, healthy, artifacts.TARGET, SPEC)
    other = bundle(tmp_path / "other", WORK)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["input"]["shape"] = [1, 7]
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="takes float32 of 1 × 7"):
        studies.compare(healthy, other, artifacts.TARGET, SPEC)
    with pytest.raises(UserError, match="no bundle"):
        studies.compare(healthy, tmp_path, artifacts.TARGET, SPEC)


def test_onnx_files_are_compiled_for_the_backend_and_an_aa_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = artifacts.network(tmp_path / "one.onnx").path
    arguments = ["compare", str(one), str(one), "--policy", "quick", "--max-time", "1", "--json"]
    code = run(arguments)
    found = json.loads(capsys.readouterr().out)
    assert code in (0, 3), found  # 3: on this machine, now, it cannot tell A from its copy
    assert found["backend"] == "onnxruntime"
    assert any("same to the byte" in note for note in found["notes"])
    size = next(r for r in found["rows"] if r["metric"] == "artifact_bytes")
    assert (size["ratio"], size["verdict"]) == (1.0, "equivalent")
    assert run(["compare", str(one), str(tmp_path / "absent.onnx")]) == 2
    assert run(["compare", str(one), str(one), "--on", "latency"]) == 2


def test_the_doctor_examines_this_machine() -> None:
    spec = artifacts.spec(generations=3, looks=(4,), visit_seconds=0.002)
    health = doctor.examine(artifacts.TARGET, spec=spec)
    grades = {c.name: c.grade for c in health.checks}
    assert grades["reachable"] == "ok"
    assert grades["the device described"] == "ok"
    assert "runtime null" in grades
    proxy = next(c for c in health.checks if c.name == "energy")
    assert "ranking only" in proxy.found
    assert "A/A" in grades
    assert health.detectable is None or health.detectable > 0


def test_the_doctor_ends_with_3_where_there_is_no_device(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(["doctor", "rpi5", "--json"]) == 3
    said = json.loads(capsys.readouterr().out)
    assert not said["usable"]
    assert said["checks"][0]["grade"] == "fail"
    assert said["checks"][0]["mend"]


def test_the_quick_selftest_answers_every_question(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["selftest", "--json"])
    rows = json.loads(capsys.readouterr().out)
    by_question = {row["question"]: row for row in rows}
    assert len(rows) == 8
    assert all(row["tries"] > 0 for row in rows)
    # How small an effect is found depends on the machine; these do not.
    assert by_question["kill -9 of a worker"]["ok"]
    assert by_question["all 20 % slower from mid-session on (planted)"]["ok"]
    assert code == (1 if any(row["ok"] is False for row in rows) else 0)


def test_a_double_that_dies_in_the_rounds_costs_itself_only(tmp_path: Path) -> None:
    doubles = {"twin": {}, "killed": {"fault": "die", "at": 40}}
    spec = artifacts.spec(generations=2, looks=(4,))
    with opened(artifacts.TARGET, tmp_path / "log") as device:
        found = trial.run(device, doubles, spec, spins=100)
    assert "SIGKILL" in found.failures["killed"].message
    assert [p.generation for p in found.doubles["twin"]] == [0, 1]
    assert selftest.judge_killed(found).ok


def test_waiting_for_the_device_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    lock = os.open(tmp_path / "hwbench-device.lock", os.O_RDONLY | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    said = []

    def free(why: str) -> None:
        said.append(why)
        fcntl.flock(lock, fcntl.LOCK_UN)

    spec = artifacts.spec(generations=1, looks=(2,))
    with opened(artifacts.TARGET, tmp_path / "log") as device:
        device.waits = free
        found = trial.run(device, {"twin": {}}, spec, spins=100)
    os.close(lock)
    assert found.reference
    assert "another session measures on this device" in said[0]

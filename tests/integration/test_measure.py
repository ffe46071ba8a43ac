"""Whole sittings on this machine: what works, everything that can go wrong, and going on."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from hwbench import measurement
from hwbench.errors import TargetError
from hwbench.measurement.package import worker_zip
from hwbench.records import CompiledModel, Measurement, PluginSpec, Sitting, Source, to_json
from hwbench.worker.messages import Close, Command, Job, Open, Rounds, Settings, encode
from tests import artifacts

# Four samples: calls 1 to 4 of the outputs pass, 1 to 3 of the memory pass. Call 30 comes in
# the rounds of a generation at the earliest in its warm-up.
LATER = 30
FAULTS: Mapping[str, Mapping[str, object]] = {
    "healthy": {"spins": 10},
    "refuses": {"fault": "refuse"},
    "crashes": {"fault": "crash"},
    "crashes later": {"fault": "crash", "at": LATER},
    "killed": {"fault": "die"},
    "hangs": {"fault": "hang"},
    "hangs later": {"fault": "hang", "at": LATER},
    "raises": {"fault": "raise"},
    "leaves": {"fault": "exit"},
    "nan": {"fault": "nan"},
    "no memory": {"fault": "memory"},
    "prints": {"fault": "print"},
    "prints later": {"fault": "print", "at": LATER},
    "spikes": {"fault": "spike", "at": LATER, "spins": 100},
}
HEALTHY = ("healthy", "prints", "prints later", "spikes")


def _quiet(_share: float, _label: str) -> None:
    """Show nothing."""


def _artifacts(folder: Path, faults: Mapping[str, Mapping[str, object]]) -> list[CompiledModel]:
    model = artifacts.identity(folder / "m.onnx")
    found = []
    for number, options in enumerate(faults.values()):
        candidate = artifacts.candidate("null", options, label=number)
        found.append(artifacts.compiled(model, candidate, folder / f"a{number}"))
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sitting")


@pytest.fixture(scope="module")
def sitting(home: Path) -> Sitting:
    batch = _artifacts(home, FAULTS)
    inputs = artifacts.inputs(home / "x.npy", samples=4)
    seen: list[float] = []

    def progress(share: float, label: str) -> None:
        assert label
        seen.append(share)

    spec = artifacts.spec(timeout=3.0)
    found = measurement.measure(
        batch, batch[0], artifacts.TARGET, spec, inputs, home / "raw", progress,
        empties=artifacts.empties(batch, home / "empty"),
    )  # fmt: skip
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    return found


@pytest.fixture(scope="module")
def by_fault(sitting: Sitting) -> Mapping[str, Measurement]:
    return dict(zip(FAULTS, sitting.measurements, strict=True))


@pytest.mark.parametrize("name", HEALTHY)
def test_what_runs_is_measured(
    name: str, by_fault: Mapping[str, Measurement], sitting: Sitting, home: Path
) -> None:
    found = by_fault[name]
    assert not found.failures
    assert found.source is Source.MEASURED
    # A generation that is made again, on a busy machine, has another number.
    assert len({p.generation for p in found.latency}) == 2
    for process in found.latency:
        assert process.load >= 0
        assert process.warmup_calls >= 10
        assert {v.round for v in process.visits} <= {0, 1, 2, 3}
        assert all(5 <= len(v.wall) == len(v.cpu) == len(v.switches) <= 8 for v in process.visits)
    assert found.memory is not None
    assert found.memory.after_import > 0
    assert found.memory.empty_runtime
    assert found.energy is not None
    assert found.energy.inferences > 0
    assert found.energy.tier == "proxy"
    assert found.outputs is not None
    np.testing.assert_array_equal(np.load(found.outputs), np.load(home / "x.npy"))


@pytest.mark.parametrize(
    ("name", "passes", "words"),
    [
        ("refuses", "outputs", "told not to load"),
        ("crashes", "outputs", "SIGSEGV"),
        ("crashes later", "latency", "SIGSEGV"),
        ("killed", "outputs", "SIGKILL"),
        ("hangs", "outputs", "it hangs and was killed"),
        ("hangs later", "latency", "it hangs and was killed"),
        ("raises", "outputs", "told to raise"),
        ("leaves", "outputs", "status 3"),
        ("nan", "outputs", "sample 0 is nan"),
        ("no memory", "outputs", "out of memory"),
    ],
)
def test_what_fails_says_how(
    name: str, passes: str, words: str, by_fault: Mapping[str, Measurement]
) -> None:
    found = by_fault[name]
    assert words in found.failures[passes].message
    # It is not tried again, and every later pass says the same.
    assert found.failures["latency"].message == found.failures[passes].message
    assert found.failures["energy"].message == found.failures[passes].message
    assert found.latency == ()
    assert found.energy is None
    assert (found.outputs is None) == (passes == "outputs")


def test_reference_and_shadow_are_there_in_every_generation(
    sitting: Sitting, by_fault: Mapping[str, Measurement]
) -> None:
    assert sitting.reference == by_fault["healthy"]
    assert [p.role for p in sitting.reference.latency] == ["reference"] * 2
    assert [p.role for p in sitting.shadow.latency] == ["shadow"] * 2
    assert sitting.shadow.artifact == sitting.reference.artifact
    rounds = [{v.round: v.order for v in p.visits} for p in sitting.reference.latency]
    others = [{v.round: v.order for v in p.visits} for p in by_fault["spikes"].latency]
    for mine, theirs in zip(rounds, others, strict=True):
        assert all(mine[r] != theirs[r] for r in mine.keys() & theirs.keys())


def test_conditions_are_read_at_both_ends(sitting: Sitting) -> None:
    assert sitting.before.fingerprint == sitting.after.fingerprint
    assert sitting.before.software["backends"]["null"].startswith("null ")
    assert sitting.before.state["load"] is not None


def test_every_raw_sample_is_on_disk(sitting: Sitting, home: Path) -> None:
    kept = [
        json.loads(line)
        for file in sorted((home / "raw").glob("latency-*.jsonl"))
        for line in file.read_text().splitlines()[1:]
    ]
    of_this_attempt = [to_json(p) for m in sitting.measurements for p in m.latency]
    assert all(p in kept for p in of_this_attempt)


def test_the_same_call_again_measures_nothing_again(sitting: Sitting, home: Path) -> None:
    batch = _artifacts(home, FAULTS)
    before = {p: p.read_bytes() for p in (home / "raw").glob("*.jsonl")}
    spec = artifacts.spec(timeout=3.0)
    again = measurement.measure(
        batch, batch[0], artifacts.TARGET, spec, home / "x.npy", home / "raw", _quiet,
        empties=artifacts.empties(batch, home / "empty-again"),
    )  # fmt: skip
    assert again.measurements == sitting.measurements
    assert {p: p.read_bytes() for p in (home / "raw").glob("*.jsonl")} == before


def test_other_settings_begin_anew(home: Path, tmp_path: Path) -> None:
    batch = _artifacts(tmp_path, {"healthy": {}})
    inputs = artifacts.inputs(tmp_path / "x.npy")
    for seed in (0, 1):
        measurement.measure(
            batch,
            batch[0],
            artifacts.TARGET,
            artifacts.spec(seed=seed, generations=1),
            inputs,
            tmp_path / "raw",
            _quiet,
        )
        if not seed:
            (tmp_path / "raw" / "latency-7-00.jsonl").write_text("from before\n")
    assert not (tmp_path / "raw" / "latency-7-00.jsonl").exists()


# --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["crash", "nan"])
@pytest.mark.parametrize("at", [1, LATER])
def test_a_reference_that_fails_stops_the_target(fault: str, at: int, tmp_path: Path) -> None:
    batch = _artifacts(tmp_path, {"broken": {"fault": fault, "at": at}, "healthy": {}})
    inputs = artifacts.inputs(tmp_path / "x.npy")
    with pytest.raises(TargetError, match="dense model cannot be measured"):
        measurement.measure(
            batch, batch[0], artifacts.TARGET, artifacts.QUICK, inputs, tmp_path / "raw", _quiet
        )


def test_duplicates_are_measured_once(tmp_path: Path) -> None:
    (one,) = _artifacts(tmp_path, {"healthy": {}})
    inputs = artifacts.inputs(tmp_path / "x.npy")
    spec = artifacts.spec(generations=1, looks=(2,))
    found = measurement.measure(
        [one, one], one, artifacts.TARGET, spec, inputs, tmp_path / "raw", _quiet
    )
    assert [m.artifact for m in found.measurements] == [one.digest]
    assert found.reference.latency


def test_max_time_ends_it_with_what_there_is(tmp_path: Path) -> None:
    batch = _artifacts(tmp_path, {"healthy": {}, "other": {"spins": 5}})
    spec = artifacts.spec(max_time=0.001, generations=5)
    found = measurement.measure(
        batch,
        batch[0],
        artifacts.TARGET,
        spec,
        artifacts.inputs(tmp_path / "x.npy"),
        tmp_path / "raw",
        _quiet,
    )
    assert [len(m.latency) for m in found.measurements] == [1, 1]
    assert any("stopped after 1 of 5 generations" in note for note in found.notes)


def test_a_target_without_a_meter(tmp_path: Path) -> None:
    batch = _artifacts(tmp_path, {"healthy": {}})
    target = dataclasses.replace(artifacts.TARGET, meters=())
    spec = artifacts.spec(generations=1, looks=(2,))
    inputs = artifacts.inputs(tmp_path / "x.npy")
    found = measurement.measure(batch, batch[0], target, spec, inputs, tmp_path / "raw", _quiet)
    values = measurement.values(found.measurements[0], found, batch[0], target)
    assert values["energy"].reason == "the target names no energy meter"


def test_a_meter_that_cannot_read_is_a_reason(tmp_path: Path) -> None:
    batch = _artifacts(tmp_path, {"healthy": {}})
    target = dataclasses.replace(artifacts.TARGET, meters=(PluginSpec("proxy"),))
    spec = artifacts.spec(generations=1, looks=(2,))
    inputs = artifacts.inputs(tmp_path / "x.npy")
    found = measurement.measure(batch, batch[0], target, spec, inputs, tmp_path / "raw", _quiet)
    values = measurement.values(found.measurements[0], found, batch[0], target)
    assert values["energy"].value is None
    assert "proxy" in values["energy"].reason
    assert values["latency_p50"].value is not None


def test_an_emulated_device_gives_outputs_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HWBENCH_EMULATED", "by a test")
    batch = _artifacts(tmp_path, {"healthy": {}})
    inputs = artifacts.inputs(tmp_path / "x.npy")
    found = measurement.measure(
        batch, batch[0], artifacts.TARGET, artifacts.QUICK, inputs, tmp_path / "raw", _quiet
    )
    (mine,) = found.measurements
    assert mine.source is Source.EMULATED
    assert mine.outputs is not None
    assert (mine.latency, mine.memory, mine.energy) == ((), None, None)


def test_answers_are_outputs_and_nothing_else(tmp_path: Path) -> None:
    batch = _artifacts(tmp_path, {"healthy": {}, "nan": {"fault": "nan"}})
    inputs = artifacts.inputs(tmp_path / "x.npy")
    found = measurement.answers(batch, artifacts.TARGET, artifacts.QUICK, inputs, tmp_path / "raw")
    healthy, broken = (found.of(c.digest) for c in batch)
    assert healthy.outputs is not None
    np.testing.assert_array_equal(np.load(healthy.outputs), np.load(inputs))
    assert broken.outputs is None
    assert "nan" in broken.failures["outputs"].message
    assert healthy.latency == ()


# --------------------------------------------------------------------------------------------


def test_probe_tells_versions() -> None:
    target = dataclasses.replace(
        artifacts.TARGET, backends=(PluginSpec("onnxruntime"), PluginSpec("null"))
    )
    found = measurement.probe(target)
    assert found.software["backends"]["onnxruntime"].startswith("onnxruntime ")
    assert found.fingerprint == measurement.probe(target).fingerprint


def test_probe_says_what_is_missing() -> None:
    target = dataclasses.replace(artifacts.TARGET, connection=None, how_to_reach="Plug it in.")
    with pytest.raises(TargetError) as caught:
        measurement.probe(target)
    assert "Plug it in." in str(caught.value)
    other = dataclasses.replace(artifacts.TARGET, isa="riscv64")
    with pytest.raises(TargetError, match="the device is"):
        measurement.probe(other)
    nowhere = PluginSpec("local", {"python": "/no/python"})
    with pytest.raises(TargetError, match="/no/python"):
        measurement.probe(dataclasses.replace(artifacts.TARGET, connection=nowhere))
    broken = PluginSpec("local", {"python": "/bin/false"})
    with pytest.raises(TargetError, match="ended"):
        measurement.probe(dataclasses.replace(artifacts.TARGET, connection=broken))


# --------------------------------------------------------------------------------------------

_HOST = """
import os, signal, sys
from pathlib import Path
from hwbench import measurement
from tests import artifacts
from tests.integration import test_measure as here

folder, stop = Path(sys.argv[1]), sys.argv[2]
batch = here._artifacts(folder, here.TWO)

def progress(share, label):
    if stop in label:
        os.kill(os.getpid(), signal.SIGKILL)

measurement.measure(batch, batch[0], artifacts.TARGET, here.RESUMED, folder / "x.npy",
                folder / "raw", progress)
"""
TWO: Mapping[str, Mapping[str, object]] = {"healthy": {}, "other": {"spins": 5}}
RESUMED = artifacts.spec(generations=3)


@pytest.mark.parametrize(
    ("stop", "kept"),
    [
        ("outputs", {"outputs.jsonl"}),
        ("generation 2", {"outputs.jsonl", "memory.jsonl", "latency-0-00.jsonl"}),
        ("energy", {"outputs.jsonl", "memory.jsonl", "energy.jsonl", "latency-0-02.jsonl"}),
    ],
)
def test_killed_in_the_middle_it_goes_on(stop: str, kept: set[str], tmp_path: Path) -> None:
    artifacts.inputs(tmp_path / "x.npy")
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(
        [sys.executable, "-c", _HOST, str(tmp_path), stop], env=environment, check=False
    )
    assert done.returncode == -signal.SIGKILL
    raw = tmp_path / "raw"
    before = {p.name: p.read_bytes() for p in raw.glob("*.jsonl")}
    assert kept <= before.keys()
    batch = _artifacts(tmp_path, TWO)
    found = measurement.measure(
        batch, batch[0], artifacts.TARGET, RESUMED, tmp_path / "x.npy", raw, _quiet
    )
    assert [len(m.latency) for m in found.measurements] == [3, 3]
    for name, content in before.items():
        assert (raw / name).read_bytes().startswith(content)


def _alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def _descendants(process: int) -> Iterator[int]:
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        yield int(child)
        yield from _descendants(int(child))


@pytest.mark.parametrize("who", ["host", "launcher"])
def test_no_orphans_and_no_folder_when_somebody_is_killed(who: str, tmp_path: Path) -> None:
    """Kill the host (the launcher's input ends) or the launcher, with a child that hangs."""
    batch = _artifacts(tmp_path, {"hangs": {"fault": "hang", "at": 2}})
    inputs = artifacts.inputs(tmp_path / "x.npy")
    session = tmp_path / "hwbench-session"
    session.mkdir()
    zipped = worker_zip(session / "worker.zip")
    launcher = subprocess.Popen(
        [sys.executable, str(zipped), "serve", str(session)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert launcher.stdin is not None
    assert launcher.stdout is not None
    launcher.stdout.readline()
    entry = str(batch[0].folder / batch[0].entry)
    job = Job("hangs", "hwbench.backends.null", {"fault": "hang", "at": 2}, entry)
    command = Open((job,), Settings(str(inputs), timeout=600.0), 0)
    launcher.stdin.write(encode(command).encode() + b"\n")
    launcher.stdin.flush()
    children: list[int] = []
    while not children or not all(_blocked(child) for child in children):
        children = list(_descendants(launcher.pid))
    if who == "host":
        launcher.stdin.close()
        assert launcher.wait(timeout=60) == 0
        assert not session.exists()
    else:
        launcher.kill()
        launcher.wait()
        launcher.stdin.close()
    launcher.stdout.close()
    for child in children:
        while _alive(child):  # the kernel is at it; the test's own timeout is the limit
            os.sched_yield()


def _blocked(child: int) -> bool:
    """Whether the child waits in ``pause``, deaf to a polite end."""
    try:
        return "SigIgn" in (text := Path(f"/proc/{child}/status").read_text()) and bool(
            int(text.split("SigIgn:")[1].split()[0], 16) >> (signal.SIGTERM - 1) & 1
        )
    except FileNotFoundError:
        return False


def test_commands_from_a_file(tmp_path: Path) -> None:
    (made,) = _artifacts(tmp_path, {"healthy": {}})
    inputs = artifacts.inputs(tmp_path / "x.npy")
    entry = str(made.folder / made.entry)
    names = ("reference", "shadow", "broken")
    jobs = [Job(n, "hwbench.backends.null", {}, entry) for n in names[:2]]
    jobs.append(Job("broken", "hwbench.backends.null", {"fault": "refuse"}, entry))
    settings = Settings(str(inputs), visit_seconds=0.001, warmup_seconds=0.1)
    commands: list[Command] = [Open(tuple(jobs), settings, 0), Rounds(0, 3, names, 60.0), Close()]
    (tmp_path / "job.json").write_text(json.dumps([json.loads(encode(c)) for c in commands]))
    zipped = worker_zip(tmp_path / "worker.zip")
    subprocess.run([sys.executable, str(zipped), "run", str(tmp_path)], check=True)
    lines = (tmp_path / "samples.jsonl").read_text().splitlines()
    said = [m for m in map(json.loads, lines) if "alive" not in m]
    visits = [(m["of"], m["visit"]["round"]) for m in said if "visit" in m]
    assert sorted(visits) == [(name, r) for name in names[:2] for r in range(3)]
    assert [m["of"] for m in said if "failure" in m] == ["broken"]
    assert [m["done"] for m in said if "done" in m] == ["Open", "Rounds", "Close"]


def test_without_an_empty_artifact_nothing_is_said_of_the_runtimes_memory(tmp_path: Path) -> None:
    batch = _artifacts(tmp_path, {"healthy": {}})
    inputs = artifacts.inputs(tmp_path / "x.npy")
    found = measurement.measure(
        batch, batch[0], artifacts.TARGET, artifacts.spec(), inputs, tmp_path / "raw", _quiet
    )
    memory = found.of(batch[0].digest).memory
    assert memory is not None
    assert memory.after_runs
    assert memory.empty_runtime is None
    assert memory.share is None

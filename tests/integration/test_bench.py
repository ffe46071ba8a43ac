"""The main job for real: train, prune, export, compile, measure, decide, on a small recipe."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hwbench.records import Candidate, from_json
from tests.integration.house import House, environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    house = House.build(tmp_path_factory.mktemp("house"))
    house.run("bench", "--recipe", "smoke")
    return house


def test_a_run_leaves_what_the_readme_promises(house: House) -> None:
    latest = house.folder / "reports/latest"
    for name in (
        "report.html",
        "decision.md",
        "decision.json",
        "pareto.png",
        "results.csv",
        "results.jsonl",
        "config.json",
        "study.json",
        "model/model.onnx",
        "model/manifest.json",
        "model/run.py",
    ):
        assert (latest / name).stat().st_size > 50, name
    assert {p.name for p in (latest / "logs").iterdir()} >= {"worker-1.txt"}
    assert len((latest / "results.jsonl").read_text().splitlines()) == 4, "one a candidate"
    with (latest / "results.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == 4


def test_every_number_has_a_source_and_every_gap_a_reason(house: House) -> None:
    results = house.results()
    assert len(results) == 4
    for result in results:
        assert result["failure"] is None
        for metric in ("top1", "latency_p50", "peak_memory", "macs", "sparsity"):
            value = result["values"][metric]
            assert (value["value"] is None) == bool(value["reason"])
            assert value["source"] in ("measured", "static", "proxy")
        assert result["values"]["latency_p50"]["value"] > 0
        assert result["values"]["latency_p50"]["source"] == "measured"
        assert result["values"]["macs"]["source"] == "static"


def test_raw_samples_are_kept_by_process(house: House) -> None:
    samples = house.folder / "reports/latest/samples"
    processes = [
        json.loads(line)
        for path in samples.glob("latency-*.jsonl")
        for line in path.read_text().splitlines()
        if '"wall"' in line
    ]
    # R, its copy S, dense int8, the two pruned candidates; two generations of each, and one that
    # was made again if the machine was busy.
    assert len(processes) in (2 * 5, 3 * 5)
    for process in processes:
        assert process["visits"]
        assert all(second > 0 for visit in process["visits"] for second in visit["wall"])


def test_the_shipped_model_runs_without_hwbench(house: House, tmp_path: Path) -> None:
    model = house.folder / "reports/latest/model"
    shape = json.loads((model / "manifest.json").read_text())["input"]["shape"]
    inputs = np.random.default_rng(0).standard_normal(shape).astype("float32")
    np.save(tmp_path / "x.npy", inputs)
    blocked = (
        "import sys, runpy; sys.modules['hwbench'] = None; sys.modules['torch'] = None;"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", blocked, str(model / "run.py"), str(tmp_path / "x.npy")],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    import onnxruntime

    session = onnxruntime.InferenceSession(str(model / "model.onnx"))
    (expected,) = session.run(None, {session.get_inputs()[0].name: inputs})
    printed = np.array([float(w) for w in done.stdout.replace("[", " ").replace("]", " ").split()])
    np.testing.assert_allclose(printed, expected.ravel(), rtol=1e-3, atol=1e-4)


def test_the_same_command_again_does_nothing_twice(house: House) -> None:
    cache = house.folder / ".hwbench/cache"
    before = {p: p.stat().st_mtime_ns for p in cache.rglob("record.json")}
    rows = house.results()
    house.run("bench", "--recipe", "smoke")
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("record.json")} == before
    assert [r["values"] for r in house.results()] == [r["values"] for r in rows]


def test_pick_and_report_and_export_and_list_need_no_measuring(
    house: House, tmp_path: Path
) -> None:
    house.run("pick", "--goal", "latency_p50.max=1ns", code=1)
    picked = house.run("pick", "--goal", "top1.min=0.01", "--choose", "artifact_bytes", "--json")
    assert json.loads(picked.stdout)["chosen"]
    report = house.folder / "reports/latest/report.html"
    report.unlink()
    house.run("report")
    assert report.exists()
    dense = house.results()[0]["candidate"]
    house.run("export", "--candidate", "dense · onnxruntime", "--to", str(tmp_path / "out"))
    manifest = json.loads((tmp_path / "out/manifest.json").read_text())
    assert manifest["candidate"] == dense
    house.run("export", "--to", str(tmp_path / "out"), code=2)
    (tmp_path / "file").write_text("")
    assert "is a file" in house.run("export", "--to", str(tmp_path / "file"), code=2).stderr
    chosen = house.decision()["chosen"]
    for number, result in enumerate(house.results()):
        key = from_json(Candidate, result["candidate"]).key
        house.run("export", "--candidate", key, "--to", str(tmp_path / str(number)))
        bundle = json.loads((tmp_path / str(number) / "manifest.json").read_text())
        assert bundle["candidate"] == result["candidate"]
        requested = "not the model that was chosen" in bundle["reason"]
        assert requested == (key != chosen)
        assert ("chosen" in bundle["test"]) == (key == chosen)
    listed = json.loads(house.run("list", "--json").stdout)
    assert listed["runs"]
    assert "smoke" in listed["recipes"]


def test_plan_tells_and_does_nothing(tmp_path: Path) -> None:
    house = House.build(tmp_path)
    plan = json.loads(house.run("bench", "--recipe", "smoke", "--dry-run", "--json").stdout)
    assert len(plan["candidates"]) == 4
    assert plan["trainings"] == 3
    assert plan["trainings_cached"] == 0
    assert plan["prepare_seconds"] > 0
    assert not (tmp_path / "reports").exists()
    assert not (tmp_path / ".hwbench").exists()


@pytest.mark.parametrize("phase", ["prepare", "measure", "search"])
def test_killed_in_the_middle_it_goes_on_and_repeats_nothing(phase: str, tmp_path: Path) -> None:
    house = House.build(tmp_path)
    # What a search tries untrained is measured in a sitting of its own, and killed in there.
    strategy = "latency_first" if phase == "search" else "train_all"
    command = ("bench", "--recipe", "smoke", "--set", f"search.strategy={strategy}")
    with house.start(*command) as running:
        assert running.stderr is not None
        for line in running.stderr:
            trained = phase == "prepare" and finished(house, "compress")
            if trained or (phase != "prepare" and measured(house)) or "score the" in line:
                break
        os.killpg(running.pid, signal.SIGKILL)
    assert not (tmp_path / "reports/latest").exists()
    before = finished(house, "compress")
    samples = measured(house)
    assert bool(samples) == (phase != "prepare")
    house.run(*command)
    after = finished(house, "compress")
    assert {key: after[key] for key in before} == before
    assert {key: measured(house)[key] for key in samples} == samples, "no generation is repeated"
    tried = (tmp_path / "reports/latest/search.jsonl").exists()
    assert len(house.results()) == 4 or tried
    assert tried == (phase == "search")
    assert len(list((tmp_path / "reports/smoke/local-cpu").glob("2*"))) == 1, "one run, resumed"


def test_ctrl_c_ends_everything_and_says_how_to_go_on(tmp_path: Path) -> None:
    house = House.build(tmp_path)
    with house.start("bench", "--recipe", "smoke") as running:
        assert running.stderr is not None
        running.stderr.readline()
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "the same command goes on" in said


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    house = House.build(tmp_path)
    with house.start("bench", "--recipe", "smoke") as running:
        assert running.stderr is not None
        running.stderr.readline()
        try:
            refused = house.run("bench", "--recipe", "smoke", code=2)
            assert "under way" in refused.stderr
        finally:
            os.killpg(running.pid, signal.SIGKILL)


def measured(house: House) -> dict[str, int]:
    found = (house.folder / ".hwbench/cache").glob("*/measure/*/latency-*.jsonl")
    return {str(path): path.stat().st_mtime_ns for path in found}


def finished(house: House, room: str) -> dict[str, int]:
    found = (house.folder / ".hwbench/cache").glob(f"*/{room}/*/record.json")
    return {str(path): path.stat().st_mtime_ns for path in found}


def test_latency_first_trains_only_what_can_win_and_says_why(house: House) -> None:
    """The house's cache has the dense model; two candidates are tried untrained."""
    house.run("bench", "--recipe", "smoke", "--set", "search.strategy=latency_first")
    latest = house.folder / "reports/latest"
    tried = json.loads((latest / "study.json").read_text())["study"]["tried"]
    journal = [json.loads(line) for line in (latest / "search.jsonl").read_text().splitlines()]
    assert journal == tried
    assert len(tried) == 2
    kept = {from_json(Candidate, r["candidate"]).key for r in house.results()}
    for entry in tried:
        assert entry["costs"]["latency_p50"] > 0
        assert entry["evidence"] == "untrained"
        assert (entry["candidate"] in kept) != bool(entry["dropped"])

"""Nights for real: a baseline, a quiet night, planted troubles, and everything that goes wrong."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hwbench import config
from hwbench.records import Change, Night, Pair, Reading, to_json
from hwbench.studies import Workspace, nightly
from hwbench.studies.nightly import history, pinned_models
from tests.integration.house import House

pytestmark = pytest.mark.slow

RECIPE = """
version: 1
workload: {kind: toy}
train: {epochs: EPOCHS, lr: 0.1, batch: 64}
search: {sparsities: [0.5], methods: [{pattern: channel}]}
recover: {epochs: 0}
backends: {onnxruntime: {}, "null": {OPTIONS}}
objectives: [top1, latency_p50, peak_memory]
measure: {policy: quick, generations: 2, looks: [3], half_width: 0.9, warmup_seconds: 0.2,
          energy_seconds: 0.05}
"""
PLAN = """
version: 1
recipes: [tiny]
targets: [TARGETS]
measure: {policy: quick, generations: 3, looks: [6], half_width: 0.9, warmup_seconds: 0.2,
          energy_seconds: 0.05}
"""


def write(house: House, *, epochs: int, options: str, targets: str = "here") -> None:
    text = RECIPE.replace("EPOCHS", str(epochs)).replace("{OPTIONS}", f"{{{options}}}")
    (house.folder / "recipes/tiny.yaml").write_text(text)
    (house.folder / "recipes/nightly.yaml").write_text(PLAN.replace("TARGETS", targets))
    target = (house.folder / "targets/local-cpu.yaml").read_text()
    lines = [
        line for line in target.splitlines() if not line.startswith(("  tvm:", "  tvm_sparse:"))
    ]
    text = "\n".join(lines).replace("  onnxruntime: {}", '  onnxruntime: {}\n  "null": {}')
    (house.folder / "targets/here.yaml").write_text(text + "\n")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    """A house with a pinned baseline."""
    found = House.build(tmp_path_factory.mktemp("house"))
    write(found, epochs=4, options="spins: 10000")
    found.run("baseline", "set", "-r", "tiny", "-t", "here", "--why", "first", "--who", "tester")
    return found


def night_of(house: House, code: int) -> Any:
    found = json.loads(house.run("nightly", "--json", code=code).stdout)
    assert found["exit"] == code
    return found


def test_a_quiet_night_then_slower_hungrier_and_less_accurate(house: House) -> None:
    quiet = night_of(house, 0)
    (pair,) = quiet["night"]["pairs"]
    watched = {r["metric"] for r in pair["readings"]}
    wanted = {"latency_p50", "load_time", "peak_memory", "energy", "artifact_bytes"}
    assert watched >= wanted | {"compile_time", "top1", "process_memory"}
    assert pair["shadow"][0]["ratio"]
    assert pair["changed"] == []
    assert pair["methods"]

    write(
        house,
        epochs=0,
        options="spins: 10000, slower: 1.0, ballast: 80000000",
        targets="here, rpi4",
    )
    red = night_of(house, 1)
    pair, board = red["night"]["pairs"]
    alarms = {(r["candidate"], r["metric"]): r for r in pair["readings"] if r["status"] == "worse"}
    slow = alarms["dense · null", "latency_p50"]
    assert slow["first"]["low"] > 1.01
    assert slow["again"]["low"] > 1.01
    assert 1.5 < slow["first"]["ratio"] < 2.5
    assert ("dense · null", "process_memory") in alarms
    assert ("dense · onnxruntime", "top1") in alarms
    assert ("dense · onnxruntime", "process_memory") not in alarms
    assert any("slower: None became 1.0" in words for words in pair["changed"])
    assert any("train.epochs: 4 became 0" in words for words in pair["changed"])
    assert any("dense · null, latency_p50: the artifact" in words for words in pair["hints"])
    assert not board["measured"]

    folder = house.folder / red["folder"]
    names = {p.name for p in folder.iterdir()}
    assert {"report.html", "summary.md", "junit.xml", "decision.json"} <= names
    assert "trend-here-tiny.png" in names
    assert "here, tiny: dense · null: Latency p50 +" in (folder / "summary.md").read_text()
    assert list((folder / "here/tiny/first").glob("latency-*.jsonl"))
    assert (folder.parent / "index.html").exists()
    found = history.load(house.folder / "reports/history")
    assert found.problems == ()
    assert set(found.readings.number) == {1, 2}

    house.run("baseline", "promote", "-r", "tiny", "-t", "here", "--why", "that is how it is now")
    pins = json.loads(house.run("baseline", "show", "--json").stdout)
    assert [(p["number"], p["why"]) for p in pins] == [(2, "that is how it is now")]


def test_pinned_artifacts_that_were_changed_are_not_compared_with(house: House) -> None:
    home = house.folder / "reports/baselines/here/tiny"
    pins = history.load_pins(house.folder / "reports/history", "here", "tiny")
    kept = pinned_models.load(home, pins[0].artifacts)
    assert kept.model("dense · null") is not None
    victim = next(p for p in sorted((kept.folder / "artifacts").rglob("*")) if p.is_file())
    before = victim.read_bytes()
    victim.write_bytes(before + b" ")
    try:
        with pytest.raises(Exception, match="is not what was pinned"):
            pinned_models.load(home, pins[0].artifacts)
    finally:
        victim.write_bytes(before)


# --------------------------------------------------------------------------------------------
# what goes wrong; a board that is not there makes for short nights


def run(folder: Path, recipe: str = "smoke") -> nightly.Outcome:
    plan = dataclasses.replace(config.load_nightly("nightly"), name="nightly")
    place = Workspace(folder / "reports", folder / "cache")
    recipes = [config.load_recipe(recipe)]
    return nightly.run(plan, recipes, [config.load_target("rpi4")], place, lambda *_: None)


def test_an_unreachable_target_could_not_be_measured_and_is_never_fine(tmp_path: Path) -> None:
    outcome = run(tmp_path)
    assert outcome.exit_code == 3
    (pair,) = outcome.night.pairs
    assert not pair.measured
    assert pair.why
    assert "could not measure" in (outcome.folder / "summary.md").read_text()
    assert 'errors="1"' in (outcome.folder / "junit.xml").read_text()
    again = run(tmp_path)
    assert again.night.number == 2
    assert again.folder != outcome.folder


def test_a_missing_baseline_says_how_to_pin_one(tmp_path: Path) -> None:
    plan = config.load_nightly("nightly")
    place = Workspace(tmp_path / "reports", tmp_path / "cache")
    recipes, targets = [config.load_recipe("smoke")], [config.load_target("local-cpu")]
    outcome = nightly.run(plan, recipes, targets, place, lambda *_: None)
    assert outcome.exit_code == 3
    assert "no baseline is pinned" in outcome.night.pairs[0].why
    assert "hwbench baseline set --recipe smoke" in outcome.night.pairs[0].mend


def interrupted(folder: Path) -> Night:
    """Leave what a night leaves that was killed after its first pair."""
    home = folder / "reports/nightly/nightly/20260101T020000Z"
    head = Night("20260101T020000Z-x", 5, "2026-01-01T02:00:00+00:00", "c", "x", "nightly", ())
    reading = Reading("dense · null", "latency_p50", "measured", 0.01, Change(1.0, 1.1, 1.1))
    pair = Pair("smoke", "here", True, (reading,), segment="s")
    (home / "here/smoke").mkdir(parents=True)
    (home / "config.json").write_text(json.dumps({"format": 1, "key": "another"}))
    (home / "night.json").write_text(json.dumps(to_json(head)))
    (home / "here/smoke/pair.json").write_text(json.dumps(to_json(pair)))
    return head


def test_what_an_interrupted_night_had_finished_is_kept(tmp_path: Path) -> None:
    interrupted(tmp_path)
    outcome = run(tmp_path)
    found = history.load(tmp_path / "reports/history")
    assert list(found.readings.number) == [5]
    assert outcome.night.number == 6
    assert any("night 5 was interrupted" in event for event in outcome.night.events)
    assert run(tmp_path).night.events == ()
    assert len(history.load(tmp_path / "reports/history").readings) == 1


def test_an_interrupted_night_of_today_is_gone_on_with(tmp_path: Path) -> None:
    first = run(tmp_path)
    for name in ("decision.json", "line.json"):
        (first.folder / name).unlink()
    # As after a kill between the pair and the history.
    for path in (tmp_path / "reports/history/rpi4").glob("*.jsonl"):
        path.unlink()
    second = run(tmp_path)
    assert second.resumed
    assert second.folder == first.folder
    assert second.night.pairs == first.night.pairs
    assert second.night.number == first.night.number


def test_a_clock_that_went_back_and_a_broken_line_are_said(tmp_path: Path) -> None:
    root = tmp_path / "reports/history"
    late = Night("late", 9, "2099-01-01T00:00:00+00:00", "c", "x", "nightly",
                 (Pair("smoke", "here", False, why="x"),))  # fmt: skip
    path = history.write(root, late, "here")
    path.write_text(path.read_text() + '{"recipe": "smo')
    before = path.read_bytes()
    outcome = run(tmp_path)
    assert outcome.night.number == 10
    assert any("the clock went back" in event for event in outcome.night.events)
    assert any("is broken and left out" in problem for problem in outcome.problems)
    assert path.read_bytes() == before
    assert "the clock went back" in (outcome.folder / "report.html").read_text()

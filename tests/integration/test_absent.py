"""A run for a board that nobody has configured: complete, labelled, and nothing in it measured."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from hwbench.cli import starter
from hwbench.connections.emulated import FOLDER
from tests import emulated
from tests.integration.house import House

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> House:
    return House.build(tmp_path_factory.mktemp("house"))


def test_a_run_without_its_board_is_complete_and_says_what_it_is(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(FOLDER, str(house.folder / "nowhere"))
    changes = ("--set", "backends={onnxruntime: {}, tvm: {}}")
    done = house.run("bench", "--recipe", "smoke", "--target", "rpi4", *changes)
    assert done.stderr.startswith("no board is configured for rpi4"), "the first line says so"
    last = done.stdout.strip().splitlines()[-1]
    assert "--host" in last, "the last line says how to attach one"
    latest = house.folder / "reports/latest"
    for name in ("report.html", "decision.md", "pareto.png", "study.json", "model/manifest.json"):
        assert (latest / name).stat().st_size > 50, name
    decision = house.decision()
    assert decision["basis"] == "predicted"
    assert decision["reason"].startswith("Predicted, not measured.")
    assert (latest / "decision.md").read_text().startswith("# Predicted: ship")


def test_no_number_passes_as_measured(house: House) -> None:
    latest = house.folder / "reports/latest"
    for result in house.results():
        assert result["failure"] is None, result
        outputs = result["values"].pop("output_error")
        assert outputs["value"] is None
        assert "not checked: there is no emulated board" in outputs["reason"]
        for value in result["values"].values():
            assert value["source"] in ("predicted", "static", "proxy"), value
        latency = result["values"]["latency_p50"]
        if result["candidate"]["export"]["precision"] == "fp32":
            assert latency["low"] < latency["value"] < latency["high"], "a band, always"
        else:
            assert "is not predicted" in latency["reason"], "int8 gains would be overstated"
        assert result["values"]["peak_memory"]["value"] is None
        assert result["measured_at"] == ""
    assert '"measured"' not in (latest / "decision.json").read_text()
    with (latest / "results.csv").open() as stream:
        for row in csv.DictReader(stream):
            assert "measured" not in row.values()
    page = (latest / "report.html").read_text().split("<script", 1)[0]
    # The legend explains the word, and the label says "not measured"; nothing else has it.
    said = re.sub(r'<section aria-labelledby="h-how">.*?</section>', "", page, flags=re.DOTALL)
    assert 'class="source measured"' not in said
    assert 'class="source predicted"' in said


def test_the_artifacts_are_code_for_the_board(house: House) -> None:
    names = [
        p
        for p in (house.folder / ".hwbench/cache").rglob("model.so")
        if p.read_bytes()[18:20] == (183).to_bytes(2, "little")
    ]
    assert len(names) >= 3, "three sets of weights, cross-compiled"


@pytest.mark.contract
def test_outputs_are_rehearsed_where_there_is_an_emulated_board(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ("--set", "backends={tvm: {}}", "--set", "search.methods=[{pattern: channel}]")
    with emulated.ours() as board:
        monkeypatch.setenv(FOLDER, str(board))
        house.run("bench", "--recipe", "smoke", "--target", "rpi4", *changes)
    assert house.decision()["basis"] == "predicted"
    checked = [r["values"]["output_error"] for r in house.results()]
    assert {value["source"] for value in checked} == {"emulated"}
    seen = [value for value in checked if value["value"] is not None]
    assert len(seen) >= 2, "the chosen and the dense model at least"
    assert all(0 <= value["value"] < 1e-5 for value in seen), seen
    assert all(value["reason"].startswith("not checked") for value in checked if not value["note"])
    study = json.loads((house.folder / "reports/latest/study.json").read_text())["study"]
    assert any("answer as their ONNX files do" in note for note in study["notes"])


def test_pick_stays_predicted(house: House) -> None:
    done = house.run("pick", "--goal", "latency_p50.max=10s", "--json")
    decision = json.loads(done.stdout)
    assert decision["basis"] == "predicted"
    assert decision["reason"].startswith("Predicted, not measured.")


def test_a_host_that_cannot_be_reached_is_never_replaced_by_a_prediction(house: House) -> None:
    done = house.run(
        "bench", "--recipe", "smoke", "--target", "rpi4", "--host", "nobody@127.0.0.1", code=3
    )
    assert "predicted" not in done.stdout + done.stderr


def test_predict_prints_bands(house: House) -> None:
    model = Path("reports/latest/model/model.onnx")
    done = house.run("predict", str(model), "--target", "rpi3", "--json")
    rows = json.loads(done.stdout)
    assert {row["backend"] for row in rows} == {"onnxruntime", "tvm", "tvm_sparse"}
    for row in rows:
        latency = row["latency"]
        assert latency["source"] == "predicted"
        assert latency["reason"] or latency["low"] < latency["value"] < latency["high"]
    assert "ties" in house.run("predict", str(model)).stdout
    house.run("predict", str(model), "--target", "local-cpu", code=2)


def test_a_test_split_that_cannot_be_read_does_not_end_a_run(tmp_path: Path) -> None:
    # It is read last, when everything is trained and judged.
    house = House.build(tmp_path)
    starter.write(house.folder, "mine")
    path = house.folder / "mine.py"
    signature = next(x for x in path.read_text().splitlines() if "def data(self, split" in x)
    body = f"{signature}\n        if split == 'test': raise OSError('the disk is gone')"
    path.write_text(path.read_text().replace(signature, body))
    small = ("train.epochs=1", "recover.epochs=1", "search.sparsities=[0.5]")
    changes = [word for change in small for word in ("--set", change)]
    house.run("bench", "--recipe", "mine.yaml", "--target", "rpi4", *changes)
    test = house.decision()["test"]
    assert test["dense"]["value"] is None
    assert "the disk is gone" in test["dense"]["reason"]

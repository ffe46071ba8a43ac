"""Predictions: the fit holds its bars, bands are always there, and nothing else is printed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwbench import prediction
from hwbench.errors import StageError
from hwbench.instruments import predict_fit, predict_validate
from hwbench.pareto import compare
from hwbench.prediction import classes, cycles, price
from hwbench.records import Layer, OnnxModel, Source, Value
from tests import artifacts


def test_the_published_table_is_predicted_within_the_bars() -> None:
    rows = {(r.model, r.core): r for r in predict_validate.validate()}
    fallback = rows["operator classes", "cortex-a72"]
    counted = rows["counts: instructions and misses", "cortex-a72"]
    assert fallback.mean_error <= 0.16
    assert fallback.pairs_right == fallback.pairs > 250
    assert counted.mean_error <= 0.12
    assert counted.networks >= 31
    assert counted.pairs_right == counted.pairs > 390
    assert rows["multiply-adds alone", "cortex-a72"].mean_error > 0.3


def test_a_model_that_misses_its_bar_says_so() -> None:
    seconds = np.array([1.0, 2.0, 4.0])
    row = predict_validate.row(
        "bad", "cortex-a72", ["a", "b", "c"], seconds[::-1].copy(), seconds, 0.16
    )
    assert not row.held
    assert row.pairs_right == 0
    assert (row.told, row.told_right) == (3, 0)
    near = predict_validate.row(
        "near", "cortex-a72", ["a", "b"], np.array([1.1, 1.0]), np.array([1.0, 2.0])
    )
    assert (near.pairs, near.pairs_right, near.told) == (1, 0, 0), "wrong, and said to be a tie"
    assert "MISSED" in predict_validate.markdown([row])


def test_the_committed_coefficients_are_those_of_the_committed_data() -> None:
    path = Path(prediction.__file__).with_name("coefficients.json")
    kept, made = json.loads(path.read_text()), predict_fit.coefficients(predict_fit.published())
    assert kept["from"] == made["from"]
    for core, figures in made["cores"].items():
        old = kept["cores"][core]
        assert old["seconds_per"] == pytest.approx(figures["seconds_per"], rel=1e-2)
        assert (old["low"], old["high"]) == pytest.approx((figures["low"], figures["high"]), 1e-2)


def test_a_family_is_left_out_whole() -> None:
    what, names = np.array([[1.0], [1.0], [2.0]]), ["vgg16", "vgg16_int8", "alexnet"]
    found = predict_fit.left_out(what, np.array([9.0, 9.0, 2.0]), names)
    assert found[:2] == pytest.approx([1.0, 1.0], rel=1e-3), "9 s were seen by nobody in the family"


def test_the_fit_finds_what_made_the_numbers() -> None:
    rng = np.random.default_rng(0)
    what = rng.uniform(1e6, 1e8, (20, 3))
    true = np.array([2e-10, 0.0, 5e-9])
    assert predict_fit.fit(what, what @ true) == pytest.approx(true, rel=1e-2, abs=1e-12)


@pytest.fixture
def model(tmp_path: Path) -> OnnxModel:
    return artifacts.network(tmp_path / "net.onnx")


def test_every_layer_has_its_class(model: OnnxModel) -> None:
    layers = classes.by_layer(model)
    sums = classes.total(layers)
    height, width = artifacts.SHAPE[1:]
    half = -(-height // 2) * -(-width // 2)
    assert sums["winograd"] == 8 * 3 * 9 * height * width
    assert sums["depthwise"] == 8 * 9 * height * width
    assert sums["spatial"] == 7 * 8 * 9 * half, "a stride leaves no Winograd"
    assert sums["pointwise"] == 7 * 8 * half
    assert sums["linear"] == 5 * 7


@pytest.mark.parametrize("core", prediction.CORES)
def test_a_prediction_has_a_band_and_its_layers_add_up(model: OnnxModel, core: str) -> None:
    found = prediction.predict(model, core)
    assert 0 < found.low < found.seconds < found.high
    assert found.low < 0.91 * found.seconds, "another runtime than the published one"
    assert found.high > 1.44 * found.seconds
    assert sum(found.layers.values()) == pytest.approx(found.seconds)


def test_the_slower_core_is_predicted_slower(model: OnnxModel) -> None:
    slow, middle, fast = (prediction.predict(model, core).seconds for core in prediction.CORES)
    assert slow > middle > fast


@pytest.mark.parametrize(
    ("change", "why"),
    [({"threads": 4}, "threads"), ({"batch": 8}, "batch 1"), ({"precision": "int8"}, "int8")],
)
def test_what_cannot_be_predicted_is_missing_with_a_reason(
    model: OnnxModel, change: dict[str, Any], why: str
) -> None:
    given = artifacts.candidate("onnxruntime")
    if "precision" in change:
        given = dataclasses.replace(given, export=dataclasses.replace(given.export, **change))
    else:
        given = dataclasses.replace(given, **change)
    value = prediction.value(model, given, "cortex-a72")
    assert value.value is None
    assert why in value.reason
    assert value.source is Source.PREDICTED
    known = prediction.value(model, artifacts.candidate("onnxruntime"), "cortex-a72")
    assert known.value is not None
    assert known.source is Source.PREDICTED


def test_an_unknown_core_is_refused(model: OnnxModel) -> None:
    with pytest.raises(StageError, match="no published times"):
        prediction.predict(model, "cortex-m4")


def test_counts_are_read_and_a_broken_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "counts.txt"
    path.write_text("10 8b000000 d65f03c0\n3 8b000000\n# accesses 7 2 1 1 0 complete\n")
    (found,) = cycles.read(path)
    assert found.instructions == 23
    assert found.misses == (2, 1)
    path.write_text("10 8b000000 d65f03c0\n")
    with pytest.raises(StageError, match="to its end"):
        cycles.read(path)


@pytest.mark.parametrize("core", prediction.CORES)
def test_what_was_counted_has_a_price_on_every_core(core: str) -> None:
    assert price.has_counts(core)
    misses = tuple(10**5 // 10**level for level in range(len(cycles.CORES[core].caches)))
    once = price.from_counts(cycles.Counts({("8b000000",): 10**7}, 10**6, misses), core)
    twice = price.from_counts(cycles.Counts({("8b000000",): 2 * 10**7}, 10**6, misses), core)
    assert 1e-4 < once.low < once.seconds < once.high < 0.1
    assert once.seconds < twice.seconds
    assert ("fp16" in once.notes[0]) == (core == "cortex-a76")


def test_zeros_pay_where_they_are_skipped_and_nowhere_else(model: OnnxModel) -> None:
    names = classes.by_layer(model)
    nine_of_ten = [Layer(name, "Conv", (8, 8, 3, 3), 1, 100, 10, 100) for name in names]
    sparse = artifacts.with_layers(model, *nine_of_ten)

    def seconds(of: OnnxModel, backend: str, pattern: str = "unstructured") -> float:
        return prediction.predict(of, "cortex-a72", backend, pattern).seconds

    assert seconds(sparse, "onnxruntime") == seconds(model, "onnxruntime")
    assert seconds(sparse, "tvm_sparse") < 0.6 * seconds(model, "tvm_sparse")
    assert seconds(sparse, "tvm_sparse", "4x1") != seconds(sparse, "tvm_sparse")


def test_predicted_times_less_than_a_quarter_apart_are_ties() -> None:
    def foretold(seconds: float) -> Value:
        return Value("latency_p50", seconds, Source.PREDICTED, low=0.8 * seconds, high=2 * seconds)

    assert compare(foretold(1.0), foretold(1.24)) == 0
    assert compare(foretold(1.0), foretold(1.26)) == 1, "the bands touch, and are common to both"
    assert compare(foretold(1.26), foretold(1.0)) == -1
    measured = Value("latency_p50", 9.0, Source.MEASURED)
    assert compare(foretold(1.0), measured) == 0, "two kinds are never compared"

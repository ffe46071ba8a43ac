"""Predictions: the fit holds its bars, bands are always there, and nothing else is printed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from hwbench import predict
from hwbench.errors import StageError
from hwbench.predict import classes, cycles, fit, validate
from hwbench.records import Source
from tests.nets import conv_net


def test_the_published_table_is_predicted_within_the_bars() -> None:
    rows = {(r.model, r.core): r for r in validate.validate()}
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
    row = validate.row("bad", "cortex-a72", ["a", "b", "c"], seconds[::-1].copy(), seconds, 0.16)
    assert not row.held
    assert row.pairs_right == 0
    assert "MISSED" in validate.markdown([row])


def test_the_committed_coefficients_are_those_of_the_committed_data() -> None:
    path = Path(predict.__file__).with_name("coefficients.json")
    kept, made = json.loads(path.read_text()), fit.coefficients(fit.published())
    assert kept["from"] == made["from"]
    for core, figures in made["cores"].items():
        old = kept["cores"][core]
        assert old["seconds_per"] == pytest.approx(figures["seconds_per"], rel=1e-2)
        assert (old["low"], old["high"]) == pytest.approx((figures["low"], figures["high"]), 1e-2)


def test_a_family_is_left_out_whole() -> None:
    what, names = np.array([[1.0], [1.0], [2.0]]), ["vgg16", "vgg16_int8", "alexnet"]
    found = fit.left_out(what, np.array([9.0, 9.0, 2.0]), names)
    assert found[:2] == pytest.approx([1.0, 1.0], rel=1e-3), "9 s were seen by nobody in the family"


def test_the_fit_finds_what_made_the_numbers() -> None:
    rng = np.random.default_rng(0)
    what = rng.uniform(1e6, 1e8, (20, 3))
    true = np.array([2e-10, 0.0, 5e-9])
    assert fit.fit(what, what @ true) == pytest.approx(true, rel=1e-2, abs=1e-12)

"""Sensitivity of layers: what decides it, and its pictures."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from hwbench.pareto import decide
from hwbench.records import LayerCurve, Sensitivity, Study, TrainSpec, from_json, to_json
from hwbench.report import plots
from hwbench.report.page import page
from tests import synthetic

SPEC = next(
    r.candidate.compression
    for r in synthetic.results()
    if r.candidate.compression.pattern == "unstructured"
)
CURVES = (
    LayerCurve("stem", 432, 0.9, (0.3, 0.9), (0.88, 0.4)),
    LayerCurve("<b>head</b>", 100, 0.9, (0.3, 0.9), (0.91, 0.85)),
)


def _plain() -> Study:
    rows = synthetic.results()
    return synthetic.study(rows, decide(rows, synthetic.recipe(), synthetic.target()))


def _study() -> Study:
    return dataclasses.replace(_plain(), sensitivity=(Sensitivity(SPEC.alone, CURVES),))


def test_what_is_made_of_it_later_does_not_decide_it() -> None:
    longer = TrainSpec(epochs=7)
    later: tuple[dict[str, Any], ...] = (
        {"sparsity": 0.3},
        {"schedule": "cubic", "steps": 4},
        {"scope": "sensitivity"},
        {"recovery": longer},
        {"healing": "distill"},
    )
    for change in later:
        assert dataclasses.replace(SPEC, **change).alone == SPEC.alone
    other: tuple[dict[str, Any], ...] = ({"pattern": "4x1"}, {"criterion": "lamp"}, {"seed": 1})
    for change in other:
        assert dataclasses.replace(SPEC, **change).alone != SPEC.alone
    moved = dataclasses.replace(SPEC, criterion="movement")
    assert dataclasses.replace(moved, recovery=longer).alone != moved.alone


def test_a_heat_map_and_the_curves() -> None:
    drawn = {flat.name: figure for flat, figure in plots.figures(_study())}
    heat, lines = drawn["sensitivity-0"], drawn["curves-0"]
    assert heat is not None
    assert lines is not None
    (cells,) = heat["data"]
    assert cells["y"] == ["stem", "&lt;b&gt;head&lt;/b&gt;"]
    assert cells["x"] == ["30%", "90%"]
    assert cells["text"] == [["-2.0", "-50.0"], ["+1.0", "-5.0"]]
    assert cells["zmax"] == 50.0
    dense, stem, _ = lines["data"]
    assert dense["y"] == [90.0, 90.0]
    assert stem["x"] == [0, 30.0, 90.0]
    assert stem["y"] == [90.0, 88.0, 40.0]


def test_a_study_without_it_has_no_such_plots() -> None:
    names = {flat.name for flat, _ in plots.figures(_plain())}
    assert not {n for n in names if n.startswith(("sensitivity", "curves"))}


def test_it_is_kept_with_the_study_and_drawn_again() -> None:
    study = from_json(Study, json.loads(json.dumps(to_json(_study()))))
    assert study.sensitivity == _study().sensitivity
    written = page(study)
    assert 'id="plot-sensitivity-0"' in written
    assert "What each layer loses alone: unstructured magnitude" in written

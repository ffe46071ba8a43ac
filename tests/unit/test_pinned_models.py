"""Baselines that were pinned before still run: older records are read in today's form."""

from __future__ import annotations

import json
from pathlib import Path

from hwbench.pipeline.prepare import Ready
from hwbench.records import Conditions, digest, from_json, to_json
from hwbench.studies.nightly import pinned_models
from tests import artifacts, synthetic


def kept(folder: Path) -> tuple[Path, str]:
    model = artifacts.network(folder / "m.onnx")
    candidate = artifacts.candidate("null")
    made = artifacts.compiled(model, candidate, folder / "a")
    nowhere = Conditions({}, {}, {})
    home = folder / "baselines"
    ready = [Ready(candidate, model, made)]
    return home, pinned_models.keep(home, ready, synthetic.recipe(), "commit", {}, nowhere)


def test_what_is_kept_comes_back_with_its_paths(tmp_path: Path) -> None:
    home, name = kept(tmp_path)
    (model,) = pinned_models.load(home, name).models
    assert model.onnx.path.read_bytes() == (tmp_path / "m.onnx").read_bytes()
    assert model.onnx.counts is not None


def test_a_baseline_of_the_first_format_is_read(tmp_path: Path) -> None:
    home, name = kept(tmp_path)
    file = home / name / "held.json"
    data = json.loads(file.read_text())
    for model in data["models"]:
        onnx = model["onnx"]
        model["onnx"] = {
            "spec": onnx["spec"], **onnx["file"], **onnx["counts"], "parity": onnx["parity"]
        }  # fmt: skip
    decides = {k: data[k] for k in ("models", "recipe", "commit", "versions", "files")}
    old = digest(decides)
    file.write_text(json.dumps(data))
    (home / name).rename(home / old)
    (model,) = pinned_models.load(home, old).models
    assert model.onnx.file.input_shape == artifacts.SHAPE
    assert model.onnx.counts is not None
    assert from_json(type(model.onnx), to_json(model.onnx)) == model.onnx

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hwbench.errors import UserError
from hwbench.export import read
from hwbench.pipeline.counted import counted
from hwbench.records import Layer, LayerNote, Source
from tests import artifacts


def test_energy_by_operations_counts_skipped_zeros_only_where_they_are_skipped(
    tmp_path: Path,
) -> None:
    model = artifacts.identity(tmp_path / "m.onnx")
    layers = (
        Layer("one", "Conv", (1,), 1, parameters=100, nonzero=25, macs=1000),
        Layer("two", "Conv", (1,), 1, parameters=10, nonzero=10, macs=500),
    )
    model = artifacts.with_layers(model, *layers)
    dense = counted(model)["energy_ops"]
    assert dense.value == pytest.approx(1500 * 4.6e-12 + 110 * 4 * 160e-12)
    assert (dense.source, dense.tier) == (Source.PROXY, "proxy")
    notes = (LayerNote("one", True, "skips"), LayerNote("two", False, "does not"))
    sparse = counted(model, notes)["energy_ops"]
    assert sparse.value == pytest.approx(750 * 4.6e-12 + 35 * 4 * 160e-12)
    assert counted(model)["effective_macs"].value == 750


def test_an_onnx_file_from_elsewhere_is_described(tmp_path: Path) -> None:
    made = artifacts.network(tmp_path / "n.onnx")
    found, batch = read(made.path)
    assert batch is None
    assert (found.input_name, found.input_shape, found.input_dtype) == (
        "x",
        artifacts.SHAPE,
        "float32",
    )
    assert found.file.output_names == ("y",)
    assert found.file.opset == 20
    weights = [
        np.prod(i.dims) for i in onnx.load(str(made.path)).graph.initializer if len(i.dims) > 1
    ]
    assert found.counts is not None
    assert found.counts.parameters == sum(weights)
    assert found.spec.compression.workload.digest == found.digest


def _save(path: Path, *inputs: tuple[str, list[int | str]]) -> Path:
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, inputs[0][1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", values, [y])
    opset = [helper.make_opsetid("", 20)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), str(path))
    return path


def test_a_fixed_batch_is_kept(tmp_path: Path) -> None:
    _, batch = read(_save(tmp_path / "f.onnx", ("x", [4, 3])))
    assert batch == 4


def test_what_cannot_be_measured_is_refused_with_a_reason(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage.onnx"
    garbage.write_bytes(b"\x00not a model")
    for path, words in (
        (garbage, "not an ONNX file"),
        (tmp_path / "absent.onnx", "not an ONNX file"),
        (_save(tmp_path / "two.onnx", ("x", [1, 3]), ("z", [1, 3])), "inputs x, z"),
        (_save(tmp_path / "open.onnx", ("x", ["n", "width"])), "is open: ? × ?"),
    ):
        with pytest.raises(UserError, match=words.replace("?", r"\?")):
            read(path)


def test_what_cannot_be_counted_is_missing_and_not_zero(tmp_path: Path) -> None:
    fixed, batch = read(_save(tmp_path / "m.onnx", ("x", [3, 4])))
    assert batch == 3
    assert fixed.counts is None
    assert fixed.parity is None, "PyTorch did not write it"
    values = counted(fixed)
    assert set(values) == set(counted(artifacts.identity(tmp_path / "i.onnx")))
    assert all(v.value is None and v.reason for v in values.values())

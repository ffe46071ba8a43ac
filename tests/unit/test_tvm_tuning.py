"""Tuning of TVM's dense kernels: a budget that is kept, records that go on, refusals by name."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hwbench.backends import _tvm_tuning as tuning
from hwbench.compile import compile_model
from hwbench.config.plugins import checked
from hwbench.errors import StageError, UserError
from hwbench.kernels import build
from hwbench.registry import BACKENDS
from tests import artifacts


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "kernels" / "tuned.json"


def _compile(folder: Path, options: dict[str, Any], heard: list[float] | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    model = artifacts.network(folder / "m.onnx")
    candidate = dataclasses.replace(artifacts.candidate("tvm", options), threads=1)
    said = [] if heard is None else heard
    made = compile_model(candidate, model, artifacts.TARGET, folder / "a", said.append)
    return made.folder / made.entry


def test_a_tuned_network_answers_rightly_and_goes_on_where_it_stopped(
    tmp_path: Path, cache: Path
) -> None:
    import onnxruntime as ort

    heard: list[float] = []
    options = {"tuning": {"minutes": 0.03}}
    entry = _compile(tmp_path, options, heard)
    (kept,) = json.loads(cache.read_text()).values()
    tried = {key: found["tried"] for key, found in kept.items()}
    assert sum(tried.values()) > 0
    assert heard == sorted(heard)
    assert all(found["raced"] == found["tried"] for found in kept.values() if found["tried"])

    session = BACKENDS.create("tvm", options).load(entry, 1)
    x = np.random.default_rng(2).standard_normal((1, *artifacts.SHAPE)).astype(np.float32)
    session.set_inputs([x])
    session.invoke()
    expected = ort.InferenceSession(str(tmp_path / "m.onnx")).run(None, {"x": x})[0]
    np.testing.assert_allclose(session.outputs()[0], expected, rtol=1e-5, atol=1e-5)

    # Time that is spent is spent: the same budget again tries nothing that had its share.
    _compile(tmp_path / "again", options)
    (after,) = json.loads(cache.read_text()).values()
    done = [key for key, found in kept.items() if found["spent"] > 0.03 * 60]
    assert all(after[key]["tried"] == tried[key] for key in done)
    assert sum(found["spent"] for found in after.values()) >= sum(
        found["spent"] for found in kept.values()
    )


def test_traces_that_do_not_fit_are_left_alone() -> None:
    import tvm
    from tvm import te

    x = te.placeholder((4, 4), name="x")
    y = te.compute((4, 4), lambda i, j: x[i, j] + 1.0, name="y")
    module = tvm.IRModule({"main": te.create_prim_func([x, y])})
    assert tuning._replayed(module, [[], []]) is not None
    assert tuning._replayed(module, [[["Nonsense", [], [], []]], []]) is None


def _kernels() -> dict[str, Any]:
    """Return one kernel for each way the rules of MetaSchedule go, and one that tiles itself."""
    from tvm import te, topi

    x = te.placeholder((1, 8, 10, 10), name="x")
    depth, full = (te.placeholder(shape, name="w") for shape in [(8, 1, 3, 3), (16, 8, 3, 3)])
    a, b = te.placeholder((4, 32), name="a"), te.placeholder((32, 16), name="b")
    return {
        "depthwise": [x, depth, topi.nn.depthwise_conv2d_nchw(x, depth, 1, 1, 1)],
        "conv": [x, full, topi.nn.conv2d_nchw(x, full, 1, 1, 1)],
        "matmul": [a, b, topi.nn.matmul(a, b)],
        "softmax": [a, topi.nn.softmax(a)],
        "pool": [x, topi.nn.pool2d(x, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1), "max")],
        "mean": [x, topi.sum(x, axis=(2, 3))],
        "relu": [x, topi.nn.relu(x)],
    }


@pytest.mark.parametrize("name", ["depthwise", "conv", "matmul", "softmax", "pool", "mean", "relu"])
def test_every_schedule_that_is_tried_comes_back_from_its_record(name: str) -> None:
    import tvm
    import tvm_ffi
    from tvm import te

    module = tvm.IRModule({"main": te.create_prim_func(_kernels()[name])})
    kernel = tuning._Kernel(name, module, 1.0, name, tuning.Found())
    with tuning._quick():
        context, _ = tuning._context(kernel, build.machine())
        picked = context.generate_measure_candidates()
    assert picked
    for candidate in picked:
        trace = json.loads(json.dumps(tuning._plain(candidate.sch.trace.as_json())))
        again = tuning._replayed(module, trace)
        assert again is not None
        assert tvm_ffi.structural_equal(again.mod, candidate.sch.mod)


def test_a_type_that_traces_never_held_is_refused_by_name() -> None:
    from tvm import tirx

    with pytest.raises(StageError, match="holds x, a Var"):
        tuning._plain([[tirx.Var("x", "int32")]])


def test_only_the_fastest_are_kept_and_patience_counts() -> None:
    found = tuning.Found()
    for seconds in (3.0, 1.0, 2.0, *range(4, 20)):
        found.add(float(seconds), [seconds])
    assert [seconds for seconds, _ in found.kept] == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert found.stale == 17  # since 1.0 came
    assert tuning.Found.of(json.loads(json.dumps(found.plain()))) == found


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"tuning": {"minutes": -1.0}}, "-1.0 minutes"),
        ({"tuning": {"minutes": math.inf}}, "inf minutes"),
        ({"tuning": {}}, "0.0 minutes"),
        ({"tuning": {"minutes": 1.0}, "schedule": False}, "not to schedule"),
        (
            {"tuning": {"minutes": 1.0}, "mtriple": "aarch64-linux-gnu", "mcpu": "cortex-a72"},
            "cortex-a72 aarch64-linux-gnu cannot run here",
        ),
    ],
)
def test_what_cannot_be_tuned_is_refused(
    options: dict[str, Any], said: str, tmp_path: Path, cache: Path
) -> None:
    with pytest.raises(StageError, match=said):
        _compile(tmp_path, options)
    assert not cache.exists()


def test_the_option_is_checked_at_the_front_door() -> None:
    assert checked(BACKENDS, "tvm", {"tuning": {"minutes": 2}}, "here")["tuning"] == {"minutes": 2}
    assert checked(BACKENDS, "tvm", {}, "here").get("tuning") is None
    with pytest.raises(UserError):
        checked(BACKENDS, "tvm", {"tuning": {"minute": 2.0}}, "here")

import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.errors import UserError
from hwbench.records import (
    Candidate,
    CompressionSpec,
    ExportSpec,
    PluginSpec,
    Process,
    Result,
    Source,
    TrainSpec,
    Value,
    Visit,
    WorkloadSpec,
    digest,
    from_json,
    missing,
    to_json,
)

SPEC = CompressionSpec(
    workload=WorkloadSpec("toy", {"size": 3}),
    train=TrainSpec(epochs=2),
    pattern="unstructured",
    sparsity=0.9,
    recovery=TrainSpec(epochs=1),
)


def test_keys_nest_and_any_change_below_changes_all_above() -> None:
    export = ExportSpec(SPEC)
    candidate = Candidate(export, PluginSpec("onnxruntime"), "local-cpu")
    other = dataclasses.replace(SPEC, sparsity=0.8)
    assert ExportSpec(other).key != export.key
    assert dataclasses.replace(candidate, export=ExportSpec(other)).key != candidate.key
    assert dataclasses.replace(candidate, threads=2).export.key == export.key
    assert dataclasses.replace(candidate, threads=2).key != candidate.key


def test_key_has_defaults_filled_in_and_ignores_the_order_of_options() -> None:
    short = CompressionSpec(workload=WorkloadSpec("toy"), train=TrainSpec())
    long = CompressionSpec(
        workload=WorkloadSpec("toy", {}, ""),
        train=TrainSpec(10, 0.05, 64, 5e-4, 0.15),
        pattern="dense",
        seed=0,
    )
    assert short.key == long.key
    a = WorkloadSpec("x", {"a": 1, "b": 2})
    b = WorkloadSpec("x", {"b": 2, "a": 1})
    assert digest(a) == digest(b)


def test_dense_is_what_every_spec_is_pruned_from() -> None:
    assert SPEC.dense.is_dense
    assert SPEC.dense.key == dataclasses.replace(SPEC, pattern="2:4", sparsity=0.5).dense.key
    assert SPEC.dense.key != dataclasses.replace(SPEC, seed=1).dense.key


def test_labels_are_for_people() -> None:
    assert SPEC.label == "unstructured 90 % magnitude global"
    assert SPEC.dense.label == "dense"
    assert dataclasses.replace(SPEC, pattern="2:4", sparsity=0.5, scope="local").label == (
        "2:4 magnitude local"
    )


values = st.builds(
    Value,
    metric=st.just("latency_p50"),
    value=st.floats(1e-9, 1e3),
    source=st.sampled_from(Source),
    low=st.none() | st.floats(0, 1),
    note=st.text(max_size=5),
)


@given(st.dictionaries(st.just("latency_p50"), values), st.text(max_size=20))
def test_results_survive_json(found: dict[str, Value], note: str) -> None:
    candidate = Candidate(ExportSpec(SPEC), PluginSpec("tvm", {"mcpu": "host"}), "rpi4")
    result = Result(candidate, found, notes=(note,))
    text = json.dumps(to_json(result))
    assert from_json(Result, json.loads(text)) == result


def test_raw_samples_survive_json() -> None:
    visit = Visit(3, 1, (1e-3, 2e-3), (1e-3, 1e-3), (0, 1))
    process = Process("abc", "reference", 0, 0.1, 0.01, 10, (visit,))
    assert from_json(Process, json.loads(json.dumps(to_json(process)))) == process


def test_a_record_of_a_newer_version_is_refused_not_guessed() -> None:
    data = to_json(SPEC) | {"invented_later": 1}
    with pytest.raises(UserError, match="invented_later"):
        from_json(CompressionSpec, data)


def test_what_does_not_belong_into_a_record_is_refused() -> None:
    with pytest.raises(TypeError, match="set"):
        to_json({"a": {1, 2}})
    assert to_json(Path("a/b")) == "a/b"


def test_not_a_number_has_no_key() -> None:
    with pytest.raises(ValueError, match="JSON"):
        digest({"x": float("nan")})


def test_a_missing_value_needs_a_reason_and_a_number_has_none() -> None:
    assert missing("energy", Source.PROXY, "no meter").value is None
    with pytest.raises(ValueError, match="reason"):
        Value("energy", None, Source.PROXY)
    with pytest.raises(ValueError, match="reason"):
        Value("energy", 1.0, Source.PROXY, reason="but why")
    with pytest.raises(ValueError, match="unknown metric"):
        Value("speed", 1.0, Source.MEASURED)

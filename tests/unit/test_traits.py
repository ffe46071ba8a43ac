"""What plug-ins say of themselves, and that nobody else says it for them."""

from __future__ import annotations

import ast
import dataclasses
import itertools
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

import hwbench
from hwbench import registry
from hwbench.backends import revived, told_apart
from hwbench.records import (
    CRITERIA,
    SCHEDULES,
    Candidate,
    PluginSpec,
    digest,
    from_json,
    to_json,
)
from hwbench.registry import BACKENDS, FAMILIES, PRUNERS
from tests import artifacts

HOUSE = Path(hwbench.__file__).parent

ASIDE = {
    ("compress/device.py", "torch"): "the folder of a library, to tell its lines from a workload's",
    ("connections/_machine.py", "null"): "a file in /dev",
    ("instruments/kernel_peer.py", "openvino"): "a program that kernels are timed beside",
    ("kernels/memory.py", "tvm"): "a library, in the hash of what was timed",
    ("report/prose.py", "torch"): "a library, by which models were trained",
}
"""Where a backend's name means something else."""

DATA = {"requires", "host_distributions", "_DISTRIBUTIONS"}
"""What is assigned or given under these names are distributions, not backends."""

READERS = {
    "conditions/judge.py": "the rings of a record",
    "conditions/nvml.py": "functions of a C library",
    "config/catalogue.py": "fields of any traits, to show them",
    "config/door.py": "what PyYAML's errors may lack",
    "config/plugins.py": "fields of pydantic models",
    "config/recipe.py": "fields of a pydantic model",
    "executor/process.py": "a job's class, by its name",
    "records/plain.py": "fields of any record",
    "registry.py": "fields of any traits, to check their types",
    "report/page.py": "the rings of a record",
    "search/loop.py": "fields of a spec",
    "worker/child.py": "commands of its own class",
    "worker/processes.py": "fields of a record",
}
"""Where getattr and hasattr look at something that is no plug-in."""

PLUGINS = (*FAMILIES, "kernels")
"""Plug-ins look at torch's and their runtimes' objects as they like."""


def _trees() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(HOUSE.rglob("*.py")):
        yield path.relative_to(HOUSE).as_posix(), ast.parse(path.read_text())


def _distributions(tree: ast.Module) -> set[int]:
    """Return the nodes below what is assigned or given under a name of `DATA`."""
    found: set[int] = set()
    for node in ast.walk(tree):
        names: set[str | None] = set()
        if isinstance(node, ast.keyword):
            names = {node.arg}
        elif isinstance(node, ast.Assign):
            names = {t.id for t in node.targets if isinstance(t, ast.Name)}
        if names & DATA:
            found |= {id(below) for below in ast.walk(node)}
    return found


def test_nobody_but_backends_knows_a_backend_by_name() -> None:
    kinds = {k for k in BACKENDS.kinds() if BACKENDS.plugin(k).is_ours}
    seen = []
    for file, tree in _trees():
        if file.startswith("backends/"):
            continue
        data = _distributions(tree)
        seen += [
            (file, node.value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and node.value in kinds and id(node) not in data
        ]
    assert set(seen) == set(ASIDE)


def test_nobody_asks_a_plug_in_for_an_attribute_that_it_may_not_have() -> None:
    seen = {
        file
        for file, tree in _trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("getattr", "hasattr")
        and not file.startswith(tuple(f"{name}/" for name in PLUGINS))
    }
    assert seen == set(READERS)


def test_every_plug_in_is_what_it_must_be() -> None:
    registry.check()
    for family in FAMILIES.values():
        for kind in family.kinds():
            plugin = family.plugin(kind)
            assert plugin.doc, f"{plugin.file} says nothing of itself"
            assert family.at(plugin.module).traits == plugin.traits


WRONG: Mapping[str, Any] = {
    "precisions": ("fp31",),
    "tolerance": 0.1,
    "resident_bytes": "1 GiB",
    "max_batch": True,
    "naming": "precision",
    "memory_variants": {"bare": 3},
    "compiles": "here",
    "device_distributions": ["numpy"],
    "board_distributions": "numpy",
    "requires": {"numpy": 1},
    "computes": "yes",
}


@pytest.mark.parametrize("name", WRONG)
def test_a_trait_of_a_wrong_type_is_named(name: str) -> None:
    traits = dataclasses.replace(BACKENDS.traits("null"), **{name: WRONG[name]})
    own = {"TRAITS": traits, "Options": BACKENDS.plugin("null").options, "PLUGIN": type}
    (what, expected), *_ = BACKENDS._wrong(own)
    assert f"{name}={WRONG[name]!r}" in what
    assert expected.startswith(f"{name}: ")


def test_traits_are_right_as_they_stand() -> None:
    for family in FAMILIES.values():
        for kind in family.kinds():
            plugin = family.plugin(kind)
            own = {"TRAITS": plugin.traits, "Options": plugin.options, "PLUGIN": plugin.make}
            assert list(family._wrong(own)) == []


@pytest.mark.parametrize(
    ("group", "kind", "absent"),
    [
        ("backends", "null", "versions, compile, compile_empty, load"),
        ("workloads", "toy", "model, data, score"),
    ],
)
def test_a_method_that_is_missing_is_named(group: str, kind: str, absent: str) -> None:
    plugin = FAMILIES[group].plugin(kind)
    own = {"TRAITS": plugin.traits, "Options": plugin.options, "PLUGIN": type("Empty", (), {})}
    ((what, _),) = FAMILIES[group]._wrong(own)
    assert {*absent.split(", ")} <= {*what.removeprefix("lacks ").split(", ")}


def test_criteria_and_schedules_are_described() -> None:
    for kind in PRUNERS.kinds():
        traits = PRUNERS.traits(kind)
        assert set(traits.criteria) <= set(CRITERIA)
        assert set(traits.schedules) <= set(SCHEDULES)
    assert [k for k, c in CRITERIA.items() if c.control] == ["random"]
    assert [k for k, s in SCHEDULES.items() if s.control] == ["scratch"]


def test_what_learns_from_data_is_what_evidence_is_gathered_for() -> None:
    from hwbench.compress.evidence import _HOW

    assert set(_HOW) == {k for k, c in CRITERIA.items() if c.learns_from != "weights"}


# --------------------------------------------------------------------------------------------
# names


def _values(hint: Any) -> st.SearchStrategy[Any]:
    if typing.get_origin(hint) is Literal:
        return st.sampled_from(typing.get_args(hint))
    if hint is bool:
        return st.booleans()
    if hint is int:
        return st.integers(0, 3)
    if hint is float:
        return st.sampled_from([0.0, 0.5, 20.0])
    if hint is str:
        return st.sampled_from(["", "host", "cortex-a72"])
    return st.sampled_from([None, {"minutes": 5.0}, {"minutes": 2.0}])  # tvm's tuning


def _options(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    hints = typing.get_type_hints(BACKENDS.plugin(kind).options)
    return st.fixed_dictionaries({}, optional={n: _values(h) for n, h in hints.items()})


@given(data=st.data())
@pytest.mark.parametrize("kind", BACKENDS.kinds())
def test_two_candidates_that_differ_never_share_a_label(kind: str, data: st.DataObject) -> None:
    fields = dataclasses.fields(BACKENDS.plugin(kind).options)
    offered = {f.name: f.default for f in fields} | data.draw(_options(kind))
    specs = [PluginSpec(kind, {**offered, **data.draw(_options(kind))}) for _ in "abc"]
    named_ = told_apart(specs, {kind: offered})
    for one, other in itertools.combinations(named_, 2):
        assert (one.options == other.options) == (one.label == other.label)


def test_what_names_a_candidate() -> None:
    def labels(kind: str, offered: Mapping[str, Any], *written: Mapping[str, Any]) -> list[str]:
        specs = [PluginSpec(kind, {**offered, **options}) for options in written]
        return [spec.label for spec in told_apart(specs, {kind: offered})]

    gpu = {"device": "cuda", "precision": "fp32", "mode": "eager"}
    short = {"mode": "graph", "precision": "bf16"}
    assert labels("torch", gpu, {}, short) == ["torch", "torch bf16 graph"]
    assert labels("onnxruntime", {"provider": "cuda"}, {}) == ["onnxruntime cuda"]
    board = {"mcpu": "cortex-a72"}
    tuned = {"tuning": {"minutes": 5}}
    assert labels("tvm", board, {}, tuned) == ["tvm", "tvm tuning.minutes=5"]
    # Alone it needs no more words: its series goes on under the name that it had.
    assert labels("tvm", board, tuned) == ["tvm"]
    both = ({"schedule": False}, {"schedule": False, **tuned})
    assert labels("tvm", board, *both) == ["tvm", "tvm tuning.minutes=5"]


def test_a_name_decides_nothing() -> None:
    plain = artifacts.candidate("torch", {"mode": "graph"})
    nameless = dataclasses.replace(plain, backend=PluginSpec("torch", {"mode": "graph"}))
    assert plain == nameless
    assert plain.key == nameless.key == digest(nameless)
    assert "naming" not in to_json(nameless)["backend"]


def test_records_from_before_have_their_names() -> None:
    candidate = artifacts.candidate("torch", {"mode": "graph", "precision": "bf16", "l2": "cold"})
    data = to_json({"results": [{"candidate": candidate}]})
    del data["results"][0]["candidate"]["backend"]["naming"]
    (result,) = revived(data)["results"]
    found = from_json(Candidate, result["candidate"])
    assert found.label == candidate.label == "dense · torch bf16 graph cold"
    gone = {"backend": {"kind": "uninstalled", "options": {}}}
    assert revived(gone) == gone

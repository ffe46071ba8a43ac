"""The dependency map: what is needed first comes first, once, and a loss is nobody else's."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from hwbench.errors import StageError, UserError
from hwbench.executor.base import Heard, Job, silent
from hwbench.executor.jobs import Compile, CompileEmpty, Compress, Export
from hwbench.pipeline.prepare import Line, Lost, Ready, prepare
from hwbench.records import (
    Candidate,
    CompiledModel,
    CompressedModel,
    CompressionSpec,
    EmptyModel,
    ExportSpec,
    PluginSpec,
    TrainSpec,
    WorkloadSpec,
)
from hwbench.store import Cache, Entry
from tests import artifacts

DENSE = CompressionSpec(WorkloadSpec("toy"), TrainSpec())
HALF = dataclasses.replace(DENSE, pattern="unstructured", sparsity=0.5)


def candidate(spec: CompressionSpec, kind: str = "null") -> Candidate:
    return Candidate(ExportSpec(spec), PluginSpec(kind), artifacts.TARGET.name)


class Here:
    """Does jobs in this process, in the order that they come; some fail as they are told."""

    size = 1

    def __init__(self, cache: Cache, fails: Callable[[Job[Any]], Exception | None]) -> None:
        self.cache, self.fails, self.seen = cache, fails, list[str]()

    def submit(self, job: Job[Any], entry: Entry[Any], heard: Heard = silent) -> Future[Any]:
        self.seen.append(type(job).__name__)
        future: Future[Any] = Future()
        error = self.fails(job)
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(self.cache.make(entry, lambda folder: self._made(job, folder)))
        return future

    def _made(self, job: Job[Any], folder: Path) -> Any:
        if isinstance(job, Compress):
            return CompressedModel(job.spec, folder, {}, 0.0, ("a note",))
        if isinstance(job, Export):
            return dataclasses.replace(artifacts.identity(folder / "m.onnx"), spec=job.spec)
        return job.do(folder, silent)


def line(
    folder: Path, fails: Callable[[Job[Any]], Exception | None] = lambda _: None
) -> tuple[Line, Here]:
    executor = Here(Cache(folder, "v"), fails)
    return Line(executor.cache, executor, artifacts.TARGET), executor


def test_what_is_needed_comes_first_and_once(tmp_path: Path) -> None:
    own, executor = line(tmp_path)
    (found,) = own.made([candidate(HALF)])
    assert isinstance(found, Ready)
    assert found.notes == ("a note",)
    assert executor.seen == ["Compress", "Compress", "Export", "Compile"]
    assert own.made([candidate(HALF)]) == [found]
    (dense,) = own.made([candidate(DENSE)])
    assert isinstance(dense, Ready)
    assert executor.seen[4:] == ["Export", "Compile"], "the dense weights were there"


def test_a_loss_is_told_with_how_far_it_came_and_costs_nobody_else(tmp_path: Path) -> None:
    def fails(job: Job[Any]) -> Exception | None:
        broken = isinstance(job, Compile) and not job.candidate.compression.is_dense
        return StageError("compile", "LLVM is gone", where="x:1") if broken else None

    own, _ = line(tmp_path, fails)
    dense, half = prepare_one(own, [candidate(DENSE), candidate(HALF)])
    assert isinstance(dense, Ready)
    assert isinstance(half, Lost)
    assert (half.failure.stage, half.failure.message) == ("compile", "LLVM is gone")
    assert half.model is not None, "its ONNX file is there, so it can be counted"


def prepare_one(own: Line, candidates: list[Candidate]) -> list[Ready | Lost]:
    return own.made(candidates)


def test_a_mistake_of_the_users_in_one_candidate_ends_no_run(tmp_path: Path) -> None:
    def fails(job: Job[Any]) -> Exception | None:
        wrong = isinstance(job, Compress) and job.spec.sparsity == 0.5
        return UserError("no such layer", where="recipe") if wrong else None

    own, _ = line(tmp_path, fails)
    other = dataclasses.replace(HALF, sparsity=0.9)
    found = prepare(own, [candidate(DENSE), candidate(HALF), candidate(other)])
    assert [type(p) for p in found] == [Ready, Lost, Ready]


def test_without_a_dense_model_there_is_nothing_to_compare(tmp_path: Path) -> None:
    own, executor = line(tmp_path, lambda _: StageError("compress", "diverged"))
    with pytest.raises(UserError, match="dense model cannot be prepared: diverged"):
        prepare(own, [candidate(DENSE), candidate(HALF)])
    assert executor.seen == ["Compress"], "nothing is pruned from what is not there"


def test_an_empty_artifact_that_cannot_be_made_is_left_out(tmp_path: Path) -> None:
    def fails(job: Job[Any]) -> Exception | None:
        dead = isinstance(job, CompileEmpty) and job.backend.options
        return StageError("compile", "killed by SIGABRT") if dead else None

    own, _ = line(tmp_path / "cache", fails)
    model = artifacts.identity(tmp_path / "m.onnx")
    made = artifacts.compiled(model, artifacts.candidate("null"), tmp_path / "a")
    other = artifacts.compiled(model, artifacts.candidate("null", {"spins": 3}), tmp_path / "b")
    empties: list[EmptyModel] = own.empties([made, other, made])
    assert [e.backend for e in empties] == [PluginSpec("null")]
    again: list[CompiledModel] = [made]
    assert own.empties(again) == empties

import json
from pathlib import Path

import pytest

from hwbench import store
from hwbench.errors import StageError, UserError
from hwbench.records import (
    Candidate,
    CompiledModel,
    CompressionSpec,
    ExportSpec,
    Failure,
    PluginSpec,
    Result,
    TrainSpec,
    WorkloadSpec,
)
from hwbench.store import Cache, Entry

WORK = Entry("room", "key", Failure)


def result(sparsity: float = 0.5, message: str = "") -> Result:
    spec = CompressionSpec(
        WorkloadSpec("toy"), TrainSpec(), pattern="unstructured", sparsity=sparsity
    )
    failure = Failure("export", message) if message else None
    return Result(Candidate(ExportSpec(spec), PluginSpec("null"), "local-cpu"), {}, failure)


def test_finished_work_is_not_done_twice(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "v1")
    done = []

    def build(folder: Path) -> Failure:
        done.append(folder)
        return Failure("x", str(len(done)))

    first = cache.make(WORK, build)
    assert cache.make(WORK, build) == first
    assert len(done) == 1
    assert Cache(tmp_path, "v2").find(WORK) is None
    cache.forget(WORK)
    assert cache.make(WORK, build).message == "2"


def test_interrupted_work_begins_anew_unless_it_can_resume(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "v1")

    def crash(folder: Path) -> Failure:
        (folder / "half").write_text("x")
        raise StageError("room", "interrupted")

    seen: list[list[str]] = []

    def build(folder: Path) -> Failure:
        seen.append([p.name for p in folder.iterdir()])
        return Failure("x", "done")

    for resume in (False, True):
        with pytest.raises(StageError):
            cache.make(WORK, crash)
        cache.make(WORK, build, resume=resume)
        cache.forget(WORK)
    assert seen == [[], ["half"]]


def test_a_moved_cache_is_found_again_with_every_path_in_it(tmp_path: Path) -> None:
    entry, outside = Entry("r", "k", CompiledModel), tmp_path / "outside"
    candidate = result().candidate

    def build(folder: Path) -> CompiledModel:
        (folder / "x.so").write_text("x")
        return CompiledModel(
            candidate, folder, "x.so", "d", 1, "x", (1,), "float32", worker=outside
        )

    before = Cache(tmp_path / "a", "v").make(entry, build)
    assert (
        str(tmp_path / "a")
        not in Cache(tmp_path / "a", "v").folder(entry).joinpath("record.json").read_text()
    )
    (tmp_path / "a").rename(tmp_path / "b")
    moved = Cache(tmp_path / "b", "v").find(entry)
    assert moved is not None
    assert (moved.folder / moved.entry).read_text() == "x"
    assert moved.folder.is_relative_to(tmp_path / "b")
    assert moved.worker == outside, "what lies elsewhere stays where it is"
    assert Cache(tmp_path / "a", "v").find(entry) is None
    assert before.digest == moved.digest


def test_an_entry_with_absolute_paths_of_an_older_hwbench_is_made_anew(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "v")
    cache.folder(WORK).mkdir(parents=True)
    old = {"format": 1, "home": str(cache.folder(WORK)), "record": {"stage": "x", "message": "y"}}
    (cache.folder(WORK) / "record.json").write_text(json.dumps(old))
    assert cache.find(WORK) is None
    assert cache.make(WORK, lambda _: Failure("x", "new")).message == "new"


def test_an_unfinished_run_is_gone_on_with_and_a_finished_one_is_not(tmp_path: Path) -> None:
    config = {"recipe": {"name": "r"}}
    with store.open_run(tmp_path, "r", "t", config) as first:
        first.keep([result(0.5)])
    with store.open_run(tmp_path, "r", "t", config) as again:
        assert again.folder == first.folder
        assert again.resumed
        again.keep([result(0.5, "failed"), result(0.8)])
        again.keep([result(0.8)])
        assert len((again.folder / "results.jsonl").read_text().splitlines()) == 3
        found = again.results()
        assert [r.failure is not None for r in found] == [True, False], "the last word counts"
    with store.open_run(tmp_path, "r", "t", {"recipe": {"name": "changed"}}) as other:
        assert other.folder != first.folder
        (other.folder / "decision.json").write_text("{}")
    with store.open_run(tmp_path, "r", "t", {"recipe": {"name": "changed"}}) as fresh:
        assert fresh.folder not in (first.folder, other.folder)
        store.finish(fresh)
    assert (tmp_path / "latest").resolve() == fresh.folder.resolve()
    assert (tmp_path / "r" / "t" / "latest").resolve() == fresh.folder.resolve()


def test_two_runs_in_the_same_folder_at_once_are_refused(tmp_path: Path) -> None:
    with (
        store.open_run(tmp_path, "r", "t", {}),
        pytest.raises(UserError, match="under way"),
        store.open_run(tmp_path, "r", "t", {}),
    ):
        pytest.fail("two runs held the same folder")


def test_a_torn_line_is_skipped_and_a_newer_format_refused(tmp_path: Path) -> None:
    with store.open_run(tmp_path, "r", "t", {}) as run:
        run.keep([result(0.5)])
        path = run.folder / "results.jsonl"
        with path.open("a") as stream:
            stream.write('{"format": 1, "resu')
        run.keep([result(0.8)])
        assert len(run.results()) == 2
        with path.open("a") as stream:
            stream.write(json.dumps({"format": store.FORMAT + 1, "result": {}}) + "\n")
        with pytest.raises(UserError, match="newer hwbench") as caught:
            run.results()
        assert caught.value.where.endswith("results.jsonl:4")


def test_foreign_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not the folder of a finished run"):
        store.read_study(tmp_path)
    (tmp_path / "study.json").write_text("[]")
    with pytest.raises(UserError, match="not a file that hwbench wrote"):
        store.read_study(tmp_path)
    (tmp_path / "study.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        store.read_study(tmp_path)

"""Opening work on a recipe for a target: its run, its cache, and who does the work."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hwbench import store
from hwbench.errors import StageError, UserError
from hwbench.executor.base import Executor
from hwbench.executor.jobs import Inputs
from hwbench.executor.local import LocalExecutor
from hwbench.pipeline import keys
from hwbench.pipeline.prepare import Line
from hwbench.records import Conditions, MeasureSpec, Recipe, TargetProfile, to_json
from hwbench.store import Cache, Run

Progress = Callable[[str, float, str], None]
"""Called with a phase, how much of it is done (0..1), and what is going on."""

PHASES = ("search", "prepare", "measure", "score", "confirm", "repeat", "report")
NOWHERE = Conditions({}, {}, {})
"""What is known of a device that nobody asked."""


@dataclass(frozen=True, slots=True)
class Workspace:
    """Where work is kept, how much is done at a time, and whether to measure anew.

    ``patience``: seconds without a word (an epoch, a batch) after which a training, an export or
    a compiler counts as hanging and is stopped.
    """

    reports: Path = Path("reports")
    cache: Path = Path(".hwbench/cache")
    jobs: int = min(4, os.cpu_count() or 1)
    fresh: bool = False
    patience: float = 600.0


@dataclass(frozen=True, slots=True)
class Context:
    """Work in progress: what is asked, of which device, and what it is done with."""

    recipe: Recipe
    target: TargetProfile
    spec: MeasureSpec
    device: Conditions
    run: Run
    line: Line
    progress: Progress
    fresh: bool

    @property
    def cache(self) -> Cache:
        """Where finished work lies."""
        return self.line.cache

    @property
    def on(self) -> keys.Device:
        """The device, as it decides about cached measurements."""
        return keys.Device(self.target, self.device.fingerprint)

    def split(self, name: str) -> Inputs:
        """Return a split of the recipe's data on disk; raises `UserError` if it cannot be read."""
        return self.line.inputs(self.recipe.workload, name).result()


@contextlib.contextmanager
def opened(
    recipe: Recipe,
    target: TargetProfile,
    workspace: Workspace,
    progress: Progress,
    *,
    device: Conditions = NOWHERE,
    spec: MeasureSpec | None = None,
    folder: Path | None = None,
    question: str = "",
    **asked: object,
) -> Iterator[Context]:
    """Yield the context of work on a recipe for a target, the recipe's metric checked.

    The same recipe, target, `device` and `asked`, interrupted, are gone on with. `question` names
    what is asked, where it is no bench; `folder` is used instead of a run of its own among the
    reports. Raises `UserError` when another run of this holds the folder, or the recipe speaks of
    another metric than its workload is scored by, or its data cannot be read.
    """
    config = {
        "recipe": to_json(recipe),
        "target": to_json(target),
        "stamp": keys.toolchain(),
        "fingerprint": device.fingerprint,
        "fresh": workspace.fresh,
        **asked,
    }
    with contextlib.ExitStack() as stack:
        if folder is not None:
            run = Run(folder, resumed=False)
        else:
            name = f"{recipe.name}-{question}" if question else recipe.name
            run = stack.enter_context(store.open_run(workspace.reports, name, target.name, config))
        cache = open_cache(workspace)
        executor = stack.enter_context(_executor(cache, workspace, run.folder / "logs"))
        # A fresh run that was interrupted goes on with what it has measured.
        fresh = workspace.fresh and not run.resumed
        wanted = spec or measure_spec(recipe, target)
        line = Line(cache, executor, target)
        context = Context(recipe, target, wanted, device, run, line, progress, fresh)
        try:
            metric = context.split("validation").metric
        except StageError as error:
            what = f"the workload's data cannot be read: {error.what}"
            raise UserError(what, where=error.where) from error
        _check_metric(recipe, metric)
        yield context


@contextlib.contextmanager
def scratch(target: TargetProfile) -> Iterator[Line]:
    """Yield a line for work on single files; what it makes is gone afterwards."""
    with tempfile.TemporaryDirectory() as name:
        cache = Cache(Path(name) / "cache", keys.toolchain())
        with _executor(cache, Workspace(jobs=1), Path(name) / "logs") as executor:
            yield Line(cache, executor, target)


def _executor(
    cache: Cache, workspace: Workspace, logs: Path
) -> contextlib.AbstractContextManager[Executor]:
    """Return who does the work: the only place that knows."""
    return LocalExecutor(cache, workspace.jobs, logs, workspace.patience)


def open_cache(workspace: Workspace) -> Cache:
    """Return the cache of finished work for the software that is installed now."""
    return Cache(workspace.cache.absolute(), keys.toolchain())


def measure_spec(recipe: Recipe, target: TargetProfile) -> MeasureSpec:
    """Return how to measure: the recipe's policy, with what the device needs on top."""
    return dataclasses.replace(recipe.measure, **target.measure)


def _check_metric(recipe: Recipe, metric: str) -> None:
    """Raise `UserError` unless the recipe speaks of the metric that it is scored by.

    Before anything is trained, and not after everything was measured.
    """
    named = {*recipe.objectives, recipe.choose, *(goal.metric for goal in recipe.goals)}
    for other in sorted(named & {"top1", "score"} - {metric}):
        raise UserError(
            f"asks for {other}, but the workload is scored by {metric}",
            where=f"recipe {recipe.name}",
            expected=f"{metric} in objectives, goals and choose",
            mend=f"write {metric} instead of {other}, or set the workload's metric to {other}",
        )

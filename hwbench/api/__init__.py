"""What a program asks of hwbench: the same questions as the command line, as functions.

Everything here is reached as ``hwbench.NAME`` and imported when it is first used. A recipe or a
target is a name, a path, a mapping as its YAML file would give, or the record itself. Without a
`workspace` work is kept as the command line keeps it; without `progress` nothing is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hwbench import config, studies
from hwbench import store as _store
from hwbench.api.results import StudyResults
from hwbench.errors import UserError
from hwbench.records import Recipe, Study, TargetProfile
from hwbench.studies import Comparison, Forecast, Foretold, ModelCosts, Progress, Workspace

if TYPE_CHECKING:
    from hwbench.records import Decision

AnyRecipe = str | Path | Mapping[str, Any] | Recipe
AnyTarget = str | Path | Mapping[str, Any] | TargetProfile
Show = Callable[[float, str], None]


def load_recipe(recipe: AnyRecipe, overrides: Sequence[str] = ()) -> Recipe:
    """Return a recipe, checked; raises `UserError` saying where it is wrong and how to mend it.

    `overrides` are as in ``--set``: ``search.sparsities=[0.5,0.9]``.
    """
    if isinstance(recipe, Recipe):
        if overrides:
            raise UserError(
                "a recipe that is a record is not changed",
                expected="a name, a path or a mapping where there are overrides",
                mend="dataclasses.replace(recipe, ...) makes another one",
            )
        return recipe
    if isinstance(recipe, Mapping):
        return config.recipe_of(recipe, overrides)
    return config.load_recipe(_name(recipe, "a recipe"), overrides)


def load_target(target: AnyTarget, host: str = "") -> TargetProfile:
    """Return a target, checked; `host` (``user@name``) says which board is meant."""
    if isinstance(target, TargetProfile):
        return target
    if isinstance(target, Mapping):
        return config.target_of(target, host)
    return config.load_target(_name(target, "a target"), host)


def bench(
    recipe: AnyRecipe,
    target: AnyTarget = "local-cpu",
    *,
    host: str = "",
    overrides: Sequence[str] = (),
    workspace: Workspace | None = None,
    progress: Progress | None = None,
) -> StudyResults:
    """Return the results of a recipe on a target, from weights to decision, run or gone on with.

    Raises `UserError` for a mistake of the user's, `TargetError` when the device is unusable.
    A candidate that fails is a result with its reason. An interrupt stops it; the same call goes
    on where it was.
    """
    outcome = studies.bench(
        load_recipe(recipe, overrides), load_target(target, host), workspace or Workspace(),
        progress or _silent,
    )  # fmt: skip
    return StudyResults(outcome.study, outcome.folder)


def plan(
    recipe: AnyRecipe, target: AnyTarget = "local-cpu", *, workspace: Workspace | None = None
) -> Forecast:
    """Return what `bench` would do: candidates, trainings, files, time. Does nothing."""
    return studies.forecast(load_recipe(recipe), load_target(target), workspace or Workspace())


def measure(
    *models: str | Path,
    target: AnyTarget = "local-cpu",
    host: str = "",
    backends: Sequence[str] = (),
    policy: str = "quick",
    max_time: float = studies.SECONDS,
    progress: Show | None = None,
) -> ModelCosts:
    """Return what finished models (ONNX files, bundles, runs) cost on a target.

    Latency, memory and energy, all that take the same input measured in turn, at most `max_time`
    seconds each such group. Raises as `bench`; a model that does not run is a result.
    """
    if not models:
        raise UserError("there is nothing to measure", expected="one ONNX file or more")
    profile = load_target(target, host)
    spec = config.policy(policy, profile.measure, max_time)
    paths = [Path(model) for model in models]
    return studies.measure(paths, profile, spec, backends=backends, show=progress or _mute)


def compare(
    a: str | Path,
    b: str | Path,
    target: AnyTarget = "local-cpu",
    *,
    host: str = "",
    backend: str | None = None,
    margin: float = 0.02,
    policy: str = "standard",
    max_time: float | None = None,
    progress: Show | None = None,
) -> Comparison:
    """Return how model B does beside model A on a target, measured in turn in one session."""
    profile = load_target(target, host)
    spec = config.policy(policy, profile.measure, max_time)
    return studies.compare(
        Path(a), Path(b), profile, spec, backend=backend, margin=margin, show=progress or _mute
    )


def predict(*models: str | Path, target: AnyTarget = "rpi4") -> tuple[Foretold, ...]:
    """Return the predicted latency of ONNX files (or bundles, or runs) on a board, by backend."""
    return studies.foretell([Path(model) for model in models], load_target(target))


def pick(
    run: str | Path | StudyResults, goals: Sequence[str] = (), choose: str | None = None
) -> Decision:
    """Return the decision among the results of a finished run with other goals; measures nothing.

    `goals` are as on the command line: ``top1.max_drop=1pp``.
    """
    study = run.study if isinstance(run, StudyResults) else read_study(run).study
    limits = [goal for text in goals for goal in config.goals(text)]
    return studies.pick(study, limits, choose).decision


def read_study(folder: str | Path = "reports/latest") -> StudyResults:
    """Return the results of a finished run; raises `UserError` when it cannot be read."""
    path = Path(folder)
    study: Study = _store.read_study(path)
    return StudyResults(study, path)


def _name(given: object, what: str) -> str:
    if isinstance(given, str | Path):
        return str(given)
    raise UserError(
        f"{type(given).__name__} is not {what}",
        expected="a name, a path, a mapping, or the record itself",
    )


def _silent(_phase: str, _share: float, _label: str) -> None:
    pass


def _mute(_share: float, _label: str) -> None:
    pass

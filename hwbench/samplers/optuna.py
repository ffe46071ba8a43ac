"""Optuna's multi-objective samplers (Akiba et al. 2019): NSGA-II, TPE and Gaussian processes.

The space is a list of candidates, and Optuna thinks in axes: what it suggests is moved to the
nearest candidate that was not tried yet, and Optuna is told of that one.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from hwbench.protocols import Sampler
from hwbench.records import Point
from hwbench.traits import SamplerTraits

if TYPE_CHECKING:
    import optuna

TRAITS = SamplerTraits(requires={"optuna": "optuna"}, chooses=True)


@dataclass(frozen=True, slots=True)
class Options:
    """Which of its samplers, with which seed.

    ``algorithm``: ``tpe`` is the multi-objective tree-structured Parzen estimator (Ozaki et al.
    2022), the best from some tens of trials; ``nsga2`` is genetic (Deb et al. 2002), for
    hundreds; ``gp`` are Gaussian processes, for few and dear ones. ``seed``: of its drawings.
    ``startup``: trials at first that are random. ``population``: a generation of ``nsga2``.
    """

    algorithm: Literal["tpe", "nsga2", "gp"] = "tpe"
    seed: int = 0
    startup: int = 20
    population: int = 10


class OptunaSampler:
    """An Optuna study in memory; it begins anew with each run and is told again what was tried."""

    def __init__(self, options: Options) -> None:
        """Keep the options."""
        self._options = options
        self._space: Sequence[Point] = ()
        self._left: set[int] = set()
        self._trials: dict[int, optuna.trial.Trial] = {}

    def begin(self, space: Sequence[Point], objectives: int) -> None:
        """Make the axes from the values that occur; one with a single value is none."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._space, self._left, self._trials = space, set(range(len(space))), {}
        with _quiet():
            self._study = optuna.create_study(
                directions=["minimize"] * objectives, sampler=self._sampler()
            )
        self._axes: dict[str, optuna.distributions.BaseDistribution] = {}
        for name in space[0].names if space else ():
            values = list(dict.fromkeys(point.names[name] for point in space))
            if len(values) > 1:
                self._axes[name] = optuna.distributions.CategoricalDistribution(values)
        for name in space[0].numbers if space else ():
            numbers = [point.numbers[name] for point in space]
            if min(numbers) < max(numbers):
                self._axes[name] = optuna.distributions.FloatDistribution(
                    min(numbers), max(numbers)
                )

    def ask(self) -> int | None:
        """Return the untried candidate nearest to what Optuna suggests, or None at the end."""
        if not self._left:
            return None
        with _quiet():
            trial = self._study.ask(self._axes)
            index = min(self._left, key=lambda i: (self._distance(trial.params, i), i))
        self._left.remove(index)
        self._trials[index] = trial
        return index

    def tell(self, index: int, costs: Sequence[float] | None) -> None:
        """Hand the costs of a candidate to Optuna, or that it failed."""
        import optuna

        trial = self._trials.pop(index)
        failed = optuna.trial.TrialState.FAIL
        with _quiet():
            if costs is None:
                self._study.tell(trial, state=failed)
            elif self._values(index) == trial.params:
                self._study.tell(trial, list(costs))
            else:
                # Optuna learns from what was tried, not from what it wished for. The attributes
                # say which generation it belongs to.
                wished = self._study.tell(trial, state=failed)
                self._study.add_trial(
                    optuna.trial.create_trial(
                        values=list(costs),
                        params=self._values(index),
                        distributions=self._axes,
                        system_attrs=dict(wished.system_attrs),
                    )
                )

    def _sampler(self) -> optuna.samplers.BaseSampler:
        import optuna

        options = self._options
        if options.algorithm == "nsga2":
            return optuna.samplers.NSGAIISampler(
                seed=options.seed, population_size=options.population
            )
        if options.algorithm == "gp":
            return optuna.samplers.GPSampler(seed=options.seed, n_startup_trials=options.startup)
        return optuna.samplers.TPESampler(
            seed=options.seed, n_startup_trials=options.startup, multivariate=True
        )

    def _values(self, index: int) -> dict[str, Any]:
        point = self._space[index]
        whole: dict[str, Any] = {**point.names, **point.numbers}
        return {name: whole[name] for name in self._axes}

    def _distance(self, params: Mapping[str, Any], index: int) -> float:
        """Return how many axes differ; a number counts by its share of the axis."""
        import optuna

        far = 0.0
        for name, value in self._values(index).items():
            axis = self._axes[name]
            if isinstance(axis, optuna.distributions.FloatDistribution):
                far += abs(value - params[name]) / (axis.high - axis.low)
            else:
                far += value != params[name]
        return far


PLUGIN: type[Sampler] = OptunaSampler


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Optuna warns that parts of it are experimental; the version is pinned."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield

"""Energy of the tier ``model``: E = P0·t + a·MACs + b·bytes, fitted on runs that had a meter.

For a device whose meter is gone or was lent: what it counted in earlier runs, on the same machine
with the same software, is good enough to predict from. With fewer than `ANCHORS` of them there is
no model, and what there is (a proxy, or nothing) stays.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hwbench import store, units
from hwbench.errors import StageError
from hwbench.records import Result, Source, Value
from hwbench.store import Run

ANCHORS = 20
_COUNTED = ("meter", "counter")


@dataclass(frozen=True, slots=True)
class Anchor:
    """One artifact that was metered: seconds, multiply-adds, bytes and joules of a call."""

    seconds: float
    macs: float
    size: float
    joules: float


@dataclass(frozen=True, slots=True)
class EnergyModel:
    """The figures fitted: watts, joules a multiply-add, joules a byte; none is below 0.

    ``error`` is the relative error that 9 of 10 anchors stay below when they are left out.
    """

    watts: float
    per_mac: float
    per_byte: float
    anchors: int
    error: float

    def joules(self, seconds: float, macs: float, size: float) -> float:
        """Return the joules of a call."""
        return self.watts * seconds + self.per_mac * macs + self.per_byte * size


def fit(anchors: Sequence[Anchor]) -> EnergyModel:
    """Return the model of least relative squares; raises `StageError` with too few anchors.

    Non-negative least squares (Lawson & Hanson 1974), every anchor weighted by its own joules.
    """
    if len(anchors) < ANCHORS:
        raise StageError(
            "measure",
            f"{len(anchors)} runs with a meter or a counter are too few to fit an energy model on",
            expected=f"{ANCHORS} at least",
        )
    missed = []
    for index, left in enumerate(anchors):
        model = _solved([*anchors[:index], *anchors[index + 1 :]])
        missed.append(abs(model.joules(left.seconds, left.macs, left.size) / left.joules - 1.0))
    error = statistics.quantiles(missed, n=10)[-1]
    return dataclasses.replace(_solved(anchors), error=error)


def modelled(run: Run, results: Sequence[Result]) -> tuple[list[Result], tuple[str, ...]]:
    """Return the results with their energy by the model, if they were not metered but others were.

    Either all results that have a time get it or none: tiers never meet on one axis. The notes
    say that there is a model, or how many anchors it lacks.
    """
    unchanged = list(results)
    if anchors_of(results) or not any(r.number("latency_p50") for r in results):
        return unchanged, ()
    reports = run.folder.parents[2]
    prints = {r.fingerprint for r in results if r.fingerprint}
    past = (r for folder in store.runs(reports) for r in store.read_results(folder))
    anchors = anchors_of(r for r in past if r.fingerprint in prints)
    if not anchors:
        return unchanged, ()
    try:
        model = fit(anchors)
    except StageError as error:
        return unchanged, (f"no energy model: {error.what} ({error.expected})",)
    said = f"energy by a model of {model.anchors} metered runs, off by {model.error:.0%} at most"
    return [predicted(r, model) for r in results], (f"{said} for 9 of 10 of them",)


def anchors_of(results: Iterable[Result]) -> list[Anchor]:
    """Return what results with a metered or counted energy say, one an artifact and time."""
    found = {}
    for result in results:
        energy = result.values.get("energy")
        numbers = [result.number(m) for m in ("latency_p50", "macs", "artifact_bytes", "energy")]
        if result.failure is not None or energy is None or energy.tier not in _COUNTED:
            continue
        whole = [n for n in numbers if n is not None and math.isfinite(n)]
        if len(whole) == len(numbers) and whole[-1] > 0:
            found[result.artifact, result.measured_at] = Anchor(*whole)
    return list(found.values())


def predicted(result: Result, model: EnergyModel) -> Result:
    """Return a result with its energy by the model; without a time or counts it stays as it is."""
    numbers = [result.number(m) for m in ("latency_p50", "macs", "artifact_bytes")]
    whole = [n for n in numbers if n is not None]
    if result.failure is not None or len(whole) < len(numbers):
        return result
    joules = model.joules(*whole)
    note = (
        f"{model.watts:.3g} W, {model.per_mac * 1e12:.3g} pJ a multiply-add and "
        f"{model.per_byte * 1e12:.3g} pJ a byte, fitted on {model.anchors} metered runs"
    )
    before = result.values.get("energy")
    if before is not None and before.value is not None:
        note += f"; by the {before.tier or before.source} {units.text(before.value, 'J')}"
    ends = joules * max(1.0 - model.error, 0.0), joules * (1.0 + model.error)
    value = Value("energy", joules, Source.PREDICTED, *ends, note=note, tier="model")
    return dataclasses.replace(result, values={**result.values, "energy": value})


def _solved(anchors: Sequence[Anchor]) -> EnergyModel:
    import numpy as np
    from scipy.optimize import nnls

    rows = np.array([(a.seconds, a.macs, a.size) for a in anchors])
    joules = np.array([a.joules for a in anchors])
    # Columns of one size: seconds and multiply-adds are twelve orders of magnitude apart.
    size = np.abs(rows).max(axis=0)
    size[size == 0.0] = 1.0
    found, _ = nnls(rows / size / joules[:, None], np.ones(len(anchors)))
    watts, per_mac, per_byte = (found / size).tolist()
    return EnergyModel(watts, per_mac, per_byte, len(anchors), math.inf)

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from hwbench import stats
from hwbench.measurement import beside, compared
from hwbench.measurement.generation import Generation
from hwbench.measurement.latency import beaten_by
from hwbench.records import (
    CompiledModel,
    Conditions,
    EnergyReading,
    Measurement,
    MemoryReading,
    Process,
    Sitting,
    Source,
    Value,
)
from tests import artifacts, noise

HERE = Conditions({}, {}, {})
CALM = noise.Noise(process=0.003, drift=0.01)


def model(digest: str, size: int = 1000) -> CompiledModel:
    who = artifacts.candidate("null")
    return CompiledModel(who, Path("."), "x", digest, size, "x", (1,), "float32")


def sitting(*times: float, names: Sequence[str] = ("b", "c", "d"), seed: int = 0) -> Sitting:
    """R is ``a``; its copy S and the candidates take `times` as long."""
    rng = np.random.default_rng(seed)
    whole = [1e-3, 1e-3, *(1e-3 * t for t in times)]
    r, s, *rest = noise.sitting(rng, whole, generations=5, rounds=25, noise=CALM)

    def measured(name: str, processes: list[Process], scale: float) -> Measurement:
        timed = tuple(dataclasses.replace(p, load=0.01 * scale, first=0.002) for p in processes)
        peak = round(5e6 * scale)
        memory = MemoryReading(1, 2, 3, 40_000_000 + peak, 40_000_000)
        energy = EnergyReading(1.0 * scale, 1000, 1.0, None, "proxy", "proxy")
        return Measurement(name, Source.MEASURED, timed, memory, energy)

    found = [measured("a", r, 1.0)]
    found += [measured(n, p, t) for n, p, t in zip(names, rest, times, strict=False)]
    return Sitting(found[0], measured("a", s, 1.0), tuple(found), HERE, HERE, 1.0)


def rows(second: str, *times: float, margin: float = 0.02) -> dict[str, compared.Row]:
    found = compared.rows(sitting(*times), model("a"), model(second), artifacts.TARGET, margin)
    return {row.metric: row for row in found}


def test_a_slower_one_is_worse_beyond_the_margin_and_by_how_much() -> None:
    found = rows("b", 1.10)
    latency = found["latency_p50"]
    assert latency.verdict == "slower"
    assert latency.worse
    assert latency.low is not None
    assert latency.high is not None
    assert latency.low < 1.10 < latency.high
    assert latency.detectable is not None
    assert latency.detectable < 0.02
    assert found["peak_memory"].ratio == pytest.approx(1.1)
    assert found["peak_memory"].worse
    assert found["load_time"].verdict == "slower"
    assert found["first_inference"].verdict == "equivalent"
    assert found["energy"].ratio == pytest.approx(1.1)
    assert found["energy"].verdict == ""
    assert "no interval" in found["energy"].reason
    assert found["artifact_bytes"].verdict == "equivalent"


def test_a_faster_or_equal_one_is_not_worse() -> None:
    faster = rows("b", 0.9)["latency_p50"]
    assert (faster.verdict, faster.worse) == ("faster", False)
    same = rows("b", 1.0)["latency_p50"]
    assert (same.verdict, same.worse) == ("equivalent", False)
    # Slower for sure, but not by as much as was asked about.
    assert not rows("b", 1.05, margin=0.2)["latency_p50"].worse


def test_the_same_artifact_twice_is_held_against_its_shadow() -> None:
    found = rows("a")
    assert found["latency_p50"].verdict == "equivalent"
    assert found["latency_p50"].ratio != 1.0
    assert found["artifact_bytes"].ratio == 1.0


def several(joules: Sequence[float], tier: str = "counter") -> tuple[EnergyReading, ...]:
    return tuple(EnergyReading(j, 1000, 1.0, None, "rapl", tier) for j in joules)


def test_energy_that_was_read_several_times_has_an_interval_and_a_verdict() -> None:
    whole = sitting(1.0)
    a, b = (
        dataclasses.replace(m, energy=several(j)[0], energy_again=several(j)[1:])
        for m, j in zip(
            whole.measurements,
            ((1.0, 1.01, 0.99, 1.0, 1.02), (1.2, 1.21, 1.2, 1.19, 1.22)),
            strict=True,
        )
    )
    read = dataclasses.replace(whole, reference=a, measurements=(a, b))
    found = {
        row.metric: row
        for row in compared.rows(read, model("a"), model("b"), artifacts.TARGET, 0.02)
    }
    energy = found["energy"]
    assert (energy.verdict, energy.worse) == ("slower", True)
    assert energy.low is not None
    assert energy.high is not None
    assert energy.low < 1.2 < energy.high
    # A reading of another tier (the counter was gone) does not mix with the others.
    lost = dataclasses.replace(b, energy_again=several([9.0] * 4, "proxy"))
    read = dataclasses.replace(whole, reference=a, measurements=(a, lost))
    rows_ = compared.rows(read, model("a"), model("b"), artifacts.TARGET, 0.02)
    assert next(r for r in rows_ if r.metric == "energy").verdict == ""


def test_memory_that_was_read_several_times_has_an_interval() -> None:
    whole = sitting(1.1)
    a, b = (
        dataclasses.replace(
            m,
            memory_again=tuple(
                dataclasses.replace(m.memory, after_runs=m.memory.after_runs + more)
                for more in (4096, 0, -4096, 8192)
            ),
        )
        for m in whole.measurements
        if m.memory is not None
    )
    read = dataclasses.replace(whole, reference=a, measurements=(a, b))
    rows_ = compared.rows(read, model("a"), model("b"), artifacts.TARGET, 0.02)
    peak = next(r for r in rows_ if r.metric == "peak_memory")
    assert peak.worse
    assert peak.low is not None
    assert peak.low < 1.1
    # However often it is read: a difference of a few pages is none.
    near = sitting(1.02)
    rows_ = compared.rows(near, model("a"), model("b"), artifacts.TARGET, 0.001)
    assert next(r for r in rows_ if r.metric == "peak_memory").verdict == "equivalent"


def value(number: float | None, source: Source = Source.MEASURED, tier: str = "") -> Value:
    reason = "no sensor" if number is None else ""
    return Value("energy", number, source, reason=reason, tier=tier)


def test_kinds_of_joules_are_never_compared() -> None:
    meter, counter = value(1.0, tier="meter"), value(2.0, tier="counter")
    assert compared.exact("energy", meter, counter, 0.02).ratio is None
    assert compared.exact("energy", value(1.0), value(1.0, Source.PROXY), 0.02).ratio is None
    gone = compared.exact("energy", value(1.0), value(None), 0.02)
    assert (gone.ratio, gone.reason, gone.worse) == (None, "no sensor", False)


def test_peaks_within_a_few_pages_are_the_same() -> None:
    a = Value("peak_memory", 1e6, Source.MEASURED)
    near, far = (dataclasses.replace(a, value=v) for v in (1.1e6, 1.2e6))
    assert compared.exact("peak_memory", a, near, 0.02).verdict == "equivalent"
    assert compared.exact("peak_memory", a, far, 0.02).worse


def test_verdicts_beside_the_reference_are_corrected_for_their_number() -> None:
    found = sitting(1.10, 0.90, 1.0)
    measured = {f"key {m.artifact}": m for m in found.measurements}
    said = beside(measured, found, "key a", 0.02)
    assert set(said) == {"key b", "key c", "key d"}
    assert [said[f"key {n}"].verdict for n in "bcd"] == ["slower", "faster", "equivalent"]
    assert all(b.other == "key a" for b in said.values())
    lost = dataclasses.replace(measured["key b"], latency=())
    assert "key b" not in beside({**measured, "key b": lost}, found, "key a", 0.02)


def generations(*times: float, count: int = 3) -> list[Generation]:
    found = sitting(*times)
    by_number: dict[int, list[Process]] = {}
    for role, measurement in (
        ("reference", found.reference),
        ("shadow", found.shadow),
        *(("candidate", m) for m in found.measurements[1:]),
    ):
        for p in measurement.latency[:count]:
            renamed = dataclasses.replace(p, role=role, artifact=measurement.artifact)
            by_number.setdefault(p.generation, []).append(renamed)
    return [Generation(n, tuple(p), {}, {}, HERE) for n, p in by_number.items()]


def _exact(number: float) -> stats.Interval:
    return stats.Interval(number, number, number, 1, 1)


def test_who_is_worse_in_everything_is_eliminated_and_nobody_else() -> None:
    made = generations(0.8, 1.2, 1.3)
    others = {
        "b": {"memory": _exact(1.0), "score": _exact(-0.9)},
        "c": {"memory": _exact(2.0), "score": _exact(-0.8)},  # worse than b throughout
        "d": {"memory": _exact(2.0), "score": _exact(-0.95)},  # slow, but the most accurate
    }
    assert beaten_by(made, others, frozenset()) == {"c": "b"}
    assert beaten_by(made, others, frozenset({"c"})) == {}
    # A tie on one axis is no defeat, one generation shows nothing, nothing known decides nothing.
    assert beaten_by(made, {**others, "c": others["b"]}, frozenset()) == {}
    assert beaten_by(made[:1], others, frozenset()) == {}
    assert beaten_by(made, {}, frozenset()) == {}

"""Energy by a model: what it is fitted on is played by the replay meter."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from pathlib import Path

import pytest

from hwbench.errors import StageError
from hwbench.meters.replay import Options, Replay
from hwbench.pipeline import energy_model
from hwbench.records import Result, Source, Value
from tests import synthetic

WATTS, PER_MAC, PER_BYTE = 2.5, 8e-12, 1.2e-10


def metered(folder: Path, number: int, noise: float = 0.0) -> Result:
    """A candidate whose calls a recorded trace was played beside, 1000 of them."""
    dice = random.Random(number)
    seconds, macs, size = dice.uniform(1e-4, 1e-2), dice.uniform(1e6, 1e9), dice.uniform(1e4, 1e7)
    joules = WATTS * seconds + PER_MAC * macs + PER_BYTE * size
    watts = joules / seconds * (1 + dice.gauss(0, noise))
    trace = folder / f"{number}.json"
    power = [[0.0, watts], [0.5 * seconds, watts], [1000 * seconds, watts]]
    trace.write_text(json.dumps({"tier": "counter", "power": power}))
    clock = itertools.chain([0.0, 1000 * seconds])
    meter = Replay(Options(trace), clock=lambda: next(clock))
    meter.start()
    reading = meter.stop(1000)
    values: dict[str, float | Value] = {
        "latency_p50": seconds,
        "macs": macs,
        "artifact_bytes": size,
        "energy": Value(
            "energy", reading.joules / reading.inferences, Source.MEASURED, tier=reading.tier
        ),
    }
    found = synthetic.result(synthetic.candidate("channel", 0.5), values)
    return dataclasses.replace(found, artifact=f"artifact {number}", fingerprint="here")


def test_it_finds_what_the_device_takes(tmp_path: Path) -> None:
    anchors = energy_model.anchors_of(metered(tmp_path, n) for n in range(24))
    model = energy_model.fit(anchors)
    assert model.watts == pytest.approx(WATTS, rel=1e-6)
    assert model.per_mac == pytest.approx(PER_MAC, rel=1e-6)
    assert model.per_byte == pytest.approx(PER_BYTE, rel=1e-6)
    assert model.error < 1e-6
    noisy = energy_model.fit(energy_model.anchors_of(metered(tmp_path, n, 0.05) for n in range(40)))
    assert noisy.watts == pytest.approx(WATTS, rel=0.3)
    assert 0.02 < noisy.error < 0.2


def test_with_fewer_than_twenty_anchors_it_refuses(tmp_path: Path) -> None:
    anchors = energy_model.anchors_of(metered(tmp_path, n) for n in range(19))
    with pytest.raises(StageError, match="19 runs with a meter or a counter are too few"):
        energy_model.fit(anchors)


def test_proxies_failures_and_repetitions_are_no_anchors(tmp_path: Path) -> None:
    one = metered(tmp_path, 0)
    proxy = dataclasses.replace(one.values["energy"], tier="proxy", source=Source.PROXY)
    stand_in = dataclasses.replace(one, values={**one.values, "energy": proxy})
    untimed = dataclasses.replace(
        one, values={k: v for k, v in one.values.items() if k != "latency_p50"}
    )
    assert energy_model.anchors_of([stand_in, untimed]) == []
    assert len(energy_model.anchors_of([one, one])) == 1


def test_its_numbers_say_that_they_are_predicted_and_by_how_much_they_are_off(
    tmp_path: Path,
) -> None:
    model = energy_model.fit(energy_model.anchors_of(metered(tmp_path, n, 0.05) for n in range(40)))
    truth = metered(tmp_path, 99)
    proxy = Value("energy", 1.0, Source.PROXY, tier="proxy")
    blind = dataclasses.replace(truth, values={**truth.values, "energy": proxy})
    found = energy_model.predicted(blind, model).values["energy"]
    assert (found.source, found.tier) == (Source.PREDICTED, "model")
    assert found.low is not None
    assert found.high is not None
    real = truth.number("energy")
    assert real is not None
    assert found.low * 0.9 < real < found.high * 1.1
    assert "by the proxy 1 J" in found.note
    no_time = dataclasses.replace(blind, values={"energy": proxy})
    assert energy_model.predicted(no_time, model) is no_time

"""What every energy meter promises: joules that were counted, or the reason why there are none."""

from __future__ import annotations

import dataclasses
import time
import typing
from typing import TYPE_CHECKING

import pytest

from hwbench.errors import StageError
from hwbench.records import EnergyReading, Gpu, Power
from hwbench.registry import METERS
from hwbench.testing._plugin import PluginContract
from hwbench.traits import Tier

if TYPE_CHECKING:
    from hwbench.protocols import EnergyMeter

_SECONDS = 0.3


class MeterContract(PluginContract):
    """A meter named by ``kind``, as it is on this machine: it reads, or says why it cannot."""

    family = METERS

    def meter(self) -> EnergyMeter:
        """Return an instance."""
        return METERS.create(self.kind, self.options)

    def test_takes_from_a_target_what_it_has_options_for(self) -> None:
        """What a target fills in are options, and what it needs is filled in."""
        traits = METERS.traits(self.kind)
        names = {field.name for field in dataclasses.fields(self.plugin.options)}
        if traits.from_gpu is not None:
            assert set(traits.from_gpu(Gpu("any", "", "9.0"))) <= names
        if traits.from_power is not None:
            assert set(traits.from_power(Power(1.0, 2.0, "a test"))) <= names
        fills = {"gpu": traits.from_gpu, "power": traits.from_power}
        assert all(fills[part] is not None for part in traits.needs)

    def test_reads_joules_or_says_why_not(self) -> None:
        """A reading is above 0 and says what it is; a refusal is ``not available: why``."""
        reading = _read(self.meter())
        if isinstance(reading, StageError):
            assert reading.stage == "measure"
            assert reading.what.startswith("not available: ")
            return
        assert reading.joules > 0
        assert reading.seconds > 0
        assert (reading.inferences, reading.meter) == (10, self.kind)
        assert reading.tier in typing.get_args(Tier)
        assert reading.note

    def test_cannot_stop_before_it_started(self) -> None:
        """There is nothing to read before `start`."""
        with pytest.raises(StageError):
            self.meter().stop(1)


def _read(meter: EnergyMeter) -> EnergyReading | StageError:
    """Return the reading of a little work, or the refusal."""
    try:
        meter.start()
        end = time.monotonic() + _SECONDS
        while time.monotonic() < end:
            sum(range(1000))
        return meter.stop(10)
    except StageError as refused:
        return refused

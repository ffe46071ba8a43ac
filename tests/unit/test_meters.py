"""What single energy meters do beyond the contract."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.errors import StageError, UserError
from hwbench.meters._sensors import PowerSampler, trapezoids, unavailable
from hwbench.meters.nvml import Nvml
from hwbench.meters.nvml import Options as NvmlOptions
from hwbench.meters.pi5_pmic import rail_watts
from hwbench.meters.proxy import Options as ProxyOptions
from hwbench.meters.proxy import Proxy
from hwbench.meters.rapl import Options as RaplOptions
from hwbench.meters.rapl import Rapl
from hwbench.registry import METERS

samples = st.lists(st.tuples(st.floats(1e-3, 10.0), st.floats(0.0, 1e3)), max_size=30)


@given(samples)
def test_trapezoids_agree_with_numpy(steps: list[tuple[float, float]]) -> None:
    moments = np.cumsum([0.0, *(step for step, _ in steps)])[1:]
    watts = [w for _, w in steps]
    found = trapezoids(list(zip(moments.tolist(), watts, strict=True)))
    assert found == pytest.approx(float(np.trapezoid(watts, moments)), rel=1e-9, abs=1e-9)


class TestPowerSampler:
    def test_samples_in_a_thread_until_stopped(self) -> None:
        enough, reads = threading.Event(), []

        def read() -> float:
            reads.append(2.0)
            if len(reads) >= 5:
                enough.set()
            return 2.0

        sampler = PowerSampler(read, 1e-4, time.perf_counter)
        begun = time.perf_counter()
        sampler.start()
        assert enough.wait(30.0)
        joules, count = sampler.stop()
        assert 0.0 < joules <= 2.0 * (time.perf_counter() - begun)
        assert count == len(reads) >= 6

    def test_a_sensor_that_dies_in_the_thread_surfaces_at_the_end(self) -> None:
        dead, reads = threading.Event(), []

        def read() -> float:
            reads.append(1.0)
            if len(reads) > 2:
                dead.set()
                raise unavailable("x", "it died")
            return 1.0

        sampler = PowerSampler(read, 1e-4, time.perf_counter)
        sampler.start()
        assert dead.wait(30.0)
        with pytest.raises(StageError, match="it died"):
            sampler.stop()


class TestProxy:
    def test_without_idle_watts_it_says_so(self) -> None:
        ticks, cpu = iter([0.0, 4.0]), iter([0.0, 2.0])
        meter = Proxy(ProxyOptions(core_watts=5.0), lambda: next(ticks), lambda: next(cpu))
        meter.start()
        reading = meter.stop(1)
        assert (reading.joules, reading.idle_watts) == (10.0, None)
        assert "without what idles" in reading.note

    def test_counts_this_process(self) -> None:
        meter = METERS.create("proxy", {"core_watts": 5.0, "idle_watts": 0.0})
        meter.start()
        begun = time.process_time()
        while time.process_time() - begun < 0.02:
            pass
        reading = meter.stop(1)
        assert reading.joules >= 5.0 * 0.02


class TestRapl:
    def test_who_may_not_read_is_told_how(self, tmp_path: Path) -> None:
        # A folder in the counter's place fails as any unreadable file does, for root as well.
        domain = tmp_path / "sys/class/powercap/intel-rapl:0"
        (domain / "energy_uj").mkdir(parents=True)
        (domain / "name").write_text("package-0\n")
        with pytest.raises(StageError) as refused:
            Rapl(RaplOptions(root=str(tmp_path))).start()
        assert "cannot be read" in str(refused.value)
        assert "sudo chmod a+r" in refused.value.mend


class TestNvml:
    def test_short_windows_say_how_far_off_they_may_be(self) -> None:
        class Counter:
            joules = 0.0

            def energy(self) -> float:
                self.joules += 1.0
                return self.joules

        counter = Counter()
        ticks = iter([0.0, 2.0, 10.0, 30.0])
        meter = Nvml(
            NvmlOptions(), lambda: next(ticks), lambda _which: contextlib.nullcontext(counter)
        )
        meter.start()
        assert "±5 %" in meter.stop(1).note
        meter.start()
        assert "±" not in meter.stop(1).note

    def test_without_a_driver_it_says_so(self) -> None:
        with pytest.raises(StageError, match="not available: ") as refused:
            Nvml(NvmlOptions(gpu="GPU-no-such")).start()
        assert "nvidia-smi" in refused.value.mend


def test_rails_without_a_current_do_not_count() -> None:
    text = " A_A current(0)=2.0A\n A_V volt(1)=3.0V\n B_V volt(2)=9.0V\n C_A current(3)=1.0A\n"
    assert rail_watts(text) == 6.0
    assert rail_watts("nonsense") == 0.0


def test_an_unknown_option_is_a_user_error() -> None:
    with pytest.raises(UserError, match="no option 'watts'"):
        METERS.create("proxy", {"watts": 3.0})

"""Is this device fit to measure on? Checks, each with its mend, and a short A/A.

`checks` is pure; `examine` asks the device. What fails makes every number of the device
unusable, what warns makes numbers worse or leaves some out.
"""

from __future__ import annotations

import dataclasses
import enum
import math
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench import stats, units
from hwbench.conditions import throttle_words
from hwbench.conditions.nvml import slowed_by
from hwbench.errors import StageError, TargetError
from hwbench.measurement import trial
from hwbench.measurement.device import UNAVAILABLE, Device, check_identity, opened
from hwbench.records import Conditions, MeasureSpec, PluginSpec, TargetProfile
from hwbench.registry import METERS, is_remote
from hwbench.worker.messages import Energy

Show = Callable[[float, str], None]


class Grade(enum.StrEnum):
    """How a check came out."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's: what was looked at, what was found, and how to mend it."""

    name: str
    grade: Grade
    found: str
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Health:
    """What the doctor says about a target.

    ``detectable`` is the smallest relative effect that a session of this length would find 9
    times of 10 at the 99 % level; None where nothing could be measured.
    """

    target: str
    checks: tuple[Check, ...]
    detectable: float | None = None
    conditions: Conditions | None = None

    @property
    def usable(self) -> bool:
        """Whether nothing failed."""
        return all(check.grade is not Grade.FAIL for check in self.checks)


AA = MeasureSpec(
    policy="doctor", generations=5, looks=(12, 25), half_width=0.005, warmup_seconds=1.0,
    timeout=30.0, max_time=20.0,
)  # fmt: skip
"""The A/A: what a careful session does, in about 20 seconds."""

_LEAST_MEMORY, _LEAST_DISK = 256 << 20, 256 << 20
_GOOD_MEMORY, _GOOD_DISK = 1 << 30, 1 << 30
_NEAR_CELSIUS = 10.0
_BUSY_LOAD = 0.5
_GOOD_CLOCKS = ("tsc", "arch_sys_counter", "kvm-clock", "arch_mem_timer")
_GOOD_EFFECT, _USABLE_EFFECT = 0.03, 0.20


def examine(
    target: TargetProfile, show: Show = lambda _share, _label: None, spec: MeasureSpec = AA
) -> Health:
    """Return the checks of a target and the smallest effect that is detectable there.

    A target that cannot be reached is a check that failed, not an error.
    """
    try:
        with (
            tempfile.TemporaryDirectory() as folder,
            opened(target, Path(folder) / "log") as device,
        ):
            return _examined(device, show, spec)
    except TargetError as error:
        mend = error.mend or "see its connection in the target's file"
        return Health(target.name, (Check("reachable", Grade.FAIL, error.what, mend),))


def _examined(device: Device, show: Show, spec: MeasureSpec) -> Health:
    target = device.target
    device.waits = lambda why: show(0.1, why)
    show(0.0, "conditions and runtimes")
    now, emulated = device.feel()
    versions = device.versions()
    show(0.1, "energy meters")
    meters = {m.kind: _meter(device, m) for m in target.meters}
    found = checks(target, now, versions, meters, emulated)
    if any(check.grade is Grade.FAIL for check in found):
        return Health(target.name, found, None, now)
    show(0.2, "A/A: a double beside itself")
    seen = trial.run(device, {"twin": {}}, spec, spins=trial.SPINS)
    later, _ = device.feel()
    line, effect = resolution(seen)
    return Health(target.name, (*found, *steadiness(now, later), line), effect, now)


def _meter(device: Device, meter: PluginSpec) -> str:
    """Return what a meter says it is, or ``not available: why``."""
    job = trial.job(device)
    spec = PluginSpec(METERS.plugin(meter.kind).module, meter.options)
    command = Energy((job,), trial.settings(AA, device.target), (spec,), 0.3)
    message: Mapping[str, Any] = next(iter(list(device.ask(command))))
    if "failure" in message:
        said = str(message["failure"]["message"])
        return f"not available: {said.removeprefix('no energy meter works here: ')}"
    return str(message["energy"]["tier"])


# --------------------------------------------------------------------------------------------
# checks


def checks(
    target: TargetProfile,
    now: Conditions,
    versions: Mapping[str, str],
    meters: Mapping[str, str],
    emulated: str = "",
) -> tuple[Check, ...]:
    """Return every check of what a device said.

    ``versions`` and ``meters`` are by plug-in: what it says it is, or ``not available: why``.
    A reading that the platform does not offer is said to be missing, and passes.
    """
    return (
        Check("reachable", Grade.OK, f"by {target.connection.kind if target.connection else '?'}"),
        _same_device(target, now, emulated),
        *_user(target, now.state),
        *_runtimes(versions),
        *_gpu(target, now),
        _governor(now.state),
        _turbo(now.state),
        _throttle(now.state, target),
        _heat(now.state, target.throttle_celsius),
        _load(now),
        _quota(now.state, target),
        _room("free memory", now.state.get("free_memory"), _LEAST_MEMORY, _GOOD_MEMORY),
        _room("free disk", now.state.get("free_disk"), _LEAST_DISK, _GOOD_DISK),
        _swap(now.state),
        _meters(meters),
        _clock(now.state),
    )


def _gpu(target: TargetProfile, now: Conditions) -> tuple[Check, ...]:
    """Return what can be said of the GPU, where the target is about one that can be read."""
    found = now.identity.get("gpu") or {}
    if target.gpu is None or "name" not in found:
        return ()
    what = f"{found['name']}, {found['uuid']}, {units.text(found['memory'], 'B')}"
    driver = (
        f"driver {now.software.get('nvidia_driver')} for CUDA {now.software.get('cuda_driver')}"
    )
    checks = [Check("GPU", Grade.OK, f"{what}, {driver}")]
    others = now.state.get("gpu_processes") or 0
    mend = "end them (nvidia-smi lists them): they take time, clock, memory and energy"
    grade = Grade.WARN if others else Grade.OK
    checks.append(Check("GPU alone", grade, f"{others} other processes on it", mend * bool(others)))
    why = slowed_by(now.state.get("gpu_slowed") or 0)
    clock = f"{now.state['gpu_clock'] / 1e6:.0f} of {found['clock_limit'] / 1e6:.0f} MHz"
    said = f"{clock} when idle" + (f"; slowed by {', '.join(why)}" if why else "")
    mend = "cooling, power supply and power limit (nvidia-smi -q -d PERFORMANCE)" if why else ""
    checks.append(Check("GPU clock", Grade.WARN if why else Grade.OK, said, mend))
    return tuple(checks)


def steadiness(before: Conditions, after: Conditions) -> tuple[Check, ...]:
    """Return what happened to the device during the A/A."""
    from hwbench.conditions import taint

    why = taint(before.state, after.state)
    if why:
        mend = "whatever else runs there, cooling and power supply; such visits are dropped"
        return (Check("steady", Grade.WARN, "; ".join(why), mend),)
    return (Check("steady", Grade.OK, "nothing happened to it during the A/A"),)


def resolution(seen: trial.Trial) -> tuple[Check, float | None]:
    """Return the check of an A/A, and the smallest effect that it could have found."""
    mend = "end what else runs there, or raise measure.generations"
    try:
        interval = seen.interval("twin")
    except (StageError, KeyError):
        return Check("A/A", Grade.FAIL, "the double was not measured", mend), None
    effect = stats.detectable(interval)
    if not math.isfinite(effect):
        return Check("A/A", Grade.FAIL, "too few clean visits for an interval", mend), None
    verdict = stats.verdict(interval, _USABLE_EFFECT)
    grade = Grade.OK if effect <= _GOOD_EFFECT else Grade.WARN
    if verdict is not stats.Verdict.EQUIVALENT or effect > _USABLE_EFFECT:
        grade = Grade.FAIL
    found = (
        f"twins differ by {interval.estimate - 1:+.2%} ± {interval.half_width:.2%} (99 %); "
        f"effects from {effect:.1%} on are found 9 times of 10"
    )
    return Check("A/A", grade, found, "" if grade is Grade.OK else mend), effect


def _same_device(target: TargetProfile, now: Conditions, emulated: str) -> Check:
    name = "the device described"
    if emulated:
        mend = "times of an emulated device say nothing: outputs and accuracy only"
        return Check(name, Grade.FAIL, f"it is emulated: {emulated}", mend)
    try:
        check_identity(target, now)
    except TargetError as error:
        return Check(name, Grade.FAIL, error.what, error.mend)
    cpu = (now.identity.get("cpu") or {}).get("model") or "unknown CPU"
    words = (now.identity.get("machine"), now.identity.get("board"), cpu)
    return Check(name, Grade.OK, ", ".join(str(w) for w in words if w))


def _user(target: TargetProfile, state: Mapping[str, Any]) -> tuple[Check, ...]:
    """Return who runs there, of a target that is reached as somebody."""
    if not is_remote(target.connection):
        return ()
    if state.get("root"):
        mend = "name an ordinary user: hwbench needs no more, and a mistake could do more"
        return (Check("user", Grade.WARN, "root", mend),)
    return (Check("user", Grade.OK, "an ordinary one"),)


def _runtimes(versions: Mapping[str, str]) -> tuple[Check, ...]:
    if not versions:
        mend = "name one under backends in the target's file"
        return (Check("runtimes", Grade.FAIL, "the target names no backend", mend),)
    lost = all(v.startswith(UNAVAILABLE) for v in versions.values())
    found = []
    for name, version in versions.items():
        bad = version.startswith(UNAVAILABLE)
        grade = (Grade.FAIL if lost else Grade.WARN) if bad else Grade.OK
        mend = "install it there (hwbench board setup), or take it out of the target" if bad else ""
        found.append(Check(f"runtime {name}", grade, version, mend))
    return tuple(found)


def _governor(state: Mapping[str, Any]) -> Check:
    governor = state.get("governor")
    if governor is None:
        return Check("governor", Grade.OK, "not to be seen here (virtual machines hide it)")
    if governor == "performance":
        return Check("governor", Grade.OK, governor)
    files = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    mend = f"on the device: echo performance | sudo tee {files}"
    return Check("governor", Grade.WARN, f"{governor}: the clock follows the load", mend)


def _turbo(state: Mapping[str, Any]) -> Check:
    turbo = state.get("turbo")
    if turbo is None:
        return Check("turbo", Grade.OK, "not to be seen here")
    if not turbo:
        return Check("turbo", Grade.OK, "off")
    mend = "for numbers to publish: echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo"
    return Check("turbo", Grade.WARN, "on: the clock depends on heat and neighbours", mend)


def _throttle(state: Mapping[str, Any], target: TargetProfile) -> Check:
    bits = state.get("throttled")
    if bits is None and target.model.startswith("Raspberry"):
        found = "vcgencmd get_throttled gives no answer: a weak power supply would not be seen"
        mend = "sudo apt install raspi-utils; sudo usermod -aG video $USER, and log in again"
        return Check("throttling", Grade.WARN, found, mend)
    if bits is None:
        return Check("throttling", Grade.OK, "no firmware here that tells")
    words = throttle_words(bits)
    mend = "a stronger power supply, a shorter cable, a cooler"
    if not words:
        return Check("throttling", Grade.OK, "0x0")
    grade = Grade.FAIL if bits & 0xF else Grade.WARN
    return Check("throttling", grade, f"{bits:#x}: {'; '.join(words)}", mend)


def _heat(state: Mapping[str, Any], limit: float | None) -> Check:
    celsius = state.get("celsius")
    if celsius is None:
        return Check("temperature", Grade.OK, "no sensor to be seen")
    if limit is None:
        return Check("temperature", Grade.OK, f"{celsius:.0f} °C")
    found = f"{celsius:.0f} °C, it throttles from {limit:.0f} °C"
    mend = "let it cool down, or cool it better"
    if celsius >= limit:
        return Check("temperature", Grade.FAIL, found, mend)
    warm = celsius >= limit - _NEAR_CELSIUS
    return Check("temperature", Grade.WARN if warm else Grade.OK, found, mend if warm else "")


def _load(now: Conditions) -> Check:
    load, cores = now.state.get("load"), now.identity.get("cores")
    if load is None or not cores:
        return Check("load", Grade.OK, "not to be seen")
    found = f"{load:.2f} on {cores} cores (the last minute)"
    if load / cores <= _BUSY_LOAD:
        return Check("load", Grade.OK, found)
    mend = "end what else runs there; intervals will be wider, not wrong"
    return Check("load", Grade.WARN, found, mend)


def _quota(state: Mapping[str, Any], target: TargetProfile) -> Check:
    quota = state.get("cgroup_cores")
    if quota is None:
        return Check("CPU quota", Grade.OK, "none")
    if quota >= target.threads:
        return Check("CPU quota", Grade.OK, f"{quota:g} cores")
    mend = "give the container more CPU, or set fewer threads in the target"
    return Check("CPU quota", Grade.FAIL, f"{quota:g} cores for {target.threads} threads", mend)


def _room(name: str, room: int | None, least: int, good: int) -> Check:
    if room is None:
        return Check(name, Grade.OK, "not to be seen")
    grade = Grade.FAIL if room < least else Grade.WARN if room < good else Grade.OK
    mend = "" if grade is Grade.OK else f"make room: {units.text(good, 'B')} is comfortable"
    return Check(name, grade, units.text(room, "B"), mend)


def _swap(state: Mapping[str, Any]) -> Check:
    used = state.get("swap_used")
    if not used:
        return Check("swap", Grade.OK, "none in use" if used == 0 else "not to be seen")
    mend = "sudo swapoff -a while measuring: peaks of memory are cut by what is swapped out"
    return Check("swap", Grade.WARN, f"{units.text(used, 'B')} in use", mend)


def _meters(meters: Mapping[str, str]) -> Check:
    name = "energy"
    if not meters:
        mend = "name meters in the target's file"
        return Check(name, Grade.WARN, "the target names no meter: no energy", mend)
    lost = {k: v for k, v in meters.items() if v.startswith(UNAVAILABLE)}
    works = {k: v for k, v in meters.items() if k not in lost}
    said = "; ".join(f"{k} ({v})" if k in works else f"{k}: {v}" for k, v in meters.items())
    if not works:
        return Check(name, Grade.WARN, said, "mend the sensor, or do without energy")
    if next(iter(works.values())) == "proxy":
        better = [k for k in METERS.kinds() if METERS.traits(k).tier in ("meter", "counter")]
        mend = f"a meter or a counter ({', '.join(better)}) for joules to quote"
        return Check(name, Grade.WARN, f"{said}: good for ranking only", mend)
    return Check(name, Grade.OK, said)


def _clock(state: Mapping[str, Any]) -> Check:
    clock = state.get("clock_source")
    if clock is None:
        return Check("clock", Grade.OK, "not to be seen")
    if clock in _GOOD_CLOCKS:
        return Check("clock", Grade.OK, clock)
    mend = "boot with a faster clock source (clocksource=tsc): reading this one takes microseconds"
    return Check("clock", Grade.WARN, clock, mend)


def to_json(health: Health) -> dict[str, Any]:
    """Return the doctor's findings as plain data."""
    lines = [{**dataclasses.asdict(c), "grade": c.grade.value} for c in health.checks]
    return {
        "target": health.target,
        "usable": health.usable,
        "detectable": health.detectable,
        "checks": lines,
    }

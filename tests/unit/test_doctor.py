from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from hwbench import conditions
from hwbench.measurement import doctor
from hwbench.measurement.doctor import Check, Grade, checks
from hwbench.measurement.trial import Trial
from hwbench.records import Conditions, PluginSpec, TargetProfile
from tests import artifacts, noise

TARGET = dataclasses.replace(artifacts.TARGET, isa="aarch64", threads=2, throttle_celsius=80.0)
FIT: Mapping[str, Any] = {
    "governor": "performance",
    "turbo": False,
    "throttled": 0,
    "celsius": 45.0,
    "load": 0.1,
    "cgroup_cores": None,
    "free_memory": 4 << 30,
    "free_disk": 9 << 30,
    "swap_used": 0,
    "clock_source": "arch_sys_counter",
}
IDENTITY = {"machine": "aarch64", "cores": 4, "cpu": {"model": "Cortex-A76", "flags": ["asimd"]}}
RUNS = {"onnxruntime": "onnxruntime 1.31.1"}
METERS = {"pi5_pmic": "meter"}


def found(
    state: Mapping[str, Any] | None = None,
    *,
    versions: Mapping[str, str] = RUNS,
    meters: Mapping[str, str] = METERS,
    target: TargetProfile = TARGET,
    identity: Mapping[str, Any] = IDENTITY,
    emulated: str = "",
) -> dict[str, Check]:
    now = Conditions(identity, {}, {**FIT, **(state or {})})
    return {c.name: c for c in checks(target, now, versions, meters, emulated)}


def test_a_fit_device_has_nothing_to_mend() -> None:
    assert {c.grade for c in found().values()} == {Grade.OK}
    assert all(not c.mend for c in found().values())


def test_a_board_is_no_place_for_root() -> None:
    assert "user" not in found({"root": True}), "who runs on this machine is the user's affair"
    reached = dataclasses.replace(TARGET, connection=PluginSpec("ssh", {"host": "pi@board"}))
    assert found({"root": True}, target=reached)["user"].grade is Grade.WARN
    assert found({"root": False}, target=reached)["user"].grade is Grade.OK
    assert conditions.state()["root"] is (os.geteuid() == 0)


def test_what_a_platform_does_not_offer_is_no_fault_of_it() -> None:
    for check in found(dict.fromkeys(FIT)).values():
        assert check.grade is Grade.OK
        assert check.found


@pytest.mark.parametrize(
    ("state", "name", "grade", "words"),
    [
        ({"governor": "ondemand"}, "governor", Grade.WARN, "ondemand"),
        ({"turbo": True}, "turbo", Grade.WARN, "on"),
        ({"throttled": 0x1}, "throttling", Grade.FAIL, "under-voltage"),
        ({"throttled": 0x50000}, "throttling", Grade.WARN, "earlier"),
        ({"celsius": 85.0}, "temperature", Grade.FAIL, "85 °C"),
        ({"celsius": 72.0}, "temperature", Grade.WARN, "72 °C"),
        ({"load": 3.9}, "load", Grade.WARN, "3.90 on 4 cores"),
        ({"cgroup_cores": 1.0}, "CPU quota", Grade.FAIL, "1 cores for 2 threads"),
        ({"free_memory": 100 << 20}, "free memory", Grade.FAIL, "MB"),
        ({"free_memory": 700 << 20}, "free memory", Grade.WARN, "MB"),
        ({"free_disk": 1000}, "free disk", Grade.FAIL, "kB"),
        ({"swap_used": 5 << 20}, "swap", Grade.WARN, "in use"),
        ({"clock_source": "hpet"}, "clock", Grade.WARN, "hpet"),
    ],
)
def test_what_is_wrong_is_graded_and_can_be_mended(
    state: Mapping[str, Any], name: str, grade: Grade, words: str
) -> None:
    check = found(state)[name]
    assert check.grade is grade
    assert words in check.found
    assert check.mend
    others = [c for n, c in found(state).items() if n != name]
    assert all(c.grade is Grade.OK for c in others)


def test_runtimes_fail_only_when_none_is_left() -> None:
    lost = "not available: the device lacks apache-tvm"
    some = found(versions={**RUNS, "tvm": lost})
    assert some["runtime tvm"].grade is Grade.WARN
    assert some["runtime onnxruntime"].grade is Grade.OK
    assert found(versions={"tvm": lost})["runtime tvm"].grade is Grade.FAIL
    assert found(versions={})["runtimes"].grade is Grade.FAIL


def test_energy_says_what_works_and_never_fails() -> None:
    lost = "not available: no package counter"
    assert found(meters={"rapl": lost})["energy"].grade is Grade.WARN
    assert found(meters={})["energy"].grade is Grade.WARN
    proxy = found(meters={"rapl": lost, "proxy": "proxy"})["energy"]
    assert proxy.grade is Grade.WARN
    assert "ranking only" in proxy.found
    assert lost in proxy.found


def test_another_device_or_an_emulated_one_is_unusable() -> None:
    other = found(identity={**IDENTITY, "machine": "x86_64"})["the device described"]
    assert other.grade is Grade.FAIL
    assert "x86_64" in other.found
    emulated = found(emulated="qemu-aarch64 is mapped into this process")["the device described"]
    assert emulated.grade is Grade.FAIL


def test_a_target_out_of_reach_is_a_failed_check() -> None:
    target = dataclasses.replace(TARGET, connection=None, how_to_reach="plug it in")
    health = doctor.examine(target)
    assert not health.usable
    assert health.detectable is None
    assert [c.grade for c in health.checks] == [Grade.FAIL]
    assert health.checks[0].mend == "plug it in"
    assert doctor.to_json(health)["checks"][0]["grade"] == "fail"


def _trial(seed: int, shape: noise.Noise) -> Trial:
    rng = np.random.default_rng(seed)
    r, s, twin = noise.sitting(rng, [1e-3] * 3, generations=5, rounds=25, noise=shape)
    return Trial(tuple(r), tuple(s), {"twin": tuple(twin)}, {}, 1.0)


def test_the_noisier_the_device_the_larger_the_effect_that_it_can_tell() -> None:
    calm, effect = doctor.resolution(_trial(0, noise.Noise(process=0.001)))
    assert calm.grade is Grade.OK
    assert effect is not None
    assert 0 < effect < 0.02
    rough, larger = doctor.resolution(_trial(0, noise.Noise(process=0.02)))
    assert rough.grade is Grade.WARN
    assert larger is not None
    assert larger > 3 * effect
    assert f"{larger:.1%}" in rough.found


def test_an_aa_that_gave_nothing_is_unusable() -> None:
    empty = dataclasses.replace(_trial(0, noise.QUIET), doubles={})
    check, effect = doctor.resolution(empty)
    assert check.grade is Grade.FAIL
    assert effect is None


def test_what_happens_during_the_aa_is_said() -> None:
    before = Conditions({}, {}, {"swapped_pages": 1})
    after = Conditions({}, {}, {"swapped_pages": 9})
    assert doctor.steadiness(before, before)[0].grade is Grade.OK
    (check,) = doctor.steadiness(before, after)
    assert check.grade is Grade.WARN
    assert "8 pages" in check.found
    assert math.isfinite(len(check.mend))

"""Conditions from recorded trees, judgements by hand, and this machine's own."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench import conditions
from hwbench.conditions import parsers
from hwbench.records import Conditions, from_json, to_json

TREES = Path(__file__).parents[1] / "data" / "conditions"
TICKS = os.sysconf("SC_CLK_TCK")


class TestRings:
    def test_identity_of_a_raspberry_pi_4(self) -> None:
        assert conditions.identity(TREES / "pi4") == {
            "machine": "aarch64",
            "board": "Raspberry Pi 4 Model B Rev 1.4",
            "cpu": {
                "model": None,
                "vendor": "0x41",
                "family": "8",
                "number": "0xd08",
                "stepping": "0x0 3",
                "flags": ["asimd"],
            },
            "cores": 4,
            "caches": [],
            "memory": 59 * 2**26,
            "gpus": [],
        }

    def test_identity_of_a_virtual_machine(self) -> None:
        found = conditions.identity(TREES / "amd_vm")
        assert found["cpu"]["model"] == "AMD EPYC"
        assert (found["cpu"]["family"], found["cpu"]["number"]) == ("26", "2")
        assert "avx512_vnni" in found["cpu"]["flags"]
        assert "fpu" not in found["cpu"]["flags"]
        assert (found["cores"], found["board"]) == (2, None)
        assert found["caches"] == [
            "L1 Data 48K",
            "L1 Instruction 32K",
            "L2 Unified 1024K",
            "L3 Unified 32768K",
        ]

    def test_software(self) -> None:
        found = conditions.software(TREES / "amd_vm")
        assert (found["kernel"], found["microcode"]) == ("6.18.44", "0x1000065")
        assert found["system"] == "Debian GNU/Linux 12 (bookworm)"
        assert found["python"] == platform.python_version()
        assert "numpy" in found["wheels"]

    def test_state_of_a_raspberry_pi_4(self) -> None:
        found = conditions.state(TREES / "pi4")
        assert (found["governor"], found["frequency"]) == ("performance", 1.8e9)
        assert found["celsius"] == pytest.approx(48.686)
        assert (found["throttled"], found["load"]) == (0, 0.21)
        assert (found["swap_used"], found["swapped_pages"]) == (0, 0)
        assert found["free_memory"] == 3412044 * 1024
        assert found["cpu_busy"] == pytest.approx(12100 / TICKS)

    def test_state_of_a_virtual_machine(self) -> None:
        found = conditions.state(TREES / "amd_vm")
        assert found["frequency"] == pytest.approx(2.596122e9)
        assert (found["governor"], found["celsius"], found["throttled"]) == (None, None, None)
        assert found["steal"] == pytest.approx(1333 / TICKS)
        assert found["cgroup_cores"] == 1.5
        assert found["cgroup_throttled"] == pytest.approx(0.25)

    def test_an_empty_tree_has_no_made_up_figures(self, tmp_path: Path) -> None:
        found = conditions.read(tmp_path)
        assert {k for k, v in found.state.items() if v is not None} == {"utc"}
        assert found.identity["memory"] is None
        assert found.identity["cores"] is None

    def test_memory_does_not_move_with_what_a_kernel_reserves(self, tmp_path: Path) -> None:
        tree = shutil.copytree(TREES / "pi4", tmp_path / "tree")
        (tree / "proc/meminfo").write_text("MemTotal:        3884120 kB\n")
        before, after = conditions.identity(TREES / "pi4"), conditions.identity(tree)
        assert before["memory"] == after["memory"]

    def test_the_old_cgroups(self, tmp_path: Path) -> None:
        for name, text in {
            "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/box\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "50000\n",
            "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/box/cpu.stat": "nr_throttled 1\nthrottled_time 2000000000\n",
        }.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        found = conditions.state(tmp_path)
        assert (found["cgroup_cores"], found["cgroup_throttled"]) == (0.5, 2.0)

    def test_the_kernels_own_throttle_file_is_preferred(self, tmp_path: Path) -> None:
        file = tmp_path / "sys/devices/platform/soc/soc:firmware/get_throttled"
        file.parent.mkdir(parents=True)
        file.write_text("50005\n")
        assert conditions.state(tmp_path)["throttled"] == 0x50005

    def test_a_vcgencmd_that_fails_tells_nothing(self, tmp_path: Path) -> None:
        command = tmp_path / "usr/bin/vcgencmd"
        command.parent.mkdir(parents=True)
        command.write_text("#!/bin/sh\necho 'VCHI initialization failed'\nexit 255\n")
        command.chmod(0o755)
        assert conditions.state(tmp_path)["throttled"] is None

    def test_an_nvidia_gpu(self, tmp_path: Path) -> None:
        file = tmp_path / "proc/driver/nvidia/gpus/0000:01:00.0/information"
        file.parent.mkdir(parents=True)
        file.write_text("Model: \t\t NVIDIA H200\nIRQ:   \t\t 16\n")
        assert conditions.identity(tmp_path)["gpus"] == ["NVIDIA H200"]

    def test_this_machine(self) -> None:
        found = conditions.read()
        assert found.identity["machine"] == platform.machine()
        assert found.identity["cores"] >= 1
        assert found.state["cpu_total"] >= found.state["cpu_busy"] > 0
        assert from_json(Conditions, json.loads(json.dumps(to_json(found)))) == found
        assert conditions.differences(found, conditions.read()) == ()
        assert found.fingerprint == conditions.read().fingerprint


class TestEmulated:
    def test_neither_a_real_board_nor_a_real_pc(self) -> None:
        for tree, machine in (("pi4", "aarch64"), ("pi4", "armv7l"), ("amd_vm", "x86_64")):
            assert conditions.emulated(TREES / tree, machine=machine, environment={}) == ""
        assert conditions.emulated(TREES / "amd_vm", machine="i686", environment={}) == ""

    def test_arm_code_on_an_x86_kernel(self) -> None:
        found = conditions.emulated(TREES / "amd_vm", machine="aarch64", environment={})
        assert found == "this process is ARM code, the CPU is x86"

    def test_a_facade_of_cpuinfo_does_not_hide_the_kernel(self, tmp_path: Path) -> None:
        for name in ("proc/cpuinfo", "proc/sys/kernel/arch"):
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(TREES / "pi4/proc/cpuinfo", tmp_path / "proc/cpuinfo")
        shutil.copy(TREES / "amd_vm/proc/sys/kernel/arch", tmp_path / "proc/sys/kernel/arch")
        found = conditions.emulated(tmp_path, machine="aarch64", environment={})
        assert found == "this process is ARM code, the kernel is x86"

    @pytest.mark.parametrize("file", ["proc/self/smaps", "proc/thread-self/maps"])
    def test_the_emulator_among_the_maps(self, tmp_path: Path, file: str) -> None:
        (tmp_path / file).parent.mkdir(parents=True)
        line = "7f0000-7f1000 r-xp 00000000 fe:01 42   /usr/bin/qemu-aarch64-static\n"
        (tmp_path / file).write_text(line)
        found = conditions.emulated(tmp_path, machine="aarch64", environment={})
        assert found == "qemu-aarch64-static is mapped into this process"

    def test_the_marker(self) -> None:
        environment = {conditions.EMULATION_MARKER: "cortex-a72"}
        found = conditions.emulated(TREES / "pi4", machine="aarch64", environment=environment)
        assert found == "HWBENCH_EMULATED=cortex-a72 is set"


class TestTaint:
    def test_a_quiet_pi_is_fine(self) -> None:
        state = conditions.state(TREES / "pi4")
        assert conditions.taint(state, state, 80.0) == ()

    def test_a_throttled_pi_says_all_that_is_wrong(self) -> None:
        before = conditions.state(TREES / "pi4")
        after = conditions.state(TREES / "pi4_throttled")
        assert conditions.taint(before, after, 80.0) == (
            "under-voltage: the power supply is too weak",
            "the firmware throttled the clock",
            "the clock fell from 1800 to 1000 MHz",
            "82 °C, and it throttles from 80 °C",
            "160 pages were swapped",
        )

    def test_a_throttling_that_came_and_went_taints_and_an_old_one_does_not(self) -> None:
        assert conditions.taint({"throttled": 0x0}, {"throttled": 0x40000}) != ()
        assert conditions.taint({"throttled": 0x40000}, {"throttled": 0x40000}) == ()

    @pytest.mark.parametrize(
        ("before", "after", "reason"),
        [
            ({"steal": 1.0, "cpu_busy": 10.0}, {"steal": 1.6, "cpu_busy": 20.0}, "took 6 % of"),
            ({"cgroup_throttled": 0.0}, {"cgroup_throttled": 0.5}, "held it back for 0.50 s"),
            ({"celsius": 85.0}, {"celsius": 60.0}, "85 °C"),
            ({"frequency": 3e9}, {"frequency": 2.5e9}, "fell from 3000 to 2500 MHz"),
            ({"frequency_limit": 3e9}, {"frequency_limit": 2e9}, "the clock's limit fell"),
        ],
    )
    def test_each_reason(self, before: dict[str, Any], after: dict[str, Any], reason: str) -> None:
        (found,) = conditions.taint(before, after, 80.0)
        assert reason in found

    @pytest.mark.parametrize(
        ("before", "after"),
        [
            ({"steal": 1.0, "cpu_busy": 10.0}, {"steal": 1.3, "cpu_busy": 20.0}),
            ({"steal": 1.0, "cpu_busy": 10.0}, {"steal": 1.01, "cpu_busy": 10.02}),  # one tick
            (
                {"governor": "schedutil", "frequency": 3e9},
                {"governor": "schedutil", "frequency": 1e9},
            ),
            ({"celsius": None, "steal": None}, {"celsius": 70.0, "steal": 5.0}),
            ({"frequency": 3e9}, {"frequency": 2.9e9}),
            ({}, {}),
        ],
    )
    def test_what_is_no_reason(self, before: dict[str, Any], after: dict[str, Any]) -> None:
        assert conditions.taint(before, after, 80.0) == ()

    def test_without_a_limit_no_temperature_is_too_high(self) -> None:
        assert conditions.taint({"celsius": 95.0}, {"celsius": 95.0}) == ()

    @given(st.integers(0, 0xFFFFF))
    def test_every_throttle_word_stands_for_a_bit(self, bits: int) -> None:
        words = conditions.throttle_words(bits)
        assert len(words) == bin((bits | bits >> 16) & 0xF).count("1")
        assert bool(words) == bool(bits & 0xF000F)


def test_differences_name_what_changed() -> None:
    one = conditions.read(TREES / "pi4")
    newer = dataclasses.replace(one, software={**one.software, "kernel": "6.12"})
    assert conditions.differences(one, newer) == ("software kernel: 6.6.51+rpt-rpi-v8 became 6.12",)
    other = conditions.read(TREES / "amd_vm")
    assert "identity cores: 4 became 2" in conditions.differences(one, other)
    assert one.fingerprint not in (newer.fingerprint, other.fingerprint)


class TestParsers:
    def test_big_and_little_cores(self) -> None:
        text = (TREES / "pi4/proc/cpuinfo").read_text().replace("0xd08", "0xd03", 1)
        assert parsers.parse_cpuinfo(text)["number"] == "0xd03 + 0xd08"

    def test_throttled(self) -> None:
        assert parsers.parse_throttled("throttled=0x50005\n") == 0x50005
        assert parsers.parse_throttled("50005") == 0x50005
        assert parsers.parse_throttled("error=2 error_msg='x'") is None

    def test_cpu_max(self) -> None:
        assert parsers.parse_cpu_max("max 100000\n") is None
        assert parsers.parse_cpu_max("") is None
        assert parsers.parse_cpu_max("50000 100000\n") == 0.5

    @given(st.text())
    def test_nonsense_gives_nothing_and_never_raises(self, text: str) -> None:
        parsers.parse_cpuinfo(text)
        parsers.parse_meminfo(text)
        parsers.parse_vmstat(text)
        assert set(parsers.parse_stat(text, 100)) == {"cpu_total", "cpu_busy", "steal", "iowait"}


def test_it_needs_the_standard_library_alone() -> None:
    code = "import sys, hwbench.conditions; print('numpy' in sys.modules, 'scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]

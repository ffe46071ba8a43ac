"""Under which circumstances something is measured: what the device is, runs, and its state.

Runs on the device with the standard library alone. Everything is read below a `root`, so that a
recorded tree can stand in for a device that is not here; it may feed parsers, never a result.
A reading that a platform does not offer is absent (None), never a made-up default.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwbench.conditions import nvml
from hwbench.conditions.judge import differences, taint, throttle_words
from hwbench.conditions.parsers import (
    parse_cpu_max,
    parse_cpuinfo,
    parse_held,
    parse_meminfo,
    parse_stat,
    parse_throttled,
    parse_vmstat,
)
from hwbench.records import Conditions

__all__ = [
    "EMULATION_MARKER",
    "differences",
    "emulated",
    "identity",
    "read",
    "software",
    "state",
    "taint",
    "throttle_words",
]

ROOT = Path("/")
_WIDE = sys.maxsize > 2**32

EMULATION_MARKER = "HWBENCH_EMULATED"
"""Environment variable that whoever starts an emulated worker sets to say so."""

_UNDER_ALL = ("numpy",)
"""The distributions that every runtime stands on."""


def read(root: Path = ROOT, gpu: str = "", wheels: Sequence[str] = ()) -> Conditions:
    """Return the three rings of this device.

    `root` stands for the files that are read; Python, libc and wheels are those of the process
    that reads. `gpu` names one to read as well (a UUID, a number, or ``any`` for the only one),
    `wheels` the distributions that decide what an artifact runs on, besides numpy.
    """
    host = Conditions(identity(root), software(root, wheels), state(root))
    if not gpu:
        return host
    device, driver, gpu_state = nvml.read(gpu)
    return Conditions(
        {**host.identity, "gpu": device},
        {**host.software, **driver},
        {**host.state, **gpu_state},
    )


def identity(root: Path = ROOT) -> dict[str, Any]:
    """Return what the device is; a change of any of it starts a new series.

    Memory in bytes, rounded to 64 MiB because kernels reserve a little more or less of it at
    every boot. Serial numbers are left out: they identify a person's device.
    """
    cpu = parse_cpuinfo(_text(root, "proc/cpuinfo"))
    memory = parse_meminfo(_text(root, "proc/meminfo")).get("MemTotal")
    return {
        "machine": _machine(root),
        "board": _board(root),
        "cpu": cpu,
        "cores": cpu.pop("cores"),
        "caches": _caches(root),
        "memory": None if memory is None else round(memory / 2**26) * 2**26,
        "gpus": _gpus(root),
    }


def software(root: Path = ROOT, wheels: Sequence[str] = ()) -> dict[str, Any]:
    """Return what runs on the device; a change of any of it starts a new series."""
    microcode = re.search(r"^microcode\s*:\s*(\S+)", _text(root, "proc/cpuinfo"), re.MULTILINE)
    named = sorted({*_UNDER_ALL, *wheels})
    name = re.search(r'^PRETTY_NAME="?([^"\n]*)', _text(root, "etc/os-release"), re.MULTILINE)
    return {
        "kernel": _line(root, "proc/sys/kernel/osrelease"),
        "system": name[1] if name else None,
        "microcode": microcode[1] if microcode else None,
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "python": platform.python_version(),
        "wheels": {name: version for name in named if (version := _version(name))},
    }


def state(root: Path = ROOT, gpu: str = "") -> dict[str, Any]:
    """Return the state of the device now: cheap enough for before and after every visit.

    ``utc`` is the device's own clock (ISO 8601), frequencies in Hz, the temperature in °C (of the
    hottest zone), counters in seconds or pages since boot, memory in bytes. ``throttled`` holds
    the bits of a Raspberry Pi.
    """
    memory = parse_meminfo(_text(root, "proc/meminfo"))
    load = _text(root, "proc/loadavg").split()
    total, free = memory.get("SwapTotal"), memory.get("SwapFree")
    return {
        "utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        **_frequencies(root),
        "celsius": _hottest(root),
        "throttled": _throttled(root),
        "root": _is_root(_text(root, "proc/self/status")),
        "load": float(load[0]) if load else None,
        **parse_stat(_text(root, "proc/stat"), os.sysconf("SC_CLK_TCK")),
        **_cgroup(root),
        "free_memory": memory.get("MemAvailable"),
        "swap_used": None if total is None or free is None else total - free,
        "swapped_pages": parse_vmstat(_text(root, "proc/vmstat")),
        "free_disk": _free_disk(root),
        "clock_source": _line(
            root, "sys/devices/system/clocksource/clocksource0/current_clocksource"
        ),
        **nvml.state(gpu),
    }


def _is_root(status: str) -> bool | None:
    """Return whether a process is root's, by its effective user in ``/proc/self/status``."""
    words = next((line.split() for line in status.splitlines() if line.startswith("Uid:")), None)
    return None if words is None else words[2] == "0"


def emulated(
    root: Path = ROOT,
    *,
    machine: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return why this process must be taken for an emulated one (qemu-user), or ``""``.

    Any of: the marker ``HWBENCH_EMULATED`` in the environment; a processor that
    ``/proc/cpuinfo`` or the kernel (``/proc/sys/kernel/arch``, from Linux 6.1 on) says is of
    another family than the one this process runs on; or the emulator itself among the mapped
    files. qemu rewrites ``/proc/self/maps`` for its guest; 7.2 forgets ``/proc/self/smaps`` and
    every version forgets ``/proc/thread-self``. Times, joules and resident memory of an emulated
    process mean nothing.
    """
    environment = os.environ if environment is None else environment
    machine = platform.machine() if machine is None else machine
    if marker := environment.get(EMULATION_MARKER):
        return f"{EMULATION_MARKER}={marker} is set"
    family = _family(machine)
    cpuinfo = _text(root, "proc/cpuinfo")
    kernel = _line(root, "proc/sys/kernel/arch")
    for origin, other in (("the CPU", _cpu_family(cpuinfo)), ("the kernel", _family(kernel or ""))):
        if family and other and family != other:
            return f"this process is {family} code, {origin} is {other}"
    for maps in ("proc/self/smaps", "proc/thread-self/maps"):
        if emulator := re.search(r"/(qemu-[a-z0-9_-]+)\b", _text(root, maps)):
            return f"{emulator[1]} is mapped into this process"
    return ""


# --------------------------------------------------------------------------------------------
# readers


def _text(root: Path, path: str) -> str:
    """Return a file's text, or nothing where it is absent or not for us to read."""
    try:
        return (root / path).read_text(errors="replace")
    except OSError:
        return ""


def _line(root: Path, path: str) -> str | None:
    return _text(root, path).strip("\0 \n") or None


def _machine(root: Path) -> str | None:
    """Of this process; of a recorded tree, what its kernel says."""
    if root != ROOT:
        return _line(root, "proc/sys/kernel/arch")
    machine = platform.machine()
    # A 64-bit kernel under a 32-bit system, as Raspberry Pi OS was for years.
    return f"{machine}, 32-bit programs" if machine.endswith("64") and not _WIDE else machine


def _board(root: Path) -> str | None:
    if model := _line(root, "proc/device-tree/model"):
        return model
    dmi = "sys/devices/virtual/dmi/id"
    return (
        " ".join(w for n in ("sys_vendor", "product_name") if (w := _line(root, f"{dmi}/{n}")))
        or None
    )


def _caches(root: Path) -> list[str]:
    """Return ``L1 Data 32K`` and so on of the first core."""
    caches = []
    for folder in sorted((root / "sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (_line(folder, name) for name in ("level", "type", "size"))
        if level and kind and size:
            caches.append(f"L{level} {kind} {size}")
    return caches


def _gpus(root: Path) -> list[str]:
    found = []
    for file in sorted((root / "proc/driver/nvidia/gpus").glob("*/information")):
        found += re.findall(r"^Model:\s*(.+?)\s*$", _text(file.parent, file.name), re.MULTILINE)
    return found


def _frequencies(root: Path) -> dict[str, Any]:
    """Governor(s), the fastest core's clock and its limit in Hz, and whether turbo is on."""
    folder = root / "sys/devices/system/cpu"
    policies = [
        _text(p.parent, p.name).strip() for p in folder.glob("cpu[0-9]*/cpufreq/scaling_governor")
    ]
    clocks = [
        float(text) * 1000.0
        for p in folder.glob("cpu[0-9]*/cpufreq/scaling_cur_freq")
        if (text := _text(p.parent, p.name).strip()).isdigit()
    ]
    if not clocks:
        megahertz = re.findall(
            r"^cpu MHz\s*:\s*([\d.]+)$", _text(root, "proc/cpuinfo"), re.MULTILINE
        )
        clocks = [float(mhz) * 1e6 for mhz in megahertz]
    limits = [
        float(text) * 1000.0
        for p in folder.glob("cpu[0-9]*/cpufreq/scaling_max_freq")
        if (text := _text(p.parent, p.name).strip()).isdigit()
    ]
    no_turbo, boost = _line(folder, "intel_pstate/no_turbo"), _line(folder, "cpufreq/boost")
    return {
        "governor": " + ".join(sorted({p for p in policies if p})) or None,
        "frequency": max(clocks, default=None),
        "frequency_limit": max(limits, default=None),
        "turbo": no_turbo == "0" if no_turbo else (boost == "1" if boost else None),
    }


def _hottest(root: Path) -> float | None:
    zones = (root / "sys/class/thermal").glob("thermal_zone*/temp")
    # A zone that is off reads as an error or as something like -273 °C.
    degrees = [int(t) / 1000.0 for z in zones if (t := _text(z.parent, z.name).strip()).isdigit()]
    return max(degrees, default=None)


def _throttled(root: Path) -> int | None:
    """From the kernel's own file where there is one: it costs no process beside a timed one."""
    if text := _line(root, "sys/devices/platform/soc/soc:firmware/get_throttled"):
        return parse_throttled(text)
    command = root / "usr/bin/vcgencmd"
    if not os.access(command, os.X_OK):
        return None
    try:
        done = subprocess.run(
            [str(command), "get_throttled"], capture_output=True, text=True, timeout=5, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_throttled(done.stdout) if done.returncode == 0 else None


def _cgroup(root: Path) -> dict[str, float | None]:
    """The quota (in cores) of this process's cgroup, and seconds that it was held back by it."""
    cgroups = _text(root, "proc/self/cgroup")
    unified = re.search(r"^0::/(\S*)$", cgroups, re.MULTILINE)
    legacy = re.search(r"^\d+:(?:\w+,)*cpu(?:,\w+)*:/(\S*)$", cgroups, re.MULTILINE)
    top = "sys/fs/cgroup"
    for folder in (
        f"{top}/{unified[1]}" if unified else top,
        top,
    ):  # in a container its own is the top
        if quota := _text(root, f"{folder}/cpu.max"):
            held = parse_held(_text(root, f"{folder}/cpu.stat"))
            return {"cgroup_cores": parse_cpu_max(quota), "cgroup_throttled": held}
    for folder in (f"{top}/cpu/{legacy[1]}" if legacy else f"{top}/cpu", f"{top}/cpu"):  # cgroup 1
        if old_quota := _line(root, f"{folder}/cpu.cfs_quota_us"):
            period = _line(root, f"{folder}/cpu.cfs_period_us") or "100000"
            limit = f"max {period}" if old_quota == "-1" else f"{old_quota} {period}"
            held = parse_held(_text(root, f"{folder}/cpu.stat"))
            return {"cgroup_cores": parse_cpu_max(limit), "cgroup_throttled": held}
    return {"cgroup_cores": None, "cgroup_throttled": None}


def _free_disk(root: Path) -> int | None:
    """Where sessions keep their files; a recorded tree has no disk of its own."""
    if root != ROOT:
        return None
    try:
        return shutil.disk_usage(tempfile.gettempdir()).free
    except OSError:
        return None


def _version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _family(machine: str) -> str:
    """ARM boards often run 32-bit programs on a 64-bit kernel: that is no emulation."""
    families = {"arm": "ARM", "aarch64": "ARM", "x86_64": "x86", "amd64": "x86", "i": "x86"}
    machine = machine.lower()
    return next((name for start, name in families.items() if machine.startswith(start)), machine)


def _cpu_family(cpuinfo: str) -> str:
    if "CPU implementer" in cpuinfo:
        return "ARM"
    return "x86" if re.search(r"^vendor_id\s*:.*(Intel|AMD)", cpuinfo, re.MULTILINE) else ""

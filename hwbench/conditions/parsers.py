"""Pure parsers of what Linux and the Raspberry Pi's firmware say about a device."""

from __future__ import annotations

import re
from typing import Any

_FLAGS = """
    sse4_2 avx avx2 fma f16c avx_vnni avx512f avx512bw avx512dq avx512vl avx512_vnni avx512_bf16
    avx512_fp16 amx_tile amx_int8 amx_bf16 neon asimd asimdhp fphp asimddp i8mm bf16 sve sve2
"""
KERNEL_FLAGS = frozenset(_FLAGS.split())
"""CPU flags that kernels are chosen by; the others say nothing about speed."""


def parse_cpuinfo(text: str) -> dict[str, Any]:
    """Return ``model``, ``vendor``, ``family``, ``number``, ``stepping``, ``flags``, ``cores``.

    From ``/proc/cpuinfo`` of x86 or ARM; on ARM vendor is the implementer, family the
    architecture, number the part and stepping variant and revision, joined over kinds of cores.
    """
    blocks = [
        dict(re.findall(r"^([^:\n\t]+?)\s*:[ \t]*(.*)$", block, re.MULTILINE))
        for block in re.split(r"\n\s*\n", text)
    ]
    cores = [block for block in blocks if "processor" in block]

    def all_of(*keys: str) -> str | None:
        values = [" ".join(v for k in keys if (v := core.get(k))) for core in cores]
        return " + ".join(sorted({v for v in values if v})) or None

    flags = " ".join(core.get("flags") or core.get("Features") or "" for core in cores[:1])
    return {
        "model": all_of("model name"),
        "vendor": all_of("vendor_id") or all_of("CPU implementer"),
        "family": all_of("cpu family") or all_of("CPU architecture"),
        "number": all_of("model") or all_of("CPU part"),
        "stepping": all_of("stepping") or all_of("CPU variant", "CPU revision"),
        "flags": sorted(KERNEL_FLAGS & set(flags.split())),
        "cores": len(cores) or None,
    }


def parse_meminfo(text: str) -> dict[str, int]:
    """Return the sizes of ``/proc/meminfo`` in bytes, by name."""
    return {k: int(v) * 1024 for k, v in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}


def parse_stat(text: str, ticks: int) -> dict[str, float | None]:
    """Return seconds of all CPUs since boot: ``cpu_total``, ``cpu_busy``, ``steal``, ``iowait``.

    Busy is all that is neither idle nor waiting for a disk; it includes what was stolen.
    """
    line = re.search(r"^cpu +([\d ]+)$", text, re.MULTILINE)
    fields = [int(word) / ticks for word in line[1].split()] if line else []
    if len(fields) < 8:
        return dict.fromkeys(("cpu_total", "cpu_busy", "steal", "iowait"))
    total = sum(fields[:8])  # guest time, the last two fields, is in user and nice already
    idle, iowait, steal = fields[3], fields[4], fields[7]
    return {"cpu_total": total, "cpu_busy": total - idle - iowait, "steal": steal, "iowait": iowait}


def parse_vmstat(text: str) -> int | None:
    """Return how many pages went to or came from swap since boot."""
    pages = re.findall(r"^pswp(?:in|out) (\d+)$", text, re.MULTILINE)
    return sum(map(int, pages)) if pages else None


def parse_throttled(text: str) -> int | None:
    """Return the bits of ``throttled=0x50005``, or of the same as a bare hexadecimal number."""
    found = re.fullmatch(r"(?:throttled=)?(?:0x)?([0-9a-fA-F]+)", text.strip())
    return int(found[1], 16) if found else None


def parse_cpu_max(text: str) -> float | None:
    """Return how many cores ``cpu.max`` (cgroup 2: quota and period) allows; None: no limit."""
    words = text.split()
    return int(words[0]) / int(words[1]) if len(words) == 2 and words[0] != "max" else None


def parse_held(text: str) -> float | None:
    """Return how many seconds ``cpu.stat`` (cgroup 2 or 1) says the quota held things back."""
    found = re.search(r"^throttled_(usec|time) (\d+)$", text, re.MULTILINE)
    if found is None:
        return None
    return int(found[2]) * (1e-6 if found[1] == "usec" else 1e-9)

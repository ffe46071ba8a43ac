"""Whether two circumstances may be compared, and whether what lies between them holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hwbench.conditions.nvml import slowed_by
from hwbench.records import Conditions

THROTTLE_BITS: Mapping[int, str] = {
    0: "under-voltage: the power supply is too weak",
    1: "the firmware capped the clock",
    2: "the firmware throttled the clock",
    3: "the soft temperature limit is active",
}
"""Bits of ``vcgencmd get_throttled`` that hold now; the same 16 higher: since boot."""

_FREQUENCY_DROP = 0.10
_STEAL_SHARE = 0.05
_GPU_CLOCK_SHARE = 0.75
_STEAL_SECONDS = 0.05  # the kernel counts in steps of 10 ms: less says nothing about a share


def differences(one: Conditions, other: Conditions) -> tuple[str, ...]:
    """Return in words what differs in identity or software; empty: they may be compared."""
    changes = []
    for ring in ("identity", "software"):
        a, b = _flat(getattr(one, ring)), _flat(getattr(other, ring))
        changes += [
            f"{ring} {key}: {a.get(key)} became {b.get(key)}"
            for key in sorted(a.keys() | b.keys())
            if a.get(key) != b.get(key)
        ]
    return tuple(changes)


def taint(
    before: Mapping[str, Any], after: Mapping[str, Any], throttle_celsius: float | None = None
) -> tuple[str, ...]:
    """Return why what was measured between two states cannot be trusted; empty: no reason.

    Takes the ``state`` ring at both ends. What one end lacks is not judged. Reasons: a throttle
    bit at either end, or one that came and went; at least `throttle_celsius`; a clock that fell
    by over 10 % (of the current clock only under the ``performance`` governor: others idle at
    lower clocks); over 5 % of the busy time, and 50 ms, stolen by the hypervisor; the cgroup's
    quota used up; pages swapped; a GPU that NVML says is slowed down, or whose clock is below 75 %
    of the fastest of the session.
    """
    reasons = [*_throttle_reasons(before, after), *_frequency_reasons(before, after)]
    hottest = max((c for s in (before, after) if (c := s.get("celsius")) is not None), default=None)
    if hottest is not None and throttle_celsius is not None and hottest >= throttle_celsius:
        reasons.append(f"{hottest:.0f} °C, and it throttles from {throttle_celsius:.0f} °C")
    steal, busy = _rise(before, after, "steal"), _rise(before, after, "cpu_busy")
    if steal and busy and steal >= _STEAL_SECONDS and steal / busy > _STEAL_SHARE:
        reasons.append(f"the hypervisor took {steal / busy * 100:.0f} % of the busy time (steal)")
    if held := _rise(before, after, "cgroup_throttled"):
        reasons.append(f"the cgroup's CPU quota held it back for {held:.2f} s")
    reasons += _gpu_reasons(after)
    if pages := _rise(before, after, "swapped_pages"):
        reasons.append(f"{pages:.0f} pages were swapped")
    return tuple(reasons)


def throttle_words(bits: int) -> tuple[str, ...]:
    """Return in words what ``vcgencmd get_throttled`` says; empty for 0x0."""
    now = [words for bit, words in THROTTLE_BITS.items() if bits >> bit & 1]
    past = [
        f"{words} (earlier, since boot)"
        for bit, words in THROTTLE_BITS.items()
        if bits >> (bit + 16) & 1 and not bits >> bit & 1
    ]
    return (*now, *past)


def _flat(ring: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in ring.items():
        inner = isinstance(value, Mapping)
        found |= _flat(value, f"{prefix}{key} ") if inner else {f"{prefix}{key}": value}
    return found


def _gpu_reasons(after: Mapping[str, Any]) -> Sequence[str]:
    """What NVML says slows the GPU down, and a clock far below the session's fastest."""
    reasons = [f"the GPU is slowed by {w}" for w in slowed_by(after.get("gpu_slowed") or 0)]
    clock, best = after.get("gpu_clock"), after.get("gpu_clock_best")
    if clock and best and clock < _GPU_CLOCK_SHARE * best:
        reasons.append(f"the GPU's clock is {clock / 1e6:.0f} MHz of {best / 1e6:.0f} MHz")
    return reasons


def _rise(before: Mapping[str, Any], after: Mapping[str, Any], key: str) -> float | None:
    a, b = before.get(key), after.get(key)
    return None if a is None or b is None else b - a


def _throttle_reasons(before: Mapping[str, Any], after: Mapping[str, Any]) -> Sequence[str]:
    """What holds at an end, and what came up and went away again in between."""
    ends = [bits for s in (before, after) if (bits := s.get("throttled")) is not None]
    if not ends:
        return ()
    now = ends[0] | ends[-1]
    new = (ends[-1] >> 16) & ~(ends[0] >> 16)
    return throttle_words((now | new) & 0xF)


def _frequency_reasons(before: Mapping[str, Any], after: Mapping[str, Any]) -> Sequence[str]:
    steady = before.get("governor") in (None, "performance")
    reasons = []
    for key, name, judged in (
        ("frequency", "the clock", steady),
        ("frequency_limit", "the clock's limit", True),
    ):
        a, b = before.get(key), after.get(key)
        if judged and a and b and b < a * (1.0 - _FREQUENCY_DROP):
            reasons.append(f"{name} fell from {a / 1e6:.0f} to {b / 1e6:.0f} MHz")
    return reasons

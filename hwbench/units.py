"""The only place that scales units: text to SI numbers, and SI numbers to text for people."""

from __future__ import annotations

import math
import re

from hwbench.errors import UserError, did_you_mean
from hwbench.records import METRICS, Value

_SCALES: dict[str, dict[str, float]] = {
    "s": {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9, "min": 60.0},
    "J": {"J": 1.0, "mJ": 1e-3, "uJ": 1e-6, "µJ": 1e-6, "kJ": 1e3, "Wh": 3600.0},
    "B": {
        "B": 1.0,
        "kB": 1e3,
        "MB": 1e6,
        "GB": 1e9,
        "TB": 1e12,
        "KiB": 1024.0,
        "MiB": 1024.0**2,
        "GiB": 1024.0**3,
    },
    "fraction": {"": 1.0, "%": 0.01, "pp": 0.01},
    "count": {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12},
    "score": {"": 1.0},
}
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([^\d\s.]*)\s*")
_STEPS: dict[str, tuple[tuple[float, str], ...]] = {
    "s": ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns")),
    "J": ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ")),
    "B": ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "count": ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, "")),
}


def parse(text: str | float, unit: str, *, where: str = "") -> float:
    """Return the SI number that `text` (``"2 ms"``, ``"1pp"``, ``0.5``) means in `unit`.

    A bare number is accepted only where the unit has no name (fractions, counts, scores), so
    that ``max: 2`` cannot silently mean two seconds. Raises `UserError` otherwise.
    """
    scales = _SCALES[unit]
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise UserError(f"{text!r} is not a quantity", where=where, expected=_example(unit))
    number, suffix = float(match[1]), match[2]
    if suffix not in scales:
        found = f"unit {suffix!r}" if suffix else "no unit"
        mend = did_you_mean(suffix, [s for s in scales if s])
        raise UserError(f"{text!r} has {found}", where=where, expected=_example(unit), mend=mend)
    return number * scales[suffix]


def text(value: float, unit: str, digits: int = 3) -> str:
    """Return an SI number as people read it: ``1.23 ms``, ``88.2 %``, ``4.1 MB``, ``3.2 M``."""
    if not math.isfinite(value):
        return str(value)
    if unit == "fraction":
        return f"{value * 100:.{max(digits - 2, 1)}f} %"
    if unit == "score" or (unit == "count" and abs(value) < 1000):
        return f"{value:.{digits + 1}g}"
    size, name = scale(value, unit)
    return f"{value / size:.{digits}g} {name}".strip()


def scale(value: float, unit: str) -> tuple[float, str]:
    """Return (SI size of one display unit, its name) that suits `value`: ``(1e-3, "ms")``.

    Plots use it to label an axis once for all its points.
    """
    if unit == "fraction":
        return 0.01, "%"
    if unit not in _STEPS:
        return 1.0, ""
    steps = _STEPS[unit]
    # 999.6 µs would be printed as "1e+03 µs": step up as soon as three digits round up.
    return next((step for step in steps if abs(value) >= step[0] * 0.9995), steps[-1])


def difference(value: float, unit: str) -> str:
    """Return a signed difference: ``-0.7 pp`` for fractions, ``+1.2 ms`` otherwise."""
    if unit == "fraction":
        return f"{value * 100:+.1f} pp"
    return f"{'+' if value >= 0 else '-'}{text(abs(value), unit)}"


def describe(value: Value) -> str:
    """Return a value with its unit, or ``n/a: the reason``."""
    if value.value is None:
        return f"n/a: {value.reason}"
    return text(value.value, METRICS[value.metric].unit)


def duration(seconds: float) -> str:
    """Return a span of time as people say it: ``3 min 20 s``, ``45 s``, ``0.4 s``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _example(unit: str) -> str:
    examples = {
        "s": "a time such as 2ms or 0.5s",
        "J": "an energy such as 3mJ",
        "B": "a size such as 4MB",
        "fraction": "a share such as 1pp, 5% or 0.01",
        "count": "a count such as 3.2M",
        "score": "a number",
    }
    return examples[unit]

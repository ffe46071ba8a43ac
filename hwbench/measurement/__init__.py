"""The room that measures: a batch of artifacts, one device, one sitting.

`measure` ships the worker, drives its passes and keeps every raw sample; `values` derives the
numbers, `beside` compares with the reference; `duel` takes the latency alone, `answers`
only a split's outputs; `probe` says what the device is, `runtimes` what
runs there; `pack` writes a sitting for elsewhere.
"""

from hwbench.measurement.device import UNAVAILABLE, probe, runtimes
from hwbench.measurement.pack import pack
from hwbench.measurement.package import worker_zip
from hwbench.measurement.parcel import is_elsewhere
from hwbench.measurement.sitting import answers, duel, measure
from hwbench.measurement.values import beside, values

__all__ = [
    "UNAVAILABLE",
    "answers",
    "beside",
    "duel",
    "is_elsewhere",
    "measure",
    "pack",
    "probe",
    "runtimes",
    "values",
    "worker_zip",
]

"""The room that measures: a batch of artifacts, one device, one sitting.

`measure` ships the worker, drives its passes and keeps every raw sample; `values` derives the
numbers; `answers` only asks for a split's outputs; `probe` says what the device is.
"""

from hwbench.measure.device import probe
from hwbench.measure.package import worker_zip
from hwbench.measure.sitting import answers, measure
from hwbench.measure.values import values

__all__ = ["answers", "measure", "probe", "values", "worker_zip"]

"""The nights: tonight's artifacts beside the pinned ones, on every target, every night.

`run` goes over all pairs of a plan and leaves a report and a line of history; `baseline` pins
what nights are held against. What is prepared, measured and scored is done by the rooms that a
bench uses.
"""

from hwbench.studies.nightly.baseline import now, pinned, promote, set_baseline
from hwbench.studies.nightly.run import Outcome, run

__all__ = ["Outcome", "now", "pinned", "promote", "run", "set_baseline"]

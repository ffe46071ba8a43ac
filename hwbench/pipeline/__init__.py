"""The corridor: the only place that knows the order of the rooms, and what runs in parallel."""

from hwbench.pipeline.absent import first_line, is_absent
from hwbench.pipeline.bench import Outcome, bench
from hwbench.pipeline.budget import Fitted, fit
from hwbench.pipeline.compare import ON, Comparison, compare
from hwbench.pipeline.context import PHASES, Place, Show
from hwbench.pipeline.forecast import Forecast, forecast
from hwbench.pipeline.foretell import Foretold, foretell
from hwbench.pipeline.jobs import Sensed
from hwbench.pipeline.parcel import Packed, pack, unpack
from hwbench.pipeline.revisit import export, pick, render
from hwbench.pipeline.sense import sense

__all__ = [
    "ON",
    "PHASES",
    "Comparison",
    "Fitted",
    "Forecast",
    "Foretold",
    "Outcome",
    "Packed",
    "Place",
    "Sensed",
    "Show",
    "bench",
    "compare",
    "export",
    "first_line",
    "fit",
    "forecast",
    "foretell",
    "is_absent",
    "pack",
    "pick",
    "render",
    "sense",
    "unpack",
]

"""The questions that can be asked, one file each, and the nights (`nightly`).

Each study knows the order of the rooms it goes through; nothing below knows of it.
"""

from hwbench.pipeline.session import PHASES, Progress, Workspace
from hwbench.studies.bench import Outcome, bench
from hwbench.studies.budget import Fitted, fit
from hwbench.studies.compare import ON, Comparison, compare
from hwbench.studies.measure import SECONDS, ModelCost, ModelCosts, measure
from hwbench.studies.offline import Packed, pack, unpack
from hwbench.studies.plan import Forecast, forecast
from hwbench.studies.predict import Foretold, foretell
from hwbench.studies.revisit import export, pick, render
from hwbench.studies.sensitivity import Sensed, sense
from hwbench.studies.without_board import first_line, is_absent

__all__ = [
    "ON",
    "PHASES",
    "SECONDS",
    "Comparison",
    "Fitted",
    "Forecast",
    "Foretold",
    "ModelCost",
    "ModelCosts",
    "Outcome",
    "Packed",
    "Progress",
    "Sensed",
    "Workspace",
    "bench",
    "compare",
    "export",
    "first_line",
    "fit",
    "forecast",
    "foretell",
    "is_absent",
    "measure",
    "pack",
    "pick",
    "render",
    "sense",
    "unpack",
]

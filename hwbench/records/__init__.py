"""The frozen records that the rooms hand to one another, and the metrics they speak of.

Everything here is in SI units (s, J, B; fractions for shares) and imports only the standard
library, because the worker carries this module to the device.

The nesting ``Candidate ⊃ ExportSpec ⊃ CompressionSpec`` is the cache key: `key` of each is a
content hash of everything that decides it, defaults filled in.
"""

from hwbench.records.asked import (
    Goal,
    MeasureSpec,
    Method,
    Power,
    Recipe,
    SearchSpec,
    Strategy,
    TargetProfile,
)
from hwbench.records.decided import Decision, Repeated, Standing, Study
from hwbench.records.made import (
    CompiledModel,
    CompressedModel,
    Layer,
    LayerCurve,
    LayerNote,
    OnnxModel,
    Sensitivity,
)
from hwbench.records.measured import (
    Answers,
    Beside,
    Conditions,
    EnergyReading,
    Failure,
    Measurement,
    MemoryReading,
    Process,
    Result,
    Sitting,
    Visit,
)
from hwbench.records.metrics import METRICS, Metric, Source, Value, missing
from hwbench.records.nights import (
    ALARMS,
    Change,
    MethodTonight,
    Night,
    Pair,
    Pin,
    Reading,
    Status,
)
from hwbench.records.plain import digest, file_digest, from_json, to_json
from hwbench.records.searched import Point, Tried
from hwbench.records.shifted import Distance, Paired, Shifted, ShiftSpec
from hwbench.records.specs import (
    LAST,
    Candidate,
    CompressionSpec,
    ExportSpec,
    Healing,
    PluginSpec,
    Precision,
    Schedule,
    Ticket,
    TrainSpec,
    WorkloadSpec,
)

__all__ = [
    "ALARMS",
    "LAST",
    "METRICS",
    "Answers",
    "Beside",
    "Candidate",
    "Change",
    "CompiledModel",
    "CompressedModel",
    "CompressionSpec",
    "Conditions",
    "Decision",
    "Distance",
    "EnergyReading",
    "ExportSpec",
    "Failure",
    "Goal",
    "Healing",
    "Layer",
    "LayerCurve",
    "LayerNote",
    "MeasureSpec",
    "Measurement",
    "MemoryReading",
    "Method",
    "MethodTonight",
    "Metric",
    "Night",
    "OnnxModel",
    "Pair",
    "Paired",
    "Pin",
    "PluginSpec",
    "Point",
    "Power",
    "Precision",
    "Process",
    "Reading",
    "Recipe",
    "Repeated",
    "Result",
    "Schedule",
    "SearchSpec",
    "Sensitivity",
    "ShiftSpec",
    "Shifted",
    "Sitting",
    "Source",
    "Standing",
    "Status",
    "Strategy",
    "Study",
    "TargetProfile",
    "Ticket",
    "TrainSpec",
    "Tried",
    "Value",
    "Visit",
    "WorkloadSpec",
    "digest",
    "file_digest",
    "from_json",
    "missing",
    "to_json",
]

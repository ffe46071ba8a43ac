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
from hwbench.records.decided import Decision, Standing, Study
from hwbench.records.made import CompiledModel, CompressedModel, Layer, LayerNote, OnnxModel
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
from hwbench.records.plain import digest, file_digest, from_json, to_json
from hwbench.records.searched import Point, Tried
from hwbench.records.specs import (
    Candidate,
    CompressionSpec,
    ExportSpec,
    PluginSpec,
    Schedule,
    TrainSpec,
    WorkloadSpec,
)

__all__ = [
    "METRICS",
    "Answers",
    "Beside",
    "Candidate",
    "CompiledModel",
    "CompressedModel",
    "CompressionSpec",
    "Conditions",
    "Decision",
    "EnergyReading",
    "ExportSpec",
    "Failure",
    "Goal",
    "Layer",
    "LayerNote",
    "MeasureSpec",
    "Measurement",
    "MemoryReading",
    "Method",
    "Metric",
    "OnnxModel",
    "PluginSpec",
    "Point",
    "Power",
    "Process",
    "Recipe",
    "Result",
    "Schedule",
    "SearchSpec",
    "Sitting",
    "Source",
    "Standing",
    "Strategy",
    "Study",
    "TargetProfile",
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

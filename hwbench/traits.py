"""What a plug-in is, as data: every plug-in says it in its own file, as its ``TRAITS``.

The rest of hwbench asks `hwbench.registry` for these records and knows no plug-in by name. A trait
that is forgotten or of another type is an error at start, never a silent default.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from hwbench.records import Gpu, Power, Precision, Schedule

AGREES = 1e-3
"""How far answers in float32 may be from the ONNX file's, relative to the largest of them."""

DTYPES = ("float32", "float64", "float16", "int8", "uint8", "int32", "int64", "bool")
"""Every type that a model's input may have, as numpy names them."""

Device = Literal["cpu", "cuda"]
Tier = Literal["meter", "counter", "model", "proxy"]


def agrees(options: Mapping[str, Any]) -> float:
    """Return the tolerance of a runtime that computes in float32, whatever its options."""
    return AGREES


@dataclass(frozen=True, slots=True, kw_only=True)
class Traits:
    """What every plug-in says of itself."""

    requires: Mapping[str, str]
    """Import names, each with its pip requirement: a hint when one is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendTraits(Traits):
    """What a backend is."""

    host_distributions: tuple[str, ...]
    """Distributions that decide what it compiles: their versions are in the cache version."""
    device_distributions: tuple[str, ...]
    """Distributions that decide how an artifact runs: those found are in the fingerprint."""
    board_distributions: tuple[str, ...] | None = None
    """What ``hwbench board setup`` brings beside numpy; None: it comes with the board's system."""
    precisions: tuple[Precision, ...] = ("fp32",)
    """Number formats of the ONNX files that it takes."""
    tolerance: Callable[[Mapping[str, Any]], float] = agrees
    """By its options: how far answers may be from the float32 file's before they count as broken.

    Relative to the largest answer. Short formats are meant to differ: their accuracy is scored on
    what the device answered, so this only has to catch what is wrong altogether.
    """
    resident_bytes: int = 256 << 20
    """What a process with it is taken to need before anybody measured it, in bytes."""
    memory_variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Options, by what is different, with which memory is read as well."""
    naming: tuple[str, ...] = ()
    """Options whose value names a candidate by itself wherever it is not the default.

    Others are told as ``name=value`` where two candidates of a study differ in nothing else.
    """
    max_batch: int | None = None
    """The largest batch; None: any."""
    compiles: Literal["anywhere", "on_target"] = "anywhere"
    """``on_target``: what comes out depends on the machine that compiles.

    Its processor is asked for, or kernels are timed on it; work of another machine is not reused.
    """
    input_dtypes: tuple[str, ...] = ("float32",)
    """Types of a model's input that it takes, as numpy names them."""
    devices: tuple[Device, ...] = ("cpu",)
    """What it can run on."""
    computes: bool = True
    """Whether answers are the model's; a double for tests and self-tests only echoes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrunerTraits(Traits):
    """What a pruner is."""

    host_distributions: tuple[str, ...]
    """Distributions that decide what it makes: their versions are in the cache version."""
    removes: Literal["nothing", "weights", "channels", "heads", "blocks"]
    """What leaves the network; ``weights`` become zero and nothing changes its shape."""
    patterns: tuple[str, ...]
    """The patterns it makes, or examples where there are many (``2:4``)."""
    accepts: Callable[[str], bool]
    """Whether it makes a pattern."""
    criteria: tuple[str, ...]
    """The criteria that it ranks by, the default first."""
    scopes: tuple[str, ...]
    """Where units compete, the default first."""
    schedules: tuple[Schedule, ...]
    """The schedules by which it can be asked for more and more."""
    fixed_sparsity: Callable[[str], float | None] = lambda _pattern: None
    """The share of weights that a pattern always removes; None: it is free."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkloadTraits(Traits):
    """What a workload is."""

    host_distributions: tuple[str, ...]
    """Distributions that decide its model and data: their versions are in the cache version."""
    unscored: str = ""
    """Why its accuracy means nothing; empty: it means something."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionTraits(Traits):
    """What can be done over a connection."""

    remote: bool
    """Whether it leads to another machine, which its option ``host`` names."""
    interactive: bool
    """Whether what is there can be asked more while a session lasts."""
    provisionable: bool
    """Whether ``hwbench board setup`` can install there: options ``folder`` and ``python``."""
    offline: bool
    """Whether everything was measured beforehand, by a folder that was carried there and back."""
    emulated: bool = False
    """Whether the machine there is made up: outputs are true, times, memory and energy are not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeterTraits(Traits):
    """What an energy meter is."""

    tier: Tier
    """How good its joules are: the sensor of a board, a counter of the chip, a model, a proxy."""
    needs: tuple[Literal["gpu", "power"], ...] = ()
    """The parts of a target without which it cannot measure."""
    from_gpu: Callable[[Gpu], Mapping[str, Any]] | None = None
    """The options that a target's ``gpu`` fills in."""
    from_power: Callable[[Power], Mapping[str, Any]] | None = None
    """The options that a target's ``power`` fills in."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerTraits(Traits):
    """What a sampler is."""

    chooses: bool
    """Whether it says which candidate comes next; if not, all come in the order of the plan."""

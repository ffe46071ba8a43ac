"""A target as written (YAML) and as used (`TargetProfile`)."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from hwbench import units
from hwbench.conditions import nvml
from hwbench.config import hosts, plugins
from hwbench.config.measure import MeasureFields
from hwbench.errors import UserError
from hwbench.records import Gpu, PluginSpec, Power, TargetProfile
from hwbench.registry import BACKENDS, CONNECTIONS, METERS

if TYPE_CHECKING:
    BackendsField = BaseModel
    ConnectionField = BaseModel
    MeterField = BaseModel
else:
    BackendsField = plugins.table_of(BACKENDS)
    ConnectionField = plugins.one_of(CONNECTIONS)
    MeterField = plugins.one_of(METERS)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PowerTable(_Table):
    """Figures for the energy proxy, and who says so."""

    idle: float = Field(ge=0, description="watts of the idle device")
    per_core: float = Field(gt=0, description="watts that one busy core adds")
    source: str = Field(min_length=1, description="where the figures come from")


class GpuTable(_Table):
    """The GPU that a target is about."""

    which: str = Field(
        "any",
        pattern=r"^(any|\d+|GPU-[0-9a-fA-F-]+)$",
        description="its UUID (GPU-...) or number; any: the only one there is",
    )
    name: str = Field("", description="a part of its name, as nvidia-smi prints it")
    capability: str = Field(
        "host",
        pattern=r"^(host|\d+\.\d)$",
        description="its compute capability, such as 9.0; host: that of this machine's GPU",
    )
    memory: str = Field("", description="such as 24GB: how many candidates a parcel holds at once")


class TargetFile(_Table):
    """A device: what it is, how it is reached, what runs there and how it is measured."""

    version: Literal[1] = Field(description="the version of this format")
    title: str
    soc: str = Field(description="the chip, in words")
    model: str = Field(
        "", description="part of what the device calls itself (/proc/device-tree/model), if it must"
    )
    isa: Literal["x86_64", "aarch64", "host"] = Field(description="host: that of this machine")
    cores: int | Literal["host"] = Field(description="host: as many as this machine has")
    ram: str = Field(description="such as 4GiB; host: as much as this machine has")
    features: list[str] = Field(
        [], description="instruction sets it must have, as /proc/cpuinfo names them"
    )
    connection: ConnectionField | None = Field(None, description="how to reach it, by kind")
    how_to_reach: str = Field("", description="one sentence, said when there is no connection")
    threads: int = Field(1, ge=1, description="threads of one inference")
    affinity: list[int] = Field([], description="cores to run on; empty: wherever it likes")
    channel_multiple: int = Field(8, ge=1, description="channel counts are rounded to this")
    backends: BackendsField = Field(description="runtimes that run there, with their options")
    meters: list[MeterField] = Field([], description="energy meters, the best first")
    power: PowerTable | None = None
    throttle_celsius: float | None = Field(None, gt=0, description="it slows down from here on")
    gpu: GpuTable | None = Field(None, description="the GPU, where one is measured")
    measure: MeasureFields = Field(
        default_factory=MeasureFields, description="what this device needs; wins"
    )


def build(file: TargetFile, path: Path, host: str = "") -> TargetProfile:
    """Return the checked `TargetProfile`, with ``host`` replaced by what this machine is.

    A board that needs a host has a connection only when one is named (`hwbench.config.hosts`);
    `host` is what the command line says.
    """
    where = str(path)
    ram = file.ram
    ram_bytes = _host_ram() if ram == "host" else units.parse(ram, "B", where=f"{where}: ram")
    described = plugins.spec_of(file.connection, path.parent) if file.connection else None
    connection = hosts.located(path.stem, described, host)
    if described is None and not file.how_to_reach:
        raise UserError(
            "has neither a connection nor how_to_reach",
            where=where,
            mend="say in one sentence what is missing to reach it (how_to_reach)",
        )
    power = None
    if file.power is not None:
        power = Power(file.power.idle, file.power.per_core, file.power.source)
    gpu = _gpu(file.gpu, where) if file.gpu is not None else None
    return TargetProfile(
        name=path.stem,
        title=file.title,
        soc=file.soc,
        isa=platform.machine() if file.isa == "host" else file.isa,
        cores=(os.cpu_count() or 1) if file.cores == "host" else file.cores,
        ram_bytes=int(ram_bytes),
        features=tuple(file.features),
        connection=connection,
        how_to_reach=file.how_to_reach or ("" if connection else hosts.how(path.stem)),
        threads=file.threads,
        affinity=tuple(file.affinity),
        backends=plugins.specs_of(file.backends, path.parent, defaults=True),
        channel_multiple=file.channel_multiple,
        power=power,
        meters=tuple(_meter(m, power, gpu, path) for m in file.meters),
        gpu=gpu,
        throttle_celsius=file.throttle_celsius,
        measure=file.measure.changes(f"{where}: measure"),
        model=file.model,
    )


def _meter(model: BaseModel, power: Power | None, gpu: Gpu | None, path: Path) -> PluginSpec:
    """Return a meter, with what it takes from other parts of the target filled in."""
    spec = plugins.spec_of(model, path.parent)
    traits = METERS.traits(spec.kind)
    for name, part in (("power", power), ("gpu", gpu)):
        if part is None and name in traits.needs:
            raise UserError(
                f"the meter {spec.kind} needs the target's {name}",
                where=f"{path}: {name}",
                mend=f"describe it, or leave {spec.kind} out",
            )
    filled: dict[str, Any] = {}
    # One fact, one place: what the target says already is not written a second time.
    if power is not None and traits.from_power is not None:
        filled |= traits.from_power(power)
    if gpu is not None and traits.from_gpu is not None:
        filled |= traits.from_gpu(gpu)
    return PluginSpec(spec.kind, {**spec.options, **filled})


def _gpu(table: GpuTable, where: str) -> Gpu:
    memory = units.parse(table.memory, "B", where=f"{where}: gpu: memory") if table.memory else 0
    there = table.capability
    capability = nvml.capability(table.which) if there == "host" else there
    return Gpu(table.which, table.name, capability, int(memory))


def _host_ram() -> float:
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))

"""What one sitting works with, and the order of its passes."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwbench import files, stats
from hwbench.conditions import differences
from hwbench.errors import TargetError
from hwbench.measurement import device as devices
from hwbench.measurement import passes
from hwbench.measurement.device import Device
from hwbench.measurement.generation import REFERENCE, SHADOW
from hwbench.measurement.latency import Latencies, Latency, Room
from hwbench.measurement.memory import readings
from hwbench.measurement.shipment import (
    Artifact,
    settings_of,
    shipped,
)
from hwbench.records import (
    Answers,
    CompiledModel,
    Conditions,
    EmptyModel,
    EnergyReading,
    Failure,
    Measurement,
    MeasureSpec,
    MemoryReading,
    PluginSpec,
    Roofline,
    Sitting,
    Source,
    TargetProfile,
    digest,
    file_digest,
    from_json,
    to_json,
)
from hwbench.registry import METERS
from hwbench.worker.messages import Energy, Job, Memory, Outputs

Progress = Callable[[float, str], None]
Worth = Callable[[Mapping[str, Path]], Mapping[str, float]]
_PAGES = 64 << 10
"""Bytes that a peak of memory may be off by from process to process."""
_FORMAT = 1
# How far the bar is when each pass begins; from sittings of 25 small artifacts.
_PASSES = {"outputs": 0.0, "memory": 0.1, "latency": 0.2, "energy": 0.75}
_UNKNOWN_NEED = 256 << 20
_CONTEXT = 512 << 20
"""Bytes that a process takes of a GPU before it does anything, where the driver does not tell."""


class Table:
    """Everything one sitting works with."""

    def __init__(
        self,
        device: Device,
        reference: CompiledModel | None,
        batch: Sequence[CompiledModel],
        target: TargetProfile,
        spec: MeasureSpec,
        inputs: Path,
        folder: Path,
        started: float,
        progress: Progress,
        empties: Sequence[EmptyModel] = (),
    ) -> None:
        """Ship every artifact and the inputs; nothing is run yet."""
        self._device = device
        self._reference = reference
        self._target = target
        self._spec = spec
        self._folder = folder
        self._empties = empties
        self._started = started
        self._progress = progress
        self._share = 0.0
        device.waits = lambda why: progress(self._share, why)
        models = {m.digest: m for m in ([reference] if reference else []) + list(batch)}
        self._artifacts = {name: shipped(device, m, name) for name, m in models.items()}
        self._key = {"inputs": file_digest(inputs), "spec": to_json(spec), "all": sorted(models)}
        self._settings = settings_of(spec, target, device.ship(inputs, "inputs.npy"))
        self._failures: dict[str, dict[str, Failure]] = {name: {} for name in models}
        self._source = Source.MEASURED
        self._rooflines: Mapping[str, Roofline] = {}

    def answer(self) -> Answers:
        """Return the outputs of everything, and nothing else."""
        now, emulated = self._device.feel()
        self._begun(now)
        self._source = Source.EMULATED if emulated else Source.MEASURED
        self._outputs()
        return Answers(tuple(self._measurement(name, {}, {}, ()) for name in self._artifacts))

    def sit(self, worth: Worth, stand_ins: Sequence[CompiledModel] = ()) -> Sitting:
        """Return all passes; see `hwbench.measurement.sitting.measure`."""
        assert self._reference is not None
        now, emulated = self._device.feel()
        before = self._begun(self._device.conditions())
        self._outputs()
        notes = self._demand_reference("outputs", stand_ins)
        memory: Mapping[str, MemoryReading] = {}
        energy: Mapping[str, EnergyReading] = {}
        latency = Latency((), (), {}, {}, True, ())
        if emulated:
            self._source = Source.EMULATED
            notes = (*notes, f"only outputs were taken: {emulated}")
        else:
            memory = self._memory()
            notes = (*notes, *self._demand_reference("memory", stand_ins))
            # What was measured elsewhere is measured already: nobody can be let off early.
            interactive = self._device.traits.interactive
            known = self._known(memory, worth) if interactive else {}
            latency = self._latency(memory, now.state, known)
            for name, failure in latency.failures.items():
                self._failures[name]["latency"] = failure
            energy = self._energy()
        found = self._gathered(memory, energy, latency)
        if not emulated:
            found = self._read_again(found)
        self._progress(1.0, "measured")
        return self._sitting(before, found, latency, notes)

    def fight(self) -> Sitting:
        """Return the latency pass alone."""
        assert self._reference is not None
        now, emulated = self._device.feel()
        before = self._begun(self._device.conditions())
        if emulated:
            raise TargetError(f"times there say nothing: {emulated}", where=self._target.name)
        latency = self._latency({}, now.state, {})
        for name, failure in latency.failures.items():
            self._failures[name]["latency"] = failure
        self._progress(1.0, "measured")
        return self._sitting(before, self._gathered({}, {}, latency), latency, ())

    def _sitting(
        self,
        before: Conditions,
        found: tuple[Measurement, ...],
        latency: Latency,
        notes: tuple[str, ...],
    ) -> Sitting:
        assert self._reference is not None
        own = self._reference.digest
        after = self._device.conditions()
        changed = differences(before, after)
        if changed:
            what = f"it changed while it was measured: {'; '.join(changed[:3])}"
            raise TargetError(what, where=self._target.name, mend="measure again")
        crowd = max(
            [latency.strangers, *(s.state.get("gpu_processes") or 0 for s in (before, after))]
        )
        if crowd:
            said = f"{crowd} other processes were on the GPU: they take time, clock and memory"
            notes = (*notes, said)
        return Sitting(
            reference=next(m for m in found if m.artifact == own),
            shadow=Measurement(own, self._source, latency.shadow),
            measurements=found,
            before=before,
            after=after,
            seconds=time.monotonic() - self._started,
            valid=latency.valid,
            notes=(*notes, *latency.notes),
        )

    def _gathered(
        self,
        memory: Mapping[str, MemoryReading],
        energy: Mapping[str, EnergyReading],
        latency: Latency,
    ) -> tuple[Measurement, ...]:
        assert self._reference is not None
        found = []
        for name in self._artifacts:
            own = name == self._reference.digest
            processes = latency.reference if own else latency.candidates.get(name, ())
            found.append(self._measurement(name, memory, energy, processes))
        return tuple(found)

    def _measurement(
        self,
        name: str,
        memory: Mapping[str, MemoryReading],
        energy: Mapping[str, EnergyReading],
        processes: tuple[Any, ...],
    ) -> Measurement:
        failures = self._failures[name]
        file = self._output_file(name)
        return Measurement(
            artifact=name,
            source=self._source,
            latency=() if "latency" in failures else processes,
            memory=memory.get(name),
            energy=energy.get(name),
            outputs=None if "outputs" in failures or not file.exists() else file,
            failures=failures,
            roofline=self._rooflines.get(name),
        )

    # ---------------------------------------------------------------------------- passes

    def _outputs(self) -> None:
        def fetch(message: Mapping[str, Any]) -> None:
            if "outputs" in message:
                file = self._output_file(message["of"])
                file.parent.mkdir(exist_ok=True)
                part = file.with_suffix(".part")
                self._device.fetch(message["outputs"]["file"], part)
                part.replace(file)

        done = self._pass("outputs", lambda jobs: Outputs(jobs, self._settings), fetch=fetch)
        for name in done:
            assert "outputs" in self._failures[name] or self._output_file(name).exists()

    def _read_again(self, found: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
        """Return the measurements with further readings of memory and energy, taken in turn."""
        # What was packed as a parcel has been read once, and there is nobody to ask again.
        if self._device.traits.offline:
            return found
        for number in range(1, self._spec.readings):
            memory = self._again(
                f"memory-{number}", lambda j: Memory(j, self._settings, self._spec.memory_runs)
            )
            energy = self._again(
                f"energy-{number}", lambda jobs: self._energy_command(jobs, roofline=False)
            )
            found = tuple(_with_readings(m, memory, energy) for m in found)
        return found

    def _again(self, name: str, command: Callable[[tuple[Job, ...]], Any]) -> passes.Done:
        kind = name.partition("-")[0]
        jobs = [a.job() for n, a in self._artifacts.items() if kind not in self._failures[n]]
        # Who comes first finds the machine otherwise than who comes last: turn about.
        if int(name.rpartition("-")[2]) % 2:
            jobs.reverse()
        file = self._folder / f"{name}.jsonl"
        self._show(kind, 1.0, f"{kind} once more")
        return passes.run(self._device, file, jobs, command, lambda _name: None) if jobs else {}

    def _energy_command(self, jobs: tuple[Job, ...], *, roofline: bool) -> Energy:
        meters = tuple(
            PluginSpec(METERS.plugin(m.kind).module, m.options) for m in self._target.meters
        )
        return Energy(jobs, self._settings, meters, self._spec.energy_seconds, roofline)

    def _memory(self) -> Mapping[str, MemoryReading]:
        done = self._pass(
            "memory",
            lambda jobs: Memory(jobs, self._settings, self._spec.memory_runs),
        )
        live = {n: self._artifacts[n] for n in done}
        return readings(
            self._device,
            live,
            done,
            self._target,
            self._spec,
            self._settings,
            self._folder,
            self._empties,
        )

    def _known(
        self, memory: Mapping[str, MemoryReading], worth: Worth
    ) -> Mapping[str, Mapping[str, stats.Interval]]:
        """Return what is known of the artifacts before their time, less being better."""
        files_of = {n: f for n, _ in self._live("latency") if (f := self._output_file(n)).exists()}
        scores = worth(files_of)
        return {
            name: {
                "memory": _about(_held(memory[name]), _PAGES),
                "score": _about(-scores[name], 0.0),
            }
            for name in files_of
            if name in memory and name in scores
        }

    def _latency(
        self,
        memory: Mapping[str, MemoryReading],
        now: Mapping[str, Any],
        known: Mapping[str, Mapping[str, stats.Interval]],
    ) -> Latency:
        assert self._reference is not None
        own = self._artifacts[self._reference.digest]
        shadow = shipped(self._device, self._reference, SHADOW)
        offline = self._device.traits.offline
        jobs = [a.job() for n, a in self._live("latency") if n != self._reference.digest]
        return Latencies(
            device=self._device,
            folder=self._folder,
            spec=self._spec,
            settings=self._settings,
            pair=(own.job(REFERENCE), shadow.job(SHADOW)),
            jobs=jobs,
            artifact=self._reference.digest,
            rooms=self._rooms(memory, now),
            deadline=math.inf if offline else self._started + self._spec.max_time,
            progress=lambda share, label: self._show("latency", share, label),
            others=known,
            keep=frozenset(
                n for n, a in self._artifacts.items() if a.model.candidate.compression.is_dense
            ),
        ).run()

    def _rooms(self, memory: Mapping[str, MemoryReading], now: Mapping[str, Any]) -> list[Room]:
        """Return the host's memory and the GPU's, with what each artifact takes of it."""
        assert self._reference is not None
        own = self._reference.digest
        found = []
        for key, needs in (("free_memory", _host_need), ("gpu_free_memory", _gpu_need)):
            if now.get(key) is None:
                continue
            need = {name: needs(memory.get(name)) for name in self._artifacts}
            found.append(Room(now[key], {**need, REFERENCE: need[own], SHADOW: need[own]}))
        return found

    def _energy(self) -> Mapping[str, EnergyReading]:
        if not self._target.meters:
            for failures in self._failures.values():
                failures["energy"] = Failure("measure", "the target names no energy meter")
            return {}
        done = self._pass(
            "energy", lambda jobs: self._energy_command(jobs, roofline=self._spec.roofline)
        )
        self._rooflines = {
            n: from_json(Roofline, m["roofline"]) for n, m in done.items() if "roofline" in m
        }
        return {n: from_json(EnergyReading, m["energy"]) for n, m in done.items() if "energy" in m}

    def _pass(
        self,
        name: str,
        command: Callable[[tuple[Job, ...]], Any],
        fetch: Callable[[Mapping[str, Any]], None] = lambda _: None,
    ) -> passes.Done:
        """Run a pass over the artifacts that have not failed; keep who fails in it."""
        jobs = [artifact.job() for _, artifact in self._live(name)]
        count = 0

        def step(digest_: str) -> None:
            nonlocal count
            count += 1
            label = self._artifacts[digest_].model.candidate.label
            self._show(name, count / len(jobs), f"{name}: {label}")

        file = self._folder / f"{name}.jsonl"
        done = passes.run(self._device, file, jobs, command, step, fetch)
        for artifact, message in done.items():
            failure = passes.failure_of(message)
            if failure is not None:
                self._failures[artifact][name] = failure
        return done

    def _live(self, name: str) -> list[tuple[str, Artifact]]:
        """Return the artifacts that have not failed; the others fail in this pass as before."""
        for failures in self._failures.values():
            if failures:
                failures.setdefault(name, next(iter(failures.values())))
        return [(n, a) for n, a in self._artifacts.items() if not self._failures[n]]

    # ---------------------------------------------------------------------------- inside

    def _begun(self, now: Conditions) -> Conditions:
        """Return the conditions when the sitting began; what other ones left behind is removed."""
        devices.check_identity(self._target, now)
        key = digest({**self._key, "fingerprint": now.fingerprint, "format": _FORMAT})
        file = self._folder / "sitting.json"
        if file.exists():
            kept = json.loads(file.read_text())
            if kept["key"] == key:
                return from_json(Conditions, kept["before"])
        for old in self._folder.glob("*.jsonl"):
            old.unlink()
        shutil.rmtree(self._folder / "outputs", ignore_errors=True)
        files.write(file, json.dumps({"key": key, "before": to_json(now)}))
        return now

    def _demand_reference(self, name: str, stand_ins: Sequence[CompiledModel]) -> tuple[str, ...]:
        """Return a note when another had to take the place of the reference, which failed.

        Raises `TargetError` when there is none. Who is R in a parcel was settled by packing it.
        """
        assert self._reference is not None
        failure = self._failures[self._reference.digest].get(name)
        if failure is None:
            return ()
        label = self._reference.candidate.label
        left = [m for m in stand_ins if not self._failures[m.digest]]
        if not left or self._device.traits.offline:
            raise TargetError(
                f"the dense model cannot be measured: {failure.message}",
                where=f"{self._target.name}, {label}",
                expected="a dense model that runs; everything is compared with it",
                mend=failure.detail,
            )
        self._reference = left[0]
        label = f"{label} failed ({failure.message})"
        return (f"{label}: all is measured beside {left[0].candidate.label}",)

    def _output_file(self, name: str) -> Path:
        return self._folder / "outputs" / f"{name}.npy"

    def _show(self, name: str, share: float, label: str) -> None:
        marks = [*_PASSES.values(), 1.0]
        begin = _PASSES[name]
        end = marks[marks.index(begin) + 1]
        self._share = begin + (end - begin) * share
        self._progress(self._share, label)


def _with_readings(found: Measurement, memory: passes.Done, energy: passes.Done) -> Measurement:
    """Return a measurement with what one more turn read of it; a turn that failed adds nothing."""
    peaks = memory.get(found.artifact, {}).get("memory")
    joules = energy.get(found.artifact, {}).get("energy")
    if peaks is not None and found.memory is not None:
        again = replace(found.memory, **peaks)
        found = replace(found, memory_again=(*found.memory_again, again))
    if joules is not None:
        again_ = from_json(EnergyReading, joules)
        found = replace(found, energy_again=(*found.energy_again, again_))
    return found


def _held(reading: MemoryReading) -> int:
    """Return what is compared: of a GPU the model's share, else the whole process."""
    on_gpu = reading.device is not None and reading.share is not None
    return (reading.share or 0) if on_gpu else reading.after_runs


def _host_need(reading: MemoryReading | None) -> int:
    return _UNKNOWN_NEED if reading is None else reading.after_runs


def _gpu_need(reading: MemoryReading | None) -> int:
    """Return what a process takes of a GPU: by the driver, or its allocator and a context."""
    if reading is None:
        return _CONTEXT
    seen = reading.device
    if seen is None:
        return 0
    return seen.get("process", seen.get("reserved", 0) + _CONTEXT)


def _about(value: float, error: float) -> stats.Interval:
    return stats.Interval(value, value - error, value + error, 1, 1)

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
from hwbench.measure import device as devices
from hwbench.measure import passes
from hwbench.measure.device import Device
from hwbench.measure.generation import REFERENCE, SHADOW
from hwbench.measure.latency import Latencies, Latency
from hwbench.measure.memory import readings
from hwbench.measure.shipment import (
    Artifact,
    module_of,
    settings_of,
    shipped,
)
from hwbench.records import (
    Answers,
    CompiledModel,
    Conditions,
    EnergyReading,
    Failure,
    Measurement,
    MeasureSpec,
    MemoryReading,
    PluginSpec,
    Sitting,
    Source,
    TargetProfile,
    digest,
    file_digest,
    from_json,
    to_json,
)
from hwbench.worker.messages import Energy, Job, Memory, Outputs

Progress = Callable[[float, str], None]
Worth = Callable[[Mapping[str, Path]], Mapping[str, float]]
_PAGES = 64 << 10
"""Bytes that a peak of memory may be off by from process to process."""
_FORMAT = 1
# How far the bar is when each pass begins; from sittings of 25 small artifacts.
_PASSES = {"outputs": 0.0, "memory": 0.1, "latency": 0.2, "energy": 0.75}
_UNKNOWN_NEED = 256 << 20


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
    ) -> None:
        """Ship every artifact and the inputs; nothing is run yet."""
        self._device = device
        self._reference = reference
        self._target = target
        self._spec = spec
        self._folder = folder
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

    def answer(self) -> Answers:
        """Return the outputs of everything, and nothing else."""
        now, emulated = self._device.feel()
        self._begun(now)
        self._source = Source.EMULATED if emulated else Source.MEASURED
        self._outputs()
        return Answers(tuple(self._measurement(name, {}, {}, ()) for name in self._artifacts))

    def sit(self, worth: Worth) -> Sitting:
        """Return all passes; see `hwbench.measure.sitting.measure`."""
        assert self._reference is not None
        now, emulated = self._device.feel()
        before = self._begun(self._device.conditions())
        notes: tuple[str, ...] = ()
        self._outputs()
        self._demand_reference("outputs")
        memory: Mapping[str, MemoryReading] = {}
        energy: Mapping[str, EnergyReading] = {}
        latency = Latency((), (), {}, {}, True, ())
        if emulated:
            self._source = Source.EMULATED
            notes = (f"only outputs were taken: {emulated}",)
        else:
            memory = self._memory()
            self._demand_reference("memory")
            # What was measured elsewhere is measured already: nobody can be let off early.
            known = self._known(memory, worth) if not self._device.groups else {}
            latency = self._latency(memory, now.state.get("free_memory"), known)
            for name, failure in latency.failures.items():
                self._failures[name]["latency"] = failure
            energy = self._energy()
        if others := now.state.get("gpu_processes"):
            notes = (*notes, f"{others} other processes were on the GPU when the sitting began")
        found = self._gathered(memory, energy, latency)
        if not emulated:
            found = self._read_again(found)
        self._progress(1.0, "measured")
        return self._sitting(before, found, latency, (*notes, *latency.notes))

    def fight(self) -> Sitting:
        """Return the latency pass alone."""
        assert self._reference is not None
        now, emulated = self._device.feel()
        before = self._begun(self._device.conditions())
        if emulated:
            raise TargetError(f"times there say nothing: {emulated}", where=self._target.name)
        latency = self._latency({}, now.state.get("free_memory"), {})
        for name, failure in latency.failures.items():
            self._failures[name]["latency"] = failure
        self._progress(1.0, "measured")
        return self._sitting(before, self._gathered({}, {}, latency), latency, latency.notes)

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
        return Sitting(
            reference=next(m for m in found if m.artifact == own),
            shadow=Measurement(own, self._source, latency.shadow),
            measurements=found,
            before=before,
            after=after,
            seconds=time.monotonic() - self._started,
            valid=latency.valid,
            notes=notes,
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
        if self._device.groups:
            return found
        for number in range(1, self._spec.readings):
            memory = self._again(
                f"memory-{number}", lambda j: Memory(j, self._settings, self._spec.memory_runs)
            )
            energy = self._again(f"energy-{number}", self._energy_command)
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

    def _energy_command(self, jobs: tuple[Job, ...]) -> Energy:
        meters = tuple(PluginSpec(module_of("meters", m), m.options) for m in self._target.meters)
        return Energy(jobs, self._settings, meters, self._spec.energy_seconds)

    def _memory(self) -> Mapping[str, MemoryReading]:
        done = self._pass(
            "memory",
            lambda jobs: Memory(jobs, self._settings, self._spec.memory_runs),
        )
        live = {n: self._artifacts[n] for n in done}
        return readings(
            self._device, live, done, self._target, self._spec, self._settings, self._folder
        )

    def _known(
        self, memory: Mapping[str, MemoryReading], worth: Worth
    ) -> Mapping[str, Mapping[str, stats.Interval]]:
        """Return what is known of the artifacts before their time, less being better."""
        files_of = {n: f for n, _ in self._live("latency") if (f := self._output_file(n)).exists()}
        scores = worth(files_of)
        return {
            name: {
                "memory": _about(memory[name].after_runs, _PAGES),
                "score": _about(-scores[name], 0.0),
            }
            for name in files_of
            if name in memory and name in scores
        }

    def _latency(
        self,
        memory: Mapping[str, MemoryReading],
        free: int | None,
        known: Mapping[str, Mapping[str, stats.Interval]],
    ) -> Latency:
        assert self._reference is not None
        own = self._artifacts[self._reference.digest]
        shadow = shipped(self._device, self._reference, SHADOW)
        jobs = [a.job() for n, a in self._live("latency") if n != self._reference.digest]
        need = {name: reading.after_runs for name, reading in memory.items()}
        for role in (REFERENCE, SHADOW):
            need[role] = need.get(self._reference.digest, _UNKNOWN_NEED)
        return Latencies(
            device=self._device,
            folder=self._folder,
            spec=self._spec,
            settings=self._settings,
            pair=(own.job(REFERENCE), shadow.job(SHADOW)),
            jobs=jobs,
            artifact=self._reference.digest,
            need={job.name: _UNKNOWN_NEED for job in jobs} | need,
            free=free,
            deadline=math.inf if self._device.groups else self._started + self._spec.max_time,
            progress=lambda share, label: self._show("latency", share, label),
            others=known,
            keep=frozenset(
                n for n, a in self._artifacts.items() if a.model.candidate.compression.is_dense
            ),
        ).run()

    def _energy(self) -> Mapping[str, EnergyReading]:
        if not self._target.meters:
            for failures in self._failures.values():
                failures["energy"] = Failure("measure", "the target names no energy meter")
            return {}
        done = self._pass("energy", self._energy_command)
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

    def _demand_reference(self, name: str) -> None:
        assert self._reference is not None
        failure = self._failures[self._reference.digest].get(name)
        if failure is not None:
            raise TargetError(
                f"the dense model cannot be measured: {failure.message}",
                where=f"{self._target.name}, {self._reference.candidate.label}",
                expected="a dense model that runs; everything is compared with it",
                mend=failure.detail,
            )

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


def _about(value: float, error: float) -> stats.Interval:
    return stats.Interval(value, value - error, value + error, 1, 1)

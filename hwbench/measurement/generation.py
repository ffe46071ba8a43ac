"""One generation of the latency pass: fresh processes, rounds, looks; raw samples to one file."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hwbench import files, stats
from hwbench.errors import StageError, TargetError
from hwbench.measurement.device import Device
from hwbench.records import Conditions, Failure, MeasureSpec, Process, Visit, from_json, to_json
from hwbench.worker.messages import Close, Job, Open, Rounds, Settings

REFERENCE, SHADOW = "reference", "shadow"
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class Generation:
    """What one generation gave: a process each, who failed, and what happened on the way.

    ``verdicts`` says how each candidate's rounds ended (``precise``, ``futile``, ``go on``).
    """

    number: int
    processes: tuple[Process, ...]
    failures: Mapping[str, Failure]
    verdicts: Mapping[str, str]
    conditions: Conditions
    denormals: str = ""
    taints: tuple[str, ...] = ()

    def save(self, file: Path) -> None:
        """Write it as JSON lines: everything else first, then a line a process."""
        head = to_json(replace(self, processes=()))
        lines = [head, *map(to_json, self.processes)]
        files.write(file, "".join(json.dumps(line) + "\n" for line in lines))


def saved(file: Path) -> Generation | None:
    """Return the generation in a file, or None where there is none."""
    if not file.exists():
        return None
    head, *rest = map(json.loads, file.read_text().splitlines())
    processes = tuple(from_json(Process, line) for line in rest)
    return replace(from_json(Generation, head), processes=processes)


def run(
    device: Device,
    jobs: Sequence[Job],
    artifacts: Mapping[str, str],
    number: int,
    spec: MeasureSpec,
    settings: Settings,
    seconds: float,
) -> Generation:
    """Return a generation of `jobs` (R and S among them); ``artifacts`` maps names to digests.

    Candidates are visited until a look finds them precise or says that more rounds are futile,
    for at most about `seconds`. Raises `TargetError` when R or S fails.
    """
    under_way = _UnderWay(number, artifacts)
    for message in device.ask(Open(tuple(jobs), settings, number)):
        under_way.hear(message)
    under_way.check()
    end = time.monotonic() + seconds
    active = [job.name for job in jobs if job.name not in (REFERENCE, SHADOW)]
    rounds = 0
    # Without a candidate (only R is measured) R and S still meet for the first look.
    for look in spec.looks:
        active = [name for name in active if name in under_way.ready]
        names = (REFERENCE, SHADOW, *active)
        left = max(end - time.monotonic(), 1.0)
        for message in device.ask(Rounds(rounds, look - rounds, names, left)):
            under_way.hear(message)
        under_way.check()
        rounds = look
        active = under_way.look(active, spec.half_width)
        if not active or time.monotonic() > end:
            break
    for _ in device.ask(Close()):
        pass
    conditions, _ = device.feel()
    return under_way.finish(conditions)


class _UnderWay:
    """A generation as its answers come in."""

    def __init__(self, number: int, artifacts: Mapping[str, str]) -> None:
        self._number = number
        self._artifacts = artifacts
        self.ready: dict[str, Mapping[str, Any]] = {}
        self._failures: dict[str, Failure] = {}
        self._visits: dict[str, list[Visit]] = defaultdict(list)
        self._dropped: dict[str, int] = defaultdict(int)
        self._taints: dict[str, None] = {}
        self._verdicts: dict[str, str] = {}
        self._before: dict[str, stats.Interval] = {}

    def hear(self, message: Mapping[str, Any]) -> None:
        """Take in one answer."""
        name = message["of"]
        if "failure" in message:
            self._failures[name] = from_json(Failure, message["failure"])
            self.ready.pop(name, None)
        elif "ready" in message:
            self.ready[name] = message["ready"]
        elif message["visit"]["taint"]:
            self._dropped[name] += 1
            self._taints.update(dict.fromkeys(message["visit"]["taint"]))
        else:
            self._visits[name].append(_visit(message["visit"]))

    def check(self) -> None:
        """Raise `TargetError` when the reference or its shadow is lost."""
        for name in (REFERENCE, SHADOW):
            if name in self._failures:
                what = f"the dense model cannot be measured: {self._failures[name].message}"
                raise TargetError(what, expected="a dense model that runs; all else counts by it")

    def look(self, names: Sequence[str], half_width: float) -> list[str]:
        """Return who needs more rounds, by the width of the intervals alone."""
        left = []
        for name in names:
            if name not in self.ready:
                continue
            try:
                now = stats.within(self._process(name), self._process(REFERENCE))
            except StageError:  # not one round that both came through clean
                left.append(name)
                continue
            found = stats.look(now, self._before.get(name), half_width)
            self._before[name] = now
            self._verdicts[name] = found.value
            if found is stats.Look.GO_ON:
                left.append(name)
        return left

    def finish(self, conditions: Conditions) -> Generation:
        """Return the generation."""
        denormals = self.ready[REFERENCE]["denormals"]
        return Generation(
            self._number,
            tuple(self._process(name) for name in sorted(self.ready)),
            {n: f for n, f in self._failures.items() if n not in (REFERENCE, SHADOW)},
            self._verdicts,
            conditions,
            denormals,
            tuple(self._taints),
        )

    def _process(self, name: str) -> Process:
        ready = self.ready[name]
        return Process(
            artifact=self._artifacts[name],
            role=name if name in (REFERENCE, SHADOW) else "candidate",
            generation=self._number,
            load=ready["load"],
            first=ready["first"],
            warmup_calls=ready["warmup_calls"],
            visits=tuple(self._visits[name]),
            dropped=self._dropped[name],
            clock=ready.get("clock", ""),
            layers=tuple(ready.get("layers", ())),
        )


def _visit(data: Mapping[str, Any]) -> Visit:
    return Visit(
        round=data["round"],
        order=data["order"],
        wall=tuple(ns * _NS for ns in data["wall"]),
        cpu=tuple(ns * _NS for ns in data["cpu"]),
        switches=tuple(data["switches"]),
    )

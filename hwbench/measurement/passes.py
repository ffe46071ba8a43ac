"""The passes that give an artifact a process of its own: outputs, memory, energy.

Each appends one line an artifact to its file as soon as it is done, so that an interrupted
session goes on with the artifacts that are missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hwbench import files
from hwbench.measurement.device import Device
from hwbench.records import Failure, from_json
from hwbench.worker.messages import Command, Job

Done = Mapping[str, Mapping[str, Any]]
"""The answer about each job, by its name."""


def run(
    device: Device,
    file: Path,
    jobs: Sequence[Job],
    command: Callable[[tuple[Job, ...]], Command],
    step: Callable[[str], None],
    fetch: Callable[[Mapping[str, Any]], None] = lambda _: None,
) -> Done:
    """Return the answers about all jobs: those in `file`, and those the device gives now.

    `step` is called with a job's name when it is done, `fetch` with an answer before it is kept.
    """
    wanted = {job.name for job in jobs}
    done = {name: message for name, message in _kept(file).items() if name in wanted}
    for name in done:
        step(name)
    left = tuple(job for job in jobs if job.name not in done)
    if not left:
        return done
    for message in device.ask(command(left)):
        fetch(message)
        files.append(file, json.dumps(message))
        done[message["of"]] = message
        step(message["of"])
    return done


def failure_of(message: Mapping[str, Any]) -> Failure | None:
    """Return the failure that an answer tells of, or None."""
    return from_json(Failure, message["failure"]) if "failure" in message else None


def _kept(file: Path) -> dict[str, Mapping[str, Any]]:
    """Return the answers in a file; a line torn by a crash is skipped."""
    if not file.exists():
        return {}
    found = {}
    for line in file.read_text().splitlines():
        try:
            message = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[message["of"]] = message
    return found

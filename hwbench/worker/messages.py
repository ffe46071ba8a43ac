"""What the host asks of the launcher: one JSON line a command, ``{"do": "Rounds", ...}``.

The launcher answers with lines of its own: any number of ``{"of": job, ...}`` (a reading or a
``failure``) and ``{"alive": true}``, then one ``{"done": ...}``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwbench.errors import UserError
from hwbench.records import PluginSpec, from_json, to_json


@dataclass(frozen=True, slots=True)
class Job:
    """One artifact to load in a process of its own.

    ``plugin`` is the module of the backend, ``artifact`` the path of its entry on the device.
    ``code`` is the folder of another hwbench's worker there, which is to run it (empty: ours).
    """

    name: str
    plugin: str
    options: Mapping[str, Any]
    artifact: str
    threads: int = 1
    batch: int = 1
    code: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """How children are run: see `hwbench.records.MeasureSpec` for most of it.

    ``inputs`` is the ``.npy`` file on the device (empty: a single zero, for empty artifacts);
    ``side_by_side`` how many children may work at once where nothing is timed; ``gpu`` the one
    they see (a UUID, a number, ``any``; empty: whatever the runtime takes).
    """

    inputs: str
    affinity: tuple[int, ...] = ()
    flush_denormals: bool = True
    visit_seconds: float = 0.02
    min_calls: int = 5
    max_calls: int = 50
    warmup_calls: int = 10
    warmup_seconds: float = 3.0
    timeout: float = 60.0
    throttle_celsius: float | None = None
    seed: int = 0
    side_by_side: int = 1
    gpu: str = ""


@dataclass(frozen=True, slots=True)
class Feel:
    """Read the conditions. Answer: ``conditions`` and ``emulated`` (why, or empty).

    ``wheels`` are the distributions whose versions belong to the fingerprint.
    """

    gpu: str = ""
    wheels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Look:
    """Import the backends. Answers: ``versions`` of each job."""

    jobs: tuple[Job, ...]
    settings: Settings


@dataclass(frozen=True, slots=True)
class Memory:
    """Peak memory in a fresh process a job. Answers: ``memory``, a `MemoryReading`."""

    jobs: tuple[Job, ...]
    settings: Settings
    runs: int


@dataclass(frozen=True, slots=True)
class Outputs:
    """Answer all inputs. Answers: ``outputs``, a file's name in the session's folder."""

    jobs: tuple[Job, ...]
    settings: Settings


@dataclass(frozen=True, slots=True)
class Energy:
    """Run beside a meter (the module of each, the best first). Answers: ``energy``.

    With ``roofline``, then time every layer alone in the same process. Answers: ``roofline``.
    """

    jobs: tuple[Job, ...]
    settings: Settings
    meters: tuple[PluginSpec, ...]
    seconds: float
    roofline: bool = False


@dataclass(frozen=True, slots=True)
class Open:
    """Begin a generation: fresh children, loaded and warm. Answers: ``ready``."""

    jobs: tuple[Job, ...]
    settings: Settings
    generation: int


@dataclass(frozen=True, slots=True)
class Rounds:
    """Visit the named jobs of the generation, ``count`` times in random order.

    Answers: ``visit`` with ``round``, ``order`` and ``taint``. Ends early after ``seconds``.
    """

    first: int
    count: int
    names: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Close:
    """End the generation's children."""


Command = Feel | Look | Memory | Outputs | Energy | Open | Rounds | Close
_COMMANDS: dict[str, type[Command]] = {
    kind.__name__: kind for kind in (Feel, Look, Memory, Outputs, Energy, Open, Rounds, Close)
}


def encode(command: Command) -> str:
    """Return a command as one line."""
    return json.dumps({"do": type(command).__name__, "with": to_json(command)})


def decode(line: str | bytes) -> Command:
    """Return the command of a line; raises `UserError` for anything else."""
    try:
        data = json.loads(line)
        kind = _COMMANDS[data["do"]]
        found: Command = from_json(kind, data["with"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"not a command: {line[:80]!r}") from error
    return found

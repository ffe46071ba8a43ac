"""A folder that was measured where no host can reach: its answers, played back in order.

It stands where a connection stands, so that a sitting is made of it by the same code as of a
device that is there: whatever the sitting asks is looked up among what the folder's worker said.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from hwbench.errors import TargetError
from hwbench.protocols import Channel
from hwbench.records import TargetProfile
from hwbench.traits import ConnectionTraits
from hwbench.worker.messages import (
    Close,
    Command,
    Feel,
    Look,
    Open,
    Rounds,
    decode,
)

KIND = "parcel"
"""The kind of a target's connection that stands for such a folder."""

TRAITS = ConnectionTraits(
    requires={}, remote=True, interactive=False, provisionable=False, offline=True
)

Message = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Said:
    """One command and what the worker answered to it."""

    command: Command
    messages: tuple[Message, ...]


class Parcel:
    """Plays the part of a connection and of the worker behind it."""

    def __init__(self, folder: Path) -> None:
        """Read what was asked and answered; raises `TargetError` when it is not all there."""
        self._folder = folder
        self._said = recorded(folder)
        self._at = 0
        self._lines: deque[str] = deque(['{"hello": true}'])
        opened = [s.command for s in self._said if isinstance(s.command, Open)]
        # Every generation opens the same groups again.
        self.groups: Sequence[frozenset[str]] = tuple(
            dict.fromkeys(frozenset(job.name for job in command.jobs) for command in opened)
        )

    # ---------------------------------------------------------------------------- connection

    def put(self, source: Path, name: str) -> str:
        """Return the path that the file had in the folder: it went there when it was packed."""
        return name

    def get(self, name: str, destination: Path) -> None:
        """Copy a file of answers; raises `TargetError` when it did not come back."""
        try:
            shutil.copyfile(self._folder / name, destination)
        except OSError as error:
            raise TargetError(
                f"{name} did not come back with the folder",
                where=str(self._folder),
                mend="copy the whole folder back, outputs/ included",
            ) from error

    def start(self, arguments: Sequence[str], log: IO[bytes]) -> Channel:
        """Return the channel, which is the parcel itself."""
        return self

    def close(self) -> None:
        """There is nothing to end."""

    # ---------------------------------------------------------------------------- channel

    def send(self, line: str) -> None:
        """Take a command; its answers are ready at once."""
        command = decode(line)
        self._lines.extend(json.dumps(m) for m in self._answers(command))
        self._lines.append(json.dumps({"done": type(command).__name__}))

    def receive(self, timeout: float) -> str:
        """Return the next line."""
        return self._lines.popleft()

    def _answers(self, command: Command) -> Iterator[Message]:
        match command:
            case Feel() | Look():
                yield from self._next(type(command)).messages
            case Open():
                number = command.generation
                self._at = self._generation(number)
                names = {job.name for job in command.jobs}
                yield from (m for m in self._said[self._at].messages if m["of"] in names)
            case Rounds():
                # All at once: more rounds than the first look asks for do no harm.
                if command.first == 0:
                    rounds = self._said[self._at + 1].messages
                    yield from (m for m in rounds if m["of"] in command.names)
            case Close():
                self._at += 2
            case _:
                known = self._known(type(command))
                yield from (known.get(j.name) or _unanswered(j.name) for j in command.jobs)

    def _known(self, kind: type[Command]) -> dict[str, Message]:
        """Return the answers of all passes of a kind, by job."""
        passes = (s for s in self._said if isinstance(s.command, kind))
        return {m["of"]: m for said in passes for m in said.messages}

    def _next(self, kind: type[Command]) -> Said:
        """Return the next answer of a kind after what was played last, or the last there is."""
        of_kind = [i for i, s in enumerate(self._said) if isinstance(s.command, kind)]
        if not of_kind:
            raise TargetError(f"no answer to {kind.__name__}", where=str(self._folder))
        place = next((i for i in of_kind if i >= self._at), of_kind[-1])
        if self._at:
            # Of what came after the first generation, every reading is played once.
            self._at = place + (kind is Feel)
        return self._said[place]

    def _generation(self, number: int) -> int:
        for place, said in enumerate(self._said):
            if isinstance(said.command, Open) and said.command.generation == number:
                return place
        what = f"it has no generation {number}"
        raise TargetError(what, where=str(self._folder), mend="pack it again")


def is_elsewhere(target: TargetProfile) -> bool:
    """Return whether a target was measured where we cannot ask it anything more."""
    return target.connection is not None and target.connection.kind == KIND


def recorded(folder: Path) -> list[Said]:
    """Return every command of a parcel with its answers.

    Raises `TargetError` when the folder was not measured, or not to its end.
    """
    try:
        commands = [decode(json.dumps(c)) for c in json.loads((folder / "job.json").read_text())]
        lines = (folder / "samples.jsonl").read_text().splitlines()
    except (OSError, ValueError) as error:
        raise TargetError(
            "holds no measurements",
            where=str(folder),
            expected="job.json and samples.jsonl",
            mend="on the device: python3 worker.zip run, in this folder; then copy it back whole",
        ) from error
    found: list[Said] = []
    said: list[Message] = []
    for line in lines:
        try:
            message = json.loads(line)
        except json.JSONDecodeError:
            break  # torn: what follows was never finished
        if "done" in message:
            found.append(Said(commands[len(found)], tuple(said)))
            said = []
        elif "alive" not in message:
            said.append(message)
    if len(found) < len(commands):
        raise TargetError(
            f"was measured only in part: {len(found)} of {len(commands)} steps",
            where=str(folder),
            mend="on the device, run the same command again: it goes on where it stopped",
        )
    return found


def _unanswered(name: str) -> Message:
    failure = {"stage": "measure", "message": "the parcel has no answer about it", "detail": ""}
    return {"of": name, "failure": failure}

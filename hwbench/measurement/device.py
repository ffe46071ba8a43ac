"""The host's end of a session on a device: ship the worker, give commands, take answers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from hwbench.conditions.parsers import KERNEL_FLAGS
from hwbench.errors import TargetError
from hwbench.measurement import parcel
from hwbench.measurement.package import worker_zip
from hwbench.protocols import Channel, Connection
from hwbench.records import Conditions, TargetProfile, from_json
from hwbench.registry import BACKENDS, CONNECTIONS
from hwbench.traits import ConnectionTraits
from hwbench.worker.messages import Command, Feel, Job, Look, Settings, encode

SILENCE = 120.0
"""Seconds without a line after which the launcher is given up; it says every 2 that it lives."""

UNAVAILABLE = "not available"
"""How the word on a runtime begins that does not run there."""


class Device:
    """A session on a target, with its worker running."""

    attempts = 2
    """How often the latency pass may be made: once more when R and its copy S differ."""
    groups: Sequence[frozenset[str]] = ()
    """Which artifacts were measured together, where that is settled beforehand."""

    waits: Callable[[str], None] = staticmethod(lambda _why: None)
    """Told about once a second why the device keeps us waiting, as long as it does."""

    def __init__(
        self,
        target: TargetProfile,
        connection: Connection,
        log: IO[bytes],
        traits: ConnectionTraits,
    ) -> None:
        """Ship the worker over an open connection and start it."""
        self.target = target
        self.traits = traits
        self._connection = connection
        self._log = log
        self._shipped: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as folder:
            zipped = connection.put(worker_zip(Path(folder) / "worker.zip"), "worker.zip")
        home = str(PurePosixPath(zipped).parent)
        self._channel: Channel = connection.start([zipped, "serve", home], log)
        with self._explained():
            self._channel.receive(SILENCE)

    def ship(self, source: Path, name: str) -> str:
        """Copy a file or folder there, once a name; return its path there."""
        if name not in self._shipped:
            self._shipped[name] = self._connection.put(source, name)
        return self._shipped[name]

    def fetch(self, name: str, destination: Path) -> None:
        """Copy a file of the session back."""
        self._connection.get(name, destination)

    def ask(self, command: Command) -> Iterator[Mapping[str, Any]]:
        """Yield the answers to a command as they come; raises `TargetError` when it breaks off.

        The device works on while nobody listens, but the command must be heard to its end.
        """
        with self._explained():
            self._channel.send(encode(command))
            while True:
                line = self._channel.receive(SILENCE)
                try:
                    message = json.loads(line)
                except json.JSONDecodeError as error:
                    raise TargetError(f"the worker says {line[:80]!r}") from error
                if "done" in message:
                    return
                if "waiting" in message:
                    self.waits(message["waiting"])
                if "alive" not in message:
                    yield message

    def feel(self) -> tuple[Conditions, str]:
        """Return the conditions now, and why the device is taken for an emulated one (or "")."""
        message = next(iter(list(self.ask(feeling(self.target)))))
        return from_json(Conditions, message["conditions"]), str(message["emulated"])

    def versions(self) -> dict[str, str]:
        """Return what each of the target's backends says it is there, or why it does not run."""
        found = {}
        for message in self.ask(look(self.target)):
            if "failure" in message:
                why = str(message["failure"]["message"]).removeprefix(f"{UNAVAILABLE}: ")
                mend = message["failure"]["detail"]
                found[message["of"]] = f"{UNAVAILABLE}: {why}" + (f" ({mend})" if mend else "")
            else:
                versions = message["versions"]["versions"]
                found[message["of"]] = ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
        return dict(sorted(found.items()))

    def conditions(self) -> Conditions:
        """Return the conditions, with the backends' versions among the software."""
        read, _ = self.feel()
        return dataclasses.replace(read, software={**read.software, "backends": self.versions()})

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Add to a `TargetError` the last thing that the worker said."""
        try:
            yield
        except TargetError as error:
            lines = Path(self._log.name).read_text(errors="replace").strip().splitlines()
            last = f" (it last said: {lines[-1][:200]})" if lines else ""
            raise TargetError(
                f"{error.what}{last}",
                where=self.target.name,
                expected=error.expected,
                mend=error.mend or f"see {self._log.name}",
            ) from error


@contextlib.contextmanager
def opened(target: TargetProfile, log: Path) -> Iterator[Device]:
    """Yield a session on the target; what the worker says on its standard error goes to `log`.

    Raises `TargetError` when the target has no connection, cannot be reached, or is not the
    machine that its profile describes.
    """
    if target.connection is None:
        raise TargetError(
            "no connection is configured", where=target.name, mend=target.how_to_reach
        )
    spec = target.connection
    if spec.kind == parcel.KIND:
        played = parcel.Parcel(Path(spec.options["folder"]))
        with log.open("ab") as stream:
            device = Device(target, played, stream, parcel.TRAITS)
            device.groups, device.attempts = played.groups, 1
            yield device
        return
    connection = CONNECTIONS.create(spec.kind, spec.options)
    try:
        with log.open("ab") as stream:
            yield Device(target, connection, stream, CONNECTIONS.traits(spec.kind))
    finally:
        connection.close()


def gpu_of(target: TargetProfile) -> str:
    """Return which GPU a target is about; empty: none."""
    return target.gpu.which if target.gpu is not None else ""


def feeling(target: TargetProfile) -> Feel:
    """Return the question after the conditions, and after the wheels that its backends run on."""
    traits = (BACKENDS.traits(spec.kind) for spec in target.backends)
    wheels = {name for one in traits for name in one.device_distributions}
    return Feel(gpu_of(target), tuple(sorted(wheels)))


def look(target: TargetProfile) -> Look:
    """Return the question which of the target's backends run there."""
    jobs = tuple(
        Job(s.kind, BACKENDS.plugin(s.kind).module, s.options, "") for s in target.backends
    )
    return Look(jobs, Settings("", side_by_side=len(jobs), gpu=gpu_of(target)))


def runtimes(target: TargetProfile) -> Mapping[str, str]:
    """Return what each of a target's backends says it is there, once it has loaded its runtime.

    One that does not start says ``not available: why``. Raises `TargetError` as `opened` does.
    """
    with tempfile.TemporaryDirectory() as folder, opened(target, Path(folder) / "log") as device:
        return device.versions()


def probe(target: TargetProfile) -> Conditions:
    """Connect, and return the device's conditions; ``software["backends"]`` has their versions.

    Raises `TargetError` as `opened` does, or when the device is another than the profile says.
    """
    with tempfile.TemporaryDirectory() as folder, opened(target, Path(folder) / "log") as device:
        found = device.conditions()
    check_identity(target, found)
    return found


def check_identity(target: TargetProfile, found: Conditions) -> None:
    """Raise `TargetError` when a device is of another kind than its profile says."""
    machine = found.identity.get("machine")
    if machine and machine != target.isa:
        raise TargetError(
            f"the device is {machine}",
            where=target.name,
            expected=target.isa,
            mend="correct the target's isa or its connection",
        )
    _check_gpu(target, found.identity.get("gpu") or {})
    board = found.identity.get("board")
    if target.model and target.model not in (board or ""):
        raise TargetError(
            f"the device says that it is {board or 'nothing in particular'}",
            where=target.name,
            expected=target.model,
            mend="choose the target that describes it, or write one (docs/add-your-board.md)",
        )
    flags = set(_flags(found.identity))
    absent = [f for f in target.features if f in KERNEL_FLAGS and flags and f not in flags]
    if absent:
        raise TargetError(
            f"the device has no {', '.join(absent)}",
            where=target.name,
            mend="measure on a device that has it, or choose another target",
        )


def _check_gpu(target: TargetProfile, found: Mapping[str, Any]) -> None:
    """Raise `TargetError` unless the GPU can be read, is whole, and of the kind described."""
    if target.gpu is None:
        return
    if "error" in found or not found:
        raise TargetError(
            f"no GPU to measure: {found.get('error', 'the worker said nothing of one')}",
            where=target.name,
            mend="does nvidia-smi run there? with several GPUs, name one under gpu in the target",
        )
    if target.gpu.name not in str(found["name"]):
        raise TargetError(
            f"the GPU is {found['name']}",
            where=target.name,
            expected=target.gpu.name,
            mend="choose another target (cuda takes any GPU), or name another GPU under gpu",
        )
    if found["mig"]:
        raise TargetError(
            "the GPU is cut into MIG slices: their clock and energy are not their own",
            where=target.name,
            mend="nvidia-smi -mig 0, or measure on a GPU that is whole",
        )


def _flags(identity: Mapping[str, Any]) -> Sequence[str]:
    flags: Sequence[str] = (identity.get("cpu") or {}).get("flags") or ()
    return flags

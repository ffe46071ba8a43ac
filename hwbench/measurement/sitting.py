"""One sitting: ship a batch, run its passes, gather what the device said."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from hwbench.measurement import device as devices
from hwbench.measurement.table import Progress, Table, Worth
from hwbench.records import Answers, CompiledModel, EmptyModel, MeasureSpec, Sitting, TargetProfile


def measure(
    batch: Sequence[CompiledModel],
    reference: CompiledModel,
    target: TargetProfile,
    spec: MeasureSpec,
    inputs: Path,
    folder: Path,
    progress: Progress,
    worth: Worth = lambda _answers: {},
    stand_ins: Sequence[CompiledModel] = (),
    empties: Sequence[EmptyModel] = (),
) -> Sitting:
    """Return what the target says about a batch of artifacts, all interleaved with `reference`.

    ``inputs`` is an ``.npy`` file, samples first. Raw samples are kept in `folder`; after an
    interruption the same call goes on with what is missing there. An artifact that fails is
    recorded; `TargetError` is raised when the device or the reference cannot be measured.
    ``worth`` turns files of answers by artifact into scores (higher is better): who is worse than
    another in score, memory and time alike is measured in fewer generations. Where `reference`
    fails (it may be the one that needs most memory), the first of ``stand_ins`` that runs, all of
    them in the batch, takes its place. ``empties``: the backends' empty artifacts, for the memory
    of their runtimes; without one nothing is said of it.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with devices.opened(target, folder / "worker.log") as device:
        table = Table(
            device, reference, batch, target, spec, inputs, folder, started, progress, empties
        )
        return table.sit(worth, stand_ins)


def duel(
    batch: Sequence[CompiledModel],
    reference: CompiledModel,
    target: TargetProfile,
    spec: MeasureSpec,
    inputs: Path,
    folder: Path,
    progress: Progress,
) -> Sitting:
    """Return a sitting as `measure` does, of the latency alone: memory and energy stay unread."""
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    with devices.opened(target, folder / "worker.log") as device:
        table = Table(device, reference, batch, target, spec, inputs, folder, started, progress)
        return table.fight()


def answers(
    compiled: Sequence[CompiledModel],
    target: TargetProfile,
    spec: MeasureSpec,
    inputs: Path,
    folder: Path,
) -> Answers:
    """Return the outputs of artifacts to all `inputs`, and nothing else about them."""
    folder.mkdir(parents=True, exist_ok=True)
    with devices.opened(target, folder / "worker.log") as device:
        table = Table(
            device,
            None,
            compiled,
            target,
            spec,
            inputs,
            folder,
            time.monotonic(),
            lambda _share, _label: None,
        )
        return table.answer()

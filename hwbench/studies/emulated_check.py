"""Do artifacts for a board that is not there answer as their ONNX files do here? In emulation.

The genuine artifacts of the candidates that matter run on the emulated board, on a few samples.
What they answer is true of the processor; nothing is timed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from hwbench import export, prediction
from hwbench.connections import emulated
from hwbench.errors import StageError, TargetError
from hwbench.executor.jobs import Inputs
from hwbench.pipeline import keys, measuring
from hwbench.pipeline.prepare import Ready
from hwbench.pipeline.scoring import tolerance
from hwbench.pipeline.session import Context
from hwbench.records import (
    Decision,
    Failure,
    Measurement,
    Result,
    Source,
    TargetProfile,
    Value,
    missing,
)

MOST = 6
"""Candidates that are rehearsed at most; each costs seconds of emulation."""
SAMPLES = 16
_TIMEOUT = 120.0
_METRIC = "output_error"
_OLDER = ("cortex-a53", "cortex-a72")
"""Cores whose code the emulated Cortex-A72 runs: what later ones add, it does not have."""
_RANKS = {"chosen": 0, "front": 1}


def emulated_check(
    context: Context,
    results: Sequence[Result],
    ready: Sequence[Ready],
    decide: Callable[[Sequence[Result]], Decision],
) -> tuple[list[Result], Decision, str]:
    """Return the results with what emulation says of their outputs, the decision, and a note.

    The chosen model, the dense one and the front are run, `MOST` at the most; all others say why
    they were not. One that answers otherwise than its ONNX file, or dies, has failed, and then
    the choice is made anew.
    """
    by_key = {p.candidate.key: p for p in ready}
    found = {r.candidate.key: r for r in results}
    told: dict[str, Value] = {}
    lack = lacking(context.target)
    decision = decide(results)
    while not lack:
        todo = [key for key in wanted(decision) if key not in told][: MOST - len(told)]
        if not todo:
            break
        try:
            said = _seen(context, [by_key[key] for key in todo])
        except TargetError as error:
            lack = error.what
            break
        for key in todo:
            told[key], failure = said[key]
            found[key] = dataclasses.replace(found[key], failure=failure)
        decision = decide(list(found.values()))
    why = lack or f"only the front is run in emulation, {MOST} candidates at most"
    for key, result in found.items():
        value = told.get(key) or missing(_METRIC, Source.EMULATED, f"not checked: {why}")
        if result.artifact:
            values = {**result.values, _METRIC: value}
            found[key] = dataclasses.replace(result, values=values)
    return list(found.values()), decision, _note(told, lack)


def lacking(target: TargetProfile) -> str:
    """Return why a target's artifacts cannot be run in emulation here; empty if they can."""
    core = prediction.core_of(target)
    if core not in _OLDER:
        return f"code for {core} may hold instructions that the emulated Cortex-A72 lacks"
    if not emulated.is_built():
        return "there is no emulated board here (make emulated-board)"
    return ""


def wanted(decision: Decision) -> list[str]:
    """Return the candidates that matter, by key: the chosen, the dense, then the front."""
    standing = {s.candidate: s.status for s in decision.standings}
    front = sorted(
        (k for k, s in standing.items() if s in _RANKS), key=lambda k: _RANKS[standing[k]]
    )
    dense = [decision.dense] if decision.dense and standing.get(decision.dense) != "failed" else []
    return list(dict.fromkeys([*front[:1], *dense, *front[1:]]))


def _seen(context: Context, asked: Sequence[Ready]) -> Mapping[str, tuple[Value, Failure | None]]:
    """Return what each candidate's artifact is off by, or why nobody can say; cached."""
    there = dataclasses.replace(
        context.target, connection=emulated.THERE, model="", features=(), affinity=()
    )
    spec = dataclasses.replace(context.spec, timeout=_TIMEOUT)
    data = context.split("validation")
    context.progress("score", 0.7, f"emulation: outputs of {len(asked)} artifacts")
    answers = measuring.outputs(
        context.cache,
        keys.Device(there, emulated.made_of()),
        spec,
        [p.compiled for p in asked],
        keys.inputs(context.recipe.workload, "validation"),
        SAMPLES,
    )
    return {p.candidate.key: judged(p, answers.of(p.compiled.digest), data) for p in asked}


def judged(ready: Ready, seen: Measurement, data: Inputs) -> tuple[Value, Failure | None]:
    """Return how far an artifact's answers are from its file's, and its failure if it is broken."""
    import numpy as np

    failure = seen.failures.get("outputs")
    if failure is not None or seen.outputs is None:
        what = failure.message if failure is not None else "it gave no outputs"
        # Slow is no fault of the artifact's: emulation is.
        dead = "was ended by SIG" in what and "SIGKILL" not in what
        return missing(_METRIC, Source.EMULATED, f"not checked: in emulation {what}"), (
            Failure("measure", f"on the emulated board {what}", failure.detail)
            if failure is not None and dead
            else None
        )
    inputs = np.load(data.inputs, mmap_mode="r", allow_pickle=False)
    outputs = np.load(seen.outputs, allow_pickle=False)
    try:
        error = export.disagreement(ready.model, inputs, outputs)
    except StageError as trouble:
        what = f"on the emulated board: {trouble.what}"
        return missing(_METRIC, Source.EMULATED, what), Failure("measure", what)
    limit = tolerance(ready.candidate)
    note = f"{len(outputs)} samples, relative to the largest output; agrees within {limit:g}"
    if error <= limit:
        return Value(_METRIC, error, Source.EMULATED, note=note), None
    what = f"on the emulated board it is {error:.1e} away from its ONNX file (at most {limit:.0e})"
    return missing(_METRIC, Source.EMULATED, what), Failure("measure", what)


def _note(told: Mapping[str, Value], lack: str) -> str:
    agreed = [value.value for value in told.values() if value.value is not None]
    if not agreed:
        return f"the artifacts' outputs were not checked in emulation: {lack or 'none ran'}"
    return (
        f"{len(agreed)} of {len(told)} artifacts that were run on the emulated board "
        f"(qemu-aarch64 -cpu cortex-a72) answer as their ONNX files do on this machine: "
        f"{SAMPLES} samples, at most {max(agreed):.1e} of the largest output apart (emulated)"
    )

"""What is different from when the baseline was pinned, and which of it is to blame."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from hwbench.conditions import differences
from hwbench.errors import StageError, TargetError
from hwbench.records import Change, Conditions, Reading, Recipe, Status, digest, to_json
from hwbench.regress import judge
from hwbench.studies.nightly import sessions
from hwbench.studies.nightly.entry_run import EntryRun
from hwbench.studies.nightly.pinned_models import Model, PinnedArtifacts
from hwbench.studies.nightly.sessions import ArtifactPair

_MOST = 4
"""Candidates that the blame is looked for; more would take a third of the night."""
_STATE = ("governor", "frequency_limit", "turbo", "cgroup_cores")
_NOT_OF_THE_RECIPE = ("name", "title", "measure")
_THIRD = 2_000_000


def rings(conditions: Conditions) -> Mapping[str, Any]:
    """Return the three rings of circumstances as plain data."""
    plain: Mapping[str, Any] = to_json(conditions)
    return plain


def changed(
    pinned: PinnedArtifacts,
    recipe: Recipe,
    now: Conditions,
    commit: str,
    versions: Mapping[str, str],
) -> tuple[str, ...]:
    """Return in words what is different now: commit, recipe, versions, device, its state."""
    sentences = []
    if pinned.commit != commit:
        sentences.append(f"commit: {pinned.commit or 'unknown'} became {commit or 'unknown'}")
    before, after = (
        _flat({k: v for k, v in data.items() if k not in _NOT_OF_THE_RECIPE})
        for data in (pinned.recipe, to_json(recipe))
    )
    sentences += _moved("recipe", before, after)
    sentences += _moved("version of", pinned.versions, versions)
    sentences += [f"device, {words}" for words in differences(pinned.conditions, now)]
    state = [{k: c.state.get(k) for k in _STATE} for c in (pinned.conditions, now)]
    sentences += _moved("device state,", *state)
    return tuple(sentences)


def hints(run: EntryRun, alarms: Sequence[Reading]) -> tuple[str, ...]:
    """Return which half is to blame for each alarm: the artifact, or the stack that runs it.

    The pinned artifact is measured on tonight's stack and tonight's on the pinned one, both
    beside the pinned on the pinned, in a session of their own.
    """
    worse = [r for r in alarms if r.metric != "compile_time" and r.status is Status.WORSE]
    labels = list(dict.fromkeys(r.candidate for r in worse))[:_MOST]
    pairs = {d.label: d for d in run.pairs if d.label in labels}
    if not pairs:
        return ()
    crossed = [c for d in pairs.values() for c in (_old_on_new(d), _new_on_old(d, run.pinned))]
    context = run.context
    try:
        session = run.measure(crossed, "blame", run.seed + _THIRD)
        compared = sessions.changes(context, session, crossed, context.split("validation"))
    except (StageError, TargetError) as error:
        return (f"what is to blame could not be measured: {error.what}",)
    sentences = []
    for reading in worse:
        if reading.candidate not in pairs:
            continue
        stack, artifact = (
            compared.changes.get((f"{reading.candidate}, {side}", reading.metric), Change())
            for side in ("stack", "artifact")
        )
        bad = [
            judge(reading.metric, c, run.floor(reading.metric)) in (Status.WORSE, Status.LOST)
            for c in (stack, artifact)
        ]
        words = f"{_blame(*bad)} ({_ratios(stack, artifact)})"
        sentences.append(f"{reading.candidate}, {reading.metric}: {words}")
    return tuple(sentences)


def _old_on_new(pair: ArtifactPair) -> ArtifactPair:
    old = pair.pinned.compiled
    name = digest({"on today's stack": old.digest})
    compiled = dataclasses.replace(old, worker=None, digest=name)
    return ArtifactPair(f"{pair.label}, stack", pair.pinned, Model(compiled, pair.pinned.onnx))


def _new_on_old(pair: ArtifactPair, pinned: PinnedArtifacts) -> ArtifactPair:
    new = pair.tonight.compiled
    name = digest({"on the pinned stack": new.digest})
    compiled = dataclasses.replace(new, worker=pinned.worker, digest=name)
    return ArtifactPair(f"{pair.label}, artifact", pair.pinned, Model(compiled, pair.tonight.onnx))


def _blame(stack: bool, artifact: bool) -> str:
    if stack and not artifact:
        return "the stack that runs it (backend, worker), not the artifact"
    if artifact and not stack:
        return "the artifact (recipe, options, training, compiler), not the stack that runs it"
    if stack:
        return "both the artifact and the stack that runs it"
    return "neither alone: only tonight's artifact on tonight's stack shows it"


def _ratios(stack: Change, artifact: Change) -> str:
    words = []
    for name, change in (("old on new", stack), ("new on old", artifact)):
        ratio = "n/a" if change.ratio is None else f"{change.ratio - 1:+.1%}"
        words.append(f"{name} {ratio}")
    return ", ".join(words)


def _moved(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    keys = sorted(before.keys() | after.keys())
    return [
        f"{what} {key}: {before.get(key)} became {after.get(key)}"
        for key in keys
        if before.get(key) != after.get(key)
    ]


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested data by dotted key; entries of lists by what they are called or where."""
    if isinstance(data, Mapping):
        items = [(str(k), v) for k, v in data.items()]
    elif isinstance(data, list | tuple):
        items = [
            (str(v["kind"]) if isinstance(v, Mapping) and "kind" in v else str(i), v)
            for i, v in enumerate(data)
        ]
    else:
        return {prefix: data}
    flat: dict[str, Any] = {}
    for key, value in items:
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat

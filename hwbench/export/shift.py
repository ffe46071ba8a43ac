"""A pruned model on pictures that are not as they were in training, beside its dense model.

After Liebenwein et al., "Lost in Pruning: the effects of pruning neural networks beyond test
accuracy", MLSys 2021: what a model loses under shift beyond what the dense one loses there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hwbench.errors import UserError
from hwbench.export.corruptions import CORRUPTIONS, corrupt
from hwbench.export.parity import answers
from hwbench.protocols import Pictured
from hwbench.records import Distance, OnnxModel, Paired, Shifted, WorkloadSpec
from hwbench.registry import WORKLOADS

if TYPE_CHECKING:
    import numpy as np

NOISES = (0.0, 0.1, 0.3)
_CLOSE = 500
"""Images that the functional distance is taken on."""


def shifted(
    model: OnnxModel,
    dense: OnnxModel,
    spec: WorkloadSpec,
    severities: Sequence[int],
    images: int,
) -> Shifted:
    """Return how a model does on corrupted validation images, each beside its dense model.

    ``paired`` has ``nominal`` and, by severity, the mean over the corruptions and each of them
    (``3``, ``3 jpeg``); ``excess`` the excess error by severity. Raises `UserError` when the
    workload does not say how its inputs are made of pixels.
    """
    import numpy as np

    labels, sets = _pictures(spec.kind, _frozen(spec.options), tuple(severities), images)
    wrong = {name: _wrong(model, inputs, labels) for name, inputs in sets.items()}
    base = {name: _wrong(dense, inputs, labels) for name, inputs in sets.items()}
    for severity in severities:
        for found in (wrong, base):
            kinds = [found[f"{severity} {name}"] for name in CORRUPTIONS]
            found[str(severity)] = np.mean(kinds, axis=0)
    excess = {
        str(severity): _paired(
            (wrong[str(severity)] - wrong["nominal"]) - (base[str(severity)] - base["nominal"])
        )
        for severity in severities
    }
    return Shifted(
        key=model.spec.key,
        images=len(labels),
        accuracy={name: 1.0 - float(found.mean()) for name, found in wrong.items()},
        paired={name: _paired(wrong[name] - base[name]) for name in wrong},
        excess=excess,
        distance=_distance(model, dense, sets["nominal"][:_CLOSE]),
    )


def _wrong(model: OnnxModel, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    import numpy as np

    found: np.ndarray = (answers(model, inputs).argmax(axis=1) != labels).astype(np.float64)
    return found


def _paired(differences: np.ndarray) -> Paired:
    """Return the mean of differences, one an image, and its 95 % interval (normal)."""
    mean = float(differences.mean())
    half = 1.96 * float(differences.std(ddof=1)) / len(differences) ** 0.5
    return Paired(mean, mean - half, mean + half)


def _distance(model: OnnxModel, dense: OnnxModel, inputs: np.ndarray) -> Mapping[str, Distance]:
    """Return by the strength of added noise how often both agree, and how far they are apart."""
    import numpy as np

    rng = np.random.default_rng(1)
    noise = rng.uniform(-1.0, 1.0, inputs.shape).astype(inputs.dtype)
    found = {}
    for strength in NOISES:
        ours = answers(model, inputs + strength * noise)
        theirs = answers(dense, inputs + strength * noise)
        apart = np.linalg.norm(_softmax(ours) - _softmax(theirs), axis=1)
        same = ours.argmax(axis=1) == theirs.argmax(axis=1)
        found[f"{strength:g}"] = Distance(float(same.mean()), float(apart.mean()))
    return found


def _softmax(logits: np.ndarray) -> np.ndarray:
    import numpy as np

    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def _frozen(options: Mapping[str, object]) -> tuple[tuple[str, object], ...]:
    return tuple(
        (name, tuple(value) if isinstance(value, list) else value)
        for name, value in options.items()
    )


@functools.lru_cache(maxsize=1)
def _pictures(
    kind: str, options: tuple[tuple[str, object], ...], severities: tuple[int, ...], images: int
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return labels, and inputs by name: made once a process, for all candidates."""
    import numpy as np

    workload = WORKLOADS.create(kind, dict(options))
    if not isinstance(workload, Pictured) or workload.metric != "top1":
        raise UserError(
            f"the workload {kind} cannot be shifted: nobody knows its pixels",
            where="shift",
            expected="a workload scored by top1 with pixels = (mean, scale): "
            "inputs * scale + mean are pixels in 0..1",
        )
    inputs, labels = (t.numpy() for t in workload.data("validation"))
    if inputs.ndim != 4:
        raise UserError(f"inputs of {inputs.shape} are no pictures", where="shift")
    mean, scale = workload.pixels
    inputs = np.ascontiguousarray(inputs[:images])
    pixels = np.clip(inputs * np.float32(scale) + np.float32(mean), 0.0, 1.0)
    sets = {"nominal": inputs}
    for severity in severities:
        for name in CORRUPTIONS:
            changed = corrupt(pixels, name, severity)
            sets[f"{severity} {name}"] = (changed - np.float32(mean)) / np.float32(scale)
    return labels[:images], sets

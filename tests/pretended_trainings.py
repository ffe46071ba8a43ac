"""Every kind of training on the CPU and on a pretended device; prints what came of each as JSON.

``python -m tests.pretended_trainings FOLDER``. The pretended device cannot be taken back, so this
is a process of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from hwbench import compress
from hwbench.compress import device, training
from hwbench.errors import StageError
from hwbench.protocols import Trainable, Workload
from hwbench.records import CompressedModel, CompressionSpec, TrainSpec, WorkloadSpec
from hwbench.registry import WORKLOADS
from tests import pretend

CHANNELS: Mapping[str, Any] = {"pattern": "channel", "criterion": "l2", "scope": "local"}
TRAININGS: Mapping[str, Mapping[str, Any]] = {
    "taylor in steps": {"criterion": "taylor", "schedule": "cubic", "steps": 2},
    "hessian": {"criterion": "hessian"},
    "movement": {"criterion": "movement"},
    "wanda": {"criterion": "wanda", "scope": "local"},
    "random": {"pattern": "4x1", "criterion": "random"},
    "lamp": {"pattern": "2:4", "criterion": "lamp", "scope": "local", "sparsity": 0.5},
    "taught": {"healing": "distill"},
    "statistics": {"healing": "bn", "recovery": None},
    "channels": {**CHANNELS, "criterion": "taylor", "schedule": "linear", "steps": 2},
    "rewinding": {"schedule": "lr_rewinding", "steps": 2},
    "lottery": {**CHANNELS, "schedule": "lottery", "steps": 2, "rewind": 1},
    "random ticket": {"schedule": "lottery", "steps": 2, "ticket": "random"},
    "scratch": {**CHANNELS, "schedule": "scratch"},
    "sensitivity": {"scope": "sensitivity"},
}


class Watched:
    """The toy; notes where the models, inputs and labels of its train steps are."""

    metric = "top1"

    def __init__(self) -> None:
        toy = WORKLOADS.create("toy", {"train": 256, "validation": 64})
        assert isinstance(toy, Trainable)
        self.model, self.data, self.score = toy.model, toy.data, toy.score
        self._loss: training.Loss = toy.train_step
        self.seen: set[str] = set()

    def train_step(
        self, model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        self.seen |= {t.device.type for t in (*model.parameters(), inputs, labels)}
        return self._loss(model, inputs, labels)


class Mixing(Watched):
    """The toy with labels that the step itself makes, on the CPU."""

    def train_step(
        self, model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        return self._loss(model, inputs, torch.zeros(len(labels)).long())


@contextlib.contextmanager
def ready(train: TrainSpec) -> Iterator[device.Where]:
    """Stand in for what makes CUDA ready: no setting of torch's is about this device."""
    with device.in_words(train):
        yield device.Where(train.device)


def spec(where: Any, **words: Any) -> CompressionSpec:
    train = TrainSpec(epochs=2, lr=0.1, device=where)
    more: dict[str, Any] = {
        "pattern": "unstructured",
        "sparsity": 0.6,
        "recovery": TrainSpec(1, 0.03, device=where),
    }
    return CompressionSpec(WorkloadSpec("toy"), train, **(more | words))


def made(
    own: CompressionSpec, dense: CompressedModel | None, workload: Workload
) -> CompressedModel:
    folder = Path(tempfile.mkdtemp(dir=sys.argv[1]))
    return compress.compress(own, workload, dense, folder, lambda share: None)


def told(model: CompressedModel, workload: Watched) -> dict[str, Any]:
    weights = (model.folder / "weights.safetensors").read_bytes()
    seen = sorted(workload.seen)
    workload.seen.clear()
    return {
        "weights": hashlib.sha256(weights).hexdigest(),
        "scores": dict(model.scores),
        "notes": list(model.notes),
        "seen": seen,
    }


def main() -> None:
    torch.set_num_threads(1)
    device.ready = ready
    found: dict[str, dict[str, Any]] = {}
    with pretend.device() as there:
        for where in ("cpu", there):
            workload = Watched()
            dense = made(spec(where).dense, None, workload)
            found.setdefault("dense", {})[where] = told(dense, workload)
            for name, words in TRAININGS.items():
                model = made(spec(where, **words), dense, workload)
                found.setdefault(name, {})[where] = told(model, workload)
        try:
            made(spec(there).dense, None, Mixing())
        except StageError as error:
            found["mixed"] = {"what": error.what, "mend": error.mend}
    print(json.dumps(found))


if __name__ == "__main__":
    main()

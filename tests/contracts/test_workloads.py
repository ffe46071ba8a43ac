"""Every workload keeps its promise: the contract that ships, over the registry."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.registry import WORKLOADS
from hwbench.testing import WorkloadContract

EXAMPLE = """
import torch
from torch import nn

class Mine:
    metric = "top1"

    def model(self):
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))

    def data(self, split):
        g = torch.Generator().manual_seed({"train": 1, "validation": 2, "test": 3}[split])
        x = torch.randn(40, 3, 2, 2, generator=g)
        return x, (x.sum((1, 2, 3)) > 0).long()

    def train_step(self, model, inputs, labels):
        return nn.functional.cross_entropy(model(inputs), labels)

    def score(self, outputs, labels):
        return (outputs.argmax(1) == labels).mean()
"""


def _options(name: str, folder: Path) -> dict[str, Any]:
    if name == "python":
        (folder / "mine.py").write_text(EXAMPLE)
        return {"file": folder / "mine.py"}
    if name == "p32":
        return {"train": 200, "validation": 100, "test": 100}
    if name == "mnist":
        numbers = np.random.default_rng(0)
        for split, count in (("train", 60), ("test", 20)):
            images = numbers.integers(0, 256, (count, 28, 28), dtype=np.uint8)
            np.savez(folder / f"{split}.npz", x=images, y=numbers.integers(0, 10, count))
        return {"folder": str(folder), "validation": 20}
    return {}


class Small(WorkloadContract):
    """Of every workload one that takes no more than seconds."""

    def given(self, folder: Path) -> Mapping[str, Any]:
        return _options(self.kind, folder)


for kind in WORKLOADS.kinds():
    globals()[f"Test_{kind}"] = type(f"Test_{kind}", (Small,), {"kind": kind})

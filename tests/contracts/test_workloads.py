"""What every workload promises, whichever file it is in."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hwbench.protocols import Split, Trainable, Workload
from hwbench.records import METRICS
from hwbench.registry import WORKLOADS

NAMES = WORKLOADS.kinds()

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


@pytest.fixture(params=NAMES)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    options = _options(request.param, tmp_path)
    return lambda: WORKLOADS.create(request.param, options)


def test_its_metric_is_known(make: Any) -> None:
    assert make().metric in ("top1", "score")
    assert METRICS[make().metric].better == "higher"


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_data_is_plain_finite_and_the_same_each_time(make: Any, split: Split) -> None:
    inputs, labels = make().data(split)
    assert len(inputs) == len(labels) > 0
    assert inputs.device.type == labels.device.type == "cpu"
    assert inputs.dtype == torch.float32
    assert inputs.isfinite().all()
    torch.manual_seed(5)
    again = make().data(split)
    assert torch.equal(inputs, again[0])
    assert torch.equal(labels, again[1])


def test_no_sample_is_in_two_splits(make: Any) -> None:
    workload: Workload = make()
    seen: set[bytes] = set()
    splits: tuple[Split, ...] = ("train", "validation", "test")
    for split in splits:
        own = {sample.numpy().tobytes() for sample in workload.data(split)[0]}
        assert not seen & own
        seen |= own


def test_model_trains_one_step_and_scores(make: Any) -> None:
    workload: Workload = make()
    torch.manual_seed(0)
    model = workload.model()
    torch.manual_seed(0)
    twin = workload.model()
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), twin.parameters(), strict=True)
    )
    inputs, labels = workload.data("train")
    if isinstance(workload, Trainable):
        loss = workload.train_step(model.train(), inputs[:8], labels[:8])
        assert loss.shape == ()
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None for p in model.parameters())

    inputs, labels = workload.data("validation")
    with torch.no_grad():
        outputs = model.eval()(inputs[:20]).numpy()
    assert len(outputs) == 20
    score = workload.score(outputs, labels[:20].numpy())
    assert isinstance(score, float)
    assert np.isfinite(score)
